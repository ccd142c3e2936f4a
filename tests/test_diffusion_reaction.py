"""Fisher-KPP: PDEBench's own frames, where float32 stalls, convergence."""

import pathlib

import jax
import numpy as np
import pytest
import scipy.integrate

from recraft_jax.pde import diffusion_reaction as fisher

GOLDEN = pathlib.Path(__file__).parent / "golden" / "diffusion_reaction.npz"
NX = 64


def rows(sample, which):
    return {name: array[which] for name, array in sample.items()}


@pytest.fixture(scope="module")
def sample():
    with np.load(GOLDEN) as file:
        return rows(fisher.EQUATION.draw(2022, 8, NX), file["rows"])


@pytest.fixture(scope="module")
def compat(sample):
    solve = jax.jit(lambda s: fisher.EQUATION.solve(s, nx=NX, mode="compat"))
    return np.asarray(solve(sample)["tensor"])


def solve(sample, nx=NX, times=fisher.TIMES, **options):
    with jax.enable_x64(True):
        return np.asarray(fisher.accurate(sample, nx, times, **options))


@pytest.fixture(scope="module")
def accurate(sample):
    return solve(sample)


def distance(pred, y, axes):
    return np.sqrt(((pred - y) ** 2).sum(axes) / (y**2).sum(axes))


def test_compat_is_pdebenchs(compat):
    with np.load(GOLDEN) as file:
        frames, want = file["frames"], file["tensor"]
    assert distance(compat[:, frames], want, 2).max() < 1e-5  # 7e-7 in rounding


def test_fields_start_between_zero_and_one(compat, accurate):
    for u in (compat[:, 0], accurate[:, 0]):
        np.testing.assert_array_equal(u.min(1), 0)
        np.testing.assert_allclose(u.max(1), 1, rtol=1e-6)
    np.testing.assert_allclose(accurate[:, 0], compat[:, 0], rtol=0, atol=1e-5)


def test_accurate_is_the_limit_of_compat(compat, accurate):
    # Coarse grids have longer steps: float32 loses nothing here.
    assert distance(compat[:, 1:], accurate[:, 1:], 2).max() < 3e-3
    assert distance(compat[:, 29:], accurate[:, 29:], 2).max() < 1e-3


def test_accurate_moves_as_an_explicit_spectral_solver_does(accurate):
    start, stop = 2, 7
    rate_of = -0.5 * (2 * np.pi * np.fft.rfftfreq(NX, 1 / NX)) ** 2

    def rate(_, u):
        return np.fft.irfft(rate_of * np.fft.rfft(u), NX) + u * (1 - u)

    for u in accurate:
        span = fisher.TIMES[[start, stop]]
        found = scipy.integrate.solve_ivp(rate, span, u[start], rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(u[stop], found.y[:, -1], rtol=0, atol=1e-6)
        assert u[stop].mean() - u[start].mean() > 5e-3


def test_accurate_has_converged(sample, accurate):
    times = fisher.TIMES[:11]  # errors are largest early
    finest = solve(sample, times=times, num_modes=128, num_steps=8)
    assert distance(accurate[:, :11], finest, 2).max() < 1e-7
    coarser = solve(sample, times=times, num_modes=32, num_steps=1)
    assert distance(coarser, finest, 2).max() < 1e-5


def test_float32_freezes_on_the_published_grid_and_the_equation_does_not():
    nx, times = 1024, fisher.TIMES[:3]
    sample = rows(fisher.EQUATION.draw(2022, 4, nx), slice(3, 4))
    frozen = np.asarray(jax.jit(lambda s: fisher.compat(s, nx, times))(sample))[0]
    grown = solve(sample, nx, times)[0]
    np.testing.assert_array_equal(frozen[2], frozen[1])
    np.testing.assert_allclose(frozen[1:], 0.375, atol=1e-4)
    assert frozen[1].std(dtype=np.float64) < 1e-9
    mean = grown.mean(1)
    # The logistic growth of 0.375 for 0.01 is 0.01 x 0.375 x 0.625.
    np.testing.assert_allclose(mean[2] - mean[1], 2.34e-3, rtol=0.02)
