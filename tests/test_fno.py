import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recraft_jax import errors, tree
from recraft_jax.models import fno

GOLDEN = pathlib.Path(__file__).parent / "golden" / "fno.npz"


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN) as file:
        return dict(file)


@pytest.mark.parametrize("case", ["1d", "2d"])
def test_prediction_equals_pytorch(golden, case):
    arrays = tree.under(golden, case)
    x, pred = arrays["x"], arrays["pred"]
    model = fno.make(x_shape=x.shape[1:], y_shape=pred.shape[1:], modes=3, width=4)
    params = tree.under(arrays, "params")
    ours, _ = jax.jit(model.apply)(params, x)
    np.testing.assert_allclose(ours, pred, rtol=0, atol=1e-5 * np.abs(pred).max())
    fresh = jax.eval_shape(model.init, jax.random.key(0))
    assert {p: v.shape for p, v in fresh.items()} == {
        p: v.shape for p, v in params.items()
    }


def spectral_by_exponentials(x, weight, modes):
    """Sum over frequencies, written out; those with a conjugate partner count twice."""
    *spatial, _ = x.shape
    points = np.stack(np.meshgrid(*map(np.arange, spatial), indexing="ij"), -1)
    rows = [*range(modes), *range(-modes, 0)]
    kept = [(k,) for k in range(modes)]
    if len(spatial) == 2:
        kept = [(j, k) for j in rows for k in range(modes)]
    weight = weight.reshape(-1, *weight.shape[-2:])
    y = 0
    for k, matrix in zip(kept, weight, strict=True):
        wave = np.exp(2j * np.pi * (points * np.array(k) / spatial).sum(-1))[..., None]
        amplitude = (x * wave.conj()).reshape(-1, x.shape[-1]).mean(0)
        times = 1 if k[-1] in (0, spatial[-1] / 2) else 2
        y = y + times * (wave * (amplitude @ matrix)).real
    return y


@pytest.mark.parametrize(
    ("spatial", "modes"),
    # The largest modes too: the last frequency of an even axis has no partner.
    [((8,), 3), ((8,), 5), ((9,), 5), ((6, 8), 3), ((7, 9), 3), ((8, 6), 4)],
)
def test_spectral_convolution_is_a_sum_of_exponentials(spatial, modes):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(*spatial, 2))
    kept = [2 * modes] * (len(spatial) - 1) + [modes]
    real, imag = rng.normal(size=(2, *kept, 2, 3))
    layer = fno.SpectralConv(3, modes)
    y = layer.apply({"params": {"real": real, "imag": imag}}, jnp.float32(x)[None])
    want = spectral_by_exponentials(x, real + 1j * imag, modes)
    np.testing.assert_allclose(y[0], want, rtol=0, atol=1e-5)


def waves(*spatial):
    """Two channels with frequencies up to 3, sampled without the end point."""
    angles = [2 * np.pi * np.arange(n) / n for n in spatial]
    a, b = np.meshgrid(angles[0], angles[-1], indexing="ij")
    x = np.stack([np.sin(a) + np.cos(3 * b - a), np.cos(2 * a + b)], -1)
    return jnp.float32(x if len(spatial) == 2 else np.einsum("nnc->nc", x))[None]


@pytest.mark.parametrize("axes", [1, 2])
def test_spectral_convolution_does_not_depend_on_resolution(key, axes):
    coarse, fine = waves(*[16] * axes), waves(*[32] * axes)
    layer = fno.SpectralConv(2, 6)
    params = layer.init(key, coarse)
    every_other = (slice(None), *[slice(None, None, 2)] * axes)
    y = layer.apply(params, coarse)
    assert jnp.std(y) > 0.01
    np.testing.assert_allclose(
        layer.apply(params, fine)[every_other], y, rtol=0, atol=1e-6
    )


