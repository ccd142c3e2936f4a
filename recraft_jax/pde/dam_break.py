"""The radial dam break on a fine grid in the radius, for mode `accurate`.

    (r h)_t + (r h u)_r = 0,    (r h u)_t + (r (h u^2 + h^2 / 2))_r = h^2 / 2

Scaling r and t by the radius of the disc maps every dam break with the same depths to
one, so one march serves a whole batch: for each frame a step is taken aside, to exactly
its scaled time, and the march goes on as if it had not been. Results do not depend on
who shares a batch.

What the scheme gets wrong is the start, when the waves span a few cells, and it stays
in the slope of the rarefaction. So the march begins in a narrow window of fine cells
round the dam; each time the waves have filled it, pairs of cells merge and the window
doubles, until it reaches the middle of the disc.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from recraft_jax.pde import finite_volume

DEPTHS = 2.0, 1.0  # inside and outside
INSIDE = 1024  # cells from the middle of the disc to its rim, once the window is there
DOUBLINGS = 5
COURANT = 0.9
SHOCK = 1.37  # its speed at the start; it slows down
REACH = 1.5  # faster than any wave before the window has its full size

Cells = Float[Array, " r"]


class Window(NamedTuple):
    """State of the march in scaled units; the first `inside` cells are in the disc."""

    h: Cells
    m: Cells  # momentum
    spacing: Float[Array, ""]
    clock: Float[Array, ""]


def start(inside: int, duration: float) -> Window:
    """Water at rest, in a window that no wave leaves in the scaled time `duration`.

    `inside` is a power of two, so that the last window begins at 0 exactly.
    """
    # A multiple of four, to merge pairs on both sides.
    outside = 4 * int(np.ceil(inside * (0.02 + SHOCK * duration) / 4))
    h = np.repeat(DEPTHS, (inside, outside))
    return Window(
        jnp.asarray(h),
        jnp.zeros(len(h)),
        jnp.asarray(1 / (inside << DOUBLINGS)),
        jnp.zeros(()),
    )


def _centre(window: Window, inside: int) -> Cells:
    return 1 + window.spacing * (np.arange(len(window.h)) - inside + 0.5)


def _limit(window: Window, inside: int) -> Float[Array, ""]:
    """The largest stable step.

    Cells at the middle hold little for what passes their outer edge; and where the
    rarefaction comes together there, the speed peaks for a moment.
    """
    speed = jnp.abs(window.m / window.h) + jnp.sqrt(window.h)
    stretch = 1 + 0.5 * window.spacing / _centre(window, inside)
    return COURANT * window.spacing / jnp.max(speed * stretch)


def step(window: Window, inside: int, dt: Float[Array, ""]) -> Window:
    """Take one step of the second-order scheme of van Leer and Hancock.

    Limited slopes of depth and velocity, half a step on their own, then the fluxes of
    Harten, Lax, van Leer and Einfeldt, which for two waves resolve a shock as Roe's do.
    The pressure of the source is the mean of the two ends of a cell: water at rest
    stays so.
    """
    h, m, spacing, clock = window
    u = m / h
    per_r = 1 / _centre(window, inside)
    edge = 1 + spacing * (np.arange(len(h) + 1) - inside)
    # Mirror image before the first cell, rest beyond the last.
    around = jnp.concatenate([h[:1], h, h[-1:]])
    dh = finite_volume.mc_slope(around[:-2], h, around[2:])
    around = jnp.concatenate([-u[:1], u, u[-1:]])
    du = finite_volume.mc_slope(around[:-2], u, around[2:])
    half = dt / (2 * spacing)
    h_mid = h - half * (u * dh + h * du) - dt / 2 * m * per_r
    u_mid = u - half * (u * du + dh)
    h0, h1 = h_mid - dh / 2, h_mid + dh / 2
    u0, u1 = u_mid - du / 2, u_mid + du / 2
    mass, force = _flux(
        jnp.concatenate([h0[:1], h1]),
        jnp.concatenate([-u0[:1], u1]),
        jnp.concatenate([h0, h1[-1:]]),
        jnp.concatenate([u0, u1[-1:]]),
    )
    push = spacing * (h0**2 + h1**2) / 4
    scale = dt / spacing * per_r
    h = h - scale * jnp.diff(edge * mass)
    m = m - scale * (jnp.diff(edge * force) - push)
    return Window(h, m, spacing, clock + dt)


def _flux(h0, u0, h1, u1):
    """Fluxes of mass and momentum between two states."""
    c0, c1 = jnp.sqrt(h0), jnp.sqrt(h1)
    u = (c0 * u0 + c1 * u1) / (c0 + c1)
    c = jnp.sqrt((h0 + h1) / 2)
    left = jnp.minimum(jnp.minimum(u0 - c0, u - c), 0)
    right = jnp.maximum(jnp.maximum(u1 + c1, u + c), 0)
    m0, m1 = h0 * u0, h1 * u1
    f0, f1 = m0 * u0 + h0**2 / 2, m1 * u1 + h1**2 / 2

    share = right / (right - left)

    def blend(f, g, a, b):
        return g + share * (f - g + left * (b - a))

    return blend(m0, m1, h0, h1), blend(f0, f1, m0, m1)


def _double(window: Window, inside: int) -> Window:
    """Merge pairs of cells and surround them with water at rest."""
    r = _centre(window, inside)
    weight = (r / (r + r.reshape(-1, 2)[:, ::-1].reshape(-1))).reshape(-1, 2)
    h, m = ((a.reshape(-1, 2) * weight).sum(1) for a in (window.h, window.m))
    width = inside // 2, (len(r) - inside) // 2
    h = jnp.pad(h, width, constant_values=DEPTHS)
    return Window(h, jnp.pad(m, width), 2 * window.spacing, window.clock)


def frames(
    radius: Float[Array, " b"],
    times: Float[np.ndarray, " t"],
    rings: Float[np.ndarray, " v"],
    first: Window,
    inside: int = INSIDE,
) -> Float[Array, "b t w"]:
    """Average over rings by how much the depth exceeds the outer one.

    Args:
      radius: of each disc.
      times: of the frames.
      rings: where rings meet, from 0 on.
      first: window of `start`.
      inside: its cells in the disc.
    """
    wanted = (times / radius[:, None]).reshape(-1)
    order = jnp.argsort(wanted)
    area = np.diff(rings**2) / 2

    def advance(carry):
        window, dt = carry
        window = step(window, inside, dt)
        is_full = window.clock * REACH > inside * window.spacing
        window = jax.lax.cond(
            is_full & (window.spacing < 1 / inside),
            lambda w: _double(w, inside),
            lambda w: w,
            window,
        )
        return window, _limit(window, inside)

    def follow(carry, index):
        when, scale = wanted[index], radius[index // len(times)]
        window, dt = carry = jax.lax.while_loop(
            lambda c: c[0].clock + c[1] <= when, advance, carry
        )
        aside = step(window, inside, when - window.clock)
        volume = _volume(aside, inside, rings / scale)
        return carry, scale**2 * jnp.diff(volume) / area

    _, found = jax.lax.scan(follow, (first, _limit(first, inside)), order)
    return found[jnp.argsort(order)].reshape(len(radius), len(times), -1)


def _volume(
    window: Window, inside: int, radius: Float[Array, " v"]
) -> Float[Array, " v"]:
    """Integrate the excess, constant in each cell, over the radius from 0 on."""
    h, spacing = window.h, window.spacing
    left = 1 - inside * spacing
    excess = h - DEPTHS[1]
    total = jnp.cumsum(excess * _centre(window, inside) * spacing)
    total = jnp.concatenate([jnp.zeros(1), total])
    cell = jnp.clip(jnp.floor((radius - left) / spacing), 0, len(h) - 1).astype(int)
    inner = left + spacing * cell
    outer = jnp.clip(radius, inner, inner + spacing)
    before = (DEPTHS[0] - DEPTHS[1]) * jnp.minimum(radius, left) ** 2 / 2
    return before + total[cell] + excess[cell] * (outer**2 - inner**2) / 2
