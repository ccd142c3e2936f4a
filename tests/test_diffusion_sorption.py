"""Diffusion-sorption: PDEBench's own output and half lines solved in closed form.

`golden/diffusion_sorption.npz` holds frames of seeds 0 and 1 at 128 cells, written by
PDEBench (commit b5b646f).
"""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from recraft_jax import errors
from recraft_jax.pde import diffusion_sorption, equation

GOLDEN = pathlib.Path(__file__).parent / "golden"


def error(got, want):
    """Largest relative L2 error of a frame, over samples and frames `[b t x]`."""
    norms = [np.linalg.norm(value, axis=-1) for value in (got - want, want)]
    return np.max(norms[0] / norms[1])


def accurate(level, nx):
    with jax.enable_x64(True):
        sample = {"level": jnp.asarray(level)}
        run = jax.jit(lambda s: diffusion_sorption.solve(s, nx=nx, mode="accurate"))
        return np.asarray(run(sample)["data"])[..., 0]


def test_compat_reproduces_pdebench():
    golden = np.load(GOLDEN / "diffusion_sorption.npz")
    sample = diffusion_sorption.draw(0, 2, 128)
    data = diffusion_sorption.solve(sample, nx=128, mode="compat")["data"]
    assert data.shape == (2, 101, 128, 1)
    np.testing.assert_allclose(data[:, golden["frames"]], golden["data"], atol=1e-6)


def test_accurate_is_the_exact_solution_without_sorption(monkeypatch):
    # R = 1 leaves the heat equation; while the ends do not feel each other its solution
    # is that of two half lines (Carslaw & Jaeger, sections 2.4 and 2.7).
    monkeypatch.setattr(diffusion_sorption, "CAPACITY", 0.0)
    nx, level, frames = 40, 0.15, np.array([1, 2, 4])
    data = accurate([level], nx)[0, frames]
    x = equation.centres((0.0, 1.0), nx)
    rate = diffusion_sorption.DIFFUSIVITY
    spread = np.sqrt(rate * diffusion_sorption.TIMES[frames])[:, None]
    inflow = (1 - level) * special.erfc(x / (2 * spread))
    far, leak = (1 - x) / (2 * spread), spread / rate
    outflow = special.erfc(far) - np.exp(-(far**2)) * special.erfcx(far + leak)
    want = level + inflow - level * outflow
    assert error(data, want) < 3e-6
    # The sign and the strength of the outflow can be seen.
    held = level + inflow - level * special.erfc(far)
    assert error(held, want) > 5e-4


def test_accurate_converged_in_space_and_time(monkeypatch):
    level = [0.001, 0.19]
    data = accurate(level, 64)
    monkeypatch.setattr(diffusion_sorption, "NUM_INTERVALS", 192)
    monkeypatch.setattr(diffusion_sorption, "STEP_SHARE", 0.1)
    monkeypatch.setattr(diffusion_sorption, "NUM_NEWTON", 3)
    assert error(data[:, 1:], accurate(level, 64)[:, 1:]) < 3e-6
    np.testing.assert_array_equal(data[:, 0], np.repeat([level], 64, 0).T)


def test_compat_tends_to_accurate():
    level = np.array([0.1])
    limit = accurate(level, 81)
    fine = (diffusion_sorption.compat(level, 81) - limit)[:, 20:, 1::3]
    coarse = diffusion_sorption.compat(level, 27) - limit[..., 1::3]
    # First order: what the ghost value on the left costs is a third on a third.
    # Single frames scatter by the tolerance of the steps.
    rest = np.linalg.norm(3 * fine - coarse[:, 20:])
    assert rest < 0.08 * np.linalg.norm(coarse[:, 20:])
    assert np.abs(fine).max() < 0.05


def test_draw_holds_the_seeds_and_refuses_one_cell():
    level = diffusion_sorption.draw(0, 2, 8)["level"]
    np.testing.assert_allclose(level[0], 0.109763, atol=1e-6)
    np.testing.assert_array_equal(diffusion_sorption.draw(1, 1, 8)["level"], level[1:])
    with pytest.raises(errors.InputError, match="1 cells"):
        diffusion_sorption.draw(0, 2, 1)
