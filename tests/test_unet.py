import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recraft_jax import errors, tree
from recraft_jax.models import unet

GOLDEN = pathlib.Path(__file__).parent / "golden" / "unet.npz"
FEATURES = {"1d": 2, "2d": 1}


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN) as file:
        return dict(file)


def build(arrays, features):
    model = unet.make(
        x_shape=arrays["x"].shape[1:],
        y_shape=arrays["eval"].shape[1:],
        features=features,
    )
    return model, tree.under(arrays, "params"), tree.under(arrays, "stats")


def close(ours, theirs, rtol=1e-5):
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=rtol * np.abs(theirs).max())


@pytest.mark.parametrize("case", FEATURES)
def test_prediction_equals_pytorch(golden, case):
    arrays = tree.under(golden, case)
    model, params, stats = build(arrays, FEATURES[case])
    pred, same = jax.jit(model.apply, static_argnums=3)(
        params, stats, arrays["x"], False
    )
    close(pred, arrays["eval"])
    for path, leaf in stats.items():
        np.testing.assert_array_equal(same[path], leaf)
    fresh = jax.eval_shape(model.init, jax.random.key(0))
    for ours, theirs in zip(fresh, (params, stats), strict=True):
        assert {p: v.shape for p, v in ours.items()} == {
            p: v.shape for p, v in theirs.items()
        }


@pytest.mark.parametrize("case", FEATURES)
def test_training_pass_equals_pytorch(golden, case):
    arrays = tree.under(golden, case)
    model, params, stats = build(arrays, FEATURES[case])

    @jax.jit
    def run(x):
        pred, new = model.apply(params, stats, x, True)
        return jnp.mean(jnp.square(pred)), (pred, new)

    slope, (pred, new) = jax.grad(run, has_aux=True)(arrays["x"])
    close(pred, arrays["train"])
    close(slope, arrays["slope"], rtol=1e-4)
    theirs = tree.under(arrays, "new_stats")
    assert new.keys() == theirs.keys()
    for path, leaf in new.items():
        close(leaf, theirs[path])


def test_running_statistics_in_closed_form():
    # Two values 1 and 3: mean 2, biased variance 1, unbiased 2.
    layer = unet.BatchNorm()
    x = jnp.array([[1.0], [3.0]])
    variables = layer.init(jax.random.key(0), x, train=False)
    y, new = layer.apply(variables, x, train=True, mutable=["batch_stats"])
    np.testing.assert_allclose(y[:, 0], [-1, 1] / np.sqrt(1 + 1e-5), rtol=1e-6)
    np.testing.assert_allclose(new["batch_stats"]["mean"], [0.2], rtol=1e-6)
    np.testing.assert_allclose(new["batch_stats"]["var"], [0.9 + 0.2], rtol=1e-6)


def count(axes, c, f, out):
    """Convolutions, norms, transposed convolutions and the last map, level by level."""

    def block(i, o):
        return 3**axes * (i * o + o * o) + 4 * o

    total = block(8 * f, 16 * f) + (f + 1) * out
    for level, i in enumerate((c, f, 2 * f, 4 * f)):
        o = f * 2**level
        total += block(i, o) + (2**axes * 2 * o + 1) * o + block(2 * o, o)
    return total


@pytest.mark.parametrize(
    ("x_shape", "known"),
    # 7763041 is the published count for three channels in, one out, in 2-D.
    [((32, 10), None), ((32, 16, 3), 7763041)],
)
def test_parameter_count(key, x_shape, known):
    *spatial, c = x_shape
    model = unet.make(x_shape=x_shape, y_shape=(*spatial, 1))
    params, stats = jax.eval_shape(model.init, key)
    assert tree.count(params) == count(len(spatial), c, 32, 1)
    assert known in (None, tree.count(params))
    # A mean and a variance per channel, twice per block.
    assert tree.count(stats) == 4 * 32 * (2 * (1 + 2 + 4 + 8) + 16)


def test_start_is_that_of_pytorch(key):
    model = unet.make(x_shape=(16, 16, 3), y_shape=(16, 16, 1), features=8)
    params, stats = jax.device_get(model.init(key))
    for path, fan_in in (
        ("encoder_0/conv_1", 27),
        ("bottleneck/conv_2", 128 * 9),
        ("up_3", 64 * 4),  # outputs: PyTorch counts a transposed kernel so
        ("out", 8),
    ):
        for leaf in tree.under(params, path).values():
            assert np.abs(leaf).max() <= fan_in**-0.5
            assert np.abs(leaf).max() > 0.5 * fan_in**-0.5 or leaf.size < 8
    for name, leaf in (params | stats).items():
        if "norm" in name:
            is_one = name.endswith(("scale", "var"))
            np.testing.assert_array_equal(leaf, float(is_one))


def test_other_sizes_are_filled_with_the_last_point_and_cut_back(key):
    spatial = (17, 5)
    x = jax.random.normal(key, (1, *spatial, 1))
    model = unet.make(x_shape=x.shape[1:], y_shape=(*spatial, 2), features=1)
    params, stats = model.init(jax.random.key(1))
    run = jax.jit(functools.partial(model.apply, train=False))
    pred, _ = run(params, stats, x)
    assert pred.shape == (1, *spatial, 2)
    rows, columns = np.minimum(np.arange(32), 16), np.minimum(np.arange(16), 4)
    whole, _ = run(params, stats, x[:, rows][:, :, columns])
    np.testing.assert_allclose(pred, whole[:, :17, :5], rtol=0, atol=1e-6)
    line = jax.eval_shape(unet.UNet(2, 1).init_with_output, key, x[:, :, 0])[0]
    assert line.shape == (1, 17, 2)


def test_training_with_one_value_per_channel_is_refused(key):
    model = unet.make(x_shape=(16, 1), y_shape=(16, 1), features=1)
    params, stats = jax.eval_shape(model.init, key)
    run = functools.partial(model.apply, train=True)
    with pytest.raises(errors.InputError, match="a batch from 2 or a grid over 16"):
        jax.eval_shape(run, params, stats, jnp.ones((1, 16, 1)))
    pred, _ = jax.eval_shape(run, params, stats, jnp.ones((1, 17, 1)))
    assert pred.shape == (1, 17, 1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"y_shape": (16, 8, 1)}, r"grid \(16, 16\)"),
        ({"y_shape": None}, "a dense target"),
        ({"x_shape": (4, 4, 4, 1), "y_shape": (4, 4, 4, 1)}, r"\[n c\] or \[h w c\]"),
        ({"features": 0}, "features = 0; allowed: from 1"),
    ],
)
def test_unfit_settings_are_refused(changes, message):
    with pytest.raises(errors.InputError, match=message):
        unet.make(**{"x_shape": (16, 16, 1), "y_shape": (16, 16, 1)} | changes)
