"""What the compressible schemes share: fluxes in closed form, groups of samples."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recraft_jax.pde import compressible

GAMMA = 5 / 3


def state(*values):
    return tuple(jnp.full((1, 1, 1), value) for value in values)


def exact_flux(rho, p, u, w):
    energy = p / (GAMMA - 1) + 0.5 * rho * (u * u + w * w)
    return np.array([rho * u, (energy + p) * u, rho * u * u + p, rho * u * w])


def flux(left, right, along=0):
    return np.ravel(compressible.hllc(state(*left), state(*right), along))


def test_equal_states_have_their_own_flux():
    for u in (0.3, -0.3, 9.0, -9.0):  # the speed of sound is 1.3
        values = (2.0, 2.0, u, 0.7)
        np.testing.assert_allclose(flux(values, values), exact_flux(*values), rtol=1e-5)


def test_supersonic_flow_takes_the_flux_of_where_it_comes_from():
    left, right = (2.0, 2.0, 5.0, 0.7), (1.0, 1.5, 4.0, -0.2)
    np.testing.assert_allclose(flux(left, right), exact_flux(*left), rtol=1e-5)
    left, right = (2.0, 2.0, -4.0, 0.7), (1.0, 1.5, -5.0, -0.2)
    np.testing.assert_allclose(flux(left, right), exact_flux(*right), rtol=1e-5)


def test_contact_and_shear_at_rest_stay():
    left, right = (2.0, 3.0, 0.0, 0.7), (0.5, 3.0, 0.0, -0.2)
    np.testing.assert_allclose(flux(left, right), [0, 0, 3, 0], atol=1e-6)


def test_moving_contact_carries_its_upwind_side():
    left, right = (2.0, 3.0, 0.1, 0.7), (0.5, 3.0, 0.1, -0.2)
    np.testing.assert_allclose(flux(left, right), exact_flux(*left), rtol=1e-5)


def test_shock_has_the_flux_of_the_jump_conditions():
    # The shock into gas at rest that doubles its density; HLLC is exact for none but
    # the fastest waves, so the flux lies between the two and tends to the front's.
    rho0, p0, rho1 = 1.0, 1.0, 2.0
    ratio = (GAMMA + 1) / (GAMMA - 1)
    p1 = p0 * (ratio * rho1 - rho0) / (ratio * rho0 - rho1)
    u1 = np.sqrt((p1 - p0) * (1 / rho0 - 1 / rho1))
    found = flux((rho1, p1, u1, 0.0), (rho0, p0, 0.0, 0.0))
    np.testing.assert_allclose(found, exact_flux(rho1, p1, u1, 0.0), rtol=0.2)
    mirrored = flux((rho0, p0, 0.0, 0.0), (rho1, p1, -u1, 0.0))
    np.testing.assert_allclose(found, mirrored * [-1, -1, 1, 1], rtol=1e-5, atol=1e-6)


def test_axes_of_flux_exchange():
    left, right = (2.0, 2.0, 0.5, 0.7), (1.0, 1.5, -0.3, -0.2)
    swapped = flux(
        *[(*values[:2], values[3], values[2]) for values in (left, right)], 1
    )
    np.testing.assert_allclose(flux(left, right), swapped[[0, 1, 3, 2]], rtol=1e-6)


def test_conserved_and_back_with_a_floor():
    fields = state(2.0, 3.0, 0.5, -0.7)
    densities = compressible.conserved(fields)
    want = [2.0, 3.0 * 1.5 + 0.5 * 2.0 * (0.25 + 0.49), 1.0, -1.4]
    np.testing.assert_allclose(np.ravel(densities), want, rtol=1e-6)
    np.testing.assert_allclose(
        np.ravel(compressible.primitive(densities)), np.ravel(fields), rtol=1e-6
    )
    cold = compressible.primitive(state(2.0, 0.0, 1.0, 0.0))
    np.testing.assert_allclose(np.ravel(cold[1]), compressible.PRESSURE_FLOOR)


def test_limits_of_the_step():
    rho, p = jnp.full((2, 4), 2.0), jnp.full((2, 4), 1.2)  # speed of sound 1
    v = jnp.zeros((2, 4)).at[1, 2].set(-3.0)
    found = compressible.acoustic_step((rho, p, v), 0.1)
    np.testing.assert_allclose(found, [0.03, 0.03 / 4], rtol=1e-6)
    # 4 / 3 eta + zeta = 7 / 30
    np.testing.assert_allclose(
        compressible.viscous_step(0.1), 0.3 * 0.005 * 30 / 7, rtol=1e-6
    )


@pytest.mark.parametrize("num", [1, 3, 7])
def test_groups_keep_the_order_of_samples(num, monkeypatch):
    monkeypatch.setattr(compressible, "GROUP_CELLS", 8)  # groups of two
    u = jnp.arange(4.0 * num).reshape(num, 4)
    speed = jnp.asarray(np.random.default_rng(0).permutation(num), jnp.float32)

    def solve(fields):
        assert len(fields[0]) <= 2
        return (fields[0] + 10 * fields[1],)

    (found,) = jax.jit(lambda u, v: compressible.in_groups(solve, (u, v), speed))(
        u, 2 * u
    )
    np.testing.assert_array_equal(found, 21 * u)
