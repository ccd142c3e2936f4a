import json
import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from recraft_jax import errors
from recraft_jax.models import pretrained

GOLDEN = pathlib.Path(__file__).parent / "golden" / "bert"


@pytest.fixture(scope="module")
def body():
    return pretrained.load(GOLDEN)


@pytest.fixture(scope="module")
def golden():
    with np.load(f"{GOLDEN}/golden.npz") as file:
        return dict(file)


@pytest.fixture
def copy(tmp_path):
    return shutil.copytree(GOLDEN, tmp_path / "bert")


def test_embed_equals_pytorch(body, golden):
    tokens = body.embed(body.params, golden["in_ids"])
    np.testing.assert_allclose(tokens, golden["out_embed"], rtol=0, atol=1e-5)


def test_encode_equals_pytorch(body, golden):
    hidden = body.encode(body.params, golden["in_tokens"])
    np.testing.assert_allclose(hidden, golden["out_encode"], rtol=0, atol=1e-5)


def test_embed_then_encode_equals_pytorch(body, golden):
    hidden = body.encode(body.params, body.embed(body.params, golden["in_ids"]))
    np.testing.assert_allclose(hidden, golden["out_full"], rtol=0, atol=1e-5)


def test_masked_positions_do_not_matter(body, golden):
    tokens = jnp.asarray(golden["in_tokens"])
    mask = jnp.arange(tokens.shape[1]) < 9
    mask = jnp.broadcast_to(mask, tokens.shape[:2])
    full = body.encode(body.params, tokens, mask)
    short = body.encode(body.params, tokens[:, :9])
    np.testing.assert_allclose(full[:, :9], short, rtol=0, atol=1e-5)


def test_layers_are_scanned(body):
    kernel = body.params["encoder/layers/mlp/up/kernel"]
    assert kernel.shape == (2, 32, 96)
    text = jax.jit(body.encode).lower(body.params, jnp.zeros((1, 4, 32))).as_text()
    assert "while" in text


def test_bfloat16_body_stays_near_float32(body, golden):
    half = pretrained.load(GOLDEN, dtype=jnp.bfloat16)
    hidden = half.encode(half.params, golden["in_tokens"])
    assert hidden.dtype == jnp.bfloat16
    np.testing.assert_allclose(
        hidden.astype(jnp.float32), golden["out_encode"], rtol=0, atol=0.1
    )


def test_random_weights_have_the_shapes_and_not_the_values(body):
    fresh = pretrained.load(GOLDEN, random_key=jax.random.key(3))
    assert {p: v.shape for p, v in fresh.params.items()} == {
        p: v.shape for p, v in body.params.items()
    }
    kernel = fresh.params["encoder/layers/mlp/up/kernel"]
    assert abs(kernel.std() - 0.02) < 0.002
    assert np.all(fresh.params["encoder/layers/mlp_norm/scale"] == 1)
    assert np.all(fresh.params["encoder/layers/mlp_norm/bias"] == 0)


def test_prefix_of_task_models_is_accepted(copy, body):
    path = copy / "model.safetensors"
    tensors = safetensors.numpy.load_file(path)
    tensors = {f"bert.{name}": value for name, value in tensors.items()}
    tensors["bert.pooler.dense.weight"] = np.zeros((2, 2), np.float32)
    tensors["bert.embeddings.position_ids"] = np.zeros((1, 40), np.int64)
    safetensors.numpy.save_file(tensors, path)
    loaded = pretrained.load(copy)
    for name, value in body.params.items():
        np.testing.assert_array_equal(loaded.params[name], value)


def edit(change):
    def apply(folder):
        path = folder / "model.safetensors"
        tensors = safetensors.numpy.load_file(path)
        change(tensors)
        safetensors.numpy.save_file(tensors, path)

    return apply


def write_config(**changes):
    def apply(folder):
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return apply


BREAKS = {
    "unknown tensor": (
        edit(lambda t: t.update(extra=np.zeros(3, np.float32))),
        r"tensors without a place \['extra'\]",
    ),
    "missing tensor": (
        edit(lambda t: t.pop("embeddings.LayerNorm.bias")),
        r"left empty \['embeddings/norm/bias'\]",
    ),
    "missing layer": (
        edit(lambda t: t.pop("encoder.layer.0.output.dense.bias")),
        "mlp/down/bias has layers",
    ),
    "wrong shape": (
        edit(lambda t: t.update({"embeddings.LayerNorm.bias": np.zeros(5)})),
        r"embeddings/norm/bias is \(5,\), wanted \(32,\)",
    ),
    "other family": (write_config(model_type="gpt2"), "'gpt2'; allowed: bert"),
    "other activation": (write_config(hidden_act="relu"), "'relu'; allowed: gelu"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "cannot read"),
    "broken weights": (
        lambda f: (f / "model.safetensors").write_bytes(b"\x01" * 50),
        "cannot read",
    ),
    "no config": (lambda f: (f / "config.json").unlink(), "cannot read"),
    "broken config": (lambda f: (f / "config.json").write_text("{"), "cannot read"),
}


@pytest.mark.parametrize("name", BREAKS)
def test_unfit_checkpoint_is_refused_by_name(copy, name):
    damage, message = BREAKS[name]
    damage(copy)
    with pytest.raises(errors.InputError, match=message):
        pretrained.load(copy)
