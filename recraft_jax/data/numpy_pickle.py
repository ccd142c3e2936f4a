"""Read an object array of one element (`.npy`) without unpickling freely.

`numpy.save` writes an array of Python objects as a pickle behind the usual header. The
pickle builds each array inside by `numpy.core.multiarray._reconstruct` and a state of
shape, type and raw bytes, which protocol 2 writes as text that `_codecs.encode` turns
into bytes. These names are understood, and nothing else is.
"""

import math
import os
import pickle
from typing import Any, BinaryIO

import numpy as np

from recraft_jax import errors

_ARRAY = "numpy.ndarray"
_LEAVES = (str, bytes, int, float, bool, type(None))
_NUMBERS = "biufc"


def load(path: str | os.PathLike) -> Any:
    """Return the object in the file: dicts, lists and tuples with arrays of numbers.

    Check the file's hash first all the same: what is safe to build may still be wrong.

    Raises:
        InputError: Not such a file, damaged, or holding something that is not on the
            list; the message names the file and the thing.
    """
    try:
        with open(path, "rb") as stream:
            return _read(stream)
    except Exception as error:  # a damaged file can raise nearly anything
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise errors.InputError(
            f"{path}: not a readable file of one object ({reason})"
        ) from None


def _read(stream: BinaryIO) -> Any:
    version = np.lib.format.read_magic(stream)
    if version != (1, 0):
        raise ValueError(f"format {version} instead of (1, 0)")
    shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
    if not dtype.hasobject or shape != ():
        raise ValueError(f"{dtype} {shape} instead of one object")
    # A pickle is a program, but all it can do is build plain containers and call what
    # find_class hands it. Ours hands out three functions of this file, which note down
    # what they are given, and an inert string; every other name raises before anything
    # is called. So no code from the file or from any installed package can run.
    outer = _Unpickler(stream, encoding="latin1").load()  # allow-list in find_class
    if type(outer) is not _Array or type(outer.value) is not list:
        raise ValueError(f"a {type(outer).__name__} instead of an array of objects")
    (content,) = outer.value
    return _plain(content)


class _Unpickler(pickle.Unpickler):
    """Unpickler that knows the names a file of numeric arrays needs, and no other."""

    def find_class(self, module: str, name: str) -> Any:
        full = f"{module}.{name}".replace("numpy._core.", "numpy.core.")
        # New at every call: a pickle can set attributes on what it is handed.
        if full == "numpy.core.multiarray._reconstruct":
            return lambda *args: _Array(args)
        if full == "numpy.dtype":
            return lambda *args: _Type(args)
        if full == "_codecs.encode":
            return lambda *args: _encode(*args)
        if full == _ARRAY:
            return full
        raise pickle.UnpicklingError(f"{full} is not allowed")


class _Type:
    """A dtype in the making: its letter, then the byte order."""

    def __init__(self, args: tuple):
        self.name = args[0]
        self.order = "<"

    def __setstate__(self, state: tuple) -> None:
        _, self.order, *_ = state


class _Array:
    """An array in the making: nothing, then the values."""

    def __init__(self, args: tuple):
        if args[0] != _ARRAY:
            raise ValueError(f"an array of class {args[0]!r}")
        self.value = None

    def __setstate__(self, state: tuple) -> None:
        _, shape, kind, is_fortran, data = state
        if type(kind) is not _Type:
            raise ValueError(f"an array of type {kind!r}")
        if kind.name in ("O", "O8"):
            if shape != () or type(data) is not list or len(data) != 1:
                raise ValueError(f"an array of objects of shape {shape}")
            self.value = data
            return
        dtype = np.dtype(kind.name)
        if dtype.kind not in _NUMBERS:
            raise ValueError(f"an array of type {kind.name!r}")
        if dtype.itemsize > 1:
            dtype = dtype.newbyteorder({"<": "<", ">": ">"}[kind.order])
        if not all(type(n) is int and n >= 0 for n in shape):
            raise ValueError(f"an array of shape {shape}")
        if type(data) is not bytes or len(data) != math.prod(shape) * dtype.itemsize:
            raise ValueError(f"an array of {len(data)} bytes for {dtype} {shape}")
        flat = np.frombuffer(data, dtype).astype(dtype.newbyteorder("="))
        self.value = flat.reshape(shape, order="F" if is_fortran else "C")


def _encode(text: str, encoding: str) -> bytes:
    if encoding != "latin1":
        raise ValueError(f"bytes as {encoding} instead of latin1")
    return text.encode("latin1")


def _plain(value: Any, depth: int = 0) -> Any:
    """Replace arrays in the making by what they became; refuse other types."""
    if depth > 10:
        raise ValueError("containers more than 10 deep")
    if type(value) is _Array:
        if not isinstance(value.value, np.ndarray):
            raise ValueError("an array that is not one of numbers")
        return value.value
    if type(value) is dict:
        return {_leaf(key): _plain(each, depth + 1) for key, each in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_plain(each, depth + 1) for each in value)
    return _leaf(value)


def _leaf(value: Any) -> Any:
    if type(value) not in _LEAVES:
        raise ValueError(f"a value of type {type(value).__name__} is not allowed")
    return value
