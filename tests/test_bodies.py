"""Every family against PyTorch: outputs, gradients, half precision, bad input."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recraft_jax import errors
from recraft_jax.models import pretrained, swin

GOLDEN = pathlib.Path(__file__).parent / "golden"
FOLDERS = ("bert", "roberta", "swin", "swin_mim", "dinov2")
VARIANTS = ("swin_odd", "dinov2_gated", "vit")
TOLERANCE = {"rtol": 0, "atol": 1e-5}


def jitted(body):
    """Compile whole functions: op by op takes several times as long."""
    static = {"static_argnames": "grid"} if "window_size" in body.config else {}
    return body._replace(
        embed=jax.jit(body.embed), encode=jax.jit(body.encode, **static)
    )


@pytest.fixture(scope="module")
def bodies():
    return {
        name: jitted(pretrained.load(GOLDEN / name)) for name in (*FOLDERS, *VARIANTS)
    }


def golden(name):
    with np.load(GOLDEN / name / "golden.npz") as file:
        arrays = dict(file)
    return {
        key: value.transpose(0, 2, 3, 1)
        if value.ndim == 4 and key[:3] in "in_ out_"
        else value
        for key, value in arrays.items()
    }  # images came channels first


def native(arrays):
    return arrays["in_ids"] if "in_ids" in arrays else arrays["in_pixels"]


@pytest.mark.parametrize("name", FOLDERS)
def test_outputs_equal_pytorch(bodies, name):
    body, arrays = bodies[name], golden(name)
    tokens = body.embed(body.params, native(arrays))
    hidden = body.encode(body.params, tokens)
    found = {"out_embed": tokens, "out_full": hidden}
    if "in_tokens" in arrays:
        found["out_encode"] = body.encode(body.params, arrays["in_tokens"])
    if "in_pixels_larger" in arrays:
        larger = body.embed(body.params, arrays["in_pixels_larger"])
        found["out_full_larger"] = body.encode(body.params, larger)
    if body.decode:
        found = {"out_reconstruction": body.decode(body.params, hidden)}
    assert set(found) == {key for key in arrays if key.startswith("out_")}
    for key, value in found.items():
        np.testing.assert_allclose(value, arrays[key], err_msg=key, **TOLERANCE)
    assert tokens.shape[-1] == body.width
    assert hidden.shape[-1] == body.hidden_width


@pytest.mark.parametrize("name", VARIANTS)
def test_images_of_other_shapes_equal_pytorch(bodies, name):
    body, arrays = bodies[name], golden(name)
    sizes = [key.removeprefix("pixels_") for key in arrays if key.startswith("pixels")]
    assert len(sizes) == 2
    for size in sizes:
        pixels = arrays[f"pixels_{size}"]
        tokens = body.embed(body.params, pixels)
        np.testing.assert_allclose(tokens, arrays[f"tokens_{size}"], **TOLERANCE)
        rows, columns = (-(-n // body.patch) for n in pixels.shape[1:3])
        grid = {"grid": (rows, columns)} if name == "swin_odd" else {}
        hidden = body.encode(body.params, tokens, **grid)
        np.testing.assert_allclose(hidden, arrays[f"hidden_{size}"], **TOLERANCE)


def test_roberta_counts_positions_without_padding():
    body = pretrained.load(GOLDEN / "roberta_padded")
    arrays = golden("roberta_padded")
    tokens = body.embed(body.params, arrays["ids"])
    np.testing.assert_allclose(tokens, arrays["tokens"], **TOLERANCE)
    hidden = body.encode(body.params, tokens, arrays["mask"])
    seen = arrays["mask"]
    np.testing.assert_allclose(hidden[seen], arrays["hidden"][seen], **TOLERANCE)
    assert body.positions == 20 - 2


@pytest.mark.parametrize("name", ("roberta", "swin_odd", "dinov2_gated"))
def test_gradient_equals_finite_differences(bodies, name):
    """Along random directions, of a scalar of the output, in tokens and parameters."""
    body = bodies[name]
    leaves = {k: v for k, v in body.params.items() if k.startswith("encoder/")}
    rng = np.random.default_rng(0)
    tokens = rng.normal(size=(2, 16, body.width)).astype(np.float32)
    weights = rng.normal(size=body.encode(leaves, tokens).shape)

    @jax.jit
    def scalar(params, tokens):
        return jnp.vdot(body.encode(params, tokens), jnp.asarray(weights, jnp.float32))

    slopes = jax.grad(scalar, argnums=(0, 1))(leaves, tokens)
    way = jax.tree.map(
        lambda x: rng.normal(size=x.shape).astype(np.float32), (leaves, tokens)
    )
    dot = sum(jax.tree.leaves(jax.tree.map(jnp.vdot, slopes, way)))
    step = 2e-4
    moved = [
        jax.tree.map(lambda x, w, s=s: x + s * w, (leaves, tokens), way)
        for s in (step, -step)
    ]
    # Neighbouring products cancel in float32, hence 1 % and not less.
    difference = float(scalar(*moved[0]) - scalar(*moved[1])) / (2 * step)
    assert difference == pytest.approx(float(dot), rel=1e-2)


@pytest.mark.parametrize("name", ("roberta", "swin", "dinov2"))
def test_bfloat16_stays_within_two_percent(bodies, name):
    body = bodies[name]
    half = jitted(pretrained.load(GOLDEN / name, dtype=jnp.bfloat16))
    inputs = native(golden(name))
    exact = body.encode(body.params, body.embed(body.params, inputs))
    found = half.encode(half.params, half.embed(half.params, inputs))
    assert found.dtype == jnp.bfloat16
    error = np.linalg.norm(np.asarray(found, np.float32) - exact)
    assert error < 0.02 * np.linalg.norm(exact)


@pytest.mark.parametrize("name", ("roberta", "swin", "dinov2"))
def test_random_weights_have_the_shapes_and_not_the_values(bodies, name):
    body = bodies[name]
    fresh = pretrained.load(GOLDEN / name, random_key=jax.random.key(3))
    assert {p: v.shape for p, v in fresh.params.items()} == {
        p: v.shape for p, v in body.params.items() if not p.startswith("decoder/")
    }
    for path, value in fresh.params.items():
        if path.endswith("kernel") and value.size > 2000:
            assert abs(value.std() - 0.02) < 0.002, path
        elif path.endswith("scale"):
            assert np.all(value == 1), path
        elif path.endswith("bias"):
            assert np.all(value == 0), path


@pytest.mark.parametrize("name", ("bert", "swin", "dinov2"))
def test_layers_are_compiled_once(bodies, name):
    body = bodies[name]
    shapes = jnp.zeros((1, 16, body.width))
    text = jax.jit(body.encode).lower(body.params, shapes).as_text()
    stages = len(body.config["depths"]) if name == "swin" else 1
    assert text.count("stablehlo.while") == stages


def test_small_windows_read_the_middle_of_the_bias_table():
    """A map smaller than a window is one window, with the table of the larger one."""
    index = swin.relative_index(2, 3)
    assert index.shape == (4, 4)
    table = np.arange(25).reshape(5, 5)  # offsets -2 to 2 along both axes
    assert index[0, 0] == table[2, 2]
    assert index[0, 3] == table[1, 1]
    assert index[3, 0] == table[3, 3]
    assert index[1, 2] == table[1, 3]


def test_map_smaller_than_a_window_is_one_window(bodies):
    """It equals a Swin of smaller windows whose tables are the middles of the large."""
    body = bodies["swin"]
    small = swin.make({**body.config, "window_size": 2}, jnp.float32)
    params = dict(body.params)
    for path, table in params.items():
        if path.endswith("relative_bias"):  # of windows of 4: offsets -3 to 3
            square = table.reshape(len(table), 7, 7, -1)[:, 2:5, 2:5]
            params[path] = square.reshape(len(table), 9, -1)
    tokens = np.random.default_rng(0).normal(size=(1, 4, body.width))
    tokens = jnp.asarray(tokens, jnp.float32)
    hidden = body.encode(body.params, tokens)
    assert hidden.shape == (1, 1, body.hidden_width)
    np.testing.assert_allclose(hidden, small.encode(params, tokens), **TOLERANCE)


BAD_INPUT = {
    "long text": ("bert", jnp.zeros((2, 41), jnp.int32), "41 tokens, but .* 40 pos"),
    "long text, offset": ("roberta", jnp.zeros((1, 39), jnp.int32), "allowed: 1 to 38"),
    "numbers as ids": ("bert", jnp.zeros((2, 4)), "allowed: integers"),
    "grey": ("swin", jnp.zeros((1, 32, 32, 1)), r"allowed: \[b h w 3\]"),
    "channels first": ("dinov2", jnp.zeros((1, 3, 56, 56)), r"allowed: \[b h w 3\]"),
    "no batch": ("dinov2", jnp.zeros((56, 56, 3)), r"allowed: \[b h w 3\]"),
    "less than a patch": ("dinov2", jnp.zeros((1, 13, 56, 3)), "14 x 14"),
}


@pytest.mark.parametrize("case", BAD_INPUT)
def test_unfit_input_is_refused(bodies, case):
    name, inputs, message = BAD_INPUT[case]
    with pytest.raises(errors.InputError, match=message):
        bodies[name].embed(bodies[name].params, inputs)


@pytest.mark.parametrize("name", ("bert", "swin", "dinov2"))
def test_tokens_of_another_width_are_refused(bodies, name):
    body = bodies[name]
    with pytest.raises(errors.InputError, match=rf"allowed: \[b l {body.width}\]"):
        body.encode(body.params, jnp.zeros((1, 4, body.width + 1)))


def test_tokens_that_fill_no_square_need_their_grid(bodies):
    body = bodies["swin"]
    tokens = jnp.ones((1, 12, body.width))
    with pytest.raises(errors.InputError, match=r"grid of 3 x 3; allowed"):
        body.encode(body.params, tokens)
    assert body.encode(body.params, tokens, grid=(3, 4)).shape[1] == 4
