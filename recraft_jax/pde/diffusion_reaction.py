"""Fisher-KPP."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from recraft_jax.pde import equation, scalar

DIFFUSIVITY = 0.5
GROWTH = 1.0
CFL = 0.25
REACH = 2
TIMES = np.linspace(0.0, 1.0, 101)


def normalise(u, cells):
    low = cells.min(1, keepdims=True)
    return (u - low) / (cells - low).max(1, keepdims=True)


def compat(sample: equation.Sample, nx: int, times) -> Float[Array, "b t x"]:
    dx = 1 / nx

    def update(u, at, dt, stride):
        flux = -DIFFUSIVITY * scalar.difference(at, stride) / dx
        grown = 1 / (1 + jnp.exp(-GROWTH * dt) * (1 - u) / u)
        return grown - dt / dx * scalar.difference(flux, stride)

    def advance(u, dt, stride):
        half = update(u[stride:-stride], u, 0.5 * dt, stride)
        return update(u[2 * stride : -2 * stride], half, dt, stride)

    u = scalar.cells(sample, nx, np.float32)
    return scalar.march(
        advance, REACH, CFL * 0.5 * dx**2 / DIFFUSIVITY, normalise(u, u), times
    )
