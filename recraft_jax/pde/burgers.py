"""Burgers' equation, `u_t + (u^2 / 2)_x = (nu / pi) u_xx`, nu = 1, periodic.

PDEBench's `1D_Burgers_Sols_Nu1.0`.
"""

import math

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from recraft_jax.pde import equation, scalar

DIFFUSIVITY = 1.0 / math.pi
CFL = 0.25
REACH = 4  # two ghost cells for the predictor, two for the corrector
TIMES = np.linspace(0.0, 2.0, 201)


def compat(sample: equation.Sample, nx: int, times) -> Float[Array, "b t x"]:
    """Limited slopes, upwind flux, central diffusion, midpoint rule; float32.

    The step is that of diffusion: |u| < 4 and at least 8 cells make the other one,
    CFL dx / max |u|, longer.
    """
    dx = 1 / nx

    def flux(u, stride):
        advective = scalar.upwind(
            u,
            stride,
            lambda u: 0.5 * u * u,
            lambda left, right: 0.5 * jnp.abs(left + right),
        )
        slope = scalar.difference(u[stride:-stride], stride) / dx
        return advective - DIFFUSIVITY * slope

    def advance(u, dt, stride):
        return scalar.midpoint(flux, u, dt / dx, stride)

    u = scalar.cells(sample, nx, np.float32)
    return scalar.march(advance, REACH, CFL * 0.5 * dx**2 / DIFFUSIVITY, u, times)
