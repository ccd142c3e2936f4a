"""The spectral solver: its weights, what the rates conserve, two exact solutions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

from recraft_jax.pde import spectral_flow

GAMMA, ETA, ZETA = 5 / 3, 0.1, 0.1
LONGITUDINAL = 4 * ETA / 3 + ZETA


@pytest.fixture(autouse=True)
def wide():
    with jax.enable_x64(True):
        yield


def test_phi_functions():
    z = -np.array([0.0, 1e-6, 0.3, 0.999, 1.001, 7.0, 1e4])
    nodes, weight = np.polynomial.legendre.leggauss(60)
    s, weight = (nodes[:, None] + 1) / 2, weight[:, None] / 2
    for power, found in enumerate(spectral_flow.phi(jnp.asarray(z))):
        scale = (
            1 / np.math.factorial(power) if hasattr(np, "math") else [1, 1, 0.5][power]
        )
        want = (weight * np.exp((1 - s) * z) * s**power * scale).sum(0)
        np.testing.assert_allclose(found[:-1], want[:-1], rtol=1e-10)
    one, two, three = (float(f[-1]) for f in spectral_flow.phi(jnp.asarray(z)))
    np.testing.assert_allclose([one, two, three], [1e-4, 1e-4, 0.5e-4], rtol=1e-3)


def smooth(num, shape=(16, 24)):
    """Fields of a few waves, rho and p positive, `[b c x y]`."""
    rng = np.random.default_rng(0)
    x, y = np.meshgrid(*(2 * np.pi * np.arange(n) / n for n in shape), indexing="ij")
    waves = [
        np.sin(i * x + j * y + p)
        for i, j, p in ((1, 0, 0.3), (0, 1, 1.0), (1, -1, 2.0), (2, 1, 0.1))
    ]
    fields = np.einsum("bcw,wxy->bcxy", rng.uniform(-0.1, 0.1, (num, 4, 4)), waves)
    fields[:, 0] += 1.5
    fields[:, 1] += 2.0
    return fields


def test_rates_conserve_momentum_and_energy():
    fields = smooth(2)
    numbers = spectral_flow.wave_numbers(fields.shape[2:], 1.0)

    def slope(u, axis):
        waves = 1j * numbers[axis] * np.fft.rfftn(u, axes=(-2, -1))
        return np.fft.irfftn(waves, u.shape[-2:], axes=(-2, -1))

    grid = np.concatenate([fields, slope(fields, 0), slope(fields, 1)], 1)
    flux, rest = map(np.asarray, spectral_flow.rates(jnp.asarray(grid), 2))
    rho, p, *v = np.moveaxis(fields, 1, 0)
    drho = -slope(flux[:, 0], 0) - slope(flux[:, 1], 1)
    div = slope(v[0], 0) + slope(v[1], 1)
    dv = []
    for i in (0, 1):
        laplacian = slope(slope(v[i], 0), 0) + slope(slope(v[i], 1), 1)
        force = ETA * laplacian + (ETA / 3 + ZETA) * slope(div, i)
        dv.append(rest[:, 1 + i] + force)
    scale = np.abs(rho * dv[0]).mean()
    for i in (0, 1):
        momentum = (drho * v[i] + rho * dv[i]).mean((1, 2))
        np.testing.assert_allclose(momentum / scale, 0, atol=1e-5)
    square = v[0] ** 2 + v[1] ** 2
    kinetic = 0.5 * drho * square + rho * (v[0] * dv[0] + v[1] * dv[1])
    energy = (rest[:, 0] / (GAMMA - 1) + kinetic).mean((1, 2))
    np.testing.assert_allclose(energy / np.abs(kinetic).mean(), 0, atol=1e-5)
    # The heat of friction is part of that.
    assert np.abs(kinetic.mean((1, 2))).min() > 1e-3 * np.abs(kinetic).mean()


def test_small_sound_wave_moves_as_the_linear_equations_do():
    size, times = 1e-6, np.linspace(0, 0.3, 3)
    k, rho, p = 2 * np.pi, 1.5, 2.0
    x = np.arange(16) / 16
    fields = (rho + size * np.cos(k * x), p + 0 * x, size * np.sin(k * x))
    fields = tuple(jnp.asarray(u)[None] for u in fields)
    frames = spectral_flow.solve(fields, 1.0, times, 8, (0, 0))
    matrix = np.array(
        [
            [0, 0, -1j * k * rho],
            [0, 0, -1j * k * GAMMA * p],
            [0, -1j * k / rho, -LONGITUDINAL * k * k],
        ]
    )
    for index, t in enumerate(times):
        modes = scipy.linalg.expm(matrix * t) @ np.array([1, 0, -1j])
        want = np.real(modes[:, None] * np.exp(1j * k * x)) * size
        found = np.asarray(frames[0, :, index]) - np.array([[rho], [p], [0]])
        np.testing.assert_allclose(found, want, rtol=0, atol=3e-5 * size)


def test_shear_flow_decays_and_heats():
    times = np.linspace(0, 0.2, 3)
    k, speed, rho, p = 2 * np.pi, 0.01, 2.0, 3.0
    y = np.arange(16) / 16
    ones = np.ones((1, 16, 16))
    fields = (rho * ones, p * ones, speed * np.sin(k * y) * ones, 0 * ones)
    frames = spectral_flow.solve(tuple(map(jnp.asarray, fields)), 1.0, times, 4, (0, 0))
    decay = np.exp(-ETA * k * k * times)
    want = speed * decay[:, None] * np.sin(k * y)
    found = np.asarray(frames[0, 2])
    np.testing.assert_allclose(found, want[:, None] + 0 * found, atol=1e-5 * speed)
    heat = (GAMMA - 1) * rho * speed**2 / 4 * (1 - decay**2)
    rise = np.asarray(frames[0, 1]).mean((1, 2)) - p
    np.testing.assert_allclose(rise, heat, rtol=1e-3, atol=1e-12)
