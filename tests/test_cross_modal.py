import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recraft_jax import errors
from recraft_jax.models import cross_modal, pretrained

SHAPES = {
    "1-D": ((12, 2), 4),
    "1-D with a rest": ((13, 2), 4),
    "2-D": ((8, 6, 3), 2),
    "2-D with rests": ((7, 9, 1), 4),
}


@pytest.fixture(scope="module")
def body():
    return pretrained.load(pathlib.Path(__file__).parent / "golden" / "bert")


@pytest.mark.parametrize("name", SHAPES)
def test_dense_prediction_has_the_shape_of_the_target(body, key, name):
    shape, patch = SHAPES[name]
    target = (*shape[:-1], 5)
    model = cross_modal.make(
        body, x_shape=shape, y_shape=target, num_classes=0, patch=patch
    )
    pred, out = model.apply(model.init(key), jnp.ones((3, *shape)))
    assert pred.shape == (3, *target)
    assert out["tokens"].shape == out["hidden"].shape


@pytest.mark.parametrize("name", SHAPES)
def test_pooled_prediction_is_the_head_of_the_mean_token(body, key, name):
    shape, patch = SHAPES[name]
    model = cross_modal.make(
        body, x_shape=shape, y_shape=None, num_classes=7, patch=patch
    )
    params = model.init(key)
    x = jax.random.normal(jax.random.key(5), (3, *shape))
    pred, out = model.apply(params, x)
    by_hand = out["hidden"].mean(1) @ params["head/out/kernel"]
    np.testing.assert_allclose(pred, by_hand, atol=1e-5)


def test_embedder_starts_from_the_norm_and_positions_of_the_backbone(body, key):
    model = cross_modal.make(
        body, x_shape=(12, 2), y_shape=None, num_classes=3, patch=4
    )
    params = model.init(key)
    native = body.params
    np.testing.assert_array_equal(
        params["embedder/position"], native["embeddings/position/embedding"][:3]
    )
    np.testing.assert_array_equal(
        params["embedder/norm/scale"], native["embeddings/norm/scale"]
    )
    np.testing.assert_array_equal(
        params["embedder/norm/bias"], native["embeddings/norm/bias"]
    )
    assert not any("word" in path for path in params)


def test_tokens_are_normalised_then_shifted_by_position(body, key):
    model = cross_modal.make(
        body, x_shape=(12, 2), y_shape=None, num_classes=3, patch=4
    )
    params = model.init(key)
    x = jax.random.normal(jax.random.key(5), (2, 12, 2))
    _, out = model.apply(params, x)
    by_hand = np.asarray(x).reshape(2, 3, 8) @ np.asarray(
        params["embedder/patch/kernel"]
    )
    by_hand = by_hand - by_hand.mean(-1, keepdims=True)
    by_hand = by_hand / by_hand.std(-1, keepdims=True)
    by_hand = by_hand * params["embedder/norm/scale"] + params["embedder/norm/bias"]
    np.testing.assert_allclose(
        out["tokens"], by_hand + params["embedder/position"], atol=1e-5
    )


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ({"x_shape": (12, 2), "y_shape": None, "patch": -1}, "allowed: 1 to 12"),
        ({"x_shape": (12, 2), "y_shape": None, "patch": 13}, "allowed: 1 to 12"),
        ({"x_shape": (9, 9, 1), "y_shape": None, "patch": 1}, "40 positions"),
        ({"x_shape": (12, 2), "y_shape": (6, 1), "patch": 4}, "not on the grid"),
    ],
)
def test_impossible_shapes_are_refused(body, shapes, message):
    with pytest.raises(errors.InputError, match=message):
        cross_modal.make(body, num_classes=3, **shapes)
