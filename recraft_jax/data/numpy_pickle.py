"""Read pickled arrays (`.npy` of objects, `.pkl`, `.gz`) without unpickling freely.

A pickle is a program for a small stack machine. Arrays are in it as calls of
`numpy.core.multiarray._reconstruct` (or `scalar`, or with protocol 5
`numpy.core.numeric._frombuffer`) and a state of shape, type and raw bytes; protocol 2
writes bytes as text that `_codecs.encode` turns back. Protocols 0 to 5 are understood,
as numpy 1 and 2 write them and as Python 2 wrote them. These names are understood, and
nothing else is.
"""

import contextlib
import gzip
import io
import math
import os
import pathlib
import pickle
import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from jaxtyping import Shaped

from recraft_jax import errors

_ARRAY = "numpy.ndarray"
_LEAVES = (str, bytes, int, float, bool, type(None))
_NUMBERS = re.compile(r"[?]|b1|[iu][1248]|f[248]|c(8|16)")
_TEXTS = re.compile(r"[US]\d{1,6}")
_OBJECTS = ("O", "O8", "O4")
_DEPTH = 10
_GZIP = b"\x1f\x8b"


def load(path: str | os.PathLike, *, encoding: str = "latin1") -> Any:
    """Return the object that `numpy.save` wrote as an array without axes.

    Dicts, lists and tuples with arrays of numbers or text, as of `load_pickle`. Check
    the file's hash first all the same: what is safe to build may still be wrong.

    Args:
        path: `.npy`, format 1.0.
        encoding: What strings written by Python 2 are read as: an encoding, or `bytes`.

    Raises:
        InputError: Not such a file, damaged, or holding something that is not on the
            list; the message names the file and the thing.
    """
    with _named(path, "file of one object"):
        outer = _read_npy(path, encoding)
        if outer.shape != ():
            raise ValueError(f"an array {outer.shape} instead of one object")
        return _plain(outer.value[0])[0]


def load_array(
    path: str | os.PathLike, *, encoding: str = "latin1"
) -> Shaped[np.ndarray, " n"]:
    """Return the array `[n]` of such objects that `numpy.save` wrote; see `load`."""
    with _named(path, "file of an array of objects"):
        outer = _read_npy(path, encoding)
        if len(outer.shape) != 1:
            raise ValueError(f"an array {outer.shape} instead of one of one axis")
        return _plain(outer)[0]


def load_pickle(path: str | os.PathLike, *, encoding: str = "latin1") -> Any:
    """Return the object in a pickle file, which may be compressed by gzip.

    Dicts, lists and tuples, at most 10 deep, of text, bytes, numbers, None, numpy
    scalars, arrays of numbers or text, and arrays `[n]` of such objects. Arrays may be
    read-only: they are views of the bytes that were read.

    Args:
        path: The file.
        encoding: What strings written by Python 2 are read as: an encoding, or `bytes`.

    Raises:
        InputError: As `load`.
    """
    with _named(path, "pickle"), open(path, "rb") as file:
        is_gzip = file.read(2) == _GZIP
        file.seek(0)
        stream = gzip.GzipFile(fileobj=file) if is_gzip else file
        found = _read(stream, encoding)
        if stream.read(1):  # which at the end also compares gzip's check sum
            raise ValueError("bytes after the end of the pickle")
        return _plain(found)[0]


def save_gzip(path: str | os.PathLike, value: Any, *, level: int = 6) -> None:
    """Write a gzip pickle of protocol 4, whole or not at all, the same bytes each time.

    Args:
        path: Replaced if it is there; its folder must exist.
        value: What `load_pickle` reads.
        level: Of compression, 0 to 9.
    """
    path = pathlib.Path(path)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with (
            open(part, "wb") as file,
            gzip.GzipFile("", "wb", level, file, mtime=0) as stream,
        ):
            pickle.dump(value, stream, protocol=4)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


@contextlib.contextmanager
def _named(path: str | os.PathLike, what: str) -> Iterator[None]:
    """Raise whatever goes wrong as one line that names the file."""
    try:
        yield
    except Exception as error:  # a damaged file can raise nearly anything
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        reason = reason or type(error).__name__
        raise errors.InputError(f"{path}: not a readable {what} ({reason})") from None


def _read_npy(path: str | os.PathLike, encoding: str) -> "_Array":
    """Read an array of objects behind numpy's header, the objects not finished."""
    with open(path, "rb") as stream:
        version = np.lib.format.read_magic(stream)
        if version != (1, 0):
            raise ValueError(f"format {version} instead of (1, 0)")
        shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
        if not dtype.hasobject:
            raise ValueError(f"{dtype} {shape} instead of objects")
        outer = _read(stream, encoding)
    if type(outer) is not _Array or type(outer.value) is not list:
        raise ValueError(f"a {type(outer).__name__} instead of an array of objects")
    if outer.shape != shape:
        raise ValueError(f"an array of {outer.shape} that should be {shape}")
    return outer


