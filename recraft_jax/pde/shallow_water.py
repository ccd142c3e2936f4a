"""Shallow water, the radial dam break of PDEBench: depth h, momentum h (u, v), g = 1.

    h_t + div(h v) = 0,    (h v)_t + div(h v v + h^2 / 2) = 0

Water at rest, 2 deep within a random radius and 1 deep outside. Mode `compat` is the
method PDEBench calls: PyClaw's second-order wave propagation, Roe's solver with the
entropy fix of Harten and Hyman, x and y sweeps one after the other (Clawpack is BSD;
LeVeque 2002, chapters 15 and 19). It starts from the depth at cell centres; mode
`accurate` gives averages over cells, of the true solution, in every frame. The two
differ at discontinuities, most of all in frame 0, on the rim of the disc.
"""

import functools
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from recraft_jax import errors
from recraft_jax.pde import dam_break, discs, equation

DOMAIN = (-2.5, 2.5)
TIMES = np.linspace(0, 1, 101)
RADII = (0.3, 0.7)
MIN_CELLS = 8

# Mode accurate: rings per cell of the file; the radius no wave has passed at the end.
RINGS = 48
REACH = RADII[1] + 1.4

# PyClaw's defaults. The step is what the last Courant number allows, taken again when
# it turns out too long, and cut to end at a save.
FIRST_STEP = 0.1
COURANT = 0.9
COURANT_MAX = 1.0
GHOSTS = 2

Quarter = Float[Array, "x y"]
# Depth, momentum along the sweep, momentum across it.
State = tuple[Quarter, Quarter, Quarter]


def draw(key: int, num: int, nx: int) -> dict[str, np.ndarray]:
    """Draw the `radius` `[num]` of seeds `key`, `key + 1`, ..."""
    if nx < MIN_CELLS:
        raise errors.InputError(
            f"shallow water: nx is {nx}, allowed are {MIN_CELLS} cells or more"
        )
    seeds = range(key, key + num)
    radius = [np.random.RandomState(seed).uniform(*RADII) for seed in seeds]
    return {"radius": np.array(radius)}


def solve(
    sample: Mapping[str, Float[Array, " b"]], *, nx: int, mode: str
) -> dict[str, Float[Array, "b t x y 1"]]:
    """Solve for the depth; both modes need 64-bit types."""
    radius = jnp.asarray(sample["radius"], jnp.float64)
    if mode == "accurate":
        depth = _accurate(radius, nx)
    else:
        # One after the other, samples stay in a core's cache; devices need them all.
        one = functools.partial(_compat, nx=nx)
        depth = jax.lax.platform_dependent(
            radius, cpu=lambda r: jax.lax.map(one, r), default=jax.vmap(one)
        )
    return {"data": depth[..., None]}


def _accurate(
    radius: Float[Array, " b"], nx: int, inside: int = dam_break.INSIDE
) -> Float[Array, "b t x y"]:
    """Solve in the radius and average over cells; no wave reaches the boundary."""
    spacing = (DOMAIN[1] - DOMAIN[0]) / nx
    ring = spacing / RINGS
    num_rings = int(np.ceil(REACH / ring))
    rings = ring * np.arange(num_rings + 1)
    first = dam_break.start(inside, TIMES[-1] / RADII[0])
    excess = dam_break.frames(radius, TIMES, rings, first, inside)
    weights = discs.averaging(nx, spacing, ring, num_rings)
    found = jax.lax.map(lambda e: discs.average(weights, e), excess)
    return dam_break.DEPTHS[1] + found


