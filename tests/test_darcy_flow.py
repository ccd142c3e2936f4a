"""Darcy flow: PDEBench's own output, exact solutions, balance and refinement.

`golden/darcy.npz` holds the run of key 2022, 8 samples of 32 x 32 cells, written by
PDEBench (commit b5b646f).
"""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recraft_jax import errors
from recraft_jax.pde import darcy

GOLDEN = pathlib.Path(__file__).parent / "golden"


def error(got, want):
    """Largest relative L2 error of a sample `[b x y]`."""
    norms = [np.linalg.norm(value, axis=(1, 2)) for value in (got - want, want)]
    return np.max(norms[0] / norms[1])


def accurate(nu):
    with jax.enable_x64(True):
        return np.asarray(jax.jit(lambda a: darcy.accurate(a))(jnp.asarray(nu)))


def cell_means_of_sine(order, nx):
    """Averages `[nx]` of `sin(order pi y)` over the cells of the unit interval."""
    return (
        -np.diff(np.cos(order * np.pi * np.linspace(0, 1, nx + 1)))
        * nx
        / (order * np.pi)
    )


def test_compat_reproduces_pdebench():
    golden = np.load(GOLDEN / "darcy.npz")
    sample = darcy.draw(2022, 8, 32)
    np.testing.assert_array_equal(sample["nu"], golden["nu"])
    part = {name: value[3:5] for name, value in sample.items()}
    frames = jax.jit(lambda s: darcy.solve(s, nx=32, mode="compat"))(part)
    assert frames["tensor"].shape == (2, 1, 32, 32)
    assert error(frames["tensor"][:, 0], golden["tensor"][3:5, 0]) < 1e-5


def test_uniform_and_layered_media_are_exact():
    # Left of x = 1/2 the permeability is `left`, right of it `right`. In sines of y the
    # equation is `a (U'' - w^2 U) = -source` in each layer.
    nx = 8
    layers = np.array([[0.1, 0.1], [1.0, 0.1]])
    nu = np.repeat(np.repeat(layers, nx // 2, 1)[:, :, None], nx, 2)
    want = np.zeros((2, nx, nx))
    edges = np.linspace(0, 1, nx + 1)
    for order in range(1, 600, 2):
        w, source = order * np.pi, 4 * darcy.BETA / (order * np.pi)
        # U = p exp(-w (x - l)) + q exp(-w (r - x)) + source / (a w^2) on (l, r); rows:
        # zero at both ends, value and flux at the middle.
        e = np.exp(-w / 2)
        for sample, (left, right) in enumerate(layers):
            flat = source / (np.array([left, right]) * w**2)
            matrix = [
                [1, e, 0, 0],
                [0, 0, e, 1],
                [e, 1, -1, -e],
                [-left * e, left, right, -right * e],
            ]
            side = [-flat[0], -flat[1], flat[1] - flat[0], 0]
            p1, q1, p2, q2 = np.linalg.solve(matrix, side)
            mean = np.empty(nx)
            for half, (p, q) in enumerate(((p1, q1), (p2, q2))):
                x = edges[half * nx // 2 : (half + 1) * nx // 2 + 1]
                fall = -np.diff(np.exp(-w * (x - x[0])))
                rise = np.diff(np.exp(-w * (x[-1] - x)))
                part = (p * fall + q * rise) * nx / w + flat[half]
                mean[half * nx // 2 : (half + 1) * nx // 2] = part
            want[sample] += mean[:, None] * cell_means_of_sine(order, nx)
    assert error(accurate(nu), want) < 1e-5


def test_what_is_made_flows_out():
    a = np.load(GOLDEN / "darcy.npz")["nu"].astype(float)
    with jax.enable_x64(True):
        u = np.asarray(jax.jit(darcy.steady)(a))
    border = 2 * a * u  # the conductance of half a cell
    out = sum(border[:, end].sum(1) + border[..., end].sum(1) for end in (0, -1))
    np.testing.assert_allclose(out, darcy.BETA, rtol=1e-5)


def test_accurate_converged_at_corners(monkeypatch):
    nu = np.full((1, 8, 8), 0.1)
    nu[0, 2:5, 3:7] = 1.0
    nu[0, 1, 4] = 1.0
    monkeypatch.setattr(darcy, "COARSEST", 16)
    rough = accurate(nu)
    monkeypatch.setattr(darcy, "COARSEST", 32)
    middle = accurate(nu)
    monkeypatch.setattr(darcy, "COARSEST", 64)
    fine = accurate(nu)
    assert error(middle, fine) < 1e-4
    # Three grids remove the errors of both orders below 2.5.
    assert error(rough, fine) > 4 * error(middle, fine)


def test_degree_at_a_corner_solves_its_equation():
    degree = darcy.corner_degree(10.0)
    angle = degree * np.pi / 4
    np.testing.assert_allclose(10 * np.tan(angle) + np.tan(3 * angle), 0, atol=1e-12)
    np.testing.assert_allclose(darcy.corner_degree(1.0), 1.0)


def test_draw_refuses_one_cell():
    with pytest.raises(errors.InputError, match="1 cells per axis"):
        darcy.draw(0, 2, 1)
