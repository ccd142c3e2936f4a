"""Random sines: closed forms of a field, streams, statistics of the draws."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recraft_jax.pde import sines

POINTS = jnp.linspace(0.0, 1.0, 21)


def draw(num, **options):
    options = {"num_modes": 4, "window_prob": 0.1} | options
    return sines.draw(jax.random.PRNGKey(5), num, **options)


def one(**changes):
    """A field of two modes: 0.5 sin(0.3) from the unpicked one, and `2 sin(w x)`."""
    sample = {
        "height": np.float32([[0.5, 2.0]]),
        "phase": np.float32([[0.3, 0.0]]),
        "count": np.int32([[0, 1]]),
        "is_positive": np.array([[False]]),
        "sign": np.int32([[1]]),
        "is_windowed": np.array([[False]]),
        "left": np.float32([[0.2]]),
        "right": np.float32([[0.65]]),
    }
    return sample | changes


@pytest.mark.parametrize(("count", "periods"), [(1, 2), (2, 4)])
def test_mode_picked_twice_has_twice_the_wavenumber(count, periods):
    sample = one(count=np.int32([[0, count]]))
    got = sines.evaluate(sample, POINTS, length=0.8)[0]
    want = 0.5 * np.sin(0.3) + 2 * np.sin(2 * np.pi * periods * POINTS / 0.8)
    np.testing.assert_allclose(got, want, rtol=0, atol=2e-5)


def test_fields_nobody_picked_are_constant():
    got = sines.evaluate(one(count=np.int32([[0, 0]])), POINTS, length=1.0)
    np.testing.assert_allclose(got, 0.5 * np.sin(0.3), rtol=1e-6)


def test_sign_comes_after_the_absolute_value():
    plain = sines.evaluate(one(), POINTS, length=1.0)
    assert plain.min() < 0 < plain.max()
    changes = {"is_positive": np.array([[True]]), "sign": np.int32([[-1]])}
    got = sines.evaluate(one(**changes), POINTS, length=1.0)
    np.testing.assert_allclose(got, -np.abs(plain), rtol=1e-6)


def test_window_is_half_at_its_ends_and_one_within():
    sample = one(count=np.int32([[0, 0]]), is_windowed=np.array([[True]]))
    points = jnp.array([0.0, 0.2, 0.21, 0.4, 0.65, 1.0])
    got = sines.evaluate(sample, points, length=1.0)[0] / (0.5 * np.sin(0.3))
    want = [0, 0.5, 0.5 + 0.5 * np.tanh(1), 1, 0.5, 0]
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-5)


def test_precision_is_that_of_the_points():
    with jax.enable_x64(True):
        for form in (np.float32, np.float64):
            points = jnp.linspace(0.0, 1.0, 5, dtype=form)
            assert sines.evaluate(one(), points, length=1.0).dtype == form


def test_streams_do_not_depend_on_global_settings():
    plain = draw(16)
    with jax.threefry_partitionable(not jax.config.jax_threefry_partitionable):
        other = draw(16)
    with jax.enable_x64(True):
        wide = draw(16)
    for name, array in plain.items():
        np.testing.assert_array_equal(array, other[name])
        np.testing.assert_array_equal(array, wide[name])
        assert array.dtype == wide[name].dtype and isinstance(array, np.ndarray)


def test_draws_have_their_shares():
    sample = draw(4000)
    np.testing.assert_array_equal(sample["count"].sum(1), 2)
    # Standard errors of the shares are at most 0.8 %.
    assert abs((sample["count"] == 2).any(1).mean() - 1 / 4) < 0.03
    assert abs(sample["is_positive"].mean() - 0.1) < 0.02
    assert abs(sample["is_windowed"].mean() - 0.1) < 0.02
    assert abs((sample["sign"] == 1).mean() - 0.5) < 0.03
    assert set(np.unique(sample["sign"])) == {-1, 1}
    assert 0 <= sample["height"].min() < 0.01 < 0.99 < sample["height"].max() < 1
    assert 0 <= sample["phase"].min() < 0.1 < 6.2 < sample["phase"].max() < 2 * np.pi
    np.testing.assert_allclose(sample["right"] - sample["left"], 0.45, atol=1e-6)


@pytest.mark.parametrize(("window_prob", "furthest"), [(0.1, 0.135), (0.5, 0.275)])
def test_windows_start_near_the_left_end(window_prob, furthest):
    # The draw that windows a field also places the window.
    sample = draw(2000, window_prob=window_prob)
    left = sample["left"][sample["is_windowed"]]
    assert 0.1 <= left.min() < furthest - 0.02 < left.max() < furthest + 1e-6