def _compat(radius: Float[Array, ""], nx: int) -> Float[Array, "t x y"]:
    """March on the grid of the file.

    The method keeps the symmetry under x -> -x and y -> -y, so a quarter of the grid is
    enough: the cells from the middle on.
    """
    half, is_odd = nx // 2, nx % 2
    x = equation.centres(DOMAIN, nx)[half:]
    depth = jnp.where(np.hypot(x[:, None], x) <= radius, *dam_break.DEPTHS)
    rest = 0 * depth
    spacing = (DOMAIN[1] - DOMAIN[0]) / nx

    def advance(carry, save):
        state, clock, wish = carry
        left = save - clock
        is_last = wish >= left * (1 - 1e-12)
        dt = jnp.where(is_last, left, wish)
        new, speed = _step(state, dt / spacing, is_odd)
        accept = speed * dt / spacing <= COURANT_MAX
        state = jax.tree.map(lambda n, o: jnp.where(accept, n, o), new, state)
        reached = jnp.where(is_last, save, clock + dt)
        clock = jnp.where(accept, reached, clock)
        return state, clock, COURANT * spacing / speed

    def to_save(carry, save):
        carry = jax.lax.while_loop(
            lambda c: c[1] < save, lambda c: advance(c, save), carry
        )
        return carry, carry[0][0]

    clock = 0 * radius  # not a constant, which under shard_map is of another type
    start = (depth, rest, rest), clock, clock + FIRST_STEP
    _, frames = jax.lax.scan(to_save, start, jnp.asarray(TIMES[1:]))
    quarter = jnp.concatenate([depth[None], frames])
    mirror = np.abs(np.arange(nx) - half) - (1 - is_odd) * (np.arange(nx) < half)
    return quarter[:, mirror[:, None], mirror]


def _step(
    state: State, ratio: Float[Array, ""], is_odd: int
) -> tuple[State, Float[Array, ""]]:
    """Sweep along x, then along y; `ratio` is time step over spacing.

    Returns:
      The new state and the fastest wave met in either sweep.
    """
    h, p, q = state
    (h, p, q), along_x = _sweep((h, p, q), ratio, is_odd, 0)
    (h, q, p), along_y = _sweep((h, q, p), ratio, is_odd, 1)
    return (h, p, q), jnp.maximum(along_x, along_y)


def _pad(c: Quarter, sign: int, is_odd: int, axis: int) -> Float[Array, "_ _"]:
    """Add ghost cells: the mirror image before the first cell, the last one beyond.

    The first cell starts at the middle of the grid; if `is_odd`, it is astride.
    """
    cut = functools.partial(jax.lax.slice_in_dim, c, axis=axis)
    image = sign * jnp.flip(cut(is_odd, is_odd + GHOSTS), axis)
    return jnp.concatenate([image, c] + [cut(-1, None)] * GHOSTS, axis)


def _sweep(
    state: State, ratio: Float[Array, ""], is_odd: int, axis: int
) -> tuple[State, Float[Array, ""]]:
    """Propagate the waves of every interface along one axis."""
    signs = (1, -1, 1)
    cells = [_pad(c, s, is_odd, axis) for c, s in zip(state, signs, strict=True)]

    def cut(a, start, stop):
        return jax.lax.slice_in_dim(a, start, a.shape[axis] + stop, axis=axis)

    before, after = ([cut(c, *ends) for c in cells] for ends in ((0, -1), (1, 0)))
    speeds, waves, across = _roe(before, after)
    # Of n + 3 interfaces, the n + 1 in the middle touch a cell of the grid.
    inner = functools.partial(jax.tree.map, lambda a: cut(a, 1, -1))
    speed = jnp.max(jnp.stack([jnp.max(jnp.abs(s)) for s in inner(speeds)]))
    leftward, rightward = _fluctuations(*inner((before, after, speeds, waves, across)))

    limited = []
    for s, a, strength in zip(
        inner(speeds), inner(waves), _limiters(speeds, waves, across, cut), strict=True
    ):
        limited.append(0.5 * jnp.abs(s) * (1 - jnp.abs(s) * ratio) * strength * a)
    corrections = _assemble(limited, inner(speeds), inner(across))

    def update(c, left, right, flux):
        moved = cut(right, 0, -1) + cut(left, 1, 0) + cut(flux, 1, 0) - cut(flux, 0, -1)
        return c - ratio * moved

    new = map(update, state, leftward, rightward, corrections)
    return tuple(new), speed


