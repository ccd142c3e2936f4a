"""Burgers: PDEBench's own frames, an independent solution, convergence."""

import pathlib

import jax
import numpy as np
import pytest
import scipy.integrate

from recraft_jax.pde import burgers

GOLDEN = pathlib.Path(__file__).parent / "golden" / "burgers.npz"
NX = 64


@pytest.fixture(scope="module")
def sample():
    with np.load(GOLDEN) as file:
        rows = file["rows"]
    return {name: a[rows] for name, a in burgers.EQUATION.draw(2022, 8, NX).items()}


@pytest.fixture(scope="module")
def compat(sample):
    solve = jax.jit(lambda s: burgers.EQUATION.solve(s, nx=NX, mode="compat"))
    return np.asarray(solve(sample)["tensor"])


@pytest.fixture(scope="module")
def accurate(sample):
    with jax.enable_x64(True):
        return np.asarray(burgers.accurate(sample, NX, burgers.TIMES))


def distance(pred, y, axes):
    return np.sqrt(((pred - y) ** 2).sum(axes) / (y**2).sum(axes))


def test_compat_is_pdebenchs(compat):
    with np.load(GOLDEN) as file:
        frames, want = file["frames"], file["tensor"]
    assert distance(compat[:, frames], want, 2).max() < 5e-5  # 5e-6 in rounding


def test_accurate_is_the_limit_of_compat(compat, accurate):
    np.testing.assert_allclose(accurate[:, 0], compat[:, 0], rtol=0, atol=1e-5)
    # The cells of the first frame know the field at their centres only.
    assert distance(compat[:, 1:], accurate[:, 1:], 2).max() < 0.03
    assert distance(compat, accurate, (1, 2)).max() < 4e-3


def test_accurate_moves_as_an_explicit_spectral_solver_does(accurate):
    start, stop = 3, 8
    wave = 2j * np.pi * np.fft.rfftfreq(NX, 1 / NX)

    def rate(_, u):
        flux = 0.5 * u * u - np.fft.irfft(wave * np.fft.rfft(u), NX) / np.pi
        return -np.fft.irfft(wave * np.fft.rfft(flux), NX)

    for u in accurate:
        span = burgers.TIMES[[start, stop]]
        found = scipy.integrate.solve_ivp(rate, span, u[start], rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(u[stop], found.y[:, -1], rtol=0, atol=1e-6)
        # The step moved the field, by diffusion and by advection.
        assert np.abs(u[stop] - u[start]).max() > 1e-2


def test_accurate_keeps_the_mean_and_ends_on_it(accurate):
    mean = accurate[:, 1:].mean(2, keepdims=True)
    np.testing.assert_allclose(mean, mean[:, :1] + 0 * mean, rtol=0, atol=1e-12)
    np.testing.assert_allclose(accurate[:, -1:], mean[:, -1:] + np.zeros(NX), atol=1e-9)


def test_accurate_has_converged(sample, accurate):
    with jax.enable_x64(True):
        times = burgers.TIMES[:5]  # errors are largest early
        finer = np.asarray(burgers.accurate(sample, NX, times, 2**16))
        coarser = np.asarray(burgers.accurate(sample, NX, times, 2**12))
    error = distance(accurate[:, :5], finer, 2).max()
    assert error < 1e-6
    assert distance(coarser, finer, 2).max() > 8 * error  # of second order: 16
