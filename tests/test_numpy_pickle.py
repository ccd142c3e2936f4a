"""Pickled arrays: what is read, and that nothing else is built or called."""

import base64
import gzip
import importlib
import os
import pickle
import struct
import tracemalloc

import nas360_files
import numpy as np
import pytest
from numpy._core import numeric

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
    "no bytes": ((1,), "i1", "|", [1]),
    "bytes as other text": ((1,), "i1", "|", "\u0100"),
    "objects": ((1,), "O8", "|", [print]),
    "too few objects": ((2,), "O8", "|", [1]),
    "objects with two axes": ((1, 1), "O8", "|", [1]),
    "an object without axes": ((), "O8", "|", [1]),
    "text": ((1,), "U1", "<", b"123"),
    "long text": ((0,), "S9999999", "|", b""),
    "records": ((1,), "i4,i4", "|", b"12345678"),
    "shape": ([1], "i1", "|", b"1"),
    "byte order": ((1,), "f8", "?", b"12345678"),
    "type": ((1,), "nonsense", "<", b"12345678"),
}


@pytest.mark.parametrize("name", BAD_ARRAYS)
def test_arrays_that_do_not_add_up_are_refused(tmp_path, name):
    path = with_pickle(tmp_path, _pickled(*BAD_ARRAYS[name]))
    with pytest.raises(errors.InputError, match="not a readable file of one object"):
        numpy_pickle.load(path)


class Call:
    """Pickles as a call."""

    def __init__(self, *call):
        self.call = call

    def __reduce__(self):
        return self.call[0], self.call[1:]


def test_nothing_is_called_that_is_not_on_the_list(tmp_path):
    mark = tmp_path / "mark"
    evil = Call(os.mkdir, str(mark))
    for value in (evil, {"x": [evil]}, np.array([1, evil], object)):
        for path in (save(tmp_path, value), save_pickle(tmp_path, value)):
            read = (
                numpy_pickle.load if path.suffix == ".npy" else numpy_pickle.load_pickle
            )
            with pytest.raises(errors.InputError, match="posix.mkdir is not allowed"):
                read(path)
    assert not mark.exists()


def save_pickle(folder, value, protocol=4):
    path = folder / "file.pkl"
    path.write_bytes(pickle.dumps(value, protocol=protocol))
    return path


def in_array(value):
    return _Built((1, (2,), _Kind("O8", "|"), False, [0, value]))


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize(
    ("call", "name"),
    [
        ((os.system, "exit 1"), "posix.system"),
        ((eval, "1 + 1"), "eval"),
        ((getattr, "text", "upper"), "getattr"),
        ((np.load, "x.npy", None, True), "numpy.load"),
        ((np.frombuffer, b"1"), "numpy.frombuffer"),
        ((importlib.import_module, "os"), "importlib.import_module"),
        ((bytearray, 10), "bytearray"),
        ((pickle.loads, b"N."), "loads"),
    ],
)
def test_calls_are_refused_wherever_they_stand(tmp_path, protocol, call, name):
    evil = Call(*call)
    places = [
        evil,
        {"x": evil},
        (1, [evil]),
        in_array(evil),
        in_array([in_array(evil)]),
    ]
    places += [_Built(evil), Call(np.dtype, evil), _Kind(evil, "<"), _Kind("f4", evil)]
    for value in places:
        path = save_pickle(tmp_path, value, protocol)
        with pytest.raises(errors.InputError, match=f"{name} is not allowed"):
            numpy_pickle.load_pickle(path)


