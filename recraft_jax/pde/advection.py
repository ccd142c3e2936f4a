"""Advection at constant speed, `u_t + 0.4 u_x = 0`, periodic on the unit interval.

PDEBench's `1D_Advection_Sols_beta0.4`: second-order finite volumes (compat), or the
initial field shifted (accurate), which is exact at any resolution.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from recraft_jax.pde import equation, scalar

SPEED = 0.4
CFL = 0.4
REACH = 4  # two ghost cells for the predictor, two for the corrector
TIMES = np.linspace(0.0, 2.0, 201)


def compat(
    sample: equation.Sample, nx: int, times: Sequence[float]
) -> Float[Array, "b t x"]:
    """Limited slopes, upwind flux, midpoint rule in time; float32."""
    dx = 1 / nx

    def flux(u, stride):
        return scalar.upwind(u, stride, lambda u: SPEED * u, lambda *_: SPEED)

    def advance(u, dt, stride):
        return scalar.midpoint(flux, u, dt / dx, stride)

    u = scalar.cells(sample, nx, np.float32)
    return scalar.march(advance, REACH, CFL * dx / SPEED, u, times)


def accurate(
    sample: equation.Sample, nx: int, times: Sequence[float]
) -> Float[Array, "b t x"]:
    """`u(x, t) = u_0((x - 0.4 t) mod 1)`, evaluated, not interpolated."""
    centres = equation.centres(scalar.DOMAIN, nx)

    def frame(shift):
        return scalar.initial(sample, nx, jnp.mod(centres - shift, 1.0))

    frames = jax.lax.map(frame, SPEED * np.asarray(times, np.float64))
    return jnp.swapaxes(frames, 0, 1)


COST = {"compat": (0.0015, 128, 2), "accurate": (0.006, 1024, 1)}
EQUATION = scalar.make(compat, accurate, TIMES, COST)