def _read(stream: io.BufferedIOBase, encoding: str) -> Any:
    # All this can do is build plain containers and call what find_class hands out: the
    # functions of this file in _CALLS, which note down or copy what they are given;
    # every other name raises before anything is called. So no code from the file or
    # from any installed package can run.
    return _Unpickler(stream, encoding=encoding).load()  # allow-list in find_class


class _Type:
    """A dtype in the making: its letter, then the byte order."""

    def __init__(self, name: Any, *_):
        self.name = name.decode("ascii") if type(name) is bytes else name
        self.order = "<"

    def __setstate__(self, state: tuple) -> None:
        _, order, *_ = state
        self.order = order.decode("ascii") if type(order) is bytes else order

    def resolve(self) -> np.dtype:
        """Return the dtype, of numbers or text."""
        name = self.name if type(self.name) is str else ""
        if not _NUMBERS.fullmatch(name) and not _TEXTS.fullmatch(name):
            raise ValueError(f"an array of type {_shown(self.name)}")
        dtype = np.dtype(name)
        if dtype.itemsize > 1 and not name.startswith("S"):
            if self.order not in ("<", ">"):
                raise ValueError(f"an array of byte order {_shown(self.order)}")
            dtype = dtype.newbyteorder(self.order)
        return dtype


class _Array:
    """An array in the making: nothing, then an array, or a list of objects."""

    def __init__(self, kind: Any, *_):
        if kind != _ARRAY:
            raise ValueError(f"an array of class {_shown(kind)}")
        self.shape, self.value = None, None

    def __setstate__(self, state: tuple) -> None:
        _, shape, kind, is_fortran, data = state
        _check_shape(shape)
        if type(kind) is not _Type:
            raise ValueError(f"an array of type {_shown(kind)}")
        self.shape = shape
        if kind.name in _OBJECTS:
            if (
                type(data) is not list
                or len(shape) > 1
                or len(data) != math.prod(shape)
            ):
                raise ValueError(f"an array of objects of shape {shape}")
            self.value = data
            return
        order = "F" if is_fortran else "C"
        self.value = _values(data, kind, math.prod(shape)).reshape(shape, order=order)


def _values(data: Any, kind: _Type, count: int) -> np.ndarray:
    """View bytes as `count` values; those of the other byte order are copied."""
    dtype = kind.resolve()
    if type(data) is str:  # of Python 2, read as latin1
        data = data.encode("latin1")
    if type(data) not in (bytes, bytearray) or len(data) != count * dtype.itemsize:
        size = len(data) if hasattr(data, "__len__") else type(data).__name__
        raise ValueError(f"an array of {size} bytes for {count} of {dtype}")
    flat = np.frombuffer(data, dtype)
    return flat.astype(dtype.newbyteorder("="), copy=False)


def _shown(value: Any) -> str:
    """Name a value; only a leaf is spelt out, the text of others may have no end."""
    return repr(value)[:80] if type(value) in _LEAVES else type(value).__name__


def _check_shape(shape: Any) -> None:
    if type(shape) is not tuple or not all(type(n) is int and n >= 0 for n in shape):
        raise ValueError(f"an array of shape {_shown(shape)}")


def _from_buffer(
    data: Any, kind: Any, shape: Any, order: Any, axes: Any = None
) -> _Array:
    """Stand for what protocol 5 calls: values without gaps, in some order of axes."""
    _check_shape(shape)
    is_ordered = order in ("C", "F") or (order == "K" and type(axes) is tuple)
    if type(kind) is not _Type or not is_ordered:
        raise ValueError(f"an array of type {_shown(kind)}, order {_shown(order)}")
    flat, array = _values(data, kind, math.prod(shape)), _Array(_ARRAY)
    if order == "K":
        array.value = flat.reshape(shape).transpose(axes)
    else:
        array.value = flat.reshape(shape, order=order)
    array.shape = array.value.shape
    return array


def _scalar(kind: Any, data: Any) -> np.generic:
    if type(kind) is not _Type:
        raise ValueError(f"a scalar of type {_shown(kind)}")
    return _values(data, kind, 1)[0]


def _encode(text: str, encoding: str) -> bytes:
    if encoding not in ("latin1", b"latin1") or type(text) is not str:
        raise ValueError(f"bytes as {_shown(encoding)} instead of latin1")
    return text.encode("latin1")


def _no_bytes() -> bytes:
    return b""


_CALLS: dict[str, Any] = {
    "numpy.core.multiarray._reconstruct": _Array,
    "numpy.core.multiarray.scalar": _scalar,
    "numpy.core.numeric._frombuffer": _from_buffer,
    "numpy.dtype": _Type,
    "_codecs.encode": _encode,
    "__builtin__.bytes": _no_bytes,  # protocol 2 of no bytes at all
    _ARRAY: _ARRAY,  # an inert string
}


def _refusal(code: int) -> Callable:
    def refuse(_) -> None:
        raise pickle.UnpicklingError(f"instruction {bytes([code])!r} is not allowed")

    return refuse


