"""Embedder and heads by hand: patch rule, initial values, pooling, layout."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recraft_jax.models import embedders, patches


@pytest.mark.parametrize(
    ("length", "max_tokens", "factor"),
    [
        (1000, 64, 20),  # ECG
        (3072, 128, 24),
        (1024, 32, 32),
        (1000, 512, 2),
        (256, 512, 1),
        (97, 64, 97),  # a prime above
        (61, 64, 1),  # a prime below
        (64, 64, 1),
        (65, 64, 5),
        (12, 1, 12),
    ],
)
def test_stack_factor_is_the_rule_of_the_released_code(length, max_tokens, factor):
    assert embedders.stack_factor(length, max_tokens) == factor


@pytest.mark.parametrize(("axes", "patch", "channels"), [(1, 5, 3), (2, 4, 2)])
@pytest.mark.parametrize("kind", ["xavier", "pretrained"])
def test_xavier_bound_is_that_of_a_convolution(key, axes, patch, channels, kind):
    """PyTorch counts the receptive field in both fans; the gain is sqrt(2)."""
    width, points = 96, patch**axes
    fan_in, fan_out = channels * points, width * points
    bound = math.sqrt(2) * math.sqrt(6 / (fan_in + fan_out))
    init = embedders.conv_init(kind, points)
    drawn = np.asarray(init(key, (fan_in, width)))
    assert np.abs(drawn).max() <= bound
    assert drawn.max() > 0.99 * bound and drawn.min() < -0.99 * bound
    # The mean of n uniforms of that bound is within four of its deviations.
    assert abs(drawn.mean()) < 4 * bound / math.sqrt(3 * drawn.size)
    assert drawn.std() == pytest.approx(bound / math.sqrt(3), rel=0.05)


def test_normal_has_its_deviation(key):
    drawn = np.asarray(embedders.conv_init("normal", 16)(key, (100, 200)))
    assert drawn.std() == pytest.approx(0.02, rel=0.02)
    assert abs(drawn.mean()) < 5e-4


def test_embedder_puts_learned_tokens_first_and_starts_as_said(key):
    embedder = embedders.PatchEmbedder(patch=4, width=64, norm_eps=1e-5, num_prefix=2)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(3, 10, 2)), jnp.float32)
    tokens, variables = embedder.init_with_output(key, x)
    params = variables["params"]
    assert tokens.shape == (3, 2 + 3, 64)
    for first in tokens[:, :2]:
        np.testing.assert_array_equal(first, params["prefix"])
    assert params["position"].shape == (3, 64)
    for table in (params["position"], params["prefix"]):
        assert np.std(table) == pytest.approx(0.02, rel=0.2)
    normal = np.asarray(tokens[:, 2:] - params["position"])
    np.testing.assert_allclose(normal.mean(-1), 0, atol=1e-6)
    np.testing.assert_allclose(normal.std(-1), 1, atol=1e-3)
    np.testing.assert_array_equal(params["patch"]["bias"], 0)


def pooled(values, new):
    """AdaptiveAvgPool1d over the last axis, as PyTorch documents it."""
    old = values.shape[-1]
    out = np.zeros((*values.shape[:-1], new))
    for i in range(new):
        start, stop = math.floor(i * old / new), math.ceil((i + 1) * old / new)
        out[..., i] = values[..., start:stop].mean(-1)
    return out


def hidden_states(shape):
    return np.random.default_rng(1).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("kind", embedders.HEADS)
@pytest.mark.parametrize("length", [12, 11])
def test_dense_head_lays_out_a_series_channel_by_channel(key, kind, length):
    patch, channels = 4, 2
    hidden = hidden_states((2, 3, 13))
    head = embedders.DenseHead(patch, (length, channels), kind)
    pred, variables = head.init_with_output(key, jnp.asarray(hidden))
    if kind == "pool":
        assert not variables
        values = pooled(hidden, patch * channels)
    else:
        dense = variables["params"]["out"]
        values = hidden @ dense["kernel"] + dense["bias"]
    assert pred.shape == (2, length, channels)
    for at in range(length):
        for channel in range(channels):
            token, place = divmod(at, patch)
            want = values[:, token, channel * patch + place]
            np.testing.assert_allclose(pred[:, at, channel], want, atol=1e-6)


@pytest.mark.parametrize("kind", embedders.HEADS)
def test_dense_head_lays_out_an_image_channel_by_channel(key, kind):
    patch, rows, columns, channels = 2, 3, 6, 2
    hidden = hidden_states((2, 6, 13))
    head = embedders.DenseHead(patch, (rows, columns, channels), kind)
    pred, variables = head.init_with_output(key, jnp.asarray(hidden))
    if kind == "pool":
        values = pooled(hidden, patch**2 * channels)
    else:
        dense = variables["params"]["out"]
        values = hidden @ dense["kernel"] + dense["bias"]
    assert pred.shape == (2, rows, columns, channels)
    for i, j, channel in np.ndindex(rows, columns, channels):
        token = (i // patch) * 3 + j // patch
        place = (i % patch) * patch + j % patch
        want = values[:, token, channel * patch**2 + place]
        np.testing.assert_allclose(pred[:, i, j, channel], want, atol=1e-6)


def decoded(hidden, dense, stride, side, channels):
    """Linear map and PixelShuffle in plain loops: `[b side side channels]`."""
    values = hidden @ np.asarray(dense["kernel"]) + np.asarray(dense["bias"])
    cells = -(-side // stride)
    image = np.zeros((len(hidden), side, side, channels))
    for i, j, c in np.ndindex(side, side, channels):
        token = (i // stride) * cells + j // stride
        place = (i % stride) * stride + j % stride
        image[:, i, j, c] = values[:, token, c * stride**2 + place]
    return image


@pytest.mark.parametrize("kind", embedders.HEADS)
@pytest.mark.parametrize("side", [8, 6])
def test_image_head_decodes_then_pools(key, kind, side):
    """`pool` decodes three channels and averages them; `linear` those of the target."""
    hidden = hidden_states((2, 4, 5))
    head = embedders.ImageHead(4, side, (5, 3, 2), kind)
    pred, variables = head.init_with_output(key, jnp.asarray(hidden))
    channels = 3 if kind == "pool" else 2
    image = decoded(hidden, variables["params"]["out"], 4, side, channels)
    image = pooled(image, 2) if kind == "pool" else image
    image = pooled(image.swapaxes(1, -1), 5).swapaxes(1, -1)
    image = pooled(image.swapaxes(2, -1), 3).swapaxes(2, -1)
    np.testing.assert_allclose(pred, image, atol=1e-6)


@pytest.mark.parametrize("length", [12, 10, 7])
def test_image_head_unfolds_a_series(key, length):
    hidden = hidden_states((2, 4, 5))
    head = embedders.ImageHead(4, 8, (length, 1))
    pred, variables = head.init_with_output(key, jnp.asarray(hidden))
    image = decoded(hidden, variables["params"]["out"], 4, 8, 1)
    rows, columns = patches.folded(length)
    image = pooled(image.swapaxes(1, -1), rows).swapaxes(1, -1)
    image = pooled(image.swapaxes(2, -1), columns).swapaxes(2, -1)
    np.testing.assert_allclose(pred, image.reshape(2, -1, 1)[:, :length], atol=1e-6)


def test_pooled_head_is_linear_in_the_mean_token(key):
    hidden = hidden_states((2, 4, 5))
    head = embedders.PooledHead(3)
    pred, variables = head.init_with_output(key, jnp.asarray(hidden, jnp.bfloat16))
    dense = variables["params"]["out"]
    rounded = np.asarray(jnp.asarray(hidden, jnp.bfloat16), np.float32)
    np.testing.assert_allclose(
        pred, rounded.mean(1) @ dense["kernel"] + dense["bias"], atol=1e-6
    )
    assert pred.dtype == jnp.float32


def test_gradient_of_pooling_spreads_evenly():
    head = embedders.DenseHead(2, (4, 1), "pool")
    slope = jax.grad(lambda h: head.apply({}, h)[0, 0, 0])(jnp.ones((1, 2, 6)))
    np.testing.assert_allclose(slope[0], [[1 / 3] * 3 + [0] * 3, [0] * 6], atol=1e-7)
