"""2-D diffusion-reaction: PDEBench's own output and SciPy at a tight tolerance.

`golden/diffusion_reaction_2d.npz` holds frames of seed 1 at 32 x 32 cells, written by
PDEBench (commit b5b646f).
"""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate

from recraft_jax import errors
from recraft_jax.pde import diffusion_reaction_2d

GOLDEN = pathlib.Path(__file__).parent / "golden"


def test_compat_reproduces_pdebench():
    golden = np.load(GOLDEN / "diffusion_reaction_2d.npz")
    sample = diffusion_reaction_2d.draw(1, 1, 32)
    data = diffusion_reaction_2d.solve(sample, nx=32, mode="compat")["data"]
    assert data.shape == (1, 101, 32, 32, 2)
    np.testing.assert_allclose(data[:, golden["frames"]], golden["data"], atol=1e-6)


@pytest.mark.parametrize("spread", [1.0, 1000.0])
def test_accurate_is_the_converged_system(monkeypatch, spread):
    # With 1000 times the diffusion, 8 cells are as stiff as 253: all of the steps'
    # bounds are used.
    nx, du, dv = 8, 1e-3 * spread, 5e-3 * spread
    monkeypatch.setattr(diffusion_reaction_2d, "DIFFUSIVITY_U", du)
    monkeypatch.setattr(diffusion_reaction_2d, "DIFFUSIVITY_V", dv)
    sample = diffusion_reaction_2d.draw(3, 2, nx)
    with jax.enable_x64(True):
        run = jax.jit(lambda s: diffusion_reaction_2d.solve(s, nx=nx, mode="accurate"))
        data = np.asarray(run(jax.tree.map(jnp.asarray, sample))["data"])
    bond = np.diff(np.eye(nx), axis=0) * nx / 2
    line = -bond.T @ bond

    def rate(_, state):
        u, v = state.reshape(2, nx, nx)
        at_u = du * (line @ u + u @ line) + u - u**3 - 5e-3 - v
        return np.stack([at_u, dv * (line @ v + v @ line) + u - v]).ravel()

    for start, got in zip(sample["start"], data, strict=True):
        state = np.moveaxis(start, -1, 0).ravel()
        times = np.linspace(0, 5, 101)
        want = integrate.solve_ivp(
            rate, (0, 5), state, "DOP853", times, rtol=1e-11, atol=1e-12
        ).y.reshape(2, nx, nx, 101)
        np.testing.assert_allclose(got, np.moveaxis(want, (0, 3), (3, 0)), atol=1e-6)


def test_draw_holds_the_seeds_and_refuses_one_cell():
    start = diffusion_reaction_2d.draw(5, 2, 3)["start"]
    noise = np.random.RandomState(6).randn(18)
    np.testing.assert_array_equal(start[1, ..., 0].ravel(), noise[:9])
    np.testing.assert_array_equal(start[1, ..., 1].ravel(), noise[9:])
    with pytest.raises(errors.InputError, match="1 cells"):
        diffusion_reaction_2d.draw(0, 2, 1)
