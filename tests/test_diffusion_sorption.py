"""Diffusion-sorption: PDEBench's own frames, refinement, the limit of fine grids."""

import functools
import pathlib

import jax
import numpy as np
import pytest

from recraft_jax import errors
from recraft_jax.pde import diffusion_sorption

NX = 32


@pytest.fixture(scope="module")
def golden():
    """Frames of PDEBench's generator (b5b646f) on 128 cells, by seed."""
    path = pathlib.Path(__file__).parent / "golden" / "diffusion_sorption.npz"
    with np.load(path) as arrays:
        return dict(arrays)


@pytest.fixture(scope="module")
def accurate():
    """Frames at the default resolution of the inner grid, and at coarser ones."""
    u0 = diffusion_sorption.draw(0, 2, NX)["u0"]

    @functools.cache
    def solve(**settings):
        with jax.enable_x64(True):
            call = functools.partial(diffusion_sorption.accurate, nx=NX, **settings)
            return np.asarray(jax.jit(call)(u0))

    return solve


def distance(got, want):
    """Relative L2 of each frame."""
    return np.linalg.norm(got - want, axis=-1) / np.linalg.norm(want, axis=-1)


def test_compat_repeats_pdebenchs_frames(golden):
    for seed, want in zip(golden["seeds"], golden["data"], strict=True):
        sample = diffusion_sorption.draw(int(seed), 1, 128)
        got = diffusion_sorption.solve(sample, nx=128, mode="compat")["data"]
        assert got.shape == (1, 101, 128, 1)
        frames = got[0, golden["frames"], :, 0]
        assert distance(frames, want[..., 0]).max() < 1e-6


def test_accurate_converges_in_space_and_time(accurate):
    default = accurate()[:, 1:]
    coarse = distance(accurate(num_intervals=128, num_steps=1)[:, 1:], default)
    medium = distance(accurate(num_intervals=256, num_steps=2)[:, 1:], default)
    # Second order in space and third in time: at least four times closer.
    assert coarse.max() < 3e-3 and medium.max() < 5e-4
    assert medium.max() < coarse.max() / 4
    # What is left at the default is the next quarter of it.
    assert medium.mean() / 4 < 1e-4


def test_compat_comes_closer_to_accurate_on_finer_grids(accurate):
    u0 = diffusion_sorption.draw(0, 1, NX)["u0"]
    gaps = []
    for nx in (16, NX):
        with jax.enable_x64(True):
            solve = functools.partial(diffusion_sorption.accurate, nx=nx)
            want = np.asarray(jax.jit(solve)(u0))[0]
        gaps.append(distance(diffusion_sorption.compat(u0[0], nx), want)[20:])
    # The boundary value sits half a cell outside: first order.
    np.testing.assert_allclose(gaps[0] / gaps[1], 2, rtol=0.35)


def test_accurate_holds_both_boundary_conditions(accurate):
    nodes = diffusion_sorption._nodes(64)
    matrix = diffusion_sorption._interpolation(64, 40)
    points = (np.arange(40) + 0.5) / 40
    for power in range(4):  # cubics are interpolated exactly
        np.testing.assert_allclose(matrix @ nodes**power, points**power, atol=1e-12)
    u = accurate()[:, -1]
    # At the left end 1; at the right one next to nothing: D is small.
    left = 1.5 * u[:, 0] - 0.5 * u[:, 1]
    np.testing.assert_allclose(left, 1, atol=2e-3)
    assert np.all(u[:, -1] < 0.02) and np.all(np.diff(u, axis=1) < 0)


def test_fields_start_constant_and_follow_their_seed():
    u0 = diffusion_sorption.draw(0, 3, 8)["u0"]
    np.testing.assert_allclose(u0[0], 0.109763, atol=1e-6)
    np.testing.assert_array_equal(diffusion_sorption.draw(2, 1, 8)["u0"], u0[2:])
    assert np.all((u0 >= 0) & (u0 < 0.2))


def test_too_few_cells_are_refused():
    with pytest.raises(errors.InputError, match="2 cells; allowed: 3 or more"):
        diffusion_sorption.draw(0, 1, 2)
