"""What the scalar equations share: draws, fluxes, step counts, the loop."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recraft_jax import errors
from recraft_jax.pde import (
    advection,
    burgers,
    diffusion_reaction,
    finite_volume,
    scalar,
)

EQUATIONS = [advection.EQUATION, burgers.EQUATION, diffusion_reaction.EQUATION]


@pytest.mark.parametrize("it", EQUATIONS)
def test_equations_keep_their_contract(it):
    sample = it.draw(2022, 3, 64)
    assert all(len(array) == 3 for array in sample.values())
    assert it.times[0] == 0 and it.run_size == 10_000
    np.testing.assert_allclose(np.diff(it.times), 0.01, rtol=1e-12)
    for mode, form in (("compat", np.float32), ("accurate", np.float64)):
        with jax.enable_x64(mode == "accurate"):
            shape = jax.eval_shape(partial(it.solve, nx=64, mode=mode), sample)
        assert shape["tensor"].shape == (3, len(it.times), 64)
        assert shape["tensor"].dtype == form


@pytest.mark.parametrize("it", EQUATIONS)
@pytest.mark.parametrize(("num", "nx"), [(0, 64), (4, 15)])
def test_empty_runs_and_coarse_grids_are_refused(it, num, nx):
    with pytest.raises(errors.InputError, match="at least 1 sample of 16"):
        it.draw(0, num, nx)


@pytest.mark.parametrize("stride", [1, 3])
def test_upwind_flux_of_linear_fields_is_exact(stride):
    u = jnp.repeat(jnp.arange(8.0), stride)
    got = scalar.upwind(u, stride, lambda u: 5 * u, lambda *_: 5.0)
    np.testing.assert_allclose(got, np.repeat(5 * np.arange(1.5, 6), stride))


def test_upwind_flux_takes_the_side_the_wave_comes_from():
    u = jnp.array([0.0, 0.0, 0.0, 1.0, 1.0, 1.0])  # flat but for one face
    right = scalar.upwind(u, 1, lambda u: 3 * u, lambda *_: 3.0)
    left = scalar.upwind(u, 1, lambda u: -3 * u, lambda *_: 3.0)
    np.testing.assert_array_equal(right, [0, 0, 3])
    np.testing.assert_array_equal(left, [0, -3, -3])


def walk(step, times):
    """The clock of `finite_volume.march`, one step at a time."""
    clock, end, counts = np.float32(times[0]), np.float32(times[-1]), []
    for save in finite_volume.save_times(times):
        taken = []
        while (left := min(end - clock, save - clock)) > finite_volume.TIME_FLOOR:
            taken.append(min(np.float32(step), left))
            clock = clock + taken[-1]
        counts.append(taken)
    return counts


@pytest.mark.parametrize("step", [0.0003, 0.0025, 0.01, 0.007, 0.2])
def test_schedule_is_that_of_a_clock(step):
    times = np.linspace(0.0, 0.5, 51)
    counts, rests = scalar.schedule(step, times)
    for count, rest, taken in zip(counts, rests, walk(step, times), strict=True):
        assert count == sum(dt == np.float32(step) for dt in taken)
        assert count + (rest > 0) == len(taken)
        np.testing.assert_allclose(count * step + rest, sum(taken), rtol=1e-5)


def test_burgers_clock_runs_slow_on_the_published_grid():
    # From 1/2 on float32 holds multiples of 2^-24, from 1 on of 2^-23: of the step's
    # pi 2^-23 the clock takes 3 2^-23. At 0.1 it is finer: 50 2^-27.
    step = burgers.CFL * 0.5 / 1024**2 / burgers.DIFFUSIVITY
    np.testing.assert_allclose(step, np.pi * 2.0**-23, rtol=1e-12)
    counts, _ = scalar.schedule(step, burgers.TIMES)
    np.testing.assert_allclose(counts[[60, 150]] * step, 0.01 * np.pi / 3, rtol=1e-4)
    np.testing.assert_allclose(counts[10] * step, 0.01 * np.pi / 3.125, rtol=1e-4)


def test_march_is_periodic_and_agrees_with_the_general_loop():
    rng = np.random.default_rng(0)
    u = jnp.float32(rng.random((3, 16)))
    times = np.linspace(0.0, 0.3, 4)

    def flat(u, dt, stride):
        here = u[stride:-stride]
        return here + dt * (u[: -2 * stride] - 0.5 * here)

    def general(u, dt):
        return u + dt[:, None] * (jnp.roll(u, 1, 1) - 0.5 * u)

    got = scalar.march(flat, 1, 0.03, u, times)
    want = finite_volume.march(general, lambda u: jnp.full(len(u), 0.03), u, times)
    np.testing.assert_array_equal(got[:, 0], u)
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-6)