# Programs of pickle's machine that no pickler writes.
PROGRAMS = {
    "an instance by INST": b"(S'exit 1'\nios\nsystem\n.",
    "an instance by OBJ": b"(cos\nsystem\nS'exit 1'\no.",
    "an instance by NEWOBJ": b"\x80\x02cnumpy\ndtype\n(\x58\x02\0\0\0f4t\x81.",
    "a persistent id": b"Pkey\n.",
    "an extension": b"\x80\x02\x82\x01.",
    "a set": b"\x80\x04\x8f(K\x01\x90.",
    "a buffer from elsewhere": b"\x80\x05\x97.",
    "a nested name": b"\x80\x04\x8c\x05numpy\x8c\x0ddtype.__init__\x93.",
    "a name of os": b"\x80\x04\x8c\x02os\x8c\x06system\x93.",
    "a name of ours": b"crecraft_jax.data.numpy_pickle\npickle\n.",
    "a call of what was called": b"cnumpy\ndtype\n(S'f4'\ntR(tR.",
    "a call of an inert name": b"cnumpy\nndarray\n(I1\ntR.",
    "attributes of a function": b"c_codecs\nencode\n}S'x'\nI1\nsb.",
    "attributes of a class": b"cnumpy\ndtype\n}S'resolve'\nI1\nsb.",
    "state of a dict": b"}}b.",
    "key in a list": b"]I0\nI1\ns.",
    "items in a dict": b"}I1\na.",
    "odd number of keys": b"}(I0\nu.",
    "keys on an array": b"cnumpy\nndarray\nI0\nI1\ns.",
    "dtype unfinished": b"cnumpy\ndtype\n(S'f4'\ntR.",
    "only a function": b"c_codecs\nencode\n.",
    "array unfinished": (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR."
    ),
    "bytes out of a number": b"c__builtin__\nbytes\n(I1000000000\ntR.",
    "no stop": b"N",
    "nothing to stop at": b".",
    "nothing": b"",
    "memo out of range": b"g7\n.",
    "a longer string than there is": b"\x80\x04\x8e\xff\xff\xff\xff\xff\0\0\0a.",
    "a key that is a list": b"}]I1\ns.",
    "a key that is a tuple": b"}(I1\nI2\ntI1\ns.",
    "more after the end": b"N.N.",
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_programs_are_refused(tmp_path, name):
    path = tmp_path / "file.pkl"
    path.write_bytes(PROGRAMS[name])
    with pytest.raises(errors.InputError, match="not a readable pickle") as info:
        numpy_pickle.load_pickle(path)
    assert "\n" not in str(info.value)


def test_name_of_ours_is_an_inert_string(tmp_path):
    """`numpy.ndarray` alone is that text, and not the class."""
    path = tmp_path / "file.pkl"
    path.write_bytes(b"cnumpy\nndarray\n.")
    assert numpy_pickle.load_pickle(path) == "numpy.ndarray"


def test_deep_tuples_are_no_keys(tmp_path):
    """Hashed, a tuple of this depth can end the process."""
    path = tmp_path / "file.pkl"
    for start, end in ((b"}", b"I1\ns."), (b"(", b"I1\nd."), (b"}(", b"I1\nu.")):
        path.write_bytes(b"\x80\x02" + start + b")" + b"\x85" * 400_000 + end)
        with pytest.raises(errors.InputError, match="type tuple is not allowed"):
            numpy_pickle.load_pickle(path)


@pytest.mark.parametrize(
    "raw",
    [
        b"(" * 10**5 + b"l" * 10**5 + b".",
        b")" + b"\x85" * 10**5 + b".",
        b"]\x94h\x00a.",  # a list that holds itself
        b"}\x94I1\nh\x00s.",
    ],
)
def test_deep_values_are_refused(tmp_path, raw):
    path = tmp_path / "file.pkl"
    path.write_bytes(b"\x80\x04" + raw)
    with pytest.raises(errors.InputError, match="more than 10 deep"):
        numpy_pickle.load_pickle(path)


def test_nothing_shared_is_spelt_out_in_a_message(tmp_path):
    """Its text would be 10^20 characters long."""
    value = ("x",)
    for _ in range(10):
        value = (value,) * 100
    wrong = [Call(np.dtype, value), _Built((1, (2,), value, False, b"12"))]
    wrong += [_Built((1, value, _Kind("i1", "|"), False, b"12"))]
    wrong += [_Built((1, (2,), _Kind(value, "|"), False, b"12"))]
    wrong += [_Built((1, (2,), _Kind("i2", value), False, b"1234"))]
    wrong += [_Built((1, (2,), _Kind("i1", "|"), False, value))]
    wrong += [Call(np.ndarray(0).__reduce__()[0], value), Call(_encode(), value, value)]
    wrong += [Call(np.float32(0).__reduce__()[0], value, value)]
    wrong += [Call(numeric._frombuffer, value, value, value, value)]
    for each in wrong:
        path = save_pickle(tmp_path, each)
        with pytest.raises(errors.InputError) as info:
            numpy_pickle.load_pickle(path)
        assert len(str(info.value)) < 300


def test_shared_parts_are_made_once(tmp_path):
    """Written out, ten levels of a hundred would be 10^20 values."""
    value = ["x"]
    for _ in range(8):
        value = [value] * 100
    found = numpy_pickle.load_pickle(save_pickle(tmp_path, value))
    assert found[0] is found[99] and found[0][0] is found[7][8]
    first = [[["x"]]]  # seen before it stands deeper

    def nested(num):
        value = first
        for _ in range(num):
            value = [value]
        return [first, value]

    found = numpy_pickle.load_pickle(save_pickle(tmp_path, nested(6)))
    assert found == nested(6)
    with pytest.raises(errors.InputError, match="more than 10 deep"):
        numpy_pickle.load_pickle(save_pickle(tmp_path, nested(7)))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({1, 2}, "instruction .* is not allowed"),
        ({"x": np.array([["text"]], object)}, "array of objects of shape"),
        ({"x": np.datetime64("2020")}, "array of type 'M8'"),
        ({"x": np.zeros(2, "i4,i4")}, "array of type 'V8'"),
        ([[[[[[[[[[[["deep"]]]]]]]]]]]], "more than 10 deep"),
        (os.path.join, "is not allowed"),
    ],
)
def test_other_values_are_refused(tmp_path, value, message):
    with pytest.raises(errors.InputError, match=message):
        numpy_pickle.load(save(tmp_path, value))
    with pytest.raises(errors.InputError, match=message):
        numpy_pickle.load_pickle(save_pickle(tmp_path, value))


