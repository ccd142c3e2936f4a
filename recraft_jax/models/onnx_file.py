"""Read the weights of a DINOv2 backbone from an ONNX file, without onnx or protobuf.

The file is one protobuf message (onnx.proto): ModelProto.graph = 7, in it GraphProto's
nodes = 1 and initialisers = 5. PyTorch's exporter keeps the names of most parameters,
but folds each transpose of a linear weight and the two parts of the position table into
anonymous constants (`onnx::MatMul_1966`). Those are told by the node that uses them:
its path is the module's, `/backbone/encoder/layer.0/mlp/fc1/MatMul`.
"""

import math
import pathlib
from collections.abc import Iterator

import numpy as np
from absl import logging

from recraft_jax import errors

PREFIX = "backbone"  # where the exported module keeps the Dinov2Model

_FLOAT32 = 1  # TensorProto.DataType

_OUTER = (
    "embeddings.cls_token",
    "embeddings.position_embeddings",
    "embeddings.patch_embeddings.projection.weight",
    "embeddings.patch_embeddings.projection.bias",
    "layernorm.weight",
    "layernorm.bias",
)
_LINEAR = (
    "attention.attention.query",
    "attention.attention.key",
    "attention.attention.value",
    "attention.output.dense",
    "mlp.fc1",
    "mlp.fc2",
)
_IN_LAYER = (
    *(f"{name}.{kind}" for name in _LINEAR for kind in ("weight", "bias")),
    *(f"{name}.{kind}" for name in ("norm1", "norm2") for kind in ("weight", "bias")),
    "layer_scale1.lambda1",
    "layer_scale2.lambda1",
)

_Message = dict[int, list[int | memoryview]]  # field number -> values in their order


def read_dinov2(path: str | pathlib.Path) -> dict[str, np.ndarray]:
    """Return the backbone's tensors under the names of Hugging Face's Dinov2Model.

    Linear weights are turned back to `[out in]` and the position table is put together,
    `[1 1+patches d]` with the CLS token's row first. The mask token is not in the file,
    and what is not the backbone's (a decoder) is left out; the log says how many. Only
    names are checked here: shapes are for whoever knows the model.

    Args:
        path: of an `.onnx` file that holds its weights itself, in float32.

    Raises:
        InputError: The file cannot be read, is damaged or lacks a tensor; the one-line
            message says which.
    """
    try:
        tensors, num_left = _read(memoryview(pathlib.Path(path).read_bytes()))
    except OSError as error:
        raise errors.InputError(f"{path}: cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise errors.InputError(
            f"{path}: not a readable ONNX file of a DINOv2 backbone ({error})"
        ) from None
    logging.info("%s: %d tensors, left out %d", path, len(tensors), num_left)
    return tensors


def _read(raw: memoryview) -> tuple[dict[str, np.ndarray], int]:
    graph = _message(_bytes(_message(raw), 7, "graph"))
    stored = {}
    for value in graph.get(5, ()):
        tensor = _message(_checked(value, "initializer"))
        stored[_text(tensor, 8)] = tensor
    used = set()

    def take(name: str) -> np.ndarray:
        used.add(name)
        return _tensor(name, stored[name])

    tensors = {
        name.removeprefix(f"{PREFIX}."): take(name)
        for name in stored
        if name.startswith(f"{PREFIX}.")
    }
    positions = {}
    for value in graph.get(1, ()):
        node = _message(_checked(value, "node"))
        module, _, _ = _text(node, 3).removeprefix("/").rpartition("/")
        if not f"{module}/".startswith(f"{PREFIX}/"):
            continue
        module = module.removeprefix(f"{PREFIX}/").replace("/", ".")
        inputs = [str(_checked(name, "input"), "utf-8") for name in node.get(1, ())]
        for name in inputs:
            if name not in stored or name.startswith(f"{PREFIX}."):
                continue
            if _text(node, 4) == "MatMul":
                tensors[f"{module}.weight"] = take(name).T
            elif module == "embeddings":
                positions[name] = take(name)
    if positions:
        tensors["embeddings.position_embeddings"] = _join([*positions.values()])
    _check_names(tensors)
    return tensors, len(stored) - len(used)


def _join(parts: list[np.ndarray]) -> np.ndarray:
    """Put the CLS token's row before the patches', whichever is used first."""
    parts = sorted(parts, key=lambda part: part.size)
    shapes = [part.shape for part in parts]
    if (
        len(parts) != 2
        or [shape[:1] + shape[2:] for shape in shapes] != [(1, parts[0].size)] * 2
    ):
        raise ValueError(f"the parts of the position table are {shapes}")
    return np.concatenate(parts, axis=1)


def _check_names(tensors: dict[str, np.ndarray]) -> None:
    layers = {tuple(name.split(".")[:3]) for name in tensors if "encoder." in name}
    wanted = [*_OUTER]
    for layer in range(max(len(layers), 1)):
        wanted += [f"encoder.layer.{layer}.{name}" for name in _IN_LAYER]
    for what, names in (
        ("lacks", set(wanted) - set(tensors)),
        ("has the unknown", set(tensors) - set(wanted)),
    ):
        if names:
            raise ValueError(f"{what} {min(names)}, {len(names)} such in all")


def _tensor(name: str, tensor: _Message) -> np.ndarray:
    """Return an aligned copy: TensorProto has dims = 1, data_type = 2, raw_data = 9."""
    shape = []
    for value in tensor.get(1, ()):
        if isinstance(value, int):
            shape.append(value)
        else:  # packed
            at = 0
            while at < len(value):
                dim, at = _varint(value, at)
                shape.append(dim)
    if tensor.get(2) != [_FLOAT32]:
        raise ValueError(f"{name} is of data type {tensor.get(2)}, not float32")
    data = _bytes(tensor, 9, f"raw data of {name}")
    if min(shape, default=1) < 1 or len(data) != 4 * math.prod(shape):
        raise ValueError(f"{name} has {len(data)} bytes for the shape {shape}")
    return np.frombuffer(data, "<f4").astype(np.float32).reshape(shape)


# --- protobuf's wire format ---------------------------------------------------------


def _message(raw: memoryview) -> _Message:
    message: _Message = {}
    for number, value in _fields(raw):
        message.setdefault(number, []).append(value)
    return message


def _fields(raw: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    at = 0
    while at < len(raw):
        key, at = _varint(raw, at)
        number, kind = key >> 3, key & 7
        if kind == 0:
            value, at = _varint(raw, at)
            yield number, value
            continue
        if kind == 2:
            size, at = _varint(raw, at)
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
        else:
            raise ValueError(f"no protobuf: wire type {kind}")
        if number == 0:
            raise ValueError("no protobuf: field number 0")
        if at + size > len(raw):
            raise ValueError("it ends early")
        yield number, raw[at : at + size]
        at += size


def _varint(raw: memoryview, at: int) -> tuple[int, int]:
    """Return the number that starts at `at`, 7 bits a byte, and where it ends."""
    value = 0
    for shift in range(0, 70, 7):
        if at == len(raw):
            raise ValueError("it ends early")
        byte = raw[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
    raise ValueError("no protobuf: a number of more than 10 bytes")


def _checked(value: int | memoryview, what: str) -> memoryview:
    if isinstance(value, int):
        raise ValueError(f"no ONNX: {what} is a number")
    return value


def _bytes(message: _Message, number: int, what: str) -> memoryview:
    if number not in message:
        raise ValueError(f"it has no {what}")
    return _checked(message[number][-1], what)


def _text(message: _Message, number: int) -> str:
    values = message.get(number, [memoryview(b"")])
    return str(_checked(values[-1], "name"), "utf-8")
