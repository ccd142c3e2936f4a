"""Burgers' equation, `u_t + (u^2 / 2)_x = (nu / pi) u_xx`, nu = 1, periodic on (0, 1).

PDEBench's `1D_Burgers_Sols_Nu1.0`: second-order finite volumes (compat), or the
transform of Cole (1951) and Hopf (1950) to the heat equation (accurate). Diffusion is
strong: what is left at t = 2 is the mean of the initial field.
"""

import math
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from recraft_jax.pde import equation, fourier, scalar

DIFFUSIVITY = 1.0 / math.pi
CFL = 0.25
REACH = 4  # two ghost cells for the predictor, two for the corrector
NUM_MODES = 32  # exp(-DIFFUSIVITY (2 pi 32)^2 0.01) is 1e-56
TIMES = np.linspace(0.0, 2.0, 201)


def compat(
    sample: equation.Sample, nx: int, times: Sequence[float]
) -> Float[Array, "b t x"]:
    """Limited slopes, upwind flux, central diffusion, midpoint rule; float32.

    The step is that of diffusion: |u| < 4 makes the other limit, `CFL dx / max |u|`,
    the larger one on grids of 7 cells or more.
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


def accurate(
    sample: equation.Sample,
    nx: int,
    times: Sequence[float],
    num_points: int = scalar.NUM_FINE,
) -> Float[Array, "b t x"]:
    r"""Solve exactly, up to the quadrature of the initial field; float64.

    In the frame that moves with the mean m, `u = m - 2 D p_x / p` where p solves
    `p_t = D p_xx` and starts as `exp(-\int_0^x (u_0 - m) / (2 D))`, which is periodic.

    Args:
      sample: of `draw`, or some of its rows.
      nx: cells.
      times: at least 0.01 apart: only the lowest modes of p are kept.
      num_points: of the quadrature (midpoints).
    """
    u = scalar.fine(sample, nx, num_points)
    mean = u.mean(1, keepdims=True)
    upto = jnp.cumsum(u - mean, axis=1) / num_points  # right ends of the intervals
    heat = jnp.exp(-jnp.roll(upto, 1, axis=1) / (2 * DIFFUSIVITY))
    modes = fourier.analyse(heat, NUM_MODES, 0.0)
    wave = 2 * np.pi * np.arange(NUM_MODES + 1)
    later = jnp.asarray(times[1:], jnp.float64)[:, None]
    decay = jnp.exp(-DIFFUSIVITY * wave**2 * later)
    drift = jnp.exp(-1j * wave * mean[:, :, None] * later)  # back to the frame at rest
    modes = modes[:, None] * decay * drift
    centres = equation.centres(scalar.DOMAIN, nx)
    value = fourier.synthesise(modes, centres)
    slope = fourier.synthesise(1j * wave * modes, centres)
    frames = mean[:, :, None] - 2 * DIFFUSIVITY * slope / value
    first = scalar.cells(sample, nx, np.float64)
    return jnp.concatenate([first[:, None], frames], 1)


COST = {"compat": (0.04, 128, 3), "accurate": (0.004, 1024, 1)}
EQUATION = scalar.make(compat, accurate, TIMES, COST)
