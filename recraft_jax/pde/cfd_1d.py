"""Compressible Navier-Stokes in one dimension, eta = zeta = 0.1, periodic on (-1, 1).

PDEBench's `1D_CFD_Rand_Eta0.1_Zeta0.1_periodic_Train`: the equations of `compressible`.
Density, pressure and velocity start as three independent sums of sines, half of them
cut to a window; density and pressure are mapped to a range drawn per sample.

Mode `compat` is within 3e-4 of PDEBench's frames (relative, 64 cells). Mode `accurate`
is compared with 4,096 points in place of 1,024: over all frames of a sample the density
is off by 2e-5 in the median and less than 1e-4 in the mean over samples, pressure and
velocity by less. Fields that start from |u| have kinks, which nothing smooths in the
density; there one sample in 16 was off by 9e-4, and by 1.5e-3 in its worst frame.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from recraft_jax import errors
from recraft_jax.pde import compressible, equation, sines, spectral_flow

DOMAIN = (-1.0, 1.0)
LENGTH = 2.0
TIMES = np.linspace(0.0, 1.0, 101)
NUM_MODES = 3
MIN_CELLS = 16  # more than two per period of the shortest wave

FIELDS = ("density", "pressure", "velocity")
# Least and most of both the lowest value and the spread of a field.
RANGES = {"density": (1.0, 10.0), "pressure": (10.0, 100.0)}

# Mode accurate: least number of points, steps between frames, and how often they are
# halved before each of the frames. Kinks and windows are sharp at the beginning.
NUM_FINE = 1024
NUM_STEPS = 8
HALVINGS = (4, 3, *[2] * 8, *[1] * 90)


def draw(key: int, num: int, nx: int) -> dict[str, np.ndarray]:
    """Draw the initial fields of a run; `nx` does not change them.

    Density, pressure and velocity take the keys `key`, `key + 1` and `key + 2`.

    Returns:
      What `sines.draw` draws for each field, under names that begin with the field's;
      for density and pressure the `spread` and the `low` `[num 1]` too.

    Raises:
      InputError: too few cells or samples.
    """
    if num < 1 or nx < MIN_CELLS:
        raise errors.InputError(
            f"{num} samples of {nx} cells; allowed: at least 1 sample of {MIN_CELLS}"
        )
    sample = {}
    for offset, name in enumerate(FIELDS):
        first = jax.random.PRNGKey(key + offset)
        found = sines.draw(first, num, num_modes=NUM_MODES, window_prob=0.5)
        if name in RANGES:
            found |= _draw_range(first, num, *RANGES[name])
        sample |= {f"{name}_{part}": values for part, values in found.items()}
    return sample


def _draw_range(key, num, least, most):
    """Spread and lowest value, log-uniform, from the third and the fourth next key."""
    with jax.threefry_partitionable(False), jax.enable_x64(False):
        for _ in range(3):
            key = jax.random.split(key)[0]
        ends = {"minval": jnp.log(least), "maxval": jnp.log(most)}
        spread = jnp.exp(jax.random.uniform(key, (num, 1), **ends))
        low = jnp.exp(jax.random.uniform(jax.random.split(key)[0], (num, 1), **ends))
    return {"spread": np.asarray(spread), "low": np.asarray(low)}


def initial(
    sample: equation.Sample, nx: int, points: Float[np.ndarray, " p"]
) -> compressible.Fields:
    """Evaluate the fields of a grid of `nx` cells, in the precision of `points`.

    Their period is the distance of the first and the last cell centre, one cell less
    than the domain. So both ends have one value, and over the cell's length in between,
    where cells say nothing, it is kept: no jump, for any `nx`.
    """
    centres = equation.centres(DOMAIN, nx).astype(points.dtype)
    length = centres[-1] - centres[0]
    points = np.clip(points, centres[0], centres[-1])
    fields = []
    for name in FIELDS:
        own = {
            key.removeprefix(f"{name}_"): values
            for key, values in sample.items()
            if key.startswith(f"{name}_")
        }
        u = sines.evaluate(own, jnp.asarray(points), length)
        if name in RANGES:
            cells = sines.evaluate(own, jnp.asarray(centres), length)
            low = cells.min(1, keepdims=True)
            u = (u - low) / (cells - low).max(1, keepdims=True)
            u = u * own["spread"].astype(u.dtype) + own["low"].astype(u.dtype)
        fields.append(u)
    return tuple(fields)


def viscous(
    fields: compressible.Fields, dt: Float[Array, " b"], dx: float
) -> compressible.Fields:
    """Take the explicit viscous steps that add up to `dt`: full ones, then the rest.

    The density stays, so that the energy needs only the sum of the squared speeds.
    """
    rho, energy, _ = compressible.conserved(fields)
    step = compressible.viscous_step(dx)
    face = compressible.mean(compressible.wrap(rho, 1, 1), 1)
    face = face * (compressible.DIFFUSIVITY * step / dx**2)
    below, above = face[:, :-1] / rho, face[:, 1:] / rho
    count = jnp.ceil(jnp.max(dt) / step).astype(jnp.int32)

    def advance(index, carry):
        v, squares = carry
        part = jnp.clip(dt / step - index, 0, 1)[:, None]  # of a full step
        jumps = compressible.difference(compressible.wrap(v, 1, 1), 1)
        new = v + part * (above * jumps[:, 1:] - below * jumps[:, :-1])
        return new, squares + part * v * v

    v, squares = jax.lax.fori_loop(0, count, advance, (fields[2], 0 * fields[2]))
    heat = face * compressible.difference(compressible.wrap(squares, 1, 1), 1)
    energy = energy + 0.5 * compressible.difference(heat, 1)
    return compressible.primitive((rho, energy, rho * v))


def compat(
    sample: equation.Sample, nx: int, times: Sequence[float]
) -> list[Float[Array, "b t x"]]:
    """Finite volumes as described in `compressible`, float32."""
    fields = initial(sample, nx, equation.centres(DOMAIN, nx).astype(np.float32))
    return list(compressible.solve(viscous, fields, LENGTH / nx, times))


def accurate(
    sample: equation.Sample,
    nx: int,
    times: Sequence[float],
    num_fine: int = NUM_FINE,
    num_steps: int = NUM_STEPS,
) -> list[Float[Array, "b t x"]]:
    """Fourier series on a finer grid, float64.

    Args:
      sample: of `draw`, or some of its rows.
      nx: cells.
      times: of the frames.
      num_fine: points at least, of which the cells' centres are some.
      num_steps: from frame to frame, before they are halved.
    """
    every = -(-num_fine // nx)
    num_points = every * nx
    points = equation.centres(DOMAIN, nx)[0] + LENGTH / num_points * np.arange(
        num_points
    )
    fields = initial(sample, nx, points)
    halvings = HALVINGS[: len(times) - 1]
    frames = spectral_flow.solve(fields, LENGTH, times, num_steps, halvings)
    return list(jnp.moveaxis(frames[..., ::every], 1, 0))


EQUATION = equation.Equation(
    draw=draw,
    solve=compressible.by_mode(compat, accurate, TIMES, ("density", "pressure", "Vx")),
    times=TIMES,
    domain=DOMAIN,
    run_size=1000,
    cost={"compat": (0.05, 256, 2.2), "accurate": (0.4, 1024, 0.1)},
)
