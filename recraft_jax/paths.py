"""Folders and files of the user: on this machine's disks, or in a bucket.

Small files go through etils, arrays of checkpoints through Orbax, files to read are
fetched through fsspec. Each needs a package that knows the kind of bucket.
"""

import hashlib
import importlib.util
import pathlib
import shutil
import tempfile

import fsspec
from etils import epath

from recraft_jax import errors

BUCKETS = {"gs": "gcsfs", "s3": "s3fs"}  # scheme to the package that opens it

Path = pathlib.Path | epath.Path


def make(text: str | Path, what: str) -> Path:
    """Make a path of what the user gave.

    Args:
      text: a path, `gs://BUCKET/...` or `s3://BUCKET/...`.
      what: it is of, for the error.

    Raises:
      InputError: another scheme, or the package for it is not installed.
    """
    scheme, sign, _ = str(text).partition("://")
    if not sign:
        return pathlib.Path(text)
    if scheme not in BUCKETS:
        allowed = ", ".join(f"{name}://BUCKET/..." for name in BUCKETS)
        raise errors.InputError(f"{what}={text}; allowed: a folder, {allowed}")
    _check_installed(scheme, f"{what}={text}")
    return epath.Path(str(text))


def is_local(path: Path) -> bool:
    """Whether a path is on a disk of this machine."""
    return isinstance(path, pathlib.Path)


def is_url(text: str) -> bool:
    """Whether a path is not on a disk of this machine."""
    return "://" in text


def fetch(url: str, name: str, cache: pathlib.Path, what: str) -> pathlib.Path:
    """Copy a file to this machine, once.

    Args:
      url: of the file, or of its folder.
      name: of the file in the folder.
      cache: where copies are kept, by url, size and what else tells versions apart.
      what: it is of, for the error.

    Raises:
      InputError: it cannot be opened.
    """
    scheme = url.partition("://")[0]
    if scheme in BUCKETS:
        _check_installed(scheme, f"{what}={url}")
    try:
        system, path = fsspec.url_to_fs(url)
        if system.isdir(path):
            path = f"{path.rstrip('/')}/{name}"
        facts = system.info(path)
        version = [str(facts.get(key)) for key in ("size", "etag", "generation")]
        key = hashlib.sha256("\n".join([url, path, *version]).encode()).hexdigest()
        copy = cache / key[:16] / path.rpartition("/")[2]
        if not copy.exists():
            copy.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=copy.parent) as folder:
                part = pathlib.Path(folder, copy.name)
                with system.open(path, "rb") as source, part.open("wb") as out:
                    shutil.copyfileobj(source, out, 1 << 22)
                part.replace(copy)
    except (OSError, ValueError, ImportError) as error:
        line = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise errors.InputError(
            f"{what}={url} cannot be read: {type(error).__name__}: {line}; allowed: a "
            "file or folder, on disk or at an address that fsspec opens"
        ) from None
    return copy


def _check_installed(scheme: str, given: str) -> None:
    package = BUCKETS[scheme]
    known = fsspec.registry.get(scheme)  # by whoever registered another one
    if known is None and importlib.util.find_spec(package) is None:
        raise errors.InputError(
            f"{given} needs the package {package}, which is not installed; allowed: "
            f"pip install {package}, or a folder on disk"
        )
