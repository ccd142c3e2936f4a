import collections
import io
import os
import pickle
import zipfile

import numpy as np
import pytest

from recraft_jax.data import torch_file


class _Storage:
    def __init__(self, kind, key, count):
        self.pid = ("storage", _Global("torch", kind), key, "cpu", count)


class _Global:
    def __init__(self, module, name):
        self.module, self.name = module, name


class _Call:
    def __init__(self, fn, args):
        self.fn, self.args = fn, args


def _dumps(value):
    """Write protocol-2 pickle opcodes by hand, as torch.save does."""
    if isinstance(value, _Call):
        return _dumps(value.fn) + _dumps(value.args) + b"R"
    if isinstance(value, _Global):
        return f"c{value.module}\n{value.name}\n".encode()
    if isinstance(value, _Storage):
        return _dumps(value.pid) + b"Q"
    if isinstance(value, dict):
        items = b"".join(_dumps(k) + _dumps(v) + b"s" for k, v in value.items())
        return b"}" + items
    if isinstance(value, tuple):
        return b"(" + b"".join(map(_dumps, value)) + b"t"
    if isinstance(value, list):
        return b"(" + b"".join(map(_dumps, value)) + b"l"
    return pickle.dumps(value, 2)[2:-1]  # without the frame


def _tensor(kind, key, count, size, stride, offset=0):
    hooks = _Call(_Global("collections", "OrderedDict"), ())
    args = (_Storage(kind, key, count), offset, size, stride, False, hooks)
    return _Call(_Global("torch._utils", "_rebuild_tensor_v2"), args)


def _save(path, value, storages=None, raw=None, **extra):
    with zipfile.ZipFile(path, "w") as archive:
        program = b"\x80\x02" + _dumps(value) + b"." if raw is None else raw
        archive.writestr("archive/data.pkl", program)
        for key, content in (storages or {}).items():
            archive.writestr(f"archive/data/{key}", content.tobytes())
        for key, content in extra.items():
            archive.writestr(f"archive/{key}", content)
    return path


def _refused(path, *parts):
    with pytest.raises(ValueError) as info:
        torch_file.load(path)
    for part in (str(path), *parts):
        assert part in str(info.value)


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [(name.split(".")[1], dtype) for name, dtype in torch_file._DTYPES.items()],
)
def test_dtypes(tmp_path, kind, dtype):
    want = (np.arange(6) % 2 if dtype == np.bool_ else np.arange(6)).astype(dtype)
    value = {"x": _tensor(kind, "0", 6, (2, 3), (3, 1))}
    got = torch_file.load(_save(tmp_path / "a.pt", value, {"0": want}))
    assert got["x"].dtype == dtype
    np.testing.assert_array_equal(got["x"], want.reshape(2, 3))


def test_containers_and_plain_values(tmp_path):
    storage = np.arange(4, dtype=np.float32)
    one = _tensor("FloatStorage", "0", 4, (4,), (1,))
    value = {"a": [one, (one, 3)], "b": "text", "c": None, "d": [1.5, True], 7: {}}
    path = _save(tmp_path / "a.pt", value, {"0": storage}, byteorder="little")
    got = torch_file.load(path)
    np.testing.assert_array_equal(got["a"][0], storage)
    np.testing.assert_array_equal(got["a"][1][0], storage)
    assert got["a"][1][1] == 3 and got["b"] == "text" and got["c"] is None
    assert got["d"] == [1.5, True] and got[7] == {}


def test_ordered_dict(tmp_path):
    value = _Call(_Global("collections", "OrderedDict"), ([["a", 1], ["b", 2]],))
    got = torch_file.load(_save(tmp_path / "a.pt", value))
    assert got == collections.OrderedDict(a=1, b=2)


def test_views(tmp_path):
    storage = np.arange(12, dtype=np.int64)
    value = {
        "transposed": _tensor("LongStorage", "0", 12, (4, 3), (1, 4)),
        "darcy": _tensor("LongStorage", "0", 12, (2, 3, 2), (1, 2, 6)),
        "slice": _tensor("LongStorage", "0", 12, (2, 2), (6, 2), 3),
        "scalar": _tensor("LongStorage", "0", 12, (), (), 11),
        "empty": _tensor("LongStorage", "0", 12, (0, 3), (3, 1)),
    }
    got = torch_file.load(_save(tmp_path / "a.pt", value, {"0": storage}))
    np.testing.assert_array_equal(got["transposed"], storage.reshape(3, 4).T)
    want = storage.reshape(2, 3, 2).transpose(2, 1, 0)
    np.testing.assert_array_equal(got["darcy"], want)
    np.testing.assert_array_equal(got["slice"], [[3, 5], [9, 11]])
    assert got["scalar"] == 11 and got["scalar"].shape == ()
    assert got["empty"].shape == (0, 3)
    assert all(array.flags.c_contiguous for array in got.values())
    got["slice"][:] = 0  # a copy: the others stay
    assert got["scalar"] == 11


