"""1-D compressible flow: PDEBench's own frames, convergence, conservation."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recraft_jax import errors
from recraft_jax.pde import cfd_1d, compressible, equation

GOLDEN = pathlib.Path(__file__).parent / "golden" / "cfd_1d.npz"
NX = 64


@pytest.fixture(scope="module")
def sample():
    return cfd_1d.draw(2022, 4, NX)


@pytest.fixture(scope="module")
def accurate(sample):
    with jax.enable_x64(True):
        frames = jax.jit(lambda s: cfd_1d.accurate(s, NX, cfd_1d.TIMES[:4]))(sample)
        return np.asarray(jnp.stack(frames))


def distance(pred, y):
    axes = tuple(range(1, y.ndim))
    return np.sqrt(((pred - y) ** 2).sum(axes) / (y**2).sum(axes))


def test_compat_is_pdebenchs(sample):
    solve = jax.jit(lambda s: cfd_1d.EQUATION.solve(s, nx=NX, mode="compat"))
    found = solve(sample)
    with np.load(GOLDEN) as file:
        for name, frames in found.items():
            frames = np.asarray(frames)
            assert frames.shape == (4, 101, NX)
            np.testing.assert_allclose(
                frames[:, 0], file[name][:, 0], rtol=0, atol=1e-4
            )
            assert distance(frames[:, file["frames"]], file[name]).max() < 1e-3


def test_fields_start_in_the_range_drawn(sample):
    centres = equation.centres(cfd_1d.DOMAIN, NX)
    rho, p, v = cfd_1d.initial(sample, NX, centres.astype(np.float32))
    for name, u in (("density", rho), ("pressure", p)):
        low, spread = sample[f"{name}_low"], sample[f"{name}_spread"]
        np.testing.assert_allclose(u.min(1), low[:, 0], rtol=1e-5)
        np.testing.assert_allclose(u.max(1), (low + spread)[:, 0], rtol=1e-5)
        least, most = cfd_1d.RANGES[name]
        assert ((low >= least) & (low <= most) & (spread >= least)).all()
    # The two ends of a periodic field meet in one value.
    points = np.array([centres[0], -1.0, 1.0 - 1e-9, centres[-1]])
    for u in cfd_1d.initial(sample, NX, points):
        np.testing.assert_allclose(u, u[:, :1] + np.zeros(4), rtol=0, atol=1e-3)


def test_viscous_steps_conserve_and_damp():
    dx = 2 / NX
    x = equation.centres(cfd_1d.DOMAIN, NX)
    k, size, dt = np.pi, 0.1, jnp.array([3e-3, 7.7e-3])
    ones = np.ones((2, NX))
    fields = (2 * ones, 3 * ones, size * np.sin(k * x) * ones)
    fields = tuple(jnp.asarray(u, jnp.float32) for u in fields)
    found = cfd_1d.viscous(fields, dt, dx)
    # Exact for the discrete Laplacian, up to the error of Euler's steps.
    decay = np.exp(-7 / 30 * (2 / dx * np.sin(k * dx / 2)) ** 2 * dt)
    np.testing.assert_allclose(
        found[2], decay[:, None] * fields[2], rtol=0, atol=2e-5 * size
    )
    before, after = (compressible.conserved(f)[1].sum(1) for f in (fields, found))
    np.testing.assert_allclose(after, before, rtol=1e-6)


def test_accurate_is_the_limit_of_compat(sample):
    times, errors_of = cfd_1d.TIMES[:2], []
    for nx in (32, 128):
        compat = jax.jit(lambda s, nx=nx: cfd_1d.compat(s, nx, times))(sample)
        with jax.enable_x64(True):
            solve = jax.jit(lambda s, nx=nx: cfd_1d.accurate(s, nx, times))
            fine = np.asarray(jnp.stack(solve(sample)))
        errors_of.append(distance(np.asarray(compat), fine))
    coarse, finer = errors_of
    assert finer.max() < 0.03
    assert (finer < 0.5 * coarse).all()


def test_accurate_has_converged(sample, accurate):
    times = cfd_1d.TIMES[:3]
    with jax.enable_x64(True):
        solve = jax.jit(lambda s: cfd_1d.accurate(s, NX, times, 2048, 16))
        finer = np.asarray(jnp.stack(solve(sample)))
    accurate = accurate[:, :, :3]
    # One field of the four has a kink.
    for frame in range(3):
        found, want = accurate[:, :, frame], finer[:, :, frame]
        each = np.sqrt(((found - want) ** 2).sum(2) / (want**2).sum(2))
        assert np.median(each) < 3e-5
        assert each.max() < 1.5e-3


def test_accurate_conserves(sample):
    with jax.enable_x64(True):
        solve = jax.jit(lambda s: cfd_1d.accurate(s, 1024, cfd_1d.TIMES[:4]))
        rho, p, v = map(np.asarray, solve(sample))
    mass, momentum = rho.mean(2), (rho * v).mean(2)
    energy = (1.5 * p + 0.5 * rho * v**2).mean(2)
    np.testing.assert_allclose(mass, mass[:, :1] + 0 * mass, rtol=1e-12)
    np.testing.assert_allclose(energy, energy[:, :1] + 0 * energy, rtol=1e-5)
    scale = (rho * np.abs(v)).mean(2)[:, :1]
    np.testing.assert_allclose((momentum - momentum[:, :1]) / scale, 0, atol=1e-3)


def test_few_cells_are_refused():
    with pytest.raises(errors.InputError, match="allowed"):
        cfd_1d.draw(2022, 4, 15)
