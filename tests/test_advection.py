"""Advection: PDEBench's own frames, exact shifts."""

import pathlib

import jax
import numpy as np

from recraft_jax.pde import advection

GOLDEN = pathlib.Path(__file__).parent / "golden" / "advection.npz"


def test_compat_is_pdebenchs():
    with np.load(GOLDEN) as file:
        first, last = file["first"], file["last"]
    num, nx = first.shape
    sample = advection.EQUATION.draw(2022, num, nx)
    made = jax.jit(lambda s: advection.EQUATION.solve(s, nx=nx, mode="compat"))(sample)
    np.testing.assert_allclose(made["tensor"][:, 0], first, rtol=0, atol=1e-6)
    # They differ by up to 2e-5 here: rounding, at kinks of the limiter.
    np.testing.assert_allclose(made["tensor"][:, -1], last, rtol=0, atol=1e-4)


def test_accurate_shifts_right_by_a_cell_every_other_frame():
    nx = 125  # 0.4 x 0.02 is one cell
    sample = advection.EQUATION.draw(3, 12, nx)
    assert sample["is_windowed"].any() and sample["is_positive"].any()
    with jax.enable_x64(True):
        # Odd frames look at the jump at the ends itself.
        u = np.asarray(advection.accurate(sample, nx, advection.TIMES[::2]))
    assert u.dtype == np.float64 and u.shape == (12, 101, nx)
    for index in (1, 2, 30, 99, 100):
        np.testing.assert_allclose(u[:, index], np.roll(u[:, 0], index, 1), atol=1e-11)