@pytest.mark.parametrize(
    ("size", "stride", "offset"),
    [
        ((13,), (1,), 0),
        ((12,), (1,), 1),
        ((2, 2), (11, 1), 0),
        ((2, 6), (10**15, 1), 0),
        ((1,), (1,), 12),
        ((10**12,), (0,), 0),
        ((12,), (1,), -1),
        ((12,), (-1,), 11),
        ((-1,), (1,), 0),
        ((12,), (1, 1), 0),
        ((True,), (1,), 0),
        (("1",), (1,), 0),
    ],
)
def test_out_of_range(tmp_path, size, stride, offset):
    value = [_tensor("FloatStorage", "0", 12, size, stride, offset)]
    path = _save(tmp_path / "a.pt", value, {"0": np.zeros(12, np.float32)})
    _refused(path, "stride")


def test_storage_of_another_size(tmp_path):
    value = [_tensor("FloatStorage", "0", 12, (12,), (1,))]
    path = _save(tmp_path / "a.pt", value, {"0": np.zeros(11, np.float32)})
    _refused(path, "storage 0 has 44 bytes")


@pytest.mark.parametrize(
    ("module", "name"),
    [("os", "system"), ("posix", "system"), ("builtins", "eval"), ("nt", "system")],
)
def test_evil_call_is_refused_and_not_run(tmp_path, module, name):
    mark = tmp_path / "executed"
    code = f"touch {mark}" if name == "system" else f"open({str(mark)!r}, 'w')"
    path = _save(tmp_path / "evil.pt", {"x": _Call(_Global(module, name), (code,))})
    _refused(path, f"{module}.{name} is not allowed")
    assert not mark.exists()


def test_evil_reduce_of_a_real_pickle(tmp_path):
    mark = tmp_path / "executed"

    class Evil:
        def __reduce__(self):
            return os.system, (f"touch {mark}",)

    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        raw = pickle.dumps(Evil(), protocol)
        _refused(_save(tmp_path / "evil.pt", None, raw=raw), "system is not allowed")
    assert not mark.exists()


def test_dotted_name_is_refused(tmp_path):
    raw = b"\x80\x04\x8c\x0bcollections\x8c\x18OrderedDict.__subclasses\x93."
    _refused(_save(tmp_path / "evil.pt", None, raw=raw), "is not allowed")


def test_the_allowed_function_cannot_be_changed(tmp_path):
    # BUILD with a slot state sets attributes of what find_class returned.
    rebuild = _dumps(_Global("torch._utils", "_rebuild_tensor_v2"))
    raw = b"\x80\x02" + rebuild + _dumps((None, {"__defaults__": (1, 2)})) + b"b0N."
    torch_file.load(_save(tmp_path / "evil.pt", None, raw=raw))
    test_views(tmp_path)


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (_Global("torch", "BFloat16Storage"), "torch.BFloat16Storage"),
        (_Global("torch", "device"), "torch.device"),
        (_Global("torch._utils", "_rebuild_parameter"), "_rebuild_parameter"),
        (_Global("torch._utils", "_rebuild_tensor_v2"), "function"),
        (_Global("collections", "OrderedDict"), "type type"),
        ({1j: _Call(_Global("collections", "OrderedDict"), ())}, "complex"),
    ],
)
def test_other_things_are_refused_by_name(tmp_path, value, name):
    _refused(_save(tmp_path / "a.pt", value), name, "not allowed")


def test_cycle_ends(tmp_path):
    raw = b"\x80\x02]q\x00h\x00a."  # a list that holds itself
    got = torch_file.load(_save(tmp_path / "a.pt", None, raw=raw))
    assert got[0] is got


def test_damaged_files(tmp_path):
    value = [_tensor("FloatStorage", "0", 12, (12,), (1,))]
    good = _save(tmp_path / "a.pt", value, {"0": np.arange(12, dtype=np.float32)})
    raw = good.read_bytes()
    path = tmp_path / "b.pt"
    for damaged in (b"", b"PK", raw[:-30], raw[: len(raw) // 2], b"\x80\x02N."):
        path.write_bytes(damaged)
        _refused(path)
    at = raw.index(np.arange(12, dtype=np.float32).tobytes())
    path.write_bytes(raw[:at] + b"\x01" + raw[at + 1 :])
    _refused(path, "CRC")
    for program in (b"", b"\x80\x02", b"\x80\x02Nq", b"not a pickle", b"\x80\x02(t"):
        _refused(_save(path, None, raw=program))
    with pytest.raises(FileNotFoundError):
        torch_file.load(tmp_path / "none.pt")


def test_big_endian_compressed_and_no_pickle(tmp_path):
    _refused(_save(tmp_path / "a.pt", [], byteorder="big"), "byte order")
    with zipfile.ZipFile(tmp_path / "b.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02N.")
    _refused(tmp_path / "b.pt", "compressed")
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/version", b"3")
    (tmp_path / "c.pt").write_bytes(buffer.getvalue())
    _refused(tmp_path / "c.pt", "data.pkl")
