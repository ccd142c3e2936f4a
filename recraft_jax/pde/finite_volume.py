"""What PDEBench's finite-volume schemes share: the limiter and the time loop.

Times are float32 and added up step by step, as there: on fine grids a step is a few
units in the last place of the time, and which times are reached depends on it.
"""

from collections.abc import Callable, Sequence
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

State = TypeVar("State")

TIME_FLOOR = 1e-8  # shorter steps are not taken
BLOCK = 100  # steps between two looks at the clock, unless told otherwise


def mc_slope(
    before: Float[Array, "..."], here: Float[Array, "..."], after: Float[Array, "..."]
) -> Float[Array, "..."]:
    """Slope per cell, limited as monotonised central (van Leer 1977).

    The central difference, cut to twice each one-sided difference; 0 at extrema.
    """
    a, b = here - before, after - here
    c = 0.5 * (after - before)
    least = jnp.minimum(jnp.minimum(2 * jnp.abs(a), 2 * jnp.abs(b)), jnp.abs(c))
    return jnp.where(a * b > 0, jnp.sign(c) * least, 0)


def save_times(times: Sequence[float]) -> np.ndarray:
    """Times of the frames after the first, added up in float32; the last is the end."""
    spacing = np.float32(times[1] - times[0])
    later = np.cumsum(np.full(len(times) - 1, spacing), dtype=np.float32)
    later += np.float32(times[0])
    later[-1] = times[-1]
    return later


def march(
    step: Callable[[State, Float[Array, " b"]], State],
    limit: Callable[[State], Float[Array, " b"] | float],
    state: State,
    times: Sequence[float],
    per_look: int = BLOCK,
) -> State:
    """Step from the first time on and save the state at each time.

    Every sample has its own clock; a step is the least of `limit`, the time left to the
    next save and the time left to the end.

    Args:
      step: `(state, dt) -> state`, with `dt` `[b]`.
      limit: the largest stable step of each sample.
      state: tree of arrays `[b ...]` at the first time.
      times: equally spaced; the frame of the first one is `state` itself.
      per_look: steps between two looks at the clock; 1 where steps are few or dear.

    Returns:
      The same tree with arrays `[b t ...]`.
    """
    leaves = jax.tree.leaves(state)
    batch = leaves[0].shape[0]
    end = np.float32(times[-1])

    def remaining(clock, save):
        return jnp.minimum(end - clock, save - clock)

    def advance(state, clock, save):
        dt = jnp.minimum(limit(state), remaining(clock, save)).astype(jnp.float32)
        moves = dt > TIME_FLOOR

        def choose(new, old):
            return jnp.where(moves.reshape(-1, *[1] * (new.ndim - 1)), new, old)

        return jax.tree.map(choose, step(state, dt), state), choose(clock + dt, clock)

    def to_save(carry, save):
        def unfinished(carry):
            return jnp.any(remaining(carry[1], save) > TIME_FLOOR)

        def block(carry):
            return jax.lax.fori_loop(
                0, per_look, lambda _, c: advance(*c, save), carry, unroll=False
            )

        carry = jax.lax.while_loop(unfinished, block, carry)
        return carry, carry[0]

    clock = jnp.full((batch,), times[0], jnp.float32)
    _, frames = jax.lax.scan(to_save, (state, clock), save_times(times))
    return jax.tree.map(
        lambda first, rest: jnp.concatenate(
            [first[:, None], jnp.swapaxes(rest, 0, 1)], 1
        ),
        state,
        frames,
    )
