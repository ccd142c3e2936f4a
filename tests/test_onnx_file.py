import numpy as np
import pytest

from recraft_jax import assets, errors
from recraft_jax.models import onnx_file

D = 4
LINEAR = {
    "attention.attention.query": (D, D),
    "attention.attention.key": (D, D),
    "attention.attention.value": (D, D),
    "attention.output.dense": (D, D),
    "mlp.fc1": (2 * D, D),
    "mlp.fc2": (D, 2 * D),
}


def _varint(value):
    raw = b""
    while value > 127:
        raw += bytes([value & 127 | 128])
        value >>= 7
    return raw + bytes([value])


def _field(number, value):
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value)
    value = value.encode() if isinstance(value, str) else value
    return _varint(number << 3 | 2) + _varint(len(value)) + value


def _tensor(name, array, is_packed=False, data_type=1):
    dims = b"".join(_field(1, dim) for dim in array.shape)
    if is_packed:
        dims = _field(1, b"".join(map(_varint, array.shape)))
    return dims + _field(2, data_type) + _field(8, name) + _field(9, array.tobytes())


def _node(path, op, *inputs):
    fields = [_field(1, name) for name in inputs]
    return b"".join([*fields, _field(2, f"{path}_out"), _field(3, path), _field(4, op)])


def _dinov2(num_layers=2, seed=0):
    """Random tensors under Hugging Face's names."""
    rng = np.random.default_rng(seed)
    shapes = {
        "embeddings.cls_token": (1, 1, D),
        "embeddings.position_embeddings": (1, 10, D),
        "embeddings.patch_embeddings.projection.weight": (D, 3, 2, 2),
        "embeddings.patch_embeddings.projection.bias": (D,),
        "layernorm.weight": (D,),
        "layernorm.bias": (D,),
    }
    for i in range(num_layers):
        at = f"encoder.layer.{i}"
        for name, shape in LINEAR.items():
            shapes |= {
                f"{at}.{name}.weight": shape,
                f"{at}.{name}.bias": shape[:1],
            }
        for name in ("norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias"):
            shapes[f"{at}.{name}"] = (D,)
        for name in ("layer_scale1.lambda1", "layer_scale2.lambda1"):
            shapes[f"{at}.{name}"] = (D,)
    return {k: rng.normal(size=shape).astype(np.float32) for k, shape in shapes.items()}


def _parts(tensors):
    """Initialisers and nodes as PyTorch's exporter writes them."""
    stored, nodes = {}, []
    for name, array in tensors.items():
        parts = name.split(".")
        is_linear = ".".join(parts[3:-1]) in LINEAR and parts[-1] == "weight"
        if is_linear:
            key = f"onnx::MatMul_{len(stored)}"
            stored[key] = np.ascontiguousarray(array.T)
            path = f"/backbone/encoder/layer.{'/'.join(parts[2:-1])}/MatMul"
            nodes.append(_node(path, "MatMul", "hidden", key))
        elif name == "embeddings.position_embeddings":
            # The grid is resized first, so it is met before the CLS token's row.
            stored |= {"onnx::Concat_1": array[:, :1], "onnx::Reshape_2": array[:, 1:]}
            path = "/backbone/embeddings"
            nodes.append(_node(f"{path}/Reshape_1", "Reshape", "onnx::Reshape_2", "s"))
            nodes.append(_node(f"{path}/Concat_6", "Concat", "onnx::Concat_1", "r"))
        else:
            stored[f"backbone.{name}"] = array
    nodes.append(
        _node("/backbone/encoder/layer.0/attention/MatMul", "MatMul", "q", "k")
    )
    stored["decoder.conv.weight"] = stored["onnx::Mul_9"] = np.ones((2, 1), np.float32)
    nodes.append(_node("/decoder/MatMul", "MatMul", "hidden", "onnx::Mul_9"))
    return stored, nodes


