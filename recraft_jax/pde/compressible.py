"""What PDEBench's schemes for the compressible Navier-Stokes equations share.

An ideal gas; the viscosity is multiplied by the density, so `ETA` and `ZETA` are
kinematic:

    rho_t + div(rho v) = 0
    (rho v)_t + div(rho v v) + grad p = div S
    E_t + div((E + p) v) = div(S v),   E = p / (GAMMA - 1) + rho |v|^2 / 2
    S = rho [ETA (grad v + grad v^T) + (ZETA - 2 ETA / 3) div v]

A step is MUSCL with HLLC fluxes (Toro 2009, chapter 10), all axes at once, where half a
step forward gives the fluxes of the whole one; then the viscous terms by themselves, in
as many shorter explicit steps as they need.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from recraft_jax.pde import equation, finite_volume

GAMMA = 5 / 3
ETA = 0.1
ZETA = 0.1
# Diffusivity of a velocity along its wave vector; across it, ETA.
DIFFUSIVITY = 4 * ETA / 3 + ZETA

CFL = 0.3
PRESSURE_LEAST = 1e-8
PRESSURE_FLOOR = 1e-4  # what a smaller pressure is set to
GROUP_CELLS = 2048  # of a group of samples, where more do not pay: see `in_groups`

# rho, p and one velocity per axis of space: `[b x]` or `[b x y]` each. The conserved
# ones are rho, E and the momenta.
Fields = tuple[Float[Array, "b ..."], ...]


def by_mode(
    compat: Callable, accurate: Callable, times: np.ndarray, names: Sequence[str]
) -> Callable[..., dict[str, Array]]:
    """Make `equation.Equation.solve` of a solver for each mode.

    Args:
      compat: `(sample, nx, times) -> frames`, a list of `[b t ...]`.
      accurate: the same.
      times: of the frames.
      names: of the data sets, in the order of the frames.
    """
    solvers = dict(zip(equation.MODES, (compat, accurate), strict=True))

    def solve(sample: equation.Sample, *, nx: int, mode: str) -> dict[str, Array]:
        return dict(zip(names, solvers[mode](sample, nx, times), strict=True))

    return solve


def sound_speed(rho: Float[Array, "*x"], p: Float[Array, "*x"]) -> Float[Array, "*x"]:
    """Speed of sound."""
    return jnp.sqrt(GAMMA * p / rho)


def conserved(fields: Fields) -> Fields:
    """Mass, energy and momenta per volume."""
    rho, p, *speeds = fields
    energy = p / (GAMMA - 1) + 0.5 * rho * sum(v * v for v in speeds)
    return (rho, energy, *(rho * v for v in speeds))


def primitive(densities: Fields) -> Fields:
    """Density, pressure (not below its floor) and velocities."""
    rho, energy, *momenta = densities
    speeds = tuple(m / rho for m in momenta)
    p = (GAMMA - 1) * (energy - 0.5 * rho * sum(v * v for v in speeds))
    return (rho, jnp.where(p <= PRESSURE_LEAST, PRESSURE_FLOOR, p), *speeds)


def cut(
    u: Float[Array, "..."], start: int, stop: int, axis: int
) -> Float[Array, "..."]:
    """Slice one axis; `stop` counts from its end and is 0 or less."""
    return jax.lax.slice_in_dim(u, start, u.shape[axis] + stop, axis=axis)


def wrap(u: Float[Array, "..."], cells: int, axis: int) -> Float[Array, "..."]:
    """Add periodic ghost cells at both ends of one axis."""
    size = u.shape[axis]
    last, first = cut(u, size - cells, 0, axis), cut(u, 0, cells - size, axis)
    return jnp.concatenate([last, u, first], axis)


def difference(u: Float[Array, "..."], axis: int) -> Float[Array, "..."]:
    """Every entry but the first, less the one before it."""
    return cut(u, 1, 0, axis) - cut(u, 0, -1, axis)


def mean(u: Float[Array, "..."], axis: int) -> Float[Array, "..."]:
    """Means of neighbours, one fewer than they are."""
    return 0.5 * (cut(u, 1, 0, axis) + cut(u, 0, -1, axis))


def in_groups(
    solve_fn: Callable[[Fields], Fields], fields: Fields, speed: Float[Array, " b"]
) -> Fields:
    """Solve groups of similarly fast samples one after the other, on a CPU.

    Every sample of a group waits for the fastest one, and a CPU gains nothing from
    arrays of more than a few thousand numbers. Other devices do; there all samples are
    one group.

    Args:
      solve_fn: fields to arrays `[b ...]`.
      fields: of all samples.
      speed: what decides how many steps a sample takes.
    """
    num, cells = len(speed), fields[0][0].size
    size = max(1, min(num, GROUP_CELLS // cells))
    if jax.default_backend() != "cpu" or size == num:
        return solve_fn(fields)
    count = -(-num // size)
    order = jnp.argsort(speed)
    rows = order[np.minimum(np.arange(count * size), num - 1)]  # the last one repeats
    groups = tuple(u[rows].reshape(count, size, *u.shape[1:]) for u in fields)
    found = jax.lax.map(solve_fn, groups)
    back = jnp.argsort(order)
    return jax.tree.map(lambda u: u.reshape(-1, *u.shape[2:])[back], found)


def solve(
    viscous: Callable[[Fields, Float[Array, " b"], float], Fields],
    fields: Fields,
    dx: float,
    times: Sequence[float],
) -> Fields:
    """March from the initial fields; every sample has its own step.

    Args:
      viscous: `(fields, dt, dx) -> fields`, the viscous terms by themselves.
      fields: at the first time, float32.
      dx: spacing, the same along all axes.
      times: of the frames.

    Returns:
      The frames, `[b t x]` or `[b t x y]` each.
    """

    def step(fields, dt):
        return viscous(inviscid(fields, dt, dx), dt, dx)

    def limit(fields):
        return acoustic_step(fields, dx)

    def march(fields):
        return finite_volume.march(step, limit, fields, times, per_look=1)

    return in_groups(march, fields, limit(fields))


def acoustic_step(fields: Fields, dx: float) -> Float[Array, " b"]:
    """Longest inviscid step of each sample."""
    rho, p, *speeds = fields
    fastest = jnp.sqrt(sum(v * v for v in speeds)) + sound_speed(rho, p)
    return CFL * dx / fastest.max(tuple(range(1, rho.ndim)))


def viscous_step(dx: float) -> float:
    """Longest viscous step."""
    return CFL * 0.5 * dx**2 / DIFFUSIVITY


def inviscid(fields: Fields, dt: Float[Array, " b"], dx: float) -> Fields:
    """Take one step of Euler's equations.

    The two stages are one loop and the fluxes are behind a branch, because XLA fuses
    across neither: it would compute the fluxes once for each of their many uses.
    """
    axes = range(1, fields[0].ndim)
    ratio = (dt / dx).reshape(-1, *[1] * len(axes))
    start = conserved(fields)
    moves = jnp.any(dt > 0)

    def stage(fields, ratio):
        new = start
        for axis in axes:
            shape = list(fields[0].shape)
            shape[axis] += 1
            rest = tuple(jnp.zeros(shape, u.dtype) for u in fields)
            flux = jax.lax.cond(
                moves, lambda f, r, a=axis: fluxes(f, a), lambda f, r: r, fields, rest
            )
            new = tuple(
                u - ratio * difference(f, axis) for u, f in zip(new, flux, strict=True)
            )
        return primitive(new), None

    return jax.lax.scan(stage, fields, jnp.stack([0.5 * ratio, ratio]))[0]


def fluxes(fields: Fields, axis: int) -> Fields:
    """Fluxes through all faces along one axis, the first one repeated as the last.

    Both states of a face are reconstructed with limited slopes. Those never take the
    density or the pressure below the lower one of the two cells, so that PDEBench's
    way out for negative ones is not needed.
    """
    left, right = [], []
    for u in fields:
        cells = wrap(u, 2, axis)
        middle = cut(cells, 1, -1, axis)
        slope = finite_volume.mc_slope(
            cut(cells, 0, -2, axis), middle, cut(cells, 2, 0, axis)
        )
        left.append(cut(middle + 0.5 * slope, 0, -1, axis))
        right.append(cut(middle - 0.5 * slope, 1, 0, axis))
    return hllc(tuple(left), tuple(right), axis - 1)


def hllc(left: Fields, right: Fields, along: int) -> Fields:
    """Flux of mass, energy and momenta between two states.

    Args:
      left: below the face.
      right: above the face.
      along: which velocity is normal to it.
    """
    (rho_l, p_l), (rho_r, p_r) = left[:2], right[:2]
    v_l, v_r = left[2 + along], right[2 + along]
    c = jnp.maximum(sound_speed(rho_l, p_l), sound_speed(rho_r, p_r))
    slowest, fastest = jnp.minimum(v_l, v_r) - c, jnp.maximum(v_l, v_r) + c
    mass_l, mass_r = rho_l * (slowest - v_l), rho_r * (fastest - v_r)
    contact = (p_r - p_l + mass_l * v_l - mass_r * v_r) / (mass_l - mass_r)

    # The flux is that of the side which the contact moves away from.
    is_left = contact > 0
    fields = tuple(jnp.where(is_left, a, b) for a, b in zip(left, right, strict=True))
    rho, p, v = fields[0], fields[1], fields[2 + along]
    speed = jnp.where(is_left, slowest, fastest)
    is_outside = jnp.where(is_left, slowest > 0, fastest < 0)
    ratio = jnp.where(is_outside, 1, (speed - v) / (speed - contact))  # of densities
    rise = jnp.where(is_outside, 0, rho * (speed - v) * (contact - v))  # of pressure
    normal = jnp.where(is_outside, v, contact)
    mass, energy, *momenta = (ratio * u for u in conserved(fields))
    work = jnp.where(is_outside, 0, ((p + rise) * contact - p * v) / (speed - contact))
    flux = [mass * normal, (energy + work + p + rise) * normal]
    flux += [m * normal for m in momenta]
    flux[2 + along] = mass * normal * normal + p + rise
    return tuple(flux)
