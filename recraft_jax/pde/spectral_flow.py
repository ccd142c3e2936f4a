r"""Compressible Navier-Stokes by Fourier series and exponential integrators, float64.

The equations of `compressible` for density, pressure and velocity. As the viscosity is
multiplied by the density, the viscous force is linear but for a rest:

    rho_t = -div(rho v)
    p_t = -v . grad p - GAMMA p div v + (GAMMA - 1) rho T : grad v
    v_t = A v - (v . grad) v + (T grad rho - grad p) / rho
    A v = div T,   T = ETA (grad v + grad v^T) + (ZETA - 2 ETA / 3) div v

A multiplies the parts of a wave along and across its wave vector by one number each and
is integrated exactly (ETDRK4, Cox and Matthews 2002). Short sound waves are overdamped,
so that only advection bounds the step. The mean density is exact. Waves next to the
highest ones are damped against aliasing (Hou and Li 2007).
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Complex, Float

from recraft_jax.pde import compressible

SHARPNESS = 36  # of the filter exp(-SHARPNESS (k / k_max)^SHARPNESS)
# Highest wave number times speed times step. Stable to 2.8; the speed is that at the
# beginning of a step, before it is divided.
COURANT = 2.0
MAX_HALVINGS = 8
NUM_TERMS = 16  # of Taylor series at |z| < 1: 1 / 16! is 5e-14

Waves = Complex[Array, "b c *k"]  # of rho, p and the velocities
Factor = Float[Array, "*k"]


class Weights(NamedTuple):
    """Factors of one step, for three kinds of rates: 0, along and across the wave.

    Attributes:
      decay: over the step.
      half_decay: over half of it.
      half: of the rate in half a step.
      first, middle, last: of the rates in the whole step.
    """

    decay: tuple[Factor, ...]
    half_decay: tuple[Factor, ...]
    half: tuple[Factor, ...]
    first: tuple[Factor, ...]
    middle: tuple[Factor, ...]
    last: tuple[Factor, ...]


def solve(
    fields: compressible.Fields,
    length: float,
    times: Sequence[float],
    num_steps: int,
    halvings: Sequence[int],
) -> Float[Array, "b c t *x"]:
    """Solve from the first time on, with the same period along all axes.

    Args:
      fields: at the first time, on an equidistant grid.
      length: the period.
      times: of the frames, equally spaced.
      num_steps: from frame to frame.
      halvings: how often each step is halved, at least, before each later frame; where
        one sample flows too fast for this, all of its group take more of them.

    Returns:
      The frames of rho, p and the velocities.
    """
    speed = sum(jnp.abs(v) for v in fields[2:]).reshape(len(fields[0]), -1).max(1)

    def march(fields):
        return _march(jnp.stack(fields, 1), length, times, num_steps, halvings)

    return compressible.in_groups(march, fields, speed)


def _march(start, length, times, num_steps, halvings):
    shape = start.shape[2:]
    axes = tuple(range(2, start.ndim))
    numbers = wave_numbers(shape, length)
    highest = max(np.abs(k).max() for k in numbers)
    keep = hou_li(numbers)
    step = (times[1] - times[0]) / num_steps
    squared = sum(k * k for k in numbers)
    steps = jnp.asarray(step / 2.0 ** np.arange(MAX_HALVINGS + 1))
    table = jax.lax.map(lambda h: weights(squared, h), steps)

    def to_grid(waves):
        return jnp.fft.irfftn(waves, shape, axes)

    def slope(waves):
        derivatives = jnp.concatenate([waves, *(1j * k * waves for k in numbers)], 1)
        flux, rest = rates(to_grid(derivatives), len(numbers))
        flux, rest = (jnp.fft.rfftn(u, axes=axes) for u in (flux, rest))
        mass = -1j * sum(k * flux[:, i] for i, k in enumerate(numbers))
        return keep * jnp.concatenate([mass[:, None], rest], 1)

    def advance(least, waves):
        speed = jnp.abs(to_grid(waves[:, 2:])).sum(1).max()
        count = jnp.ceil(jnp.log2(highest * speed * step / COURANT))
        count = jnp.clip(count, least, MAX_HALVINGS).astype(jnp.int32)
        chosen = jax.tree.map(lambda t: t[count], table)

        def part(_, waves):
            return etdrk4(waves, slope, chosen, numbers)

        return jax.lax.fori_loop(0, 2**count, part, waves)

    def to_save(waves, least):
        waves = jax.lax.fori_loop(
            0, num_steps, lambda _, waves: advance(least, waves), waves
        )
        return waves, to_grid(waves)

    waves = keep * jnp.fft.rfftn(start, axes=axes)
    _, frames = jax.lax.scan(to_save, waves, jnp.asarray(halvings, jnp.int32))
    return jnp.concatenate([start[:, :, None], jnp.moveaxis(frames, 0, 2)], 2)


def wave_numbers(shape: Sequence[int], length: float) -> list[np.ndarray]:
    """Wave numbers along each axis, in the shape that broadcasts over `rfftn`."""
    found = []
    for axis, size in enumerate(shape):
        after = len(shape) - 1 - axis
        frequencies = np.fft.fftfreq if after else np.fft.rfftfreq
        k = frequencies(size, length / (2 * np.pi * size))
        found.append(k.reshape(-1, *[1] * after))
    return found


def hou_li(numbers: Sequence[np.ndarray]) -> np.ndarray:
    """Factors of the filter, which leaves the lower two thirds of the waves alone."""
    exponents = ((np.abs(k) / np.abs(k).max()) ** SHARPNESS for k in numbers)
    return np.exp(-SHARPNESS * sum(exponents))


def rates(
    grid: Float[Array, "b c *x"], num_axes: int
) -> tuple[Float[Array, "b a *x"], Float[Array, "b e *x"]]:
    """Compute what changes the fields, but for the linear viscous force.

    Args:
      grid: rho, p, the velocities; then their derivatives along each axis.
      num_axes: of space.

    Returns:
      The flux of mass, and the rates of p and the velocities.
    """
    (rho, p, *v), *slopes = jnp.split(jnp.moveaxis(grid, 1, 0), num_axes + 1)
    axes = range(num_axes)
    drho, dp = ([slopes[j][c] for j in axes] for c in (0, 1))
    dv = [[slopes[j][2 + i] for j in axes] for i in axes]
    div = sum(dv[i][i] for i in axes)
    bulk = (compressible.ZETA - 2 * compressible.ETA / 3) * div
    shear = [[compressible.ETA * (dv[i][j] + dv[j][i]) for j in axes] for i in axes]
    stress = [[shear[i][j] + bulk * (i == j) for j in axes] for i in axes]
    heat = sum(stress[i][j] * dv[i][j] for i in axes for j in axes)
    rest = [
        (compressible.GAMMA - 1) * rho * heat
        - compressible.GAMMA * p * div
        - sum(v[j] * dp[j] for j in axes)
    ]
    for i in axes:
        force = sum(stress[i][j] * drho[j] for j in axes) - dp[i]
        rest.append(force / rho - sum(v[j] * dv[i][j] for j in axes))
    return jnp.stack([rho * u for u in v], 1), jnp.stack(rest, 1)


def phi(z: Float[Array, "*k"]) -> tuple[Float[Array, "*k"], ...]:
    """Return phi_1, phi_2, phi_3 of z <= 0: the means of exp((1 - s) z) s^j / j!."""
    near = jnp.where(z > -1, z, 0)
    series = jnp.zeros_like(z)
    factorial = np.cumprod(np.arange(1.0, NUM_TERMS + 4))  # of 1, 2, ...
    for order in reversed(range(NUM_TERMS)):
        series = series * near + 1 / factorial[order + 2]
    far = jnp.where(z > -1, -1, z)
    direct = ((jnp.expm1(far) / far - 1) / far - 0.5) / far
    third = jnp.where(z > -1, series, direct)
    second = third * z + 0.5
    return second * z + 1, second, third


def weights(squared: Float[np.ndarray, "*k"], step: Float[Array, ""]) -> Weights:
    """Compute the weights of a step for waves of these squared wave numbers."""

    def kind(diffusivity):
        z = jnp.asarray(-diffusivity * squared) * step
        one, two, three = phi(z)
        half = 0.5 * phi(0.5 * z)[0]
        first, middle, last = (
            one - 3 * two + 4 * three,
            two - 2 * three,
            4 * three - two,
        )
        sizes = (step * u for u in (half, first, 2 * middle, last))
        return (jnp.exp(z), jnp.exp(0.5 * z), *sizes)

    kinds = (kind(d) for d in (0.0, compressible.DIFFUSIVITY, compressible.ETA))
    return Weights(*zip(*kinds, strict=True))


def weigh(
    factors: tuple[Factor, ...], waves: Waves, numbers: Sequence[np.ndarray]
) -> Waves:
    """Multiply rho and p, and the velocities along and across the wave vector."""
    none, along, across = factors
    squared = sum(k * k for k in numbers)
    dot = sum(k * waves[:, 2 + i] for i, k in enumerate(numbers))
    dot = (along - across) * dot / np.where(squared == 0, 1, squared)
    velocities = [across * waves[:, 2 + i] + k * dot for i, k in enumerate(numbers)]
    return jnp.stack([none * waves[:, 0], none * waves[:, 1], *velocities], 1)


def etdrk4(
    waves: Waves,
    slope: Callable[[Waves], Waves],
    table: Weights,
    numbers: Sequence[np.ndarray],
) -> Waves:
    """Take one step of the scheme of Cox and Matthews."""

    def by(factors, waves):
        return weigh(factors, waves, numbers)

    decayed = by(table.half_decay, waves)
    rate0 = slope(waves)
    stage1 = decayed + by(table.half, rate0)
    rate1 = slope(stage1)
    rate2 = slope(decayed + by(table.half, rate1))
    stage3 = by(table.half_decay, stage1) + by(table.half, 2 * rate2 - rate0)
    rate3 = slope(stage3)
    return (
        by(table.decay, waves)
        + by(table.first, rate0)
        + by(table.middle, rate1 + rate2)
        + by(table.last, rate3)
    )
