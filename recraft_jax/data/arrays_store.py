"""Named arrays of `.npy`, `.npz`, HDF5 and Zarr, which stay in their file.

Numbers that lie in a file as they do in memory are mapped, others are read by the
chunks that hold the rows asked for. What is handed out opens its file in each process
that reads, and again after it was closed. Pickles are never loaded.
"""

import functools
import json
import math
import os
import pathlib
import struct
import zipfile
import zlib
from collections.abc import Callable

import numpy as np

from recraft_jax import errors
from recraft_jax.data import rows

NUMBERS = "biuf"
_BLOCK_BYTES = 1 << 20  # of HDF5 rows that lie so near are read at once

Array = np.ndarray | rows.Rows
Readers = dict[str, Callable[[], Array]]


class Handle:
    """A file that is opened when it is first read, in each process for itself."""

    def __init__(self, opened: Callable):
        self._opened, self._held = opened, (0, None)

    def get(self):
        """Return the open file."""
        pid, found = self._held
        if pid != os.getpid():
            found = self._opened()
            self._held = (os.getpid(), found)
        return found

    def close(self) -> None:
        """Let the file go, until it is read again."""
        pid, found = self._held
        self._held = (0, None)
        if pid == os.getpid() and hasattr(found, "close"):
            found.close()

    def __getstate__(self):
        return {"_opened": self._opened, "_held": (0, None)}


def npy(path: pathlib.Path, name: str) -> Readers:
    """Map the one array of a `.npy` file; nothing if it is a scalar."""
    shape, _, dtype = guarded(path, "", functools.partial(_header_at, path, 0))
    if shape == ():
        return {}
    return _named(path, name, _mapped_reader(path, name, 0, dtype))


def npz(path: pathlib.Path) -> tuple[Readers, Callable[[], None]]:
    """Open `.npz`: uncompressed members are mapped, others read when asked for."""
    readers: Readers = {}
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            name = info.filename.removesuffix(".npy")
            if name == info.filename:
                continue
            with archive.open(info) as stream:
                shape, _, dtype = _header(stream)
            if shape == ():
                continue
            if info.compress_type == zipfile.ZIP_STORED or dtype.hasobject:
                read = _mapped_reader(path, name, _member_start(path, info), dtype)
            else:
                read = functools.partial(_inflated, path, info.filename)
            readers |= _named(path, name, read)
    return readers, lambda: None


def hdf5(path: pathlib.Path) -> tuple[Readers, Callable[[], None]]:
    """Open HDF5: data sets by `group/name`; text is read whole when asked for."""
    import h5py

    handle, names = Handle(functools.partial(h5py.File, path, "r")), []

    def visit(name, item):
        if isinstance(item, h5py.Dataset) and item.shape:  # neither scalar nor empty
            names.append(name)

    handle.get().visititems(visit)
    readers: Readers = {}
    for name in names:
        readers |= _named(
            path, name, functools.partial(_hdf5_array, path, handle, name)
        )
    return readers, handle.close


def is_zarr(folder: pathlib.Path) -> bool:
    """Whether a folder is a Zarr store, of version 2 or 3."""
    names = (".zgroup", ".zarray", "zarr.json")
    return any((folder / name).is_file() for name in names)


def zarr(folder: pathlib.Path) -> tuple[Readers, Callable[[], None]]:
    """Open a Zarr store by tensorstore, which knows no text: arrays by `group/name`."""
    readers: Readers = {}
    handles = []
    for name, (driver, home) in _zarr_arrays(folder).items():
        handles.append(Handle(functools.partial(_open_zarr, driver, str(home))))
        read = functools.partial(_zarr_array, folder, name, handles[-1])
        readers |= _named(folder, name, read)
    return readers, lambda: [handle.close() for handle in handles]


def guarded(path: str | os.PathLike, name: str, read: Callable):
    """Read, and say in one line what a library says of a file that it cannot read.

    Args:
      path: of the file.
      name: of the array, or nothing.
      read: without arguments.

    Raises:
      InputError: naming the file.
    """
    try:
        return read()
    except errors.InputError:
        raise
    except (
        *(OSError, ValueError, RuntimeError, LookupError, EOFError),
        *(zipfile.BadZipFile, zlib.error),
    ) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
    what = f"{name} cannot be read" if name else "cannot be read"
    raise errors.InputError(
        f"{path}: {what} ({reason[:200]}); allowed: whole files of arrays of numbers "
        "or text"
    )


def _named(path: pathlib.Path, name: str, read: Callable[[], Array]) -> Readers:
    return {name: functools.partial(guarded, path, name, read)}


def _rows(path, name: str, read: Callable, shape, dtype) -> Array:
    """`Rows`, or an array if there are none to read."""
    if 0 in shape:
        return np.empty(shape, dtype)
    return rows.Rows(
        lambda at: guarded(path, name, functools.partial(read, at)), shape, dtype
    )


