"""Pickled arrays: what is read, and that nothing else is built or called."""

import os
import pickle
import struct

import numpy as np
import pytest

from recraft_jax import errors
from recraft_jax.data import numpy_pickle


def save(folder, value):
    path = folder / "file.npy"
    array = np.empty((), object)
    array[()] = value
    np.save(path, array)
    return path


def content():
    return {
        "X": [np.arange(6.0).reshape(2, 3), np.float32([[1, -2.5]])],
        "y": np.array([3, -1], np.int64),
        "names": ("a", "b"),
        "big": np.arange(3, dtype=">i4"),
        "fortran": np.asfortranarray(np.arange(6).reshape(2, 3)),
        "flags": np.array([True, False]),
        "other": [None, 1, 2.5, True, "text"],
    }


def same(a, b):
    if isinstance(a, np.ndarray):
        return a.shape == b.shape and a.dtype == b.dtype and np.array_equal(a, b)
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return type(a) is type(b) and all(map(same, a, b))
    return a == b and type(a) is type(b)


def test_load_gives_back_what_numpy_saved(tmp_path):
    want = content() | {"big": np.arange(3, dtype=np.int32)}
    assert same(numpy_pickle.load(save(tmp_path, content())), want)


def with_pickle(folder, raw):
    path = save(folder, {})
    header = path.read_bytes()
    header = header[: header.index(b"\n") + 1]
    path.write_bytes(header + raw)
    return path


def test_old_files_hold_bytes_as_text(tmp_path):
    """Protocol 2, by hand: bytes are `_codecs.encode(text, "latin1")`."""
    data = struct.pack("<2d", 1.5, -200.0)

    class Bytes:
        def __reduce__(self):
            return (_encode(), (data.decode("latin1"), "latin1"))

    raw = _pickled((2,), "f8", "<", Bytes())
    found = numpy_pickle.load(with_pickle(tmp_path, raw))
    np.testing.assert_array_equal(found["x"], [1.5, -200.0])


def _encode():
    import _codecs

    return _codecs.encode


class _Built:
    """Pickles as `_reconstruct` and a state, whatever the state is."""

    def __init__(self, state):
        self.state = state

    def __reduce__(self):
        make = np.ndarray(0).__reduce__()[0]
        return make, (np.ndarray, (0,), b"b"), self.state


class _Kind:
    def __init__(self, name, order):
        self.name, self.order = name, order

    def __reduce__(self):
        state = (3, self.order, None, None, None, -1, -1, 0)
        return np.dtype, (self.name, False, True), state


def _pickled(shape, name, order, data):
    inner = _Built((1, shape, _Kind(name, order), False, data))
    outer = _Built((1, (), _Kind("O8", "|"), False, [{"x": inner}]))
    return pickle.dumps(outer, protocol=2)


BAD_ARRAYS = {
    "too few bytes": ((2,), "f8", "<", b"12345678"),
    "too many bytes": ((), "f8", "<", b"123456789"),
    "negative": ((-1, -1), "i1", "|", b"1"),
    "no bytes": ((1,), "i1", "|", "1"),
    "objects": ((1,), "O8", "|", [print]),
    "several objects": ((2,), "O8", "|", [1, 2]),
    "text": ((1,), "U1", "<", b"1234"),
    "byte order": ((1,), "f8", "?", b"12345678"),
    "type": ((1,), "nonsense", "<", b"12345678"),
}


@pytest.mark.parametrize("name", BAD_ARRAYS)
def test_arrays_that_do_not_add_up_are_refused(tmp_path, name):
    path = with_pickle(tmp_path, _pickled(*BAD_ARRAYS[name]))
    with pytest.raises(errors.InputError, match="not a readable file of one object"):
        numpy_pickle.load(path)


def test_nothing_is_called_that_is_not_on_the_list(tmp_path):
    mark = tmp_path / "mark"

    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(mark),)

    for value in (Evil(), {"x": [Evil()]}):
        with pytest.raises(errors.InputError, match="posix.mkdir is not allowed"):
            numpy_pickle.load(save(tmp_path, value))
    assert not mark.exists()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({1, 2}, "set"),
        ({"x": np.float64(1)}, "scalar is not allowed"),
        ({"x": np.array(["text"], object)}, "array of objects of shape"),
        ({"x": np.datetime64("2020")}, "is not allowed"),
        ([[[[[[[[[[[["deep"]]]]]]]]]]]], "more than 10 deep"),
        (os.path.join, "is not allowed"),
    ],
)
def test_other_values_are_refused(tmp_path, value, message):
    with pytest.raises(errors.InputError, match=message):
        numpy_pickle.load(save(tmp_path, value))


def test_damaged_files_get_one_line(tmp_path):
    path = save(tmp_path, content())
    raw = path.read_bytes()
    broken = (b"", b"text", raw[:50], raw[:200], raw[:-30], raw[:100] + raw[120:])
    for each in broken:
        path.write_bytes(each)
        with pytest.raises(errors.InputError, match="not a readable file") as info:
            numpy_pickle.load(path)
        assert str(info.value).startswith(f"{path}: ") and "\n" not in str(info.value)
    np.save(path, np.zeros(3))
    with pytest.raises(errors.InputError, match="instead of one object"):
        numpy_pickle.load(path)
    path.unlink()
    with pytest.raises(errors.InputError, match="No such file"):
        numpy_pickle.load(path)