# Instructions of the library that make no object other than by a call.
_HARMLESS = [
    getattr(pickle, name)[0]
    for name in """
        PROTO FRAME STOP MARK POP POP_MARK NONE NEWTRUE NEWFALSE INT BININT BININT1
        BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT STRING BINSTRING SHORT_BINSTRING UNICODE
        BINUNICODE SHORT_BINUNICODE BINUNICODE8 BINBYTES SHORT_BINBYTES BINBYTES8
        BYTEARRAY8 EMPTY_LIST LIST EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 EMPTY_DICT GET
        BINGET LONG_BINGET PUT BINPUT LONG_BINPUT MEMOIZE GLOBAL STACK_GLOBAL REDUCE
    """.split()
]


class _Unpickler(pickle._Unpickler):
    """Unpickler that knows what a file of arrays needs, and nothing else.

    The one in Python, not in C, as its table of instructions can be cut: what makes
    objects other than by a call is not in it, and a key is looked at before it is
    hashed, since hashing tuples a million deep ends the process.
    """

    def find_class(self, module: str, name: str) -> Any:
        full = f"{module}.{name}".replace("numpy._core.", "numpy.core.")
        if full not in _CALLS:
            raise pickle.UnpicklingError(f"{full} is not allowed")
        return _CALLS[full]

    def set_items(self) -> None:
        flat = self.pop_mark()
        self.fill(self.stack[-1], flat)

    def set_item(self) -> None:
        flat = [self.stack.pop(), self.stack.pop()][::-1]
        self.fill(self.stack[-1], flat)

    def make_dict(self) -> None:
        flat = self.pop_mark()
        self.append({})
        self.fill(self.stack[-1], flat)

    def fill(self, target: Any, flat: list) -> None:
        if type(target) is not dict:
            raise pickle.UnpicklingError(f"keys in a {type(target).__name__}")
        for key, value in zip(flat[::2], flat[1::2], strict=True):
            target[_leaf(key)] = value

    def append_items(self) -> None:
        self.extend(self.pop_mark())

    def append_item(self) -> None:
        self.extend([self.stack.pop()])

    def extend(self, values: list) -> None:
        if type(self.stack[-1]) is not list:
            raise pickle.UnpicklingError(f"items in a {type(self.stack[-1]).__name__}")
        self.stack[-1].extend(values)

    def build(self) -> None:
        state = self.stack.pop()
        if type(self.stack[-1]) not in (_Type, _Array):
            raise pickle.UnpicklingError(f"a state of {type(self.stack[-1]).__name__}")
        self.stack[-1].__setstate__(state)

    dispatch = {
        **{code: _refusal(code) for code in range(256)},
        **{code: pickle._Unpickler.dispatch[code] for code in _HARMLESS},
        pickle.SETITEMS[0]: set_items,
        pickle.SETITEM[0]: set_item,
        pickle.DICT[0]: make_dict,
        pickle.APPENDS[0]: append_items,
        pickle.APPEND[0]: append_item,
        pickle.BUILD[0]: build,
    }


def _plain(value: Any, depth: int = 0, done: dict | None = None) -> tuple[Any, int]:
    """Replace arrays in the making by what they became; refuse other types.

    Args:
        value: From the file.
        depth: Containers around it.
        done: What other containers became, by id: one may stand in several places.

    Returns:
        What it became, and how many containers deep it is.
    """
    done = {} if done is None else done
    if type(value) is _Array and isinstance(value.value, np.ndarray):
        return value.value, 0
    if type(value) not in (_Array, dict, list, tuple):
        return _leaf(value), 0
    if id(value) not in done:
        done[id(value)] = None, _DEPTH + 1  # what holds itself is met before it is done
        parts = [_plain(each, depth + 1, done) for each in _parts(value, depth)]
        height = 1 + max((height for _, height in parts), default=0)
        done[id(value)] = _filled(value, [part for part, _ in parts]), height
    found, height = done[id(value)]
    if depth + height > _DEPTH:
        raise ValueError(f"containers more than {_DEPTH} deep")
    return found, height


def _parts(value: Any, depth: int) -> list:
    if depth >= _DEPTH:
        raise ValueError(f"containers more than {_DEPTH} deep")
    if type(value) is _Array:
        if type(value.value) is not list or value.shape == ():
            raise ValueError("an array that is not one of numbers, text or [n] objects")
        return value.value
    return list(value.values() if type(value) is dict else value)


def _filled(value: Any, parts: list) -> Any:
    if type(value) is not _Array:
        is_dict = type(value) is dict
        return dict(zip(value, parts, strict=True)) if is_dict else type(value)(parts)
    found = np.empty(len(parts), object)
    for place, part in enumerate(parts):
        found[place] = part
    return found


def _leaf(value: Any) -> Any:
    if type(value) not in _LEAVES and not isinstance(value, np.generic):
        raise ValueError(f"a value of type {type(value).__name__} is not allowed")
    return value
