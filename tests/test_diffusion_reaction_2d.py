"""FitzHugh-Nagumo: PDEBench's own frames, steps that no longer matter, exact decay."""

import functools
import pathlib

import jax
import numpy as np
import pytest

from recraft_jax import errors
from recraft_jax.pde import diffusion_reaction_2d as rd

NX = 12


@pytest.fixture(scope="module")
def golden():
    """Frames of PDEBench's generator (b5b646f) on 32 x 32 cells, by seed."""
    path = pathlib.Path(__file__).parent / "golden" / "diffusion_reaction_2d.npz"
    with np.load(path) as arrays:
        return dict(arrays)


def accurate(noise, **settings):
    with jax.enable_x64(True):
        solve = functools.partial(rd.accurate, nx=noise.shape[1], **settings)
        return np.asarray(jax.jit(solve)(noise))


def distance(got, want):
    """Relative L2 of each frame of each sample."""
    axes = tuple(range(2, got.ndim))
    error = np.sqrt(((got - want) ** 2).sum(axes))
    return error / np.sqrt((want**2).sum(axes))


def test_compat_repeats_pdebenchs_frames(golden):
    (seed,) = golden["seeds"]
    sample = rd.draw(int(seed), 1, 32)
    got = rd.solve(sample, nx=32, mode="compat")["data"]
    assert got.shape == (1, 101, 32, 32, 2)
    frames = got[:, golden["frames"]]
    assert distance(frames, golden["data"]).max() < 1e-6


def test_accurate_converges_with_the_fourth_power_of_the_step():
    noise = rd.draw(0, 2, NX)["noise"]
    want = accurate(noise, step_rate=0.125)
    errors_ = [
        distance(accurate(noise, step_rate=rate), want)[:, 1:].max()
        for rate in (2.0, 1.0)
    ]
    assert errors_[1] < 5e-6  # the default
    assert errors_[0] / errors_[1] > 8


def test_compat_is_accurate_to_the_tolerance_of_its_solver():
    noise = rd.draw(3, 1, NX)["noise"]
    compat = rd.compat(noise[0])[None]
    gap = distance(compat, accurate(noise))[:, 1:]
    assert 1e-6 < gap.max() < 2e-2


@pytest.mark.parametrize("axis", [0, 1])
def test_laplacian_has_cosines_as_modes_and_no_flux(axis):
    nx, mode = 10, 3
    dx = 2 / nx
    line = np.cos(np.pi * mode * (np.arange(nx) + 0.5) / nx)
    field = np.moveaxis(np.tile(line, (nx, 1)), 1, axis)
    rate = (2 * np.cos(np.pi * mode / nx) - 2) / dx**2
    np.testing.assert_allclose(rd._laplacian(field, nx, np), rate * field, atol=1e-10)
    noise = rd.draw(0, 1, nx)["noise"][0, ..., 0]
    assert abs(rd._laplacian(noise, nx, np).sum()) < 1e-10


def test_rates_of_constant_fields_are_the_reactions():
    u, v = np.full((4, 4), 0.5), np.full((4, 4), -0.25)
    du, dv = rd.rate(u, v, 4, np)
    np.testing.assert_allclose(du, 0.5 - 0.125 - 5e-3 + 0.25)
    np.testing.assert_allclose(dv, 0.75)


def test_noise_is_drawn_activator_first_by_seed():
    noise = rd.draw(5, 2, 4)["noise"]
    flat = np.random.RandomState(6).standard_normal(32)
    np.testing.assert_array_equal(noise[1, ..., 0].ravel(), flat[:16])
    np.testing.assert_array_equal(noise[1, ..., 1].ravel(), flat[16:])


def test_too_few_cells_are_refused():
    with pytest.raises(errors.InputError, match="1 cells an axis; allowed: 2 or more"):
        rd.draw(0, 1, 1)
