"""2-D compressible flow: the 1-D scheme along each axis, symmetry, convergence."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recraft_jax import errors
from recraft_jax.pde import cfd_1d, cfd_2d, compressible, equation

NX = 32
TIMES = [0.0, 0.02]  # the first frame is later


@pytest.fixture(scope="module")
def sample():
    return cfd_2d.draw(2031, 2, NX)


@pytest.fixture(scope="module")
def march():
    return jax.jit(
        lambda fields: compressible.solve(cfd_2d.viscous, fields, 1 / NX, [0.0, 0.02])
    )


@pytest.fixture(scope="module")
def start(sample):
    return cfd_2d.initial(sample, NX, 1, np.float32)


def distance(pred, y, axes):
    return np.sqrt(((pred - y) ** 2).sum(axes) / (y**2).sum(axes))


def test_fields_that_vary_along_x_obey_the_1d_scheme(start, march):
    rho, p, v, _ = (u[:, :, 5] for u in start)
    solve = jax.jit(
        lambda f: compressible.solve(cfd_1d.viscous, f, 1 / NX, [0.0, 0.02])
    )
    want = solve((rho, p, v))
    wide = tuple(u[:, :, None] * jnp.ones(NX) for u in (rho, p, v))
    along_x = march((*wide, 0 * wide[0]))
    along_y = march(
        tuple(jnp.swapaxes(u, 1, 2) for u in (*wide[:2], 0 * wide[0], wide[2]))
    )
    for places, found in (((0, 1, 2), along_x), ((0, 1, 3), along_y)):
        for place, w in zip(places, want, strict=True):
            lines = (
                found[place][:, :, :, 7] if found is along_x else found[place][:, :, 7]
            )
            np.testing.assert_allclose(lines, w, rtol=0, atol=2e-4 * np.abs(w).max())


def test_axes_exchange_and_mass_stays(start, march):
    rho, p, v, w = march(start)
    swapped = tuple(jnp.swapaxes(start[i], 1, 2) for i in (0, 1, 3, 2))
    for found, want in zip(march(swapped), (rho, p, w, v), strict=True):
        want = np.swapaxes(want, 2, 3)
        np.testing.assert_allclose(found, want, rtol=0, atol=1e-4 * np.abs(want).max())
    mass = np.asarray(rho, np.float64).sum((2, 3))
    np.testing.assert_allclose(mass[:, 1], mass[:, 0], rtol=1e-6)


def test_viscous_steps_damp_shear_and_sound_and_keep_energy():
    dx, dt = 1 / NX, jnp.array([5e-3, 12e-3])
    k, size = 2 * np.pi, 0.1
    x = equation.centres(cfd_2d.DOMAIN, NX)
    wave = np.sin(k * x)[:, None]
    ones = np.ones((2, NX, NX))
    fields = (2 * ones, 3 * ones, size * wave * ones, 0.5 * size * wave * ones)
    fields = tuple(jnp.asarray(u, jnp.float32) for u in fields)
    found = cfd_2d.viscous(fields, dt, dx)
    laplacian = (2 / dx * np.sin(k * dx / 2)) ** 2
    for place, diffusivity in ((2, 7 / 30), (3, 0.1)):
        decay = np.exp(-diffusivity * laplacian * dt)[:, None, None]
        want = decay * fields[place]
        # 3e-4 is the error of Euler's steps.
        np.testing.assert_allclose(found[place], want, rtol=0, atol=4e-4 * size)
    before, after = (compressible.conserved(f)[1].sum((1, 2)) for f in (fields, found))
    np.testing.assert_allclose(after, before, rtol=2e-5)  # friction is 3e-4


@pytest.mark.parametrize(("sign", "diffusivity"), [(1, 7 / 30), (-1, 0.1)])
def test_oblique_waves_decay_along_and_across(sign, diffusivity):
    dx, dt = 1 / NX, jnp.array([4e-3])
    k, size = 2 * np.pi, 0.1
    x = equation.centres(cfd_2d.DOMAIN, NX)
    wave = size * np.sin(k * (x[:, None] + x))[None]
    fields = (1 + 0 * wave, 1 + 0 * wave, wave, sign * wave)
    fields = tuple(jnp.asarray(u, jnp.float32) for u in fields)
    found = cfd_2d.viscous(fields, dt, dx)
    decay = np.exp(-diffusivity * 2 * k * k * dt)
    for place, want in ((2, decay * wave), (3, sign * decay * wave)):
        np.testing.assert_allclose(found[place], want, rtol=0, atol=3e-3 * size)


def test_waves_are_summed():
    rng = np.random.default_rng(0)
    phase = rng.uniform(0, 6, (1, 9, 9))
    points = np.array([0.1, 0.35, 0.8])
    found = cfd_2d.superpose(jnp.asarray(phase, jnp.float32), points)
    want = np.zeros((3, 3))
    for i in range(-4, 5):
        for j in range(-4, 5):
            if i * j:
                k = 2 * np.pi * np.array([i, j])
                angle = k[0] * points[:, None] + k[1] * points + phase[0, i + 4, j + 4]
                want += np.sin(angle) / np.sqrt(np.hypot(*k))
    np.testing.assert_allclose(found[0], want, rtol=0, atol=1e-5)


def test_initial_fields_are_as_drawn():
    sample = cfd_2d.draw(2031, 40, NX)
    rho, p, v, w = map(np.asarray, cfd_2d.initial(sample, NX, 1, np.float32))
    windowed = sample["is_windowed"]
    assert 8 < windowed.sum() < 32
    mean, temperature = sample["mean_density"], sample["temperature"]
    speed = np.sqrt(v**2 + w**2).mean((1, 2))
    sound = np.sqrt(5 / 3 * temperature)
    np.testing.assert_allclose((speed / sound)[~windowed], 1, rtol=1e-4)
    for u, base, size in (
        (rho, mean, sample["density_size"]),
        (p, mean * temperature, sample["pressure_size"]),
    ):
        ripple = np.abs(u / base[:, None, None] - 1)
        np.testing.assert_allclose(
            ripple.mean((1, 2))[~windowed], size[~windowed], rtol=1e-3
        )
        np.testing.assert_allclose(ripple[windowed][:, 0], 0, atol=1e-5)
        assert (u > 0).all()
    assert np.abs(v[windowed][:, 0]).max() < 1e-5
    width = sample["x_right"] - sample["x_left"]
    assert ((width > 0.1) & (width < 0.8)).all()


def test_accurate_is_the_limit_of_compat_and_has_converged(sample):
    compat = jax.jit(lambda s: cfd_2d.compat(s, NX, TIMES))(sample)
    rows = {name: values[1:] for name, values in sample.items()}  # without a window

    def solve(num_fine):
        with jax.enable_x64(True):
            fn = jax.jit(lambda s: cfd_2d.accurate(s, NX, TIMES, num_fine, 8))
            return np.asarray(jnp.stack(fn(rows)))[:, 0, 1]

    coarse, fine = solve(32), solve(64)
    error = distance(coarse, fine, (1, 2))
    apart = distance(np.asarray(jnp.stack(compat))[:, 1, 1], fine, (1, 2))
    assert error.max() < 1e-2
    assert apart.max() < 0.15
    assert (error < apart).all()


def test_few_cells_are_refused():
    with pytest.raises(errors.InputError, match="allowed"):
        cfd_2d.draw(2031, 4, 15)