def everything():
    transposed = np.arange(24, dtype=np.int16).reshape(2, 3, 4).transpose(1, 0, 2)
    return content() | {
        "big": np.arange(3, dtype=np.int32),
        "records": np.array([np.arange(4, dtype=np.int16), np.float32([1])], object),
        "labels": np.array(["N", "~", b"raw", None, (1, 2.5)], object),
        "scalars": [np.float32(1.5), np.int8(-3), np.bool_(True), np.str_("ab")],
        "text": np.array(["ab", "c\u20ac"]),
        "raw": np.array([b"ab", b"c"]),
        "transposed": transposed,
        "gaps": np.arange(10.0)[::3],
        "without axes": np.array(2.5),
        "empty": np.zeros((0, 3), np.uint8),
        "complex": np.array([1 + 2j], np.complex64),
        "bytes": b"\x00\xff",
        "no bytes": b"",
        "bytearray": 10**30,
        7: -(2**40),
        b"key": "\u20ac\n",
    }


def same_objects(a, b):
    if isinstance(a, np.ndarray) and a.dtype == object:
        return a.shape == b.shape and b.dtype == object and all(map(same_objects, a, b))
    if isinstance(a, dict):
        return list(a) == list(b) and all(same_objects(a[k], b[k]) for k in a)
    return same(a, b)


@pytest.mark.parametrize("protocol", range(6))
def test_every_protocol(tmp_path, protocol):
    path = save_pickle(tmp_path, everything(), protocol)
    assert same_objects(everything(), numpy_pickle.load_pickle(path))
    (tmp_path / "file.gz").write_bytes(gzip.compress(path.read_bytes()))
    found = numpy_pickle.load_pickle(tmp_path / "file.gz")
    assert same_objects(everything(), found)