def _model(stored, nodes, **options):
    initialisers = [_field(5, _tensor(k, v, **options)) for k, v in stored.items()]
    graph = b"".join([_field(1, node) for node in nodes] + initialisers)
    return (
        _field(1, 8) + _field(2, "pytorch") + _field(7, graph) + _field(8, b"\x10\x0e")
    )


@pytest.fixture
def save(tmp_path):
    def write(raw):
        (tmp_path / "a.onnx").write_bytes(raw)
        return tmp_path / "a.onnx"

    return write


def _refused(path, *parts):
    with pytest.raises(errors.InputError) as info:
        onnx_file.read_dinov2(path)
    message = str(info.value)
    assert message.startswith(f"{path}: ") and "\n" not in message
    for part in parts:
        assert part in message


@pytest.mark.parametrize("is_packed", [False, True])
def test_tensors_come_back_under_their_names(save, is_packed):
    want = _dinov2()
    path = save(_model(*_parts(want), is_packed=is_packed))
    got = onnx_file.read_dinov2(path)
    assert got.keys() == want.keys()
    for name, array in got.items():
        np.testing.assert_array_equal(array, want[name], err_msg=name)
        assert array.dtype == np.float32 and array.flags.aligned


def test_log_says_how_many_are_left_out(save, caplog):
    caplog.set_level("INFO")
    onnx_file.read_dinov2(save(_model(*_parts(_dinov2(1)))))
    assert "24 tensors, left out 2" in caplog.text


def test_truncated(save):
    raw = _model(*_parts(_dinov2(1)))
    for size in [*range(0, len(raw) - 4, 97), len(raw) - 5]:
        _refused(save(raw[:size]))


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        bytes(1000),
        b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n",
        b"PK\x03\x04" + bytes(100),
        _field(7, 5),
        _field(7, _field(5, 5)),
        _field(7, b""),
        _field(7, b"\x08" + b"\xff" * 20),
        *(np.random.default_rng(i).bytes(2000) for i in range(50)),
    ],
)
def test_garbage(save, raw):
    _refused(save(raw), "not a readable ONNX file")


def test_damaged_parts(save):
    stored, nodes = _parts(_dinov2(1))
    _refused(save(_model(stored, nodes, data_type=10)), "data type [10]", "float32")
    name = "backbone.layernorm.bias"
    short = _tensor(name, stored[name])[:-3]
    _refused(save(_field(7, _field(5, short))), "ends early")
    longer = _field(1, 2) + _tensor(name, stored[name])
    _refused(save(_field(7, _field(5, longer))), name, "16 bytes", "[2, 4]")
    _refused(save(_model(stored, nodes[:2] + nodes[3:])), "lacks encoder.layer.0.att")
    del stored[name]
    _refused(save(_model(stored, nodes)), "lacks layernorm.bias, 1 such in all")
    stored[name] = stored["backbone.novel"] = np.ones(1, np.float32)
    _refused(save(_model(stored, nodes)), "unknown novel")
    del stored["onnx::Concat_1"], stored["backbone.novel"]
    _refused(save(_model(stored, nodes)), "position table are [(1, 9, 4)]")


def test_missing_file(tmp_path):
    _refused(tmp_path / "none.onnx", "cannot be read")
    _refused(tmp_path, "cannot be read")


@pytest.mark.network
def test_real_file():
    # 90.2 MB: from the user's cache when it is there.
    path = assets.fetch("vit-s") / "vit_s_focus.onnx"
    tensors = onnx_file.read_dinov2(path)
    # Stock DINOv2-S less its mask token of 384 values.
    assert len(tensors) == 222
    assert sum(array.size for array in tensors.values()) == 22_056_576 - 384
    assert tensors["embeddings.position_embeddings"].shape == (1, 1370, 384)
    assert tensors["encoder.layer.11.mlp.fc1.weight"].shape == (1536, 384)
    assert all(np.isfinite(array).all() for array in tensors.values())