def _refuse_objects(path: pathlib.Path, name: str) -> None:
    raise errors.InputError(
        f"{path}: {name} holds objects, as ragged lists do; samples need padding to "
        "one shape; allowed: arrays of numbers or text"
    )


# NumPy's own files.


def _header(stream) -> tuple[tuple[int, ...], bool, np.dtype]:
    version = np.lib.format.read_magic(stream)
    if version == (1, 0):
        return np.lib.format.read_array_header_1_0(stream)
    if version == (2, 0):
        return np.lib.format.read_array_header_2_0(stream)
    raise ValueError(f"format {version} of .npy instead of (1, 0) or (2, 0)")


def _header_at(path: pathlib.Path, start: int) -> tuple:
    with path.open("rb") as stream:
        stream.seek(start)
        return _header(stream)


def _mapped_reader(
    path: pathlib.Path, name: str, start: int, dtype: np.dtype
) -> Callable[[], Array]:
    if dtype.hasobject:
        return functools.partial(_refuse_objects, path, name)
    return functools.partial(_mapped_rows, path, name, start)


def _mapped_rows(path: pathlib.Path, name: str, start: int) -> Array:
    shape, _, dtype = _header_at(path, start)
    if 0 in shape:
        return np.empty(shape, dtype)
    handle = Handle(functools.partial(_mapped, path, start))
    handle.get()  # says now if the file is cut off
    return _rows(path, name, lambda at: handle.get()[at], shape, dtype)


def _mapped(path: pathlib.Path, start: int) -> np.memmap:
    """Map the array whose header begins at byte `start` of a file."""
    with path.open("rb") as stream:
        stream.seek(start)
        shape, is_fortran, dtype = _header(stream)
        order = "F" if is_fortran else "C"
        return np.memmap(stream, dtype, "r", stream.tell(), shape, order)


def _member_start(path: pathlib.Path, info: zipfile.ZipInfo) -> int:
    """Byte at which an uncompressed member begins, behind its local header."""
    with path.open("rb") as stream:
        stream.seek(info.header_offset + 26)
        name, extra = struct.unpack("<HH", stream.read(4))
    return info.header_offset + 30 + name + extra


def _inflated(path: pathlib.Path, member: str) -> np.ndarray:
    with zipfile.ZipFile(path) as archive, archive.open(member) as stream:
        return np.lib.format.read_array(stream, allow_pickle=False)


# HDF5 and Zarr.


def _hdf5_array(path: pathlib.Path, handle: Handle, name: str) -> Array:
    import h5py

    stored = handle.get()[name]
    if h5py.check_string_dtype(stored.dtype):
        return stored.asstr()[:].astype(str)
    if stored.dtype.hasobject:
        _refuse_objects(path, name)
    each = stored.dtype.itemsize * math.prod(stored.shape[1:])
    step = max(stored.chunks[0] if stored.chunks else 0, _BLOCK_BYTES // max(each, 1))
    return _rows(
        path,
        name,
        lambda at: _near_rows(handle.get()[name], at, max(step, 1)),
        stored.shape,
        stored.dtype,
    )


def _near_rows(stored, at: np.ndarray, step: int) -> np.ndarray:
    """Read rows, those of the same `step` rows by one slice."""
    found = np.empty((len(at), *stored.shape[1:]), stored.dtype)
    for places in rows.grouped(at // step):
        first = int(at[places].min())
        found[places] = stored[first : int(at[places].max()) + 1][at[places] - first]
    return found


def _zarr_arrays(folder: pathlib.Path) -> dict[str, tuple[str, pathlib.Path]]:
    """Arrays of a store: name to its version's driver and its folder."""
    found = {}
    for place, inner, files in os.walk(folder):
        driver = "zarr" if ".zarray" in files else ""
        if "zarr.json" in files:
            meta = json.loads(pathlib.Path(place, "zarr.json").read_bytes())
            driver = "zarr3" if meta.get("node_type") == "array" else ""
        if driver:
            inner.clear()  # chunks
            home = pathlib.Path(place)
            name = home.relative_to(folder).as_posix()
            found[folder.stem if name == "." else name] = (driver, home)
        inner.sort()
    return found


def _open_zarr(driver: str, folder: str):
    import tensorstore

    store = {"driver": "file", "path": folder}
    return tensorstore.open({"driver": driver, "kvstore": store}, read=True).result()


def _zarr_array(folder: pathlib.Path, name: str, handle: Handle) -> Array:
    stored = handle.get()
    dtype = stored.dtype.numpy_dtype
    if dtype.kind not in NUMBERS + "c":
        raise errors.InputError(
            f"{folder}: {name} is of type {dtype}; allowed: numbers"
        )
    return _rows(
        folder,
        name,
        lambda at: handle.get().oindex[at].read().result(),
        stored.shape,
        dtype,
    )