def test_array_of_objects_of_one_axis(tmp_path):
    path = tmp_path / "file.npy"
    value = np.array([5, "text", np.arange(3)], object)
    np.save(path, value)
    assert same_objects(value, numpy_pickle.load_array(path))
    with pytest.raises(errors.InputError, match="instead of one object"):
        numpy_pickle.load(path)
    save(tmp_path, {})
    with pytest.raises(errors.InputError, match="instead of one of one axis"):
        numpy_pickle.load_array(path)
    np.save(path, value.reshape(1, 3))
    for read in (numpy_pickle.load, numpy_pickle.load_array):
        with pytest.raises(errors.InputError, match="objects of shape"):
            read(path)
    raw = path.read_bytes().replace(b"(1, 3)", b"(3,)  ")
    path.write_bytes(raw)
    with pytest.raises(errors.InputError, match="objects of shape"):
        numpy_pickle.load_array(path)
    np.save(path, value)
    path.write_bytes(path.read_bytes().replace(b"(3,)", b"(2,)"))
    with pytest.raises(errors.InputError, match="that should be"):
        numpy_pickle.load_array(path)


# What the next test reads, written by numpy 1.26.4 with protocols 2 and 5.
NUMPY_1 = (
    "gAJ9cQAoWAEAAAB4cQFjbnVtcHkuY29yZS5tdWx0aWFycmF5Cl9yZWNvbnN0cnVjdApxAmNudW1weQpu"
    "ZGFycmF5CnEDSwCFcQRjX2NvZGVjcwplbmNvZGUKcQVYAQAAAGJxBlgGAAAAbGF0aW4xcQeGcQhScQmH"
    "cQpScQsoSwFLA4VxDGNudW1weQpkdHlwZQpxDVgCAAAAaTJxDomIh3EPUnEQKEsDWAEAAAA8cRFOTk5K"
    "/////0r/////SwB0cRJiiWgFWAYAAAAAAAEAAgBxE2gHhnEUUnEVdHEWYlgBAAAAc3EXY251bXB5LmNv"
    "cmUubXVsdGlhcnJheQpzY2FsYXIKcRhoDVgCAAAAZjRxGYmIh3EaUnEbKEsDaBFOTk5K/////0r/////"
    "SwB0cRxiaAVYBQAAAAAAw4A/cR1oB4ZxHlJxH4ZxIFJxIVgBAAAAb3EiaAJoA0sAhXEjaAmHcSRScSUo"
    "SwFLAoVxJmgNWAIAAABPOHEniYiHcShScSkoSwNYAQAAAHxxKk5OTkr/////Sv////9LP3RxK2KJXXEs"
    "KFgBAAAATnEtWAEAAABBcS5ldHEvYlgBAAAAdXEwaAJoA0sAhXExaAmHcTJScTMoSwFLAoVxNGgNWAIA"
    "AABVMnE1iYiHcTZScTcoSwNoEU5OTksISwRLCHRxOGKJaAVYEAAAAGEAAABiAAAAYwAAAAAAAABxOWgH"
    "hnE6UnE7dHE8YnUu",
    "gAWVjgEAAAAAAAB9lCiMAXiUjBJudW1weS5jb3JlLm51bWVyaWOUjAtfZnJvbWJ1ZmZlcpSTlCiWBgAA"
    "AAAAAAAAAAEAAgCUjAVudW1weZSMBWR0eXBllJOUjAJpMpSJiIeUUpQoSwOMATyUTk5OSv////9K////"
    "/0sAdJRiSwOFlIwBQ5R0lFKUjAFzlIwVbnVtcHkuY29yZS5tdWx0aWFycmF5lIwGc2NhbGFylJOUaAiM"
    "AmY0lImIh5RSlChLA2gMTk5OSv////9K/////0sAdJRiQwQAAMA/lIaUUpSMAW+UaBOMDF9yZWNvbnN0"
    "cnVjdJSTlGgGjAduZGFycmF5lJOUSwCFlEMBYpSHlFKUKEsBSwKFlGgIjAJPOJSJiIeUUpQoSwOMAXyU"
    "Tk5OSv////9K/////0s/dJRiiV2UKIwBTpSMAUGUZXSUYowBdZRoBCiWEAAAAAAAAABhAAAAYgAAAGMA"
    "AAAAAAAAlGgIjAJVMpSJiIeUUpQoSwNoDE5OTksISwRLCHSUYksChZRoD3SUUpR1Lg==",
)


