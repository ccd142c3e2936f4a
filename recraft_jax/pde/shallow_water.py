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
from jaxtyping import Array, Bool, Float

from recraft_jax import errors
from recraft_jax.pde import equation

DOMAIN = (-2.5, 2.5)
TIMES = np.linspace(0, 1, 101)
RADII = (0.3, 0.7)
INSIDE, OUTSIDE = 2.0, 1.0  # depths
MIN_CELLS = 8

# PyClaw's defaults. The step is what the last Courant number allows, taken again when
# it turns out too long, and cut to end at a save.
FIRST_STEP = 0.1
COURANT = 0.9
COURANT_MAX = 1.0
GHOSTS = 2

Quarter = Float[Array, "b x y"]
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
    depth = {"compat": _compat}[mode](radius, nx)
    return {"data": depth[..., None]}


def _compat(radius: Float[Array, " b"], nx: int) -> Float[Array, "b t x y"]:
    """March on the grid of the file, each sample with its own clock and step.

    The method keeps the symmetry under x -> -x and y -> -y, so a quarter of the grid is
    enough: the cells from the middle on.
    """
    half, is_odd = nx // 2, nx % 2
    x = equation.centres(DOMAIN, nx)[half:]
    is_inside = np.hypot(x[:, None], x) <= radius[:, None, None]
    depth = jnp.where(is_inside, INSIDE, OUTSIDE)
    rest = jnp.zeros_like(depth)
    spacing = (DOMAIN[1] - DOMAIN[0]) / nx

    def advance(carry, save):
        state, clock, wish = carry
        left = save - clock
        is_last = wish >= left * (1 - 1e-12)
        dt = jnp.where(is_last, left, wish)
        new, speed = _step(state, dt / spacing, is_odd)
        courant = speed * dt / spacing
        accept = (left > 0) & (courant <= COURANT_MAX)
        state = jax.tree.map(lambda n, o: _choose(accept, n, o), new, state)
        clock = jnp.where(accept, jnp.where(is_last, save, clock + dt), clock)
        wish = jnp.where(left > 0, COURANT * spacing / speed, wish)
        return state, clock, wish

    def to_save(carry, save):
        carry = jax.lax.while_loop(
            lambda c: jnp.any(c[1] < save), lambda c: advance(c, save), carry
        )
        return carry, carry[0][0]

    start = jnp.zeros_like(radius), jnp.full_like(radius, FIRST_STEP)
    saves = jnp.asarray(TIMES[1:])
    _, frames = jax.lax.scan(to_save, ((depth, rest, rest), *start), saves)
    quarter = jnp.concatenate([depth[:, None], jnp.swapaxes(frames, 0, 1)], 1)
    mirror = np.abs(np.arange(nx) - half) - (1 - is_odd) * (np.arange(nx) < half)
    return quarter[:, :, mirror[:, None], mirror]


def _choose(which: Bool[Array, " b"], a: Quarter, b: Quarter) -> Quarter:
    return jnp.where(which[:, None, None], a, b)


def _step(
    state: State, ratio: Float[Array, " b"], is_odd: int
) -> tuple[State, Float[Array, " b"]]:
    """Sweep along x, then along y; `ratio` is time step over spacing.

    Returns:
      The new state and the fastest wave met in either sweep.
    """
    h, p, q = state
    (h, p, q), along_x = _sweep((h, p, q), ratio, is_odd, 1)
    (h, q, p), along_y = _sweep((h, q, p), ratio, is_odd, 2)
    return (h, p, q), jnp.maximum(along_x, along_y)


def _pad(c: Quarter, sign: int, is_odd: int, axis: int) -> Float[Array, "b _ _"]:
    """Add ghost cells: the mirror image before the first cell, the last one beyond.

    The first cell starts at the middle of the grid; if `is_odd`, it is astride.
    """
    cut = functools.partial(jax.lax.slice_in_dim, c, axis=axis)
    image = sign * jnp.flip(cut(is_odd, is_odd + GHOSTS), axis)
    return jnp.concatenate([image, c] + [cut(-1, None)] * GHOSTS, axis)


def _sweep(
    state: State, ratio: Float[Array, " b"], is_odd: int, axis: int
) -> tuple[State, Float[Array, " b"]]:
    """Propagate the waves of every interface along one axis."""
    signs = (1, -1, 1)
    cells = [_pad(c, s, is_odd, axis) for c, s in zip(state, signs, strict=True)]

    def cut(a, start, stop):
        return jax.lax.slice_in_dim(a, start, a.shape[axis] + stop, axis=axis)

    before, after = ([cut(c, *ends) for c in cells] for ends in ((0, -1), (1, 0)))
    speeds, waves, across = _roe(before, after)
    ratio = ratio[:, None, None]
    # Of n + 3 interfaces, the n + 1 in the middle touch a cell of the grid.
    inner = [cut(s, 1, -1) for s in speeds]
    fastest = jnp.max(jnp.stack([jnp.max(jnp.abs(s), (1, 2)) for s in inner]), 0)
    leftward, rightward = _fluctuations(
        *([cut(c, 1, -1) for c in side] for side in (before, after)),
        inner,
        [cut(w, 1, -1) for w in waves],
        cut(across, 1, -1),
    )

    # Strength of the waves, times (1, s, v) or, for the shear wave, (0, 0, 1).
    limited = []
    for index, (s, a) in enumerate(zip(speeds, waves, strict=True)):
        v = across
        here = cut(a, 1, -1)

        def dot(one, other, s=s, a=a, v=v, index=index):
            s0, s1 = cut(s, *one), cut(s, *other)
            product = cut(a, *one) * cut(a, *other)
            if index == 1:
                return product
            return product * (1 + s0 * s1 + cut(v, *one) * cut(v, *other))

        norm = dot((1, -1), (1, -1))
        near = jnp.where(cut(s, 1, -1) > 0, dot((0, -2), (1, -1)), dot((1, -1), (2, 0)))
        theta = near / jnp.where(norm == 0, 1, norm)
        phi = jnp.maximum(0, jnp.minimum(jnp.minimum((1 + theta) / 2, 2), 2 * theta))
        size = jnp.abs(inner[index])
        limited.append(0.5 * size * (1 - size * ratio) * phi * here)
    v = cut(across, 1, -1)
    correction = (
        limited[0] + limited[2],
        limited[0] * inner[0] + limited[2] * inner[2],
        (limited[0] + limited[2]) * v + limited[1],
    )

    def update(c, left, right, flux):
        moved = cut(right, 0, -1) + cut(left, 1, 0) + cut(flux, 1, 0) - cut(flux, 0, -1)
        return c - ratio * moved

    new = map(update, state, leftward, rightward, correction)
    return tuple(new), fastest


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
    """Split the jump of the flux into what moves left and what moves right."""
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

    def assemble(b1, b2, b3):
        return b1 + b3, b1 * s1 + b3 * s3, (b1 + b3) * across + b2

    left = assemble(part1 * a1, jnp.minimum(s2, 0) * a2, part3 * a3)
    whole = assemble(s1 * a1, s2 * a2, s3 * a3)
    return left, [w - x for w, x in zip(whole, left, strict=True)]


EQUATION = equation.Equation(
    draw=draw,
    solve=solve,
    times=TIMES,
    domain=DOMAIN,
    run_size=1000,
    wide_modes=("compat", "accurate"),
)