def _limiters(speeds, waves, across, cut):
    """How much of each inner wave is kept, by the monotonised central limiter.

    A wave is compared with its neighbour upwind, projected on it.
    """
    for index, (s, a) in enumerate(zip(speeds, waves, strict=True)):
        # The vectors along which the waves jump, (1, s, v), or (0, 0, 1) for shear.
        others = () if index == 1 else (s, across)

        def dot(one, other, a=a, others=others):
            product = cut(a, *one) * cut(a, *other)
            if not others:
                return product
            return product * (1 + sum(cut(v, *one) * cut(v, *other) for v in others))

        left, here, right = (0, -2), (1, -1), (2, 0)
        norm = dot(here, here)
        near = jnp.where(cut(s, *here) > 0, dot(left, here), dot(here, right))
        theta = near / jnp.where(norm == 0, 1, norm)
        yield jnp.maximum(0, jnp.minimum(jnp.minimum((1 + theta) / 2, 2), 2 * theta))


def _assemble(parts, speeds, across):
    """Sum multiples of the three waves to depth, momentum along and across."""
    first, shear, third = parts
    both = first + third
    return both, first * speeds[0] + third * speeds[2], both * across + shear


def _roe(before, after):
    """Speeds, strengths of the three waves and the transverse velocity, by Roe."""
    (h0, p0, q0), (h1, p1, q1) = before, after
    root0, root1 = jnp.sqrt(h0), jnp.sqrt(h1)
    both = root0 + root1
    u = (p0 / root0 + p1 / root1) / both
    v = (q0 / root0 + q1 / root1) / both
    c = jnp.sqrt(0.5 * (h0 + h1))
    dh, dp, dq = h1 - h0, p1 - p0, q1 - q0
    first = ((u + c) * dh - dp) / (2 * c)
    third = (dp - (u - c) * dh) / (2 * c)
    return (u - c, u, u + c), (first, dq - v * dh, third), v


def _fluctuations(before, after, speeds, waves, across):
    """Split the jump of the flux into what moves left and what moves right.

    A wave that spreads across the interface, its ends moving either way, is shared out
    (the fix for the entropy); Roe's solver would move it as one.
    """
    (h0, p0, _), (h1, p1, _) = before, after
    s1, s2, s3 = speeds
    a1, a2, a3 = waves

    def split(slow, fast, s):
        spread = (slow < 0) & (fast > 0)
        part = slow * (fast - s) / jnp.where(spread, fast - slow, 1)
        return jnp.where(spread, part, jnp.minimum(s, 0))

    edge = p0 / h0 - jnp.sqrt(h0)
    h = h0 + a1
    part1 = split(edge, (p0 + a1 * s1) / h - jnp.sqrt(h), s1)
    part1 = jnp.where((edge > 0) & (s1 > 0), 0, part1)
    h = h1 - a3
    edge = p1 / h1 + jnp.sqrt(h1)
    part3 = split((p1 - a3 * s3) / h + jnp.sqrt(h), edge, s3)
    part3 = jnp.where(s2 > 0, 0, part3)

    parts = (part1 * a1, jnp.minimum(s2, 0) * a2, part3 * a3)
    left = _assemble(parts, speeds, across)
    whole = _assemble((s1 * a1, s2 * a2, s3 * a3), speeds, across)
    return left, [w - x for w, x in zip(whole, left, strict=True)]


EQUATION = equation.Equation(
    draw=draw,
    solve=solve,
    times=TIMES,
    domain=DOMAIN,
    run_size=1000,
    cost={"compat": (0.01, 32, 3), "accurate": (0.15, 64, 0)},
    is_seeded=True,
    wide_modes=("compat", "accurate"),
)