@pytest.mark.parametrize("text", NUMPY_1)
def test_names_of_numpy_1(tmp_path, text):
    path = tmp_path / "file.pkl"
    path.write_bytes(base64.b64decode(text))
    want = {
        "x": np.arange(3, dtype=np.int16),
        "s": np.float32(1.5),
        "o": np.array(["N", "A"], object),
        "u": np.array(["ab", "c"]),
    }
    assert same_objects(want, numpy_pickle.load_pickle(path))


@pytest.mark.parametrize("encoding", ["latin1", "bytes"])
def test_strings_of_python_2(tmp_path, encoding):
    """There text, keys and the bytes of arrays are all the same kind of string."""
    array = np.array([[0, 128], [255, 10]], np.uint8)
    path = tmp_path / "file.pkl"
    path.write_bytes(
        nas360_files.python_2_pickle({b"data": array, b"n\xe9": [b"a", 3]})
    )
    found = numpy_pickle.load_pickle(path, encoding=encoding)
    keys = [b"data", b"n\xe9"]
    if encoding == "latin1":
        keys = [key.decode("latin1") for key in keys]
    assert list(found) == keys
    assert same(found[keys[0]], array)
    assert found[keys[1]] == ["a" if encoding == "latin1" else b"a", 3]


def test_truncated_and_damaged_pickles(tmp_path):
    path = save_pickle(tmp_path, everything())
    raw = path.read_bytes()
    packed = gzip.compress(raw)
    flipped = packed[:-6] + bytes([packed[-6] ^ 1]) + packed[-5:]  # in the check sum
    cut = [raw[:-1], raw[:40], raw[:1], packed[:-9], packed[:30], packed[:2], flipped]
    for each in [*cut, raw + b"0", packed + b"0", gzip.compress(raw + b"0")]:
        path.write_bytes(each)
        with pytest.raises(errors.InputError, match="not a readable pickle") as info:
            numpy_pickle.load_pickle(path)
        assert "\n" not in str(info.value)
    with pytest.raises(errors.InputError, match="No such file"):
        numpy_pickle.load_pickle(tmp_path / "other")


def test_any_byte_may_be_wrong(tmp_path):
    """Every byte of a small file, replaced: another value or one line, nothing else."""
    path = save_pickle(tmp_path, {"x": np.arange(3), "y": ["a", 1.5]}, 2)
    raw = path.read_bytes()
    for place in range(len(raw)):
        for byte in (0, ord("."), ord("R"), ord("b"), 0x85, 0xFF):
            path.write_bytes(raw[:place] + bytes([byte]) + raw[place + 1 :])
            try:
                numpy_pickle.load_pickle(path)
            except errors.InputError:
                pass


def test_large_arrays_are_not_copied(tmp_path):
    path = save_pickle(tmp_path, {"x": np.zeros(4_000_000, np.uint8)})
    tracemalloc.start()
    found = numpy_pickle.load_pickle(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(found["x"]) == 4_000_000 and peak < 1.5 * 4_000_000


def test_save_gzip_gives_the_same_bytes_and_no_parts(tmp_path):
    value = {"x": np.arange(5), "y": ["a"]}
    numpy_pickle.save_gzip(tmp_path / "a.gz", value)
    numpy_pickle.save_gzip(tmp_path / "b.gz", value)
    raw = (tmp_path / "a.gz").read_bytes()
    assert raw == (tmp_path / "b.gz").read_bytes()
    assert same(value, pickle.loads(gzip.decompress(raw)))
    assert same(value, numpy_pickle.load_pickle(tmp_path / "a.gz"))
    with pytest.raises((AttributeError, pickle.PicklingError)):
        numpy_pickle.save_gzip(tmp_path / "a.gz", lambda: 0)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["a.gz", "b.gz"]
    assert (tmp_path / "a.gz").read_bytes() == raw


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
    with pytest.raises(errors.InputError, match="instead of objects"):
        numpy_pickle.load(path)
    path.unlink()
    with pytest.raises(errors.InputError, match="No such file"):
        numpy_pickle.load(path)
