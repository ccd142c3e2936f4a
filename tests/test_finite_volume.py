"""The limiter's closed form; the time loop's clocks."""

import jax.numpy as jnp
import numpy as np
import pytest

from recraft_jax.pde import finite_volume

TIMES = np.linspace(0.5, 0.8, 4)


@pytest.mark.parametrize(
    ("cells", "slope"),
    [
        ((0, 1, 2), 1),  # linear: exact
        ((0, 1, 4), 2),  # central, 2, equals twice the left difference
        ((0, 1, 9), 2),  # twice the left difference
        ((0, 8, 9), 2),  # twice the right one
        ((9, 1, 0), -2),
        ((0, 2, 5), 2.5),  # central
        ((0, 2, 0), 0),  # extrema
        ((2, 0, 2), 0),
        ((1, 1, 2), 0),
    ],
)
def test_mc_slope(cells, slope):
    before, here, after = jnp.float32(cells)
    assert finite_volume.mc_slope(before, here, after) == slope


def march(limits):
    """March a clock and a step count per sample."""
    limits = jnp.float32(limits)

    def step(state, dt):
        clock, count = state
        return clock + dt[:, None], count + 1

    start = jnp.full((len(limits), 1), 0.5, jnp.float32)
    state = (start, jnp.zeros_like(start, dtype=jnp.int32))
    clock, count = finite_volume.march(step, lambda _: limits, state, TIMES)
    return clock[..., 0], count[..., 0]


def test_march_saves_at_its_times_whatever_the_limit():
    clock, count = march([0.03, 0.1, 7.0, 0.0009])
    np.testing.assert_allclose(clock, np.tile(TIMES, (4, 1)), rtol=0, atol=3e-7)
    # 0.03 takes three full steps and a shorter one; the last one takes more than BLOCK.
    np.testing.assert_array_equal(count[0], [0, 4, 8, 12])
    np.testing.assert_array_equal(count[2], [0, 1, 2, 3])
    np.testing.assert_allclose(count[3], [0, 112, 224, 336], atol=2)


def test_march_has_a_clock_per_sample():
    clock, count = march([0.03, 0.0009])
    alone = [march([limit]) for limit in (0.03, 0.0009)]
    np.testing.assert_array_equal(clock, np.concatenate([c for c, _ in alone]))
    np.testing.assert_array_equal(count, np.concatenate([n for _, n in alone]))


def test_save_times_are_added_up_in_float32():
    got = finite_volume.save_times(np.linspace(0.0, 1.0, 101))
    assert got.dtype == np.float32 and len(got) == 100
    clock = np.float32(0)
    for save in got[:-1]:
        clock = clock + np.float32(0.01)
        assert save == clock
    assert got[-1] == 1
