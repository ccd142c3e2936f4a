"""Read a torch zip file (`.pt`) without torch: dense tensors in plain containers.

The file is a zip of one pickle, `<root>/data.pkl`, and one raw little-endian buffer per
storage, `<root>/data/<key>`. A tensor is pickled as a call of
`torch._utils._rebuild_tensor_v2(storage, offset, size, stride, ...)` whose storage is a
persistent id `("storage", type, key, device, count)`. Nothing else is understood.
"""

import collections
import io
import math
import os
import pickle
import zipfile
from typing import Any

import numpy as np

_DTYPES = {
    "torch.FloatStorage": np.float32,
    "torch.DoubleStorage": np.float64,
    "torch.HalfStorage": np.float16,
    "torch.LongStorage": np.int64,
    "torch.IntStorage": np.int32,
    "torch.ShortStorage": np.int16,
    "torch.CharStorage": np.int8,
    "torch.ByteStorage": np.uint8,
    "torch.BoolStorage": np.bool_,
    "torch.ComplexFloatStorage": np.complex64,
}
_REBUILD = "torch._utils._rebuild_tensor_v2"
_LEAVES = (np.ndarray, str, bytes, int, float, bool, type(None))


def load(path: str | os.PathLike) -> Any:
    """Return the file's dict, list or tuple with numpy arrays for tensors.

    Tensors are copied to C order. Values other than arrays, strings, numbers and None,
    other containers and anything the pickle wants to call are refused.

    Raises:
        ValueError: Not a torch zip file, damaged, or holding something that is not on
            the list; the message names the file and the thing.
    """
    with open(path, "rb") as stream:
        try:
            with zipfile.ZipFile(stream) as archive:
                value = _read(archive)
            _check(value)
        except Exception as error:  # a damaged file can raise nearly anything
            raise ValueError(f"{path}: not a readable torch file: {error}") from error
    return value


def _read(archive: zipfile.ZipFile) -> Any:
    names = archive.namelist()
    pickles = [n for n in names if n == "data.pkl" or n.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise ValueError(f"{len(pickles)} entries named data.pkl instead of one")
    root = pickles[0].removesuffix("data.pkl")
    if f"{root}byteorder" in names and _entry(archive, f"{root}byteorder") != b"little":
        raise ValueError("byte order is not little")
    stream = io.BytesIO(_entry(archive, pickles[0]))
    # A pickle is a program, but all it can do is build plain containers and call what
    # find_class hands it. Ours hands out one function of this file, which makes an
    # array from bytes already read, OrderedDict and inert strings; every other name
    # raises before anything is called. So no code from the file or from any installed
    # package can run.
    return _Unpickler(stream, archive, root).load()  # allow-list in find_class


def _entry(archive: zipfile.ZipFile, name: str) -> bytes:
    # torch never compresses; uncompressed, an entry cannot be larger than the file.
    if archive.getinfo(name).compress_type != zipfile.ZIP_STORED:
        raise ValueError(f"entry {name} is compressed")
    return archive.read(name)


class _Unpickler(pickle.Unpickler):
    """Unpickler that knows the names a file of dense tensors needs, and no other."""

    def __init__(self, stream: io.BytesIO, archive: zipfile.ZipFile, root: str):
        super().__init__(stream)
        self.archive = archive
        self.root = root
        self.storages = {}

    def find_class(self, module: str, name: str) -> Any:
        full = f"{module}.{name}"
        if full == _REBUILD:
            # New at every call: a pickle can set attributes on what it is handed.
            return lambda *args: _tensor(*args)
        if full == "collections.OrderedDict":
            return collections.OrderedDict
        if full in _DTYPES:
            return full
        raise pickle.UnpicklingError(f"{full} is not allowed")

    def persistent_load(self, pid: Any) -> np.ndarray:
        kind, storage_type, key, _, count = pid
        if kind != "storage":
            raise pickle.UnpicklingError(f"persistent id {kind!r} is not allowed")
        if (key, storage_type) not in self.storages:
            dtype = np.dtype(_DTYPES[storage_type])
            raw = _entry(self.archive, f"{self.root}data/{key}")
            if len(raw) != count * dtype.itemsize:
                raise ValueError(
                    f"storage {key} has {len(raw)} bytes, not {count} of {dtype}"
                )
            little = np.frombuffer(raw, dtype.newbyteorder("<"))
            self.storages[key, storage_type] = little.astype(dtype)
        return self.storages[key, storage_type]


def _tensor(
    storage: np.ndarray,
    offset: int,
    size: tuple[int, ...],
    stride: tuple[int, ...],
    *unused: Any,  # requires_grad, backward hooks, metadata
) -> np.ndarray:
    """Return a copy of the strided view, which must lie inside its storage."""
    if not isinstance(storage, np.ndarray):
        raise ValueError(f"a tensor without storage: {storage!r}")
    numbers = (offset, *size, *stride)
    if len(size) != len(stride) or not all(type(n) is int and n >= 0 for n in numbers):
        raise ValueError(f"offset {offset}, size {size}, stride {stride} is no view")
    last = offset + sum((n - 1) * s for n, s in zip(size, stride, strict=True))
    count = math.prod(size)
    if count == 0:
        return np.zeros(size, storage.dtype)
    # The second bound refuses views that repeat elements: copied, a small file could
    # fill the memory.
    if last >= storage.size or count > storage.size:
        raise ValueError(
            f"size {size}, stride {stride}, offset {offset} is out of range for a "
            f"storage of {storage.size}"
        )
    bytes_stride = [s * storage.itemsize for s in stride]
    start = offset * storage.itemsize
    # np.ndarray checks the bounds once more, as_strided would not.
    view = np.ndarray(size, storage.dtype, storage, start, bytes_stride)
    return view.copy(order="C")


def _check(value: Any) -> None:
    """Raise ValueError unless all of the value is on the list of types."""
    todo, seen = [value], set()
    while todo:
        item = todo.pop()
        if type(item) in _LEAVES or id(item) in seen:
            continue
        seen.add(id(item))
        if type(item) in (dict, collections.OrderedDict):
            todo += [*item.keys(), *item.values()]
        elif type(item) in (list, tuple):
            todo += item
        else:
            raise ValueError(f"a value of type {type(item).__name__} is not allowed")