def test_operator_does_not_depend_on_resolution(key):
    # Periodic coordinates and no padding, so that nothing but the overtones that GELU
    # makes feels the spacing: they shrink fast on finer grids.
    model = fno.make(x_shape=(16, 2), y_shape=(16, 1), modes=8, width=8, padding=0)
    # Twice the start, so that the waves show in the output and the overtones with them.
    params = {path: 2 * leaf for path, leaf in model.init(key).items()}

    @jax.jit
    def run(x, grid):
        return model.apply(params, x, grid)[0]

    def predict(n):
        grid = np.sin(2 * np.pi * np.arange(n) / n)[:, None]
        return run(waves(n), grid)[:, :: n // 16]

    at32, at64, at128 = predict(32), predict(64), predict(128)
    assert jnp.std(at128) > 0.1
    np.testing.assert_allclose(predict(16), at32, rtol=0, atol=5e-3)
    np.testing.assert_allclose(at32, at128, rtol=0, atol=1e-3)
    np.testing.assert_allclose(at64, at128, rtol=0, atol=2e-5)


# In each formula: lift, spectral, local, project, out. PyTorch counts a complex weight
# once; the published 287425 (with one input value) and 465557 are such counts.
@pytest.mark.parametrize(
    ("x_shape", "modes", "width", "spectral", "published"),
    [
        ((20, 10), 12, 20, 4 * 12 * 20 * 20, None),
        ((64, 1), 16, 64, 4 * 16 * 64 * 64, 287425),
        ((32, 32, 10), 12, 20, 4 * 2 * 12 * 12 * 20 * 20, 465557),
    ],
)
def test_parameter_count(key, x_shape, modes, width, spectral, published):
    *spatial, c = x_shape
    model = fno.make(
        x_shape=x_shape, y_shape=(*spatial, 1), modes=modes, width=width, padding=2
    )
    others = (c + len(spatial) + 1) * width
    others += 4 * (width + 1) * width
    others += (width + 1) * 128 + (128 + 1) * 1
    assert tree.count(jax.eval_shape(model.init, key)) == others + 2 * spectral
    assert published in (None, others + spectral)


def test_start_is_that_of_pytorch(key):
    model = fno.make(x_shape=(12, 12, 3), y_shape=(12, 12, 1), modes=4, width=16)
    params = jax.device_get(model.init(key))
    for path, fan_in in (("lift", 5), ("local_2", 16), ("project", 16), ("out", 128)):
        for leaf in tree.under(params, path).values():
            bound = fan_in**-0.5
            assert np.abs(leaf).max() <= bound
        assert abs(params[f"{path}/kernel"].std() / bound - 3**-0.5) < 0.06
    for part in ("real", "imag"):
        leaf = params[f"spectral_1/{part}"] * 16 * 16
        assert leaf.min() >= 0 and leaf.max() <= 1 and abs(leaf.mean() - 0.5) < 0.01
    assert np.all(params["spectral_1/real"] != params["spectral_1/imag"])


@pytest.mark.parametrize("spatial", [(9,), (6, 5)])
def test_gradient_equals_finite_differences(key, spatial):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 2, *spatial, 2))
    model = fno.make(x_shape=x.shape[1:], y_shape=y.shape[1:], modes=2, width=3)
    params = {path: 3 * np.float64(leaf) for path, leaf in model.init(key).items()}
    with jax.enable_x64(True):

        @jax.jit
        def loss(params):
            return jnp.mean(jnp.square(model.apply(params, x)[0] - y))

        slopes = jax.grad(loss)(params)
        for path in ("lift/kernel", "spectral_0/real", "spectral_3/imag", "out/bias"):
            step = rng.normal(size=params[path].shape)
            up, down = (
                loss(params | {path: params[path] + s * 1e-5 * step}) for s in (1, -1)
            )
            want = np.sum(slopes[path] * step)
            assert abs(want) > 1e-4
            np.testing.assert_allclose((up - down) / 2e-5, want, rtol=1e-5)


def test_default_coordinates_run_from_0_to_1_along_each_axis(key):
    grid = fno.unit_grid((3, 5))
    assert grid[:, 0, 0].tolist() == [0, 0.5, 1]
    assert grid[0, :, 1].tolist() == [0, 0.25, 0.5, 0.75, 1]
    model = fno.make(x_shape=(3, 5, 1), y_shape=(3, 5, 1), modes=2, width=3)
    params, x = model.init(key), jnp.ones((1, 3, 5, 1))
    run = jax.jit(model.apply)
    plain, given, other = run(params, x), run(params, x, grid), run(params, x, 2 * grid)
    np.testing.assert_allclose(plain[0], given[0], rtol=0, atol=1e-7)
    assert np.abs(other[0] - plain[0]).max() > 1e-4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"modes": 10}, r"modes = 10; allowed: 1 to 9 on the grid \(18, 18\)"),
        ({"modes": 0}, "modes = 0; allowed: 1 to 9"),
        ({"modes": 9, "padding": 0}, r"allowed: 1 to 8 on the grid \(16, 16\)"),
        ({"modes": 10, "x_shape": (15, 1), "y_shape": (15, 1)}, r"1 to 9 on .*\(17,\)"),
        ({"y_shape": (16, 8, 1)}, r"grid \(16, 16\)"),
        ({"y_shape": None}, "a dense target"),
        ({"x_shape": (4, 4, 4, 1), "y_shape": (4, 4, 4, 1)}, r"\[n c\] or \[h w c\]"),
        ({"width": 0}, "width = 0"),
        ({"padding": -1}, "padding = -1"),
    ],
)
def test_unfit_settings_are_refused(changes, message):
    settings = {"x_shape": (16, 16, 1), "y_shape": (16, 16, 1), "modes": 8} | changes
    with pytest.raises(errors.InputError, match=message):
        fno.make(**settings)


def test_input_too_coarse_for_the_modes_is_refused(key):
    model = fno.make(x_shape=(20, 1), y_shape=(20, 1), modes=8, width=2)
    with pytest.raises(errors.InputError, match=r"allowed: 1 to 6 on the grid \(10,\)"):
        params = jax.eval_shape(model.init, key)
        jax.eval_shape(model.apply, params, jnp.ones((1, 8, 1)))
