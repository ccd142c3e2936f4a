"""What PDEBench's scalar equations in one dimension share: initial fields, steps, loop.

Their steps have one constant length, so all samples share one clock and how many steps
lead to each save is known beforehand. A batch is one line of numbers, `[x b]`
flattened: neighbours are `b` numbers apart, and a whole step, predictor and corrector,
is one kernel whose vectors are full at any batch.
"""

from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from recraft_jax import errors
from recraft_jax.pde import equation, finite_volume, sines

# (sample, cells, times) -> frames
Solver = Callable[[equation.Sample, int, Sequence[float]], Float[Array, "b t x"]]

DOMAIN = (0.0, 1.0)
RUN_SIZE = 10_000
MIN_CELLS = 16  # two per period of the shortest wave
NUM_FINE = 16_384  # points where integrals over the initial field need them


def draw(key: int, num: int, nx: int) -> dict[str, np.ndarray]:
    """Draw the initial fields of a run; `nx` does not change them.

    Raises:
      InputError: too few cells or samples.
    """
    if num < 1 or nx < MIN_CELLS:
        raise errors.InputError(
            f"{num} samples of {nx} cells; allowed: at least 1 sample of {MIN_CELLS}"
        )
    return sines.draw(jax.random.PRNGKey(key), num, num_modes=4, window_prob=0.1)


def make(
    compat: Solver,
    accurate: Solver,
    times: np.ndarray,
    cost: Mapping[str, tuple[float, int, float]],
) -> equation.Equation:
    """Put together an equation from its solvers, one per mode."""
    solvers = dict(zip(equation.MODES, (compat, accurate), strict=True))

    def solve(sample, *, nx, mode):
        return {"tensor": solvers[mode](sample, nx, times)}

    return equation.Equation(
        draw=draw,
        solve=solve,
        times=times,
        domain=DOMAIN,
        run_size=RUN_SIZE,
        cost=cost,
    )


def initial(
    sample: equation.Sample, nx: int, points: Float[Array, " p"]
) -> Float[Array, "b p"]:
    """Evaluate the fields of a grid of `nx` cells at any points of the domain."""
    return sines.evaluate(sample, jnp.asarray(points), 1 - 1 / nx)


def cells(sample: equation.Sample, nx: int, dtype) -> Float[Array, "b x"]:
    """Evaluate the fields at the cell centres."""
    return initial(sample, nx, equation.centres(DOMAIN, nx).astype(dtype))


def fine(sample: equation.Sample, nx: int, num_points: int) -> Float[Array, "b p"]:
    """Evaluate the same fields at the midpoints of many more intervals."""
    return initial(sample, nx, equation.centres(DOMAIN, num_points))


def difference(u: Float[Array, " m"], stride: int) -> Float[Array, " k"]:
    """Every number but the first `stride`, less the one `stride` before it."""
    return u[stride:] - u[:-stride]


def upwind(
    u: Float[Array, " m"],
    stride: int,
    flux: Callable[[Float[Array, " k"]], Float[Array, " k"]],
    speed: Callable[[Float[Array, " k"], Float[Array, " k"]], Float[Array, " k"]],
) -> Float[Array, " k"]:
    """Flux through the faces, from states reconstructed left and right of each.

    Args:
      u: cells, with two ghost cells at both ends.
      stride: distance of neighbours in `u`.
      flux: of a state.
      speed: of the wave between the states left and right of a face, at least 0.

    Returns:
      One number per face, from the left face of the first inner cell on.
    """
    inner = u[stride:-stride]
    slope = finite_volume.mc_slope(u[: -2 * stride], inner, u[2 * stride :])
    left = (inner + 0.5 * slope)[:-stride]
    right = (inner - 0.5 * slope)[stride:]
    return 0.5 * (flux(left) + flux(right) - speed(left, right) * (right - left))


def midpoint(
    flux: Callable[[Float[Array, " m"], int], Float[Array, " k"]],
    u: Float[Array, " m"],
    ratio: Float[Array, ""],
    stride: int,
) -> Float[Array, " k"]:
    """One step of cells with four ghost cells at both ends, which it uses up.

    Args:
      flux: `(u, stride)` to one number per face, two cells shorter at both ends.
      u: cells.
      ratio: of the step to the cell.
      stride: distance of neighbours in `u`.
    """
    reach = 2 * stride
    half = u[reach:-reach] - 0.5 * ratio * difference(flux(u, stride), stride)
    return u[2 * reach : -2 * reach] - ratio * difference(flux(half, stride), stride)


def schedule(step: float, times: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """Count the full steps to each save and measure the last, shorter one.

    The clock is PDEBench's: float32, moved step by step, so that on fine grids a step
    moves it by a few units in its last place, more or less than the step's own length.

    Args:
      step: longest step.
      times: of the frames, equally spaced.

    Returns:
      Full steps `[t-1]` int32 and the length of the step after them `[t-1]` float32,
      0 if there is none.
    """
    step, clock = np.float32(step), np.float32(times[0])
    end = np.float32(times[-1])
    counts, rests = [], []
    for save in finite_volume.save_times(times):
        goal = min(save, end)
        # A clock moves by at least half a step, or it would not move at all.
        most = int(max(goal - clock, 0) / step * 2) + 2
        ticks = np.full(most, step)
        ticks[0] = clock
        ticks = np.cumsum(ticks, dtype=np.float32)
        count = int(np.argmax(goal - ticks < step))
        rest = goal - ticks[count]
        rest = rest if rest > finite_volume.TIME_FLOOR else np.float32(0)
        clock = ticks[count] + rest
        counts.append(count)
        rests.append(rest)
    return np.asarray(counts, np.int32), np.asarray(rests, np.float32)


def march(
    advance: Callable[[Float[Array, " m"], Float[Array, ""], int], Float[Array, " k"]],
    reach: int,
    step: float,
    u: Float[Array, "b x"],
    times: Sequence[float],
) -> Float[Array, "b t x"]:
    """Step periodic cells from the first time on and save them at each time.

    Args:
      advance: `(u, dt, stride) -> u`, one step, which uses up the ghost cells; `u`
        flat, with neighbours `stride` apart.
      reach: ghost cells that one step needs at each end.
      step: longest stable step.
      u: cells at the first time.
      times: of the frames, equally spaced.
    """
    stride, nx = u.shape
    ghosts = reach * stride

    def move(line, dt):
        padded = jnp.concatenate([line[-ghosts:], line, line[:ghosts]])
        return advance(padded, dt, stride)

    def to_save(line, leg):
        count, rest = leg
        line = jax.lax.fori_loop(
            0, count, lambda _, line: move(line, jnp.float32(step)), line
        )
        line = jnp.where(rest > 0, move(line, rest), line)
        return line, line

    line = u.T.reshape(-1)
    _, lines = jax.lax.scan(to_save, line, schedule(step, times))
    frames = jnp.concatenate([line[None], lines]).reshape(-1, nx, stride)
    return jnp.transpose(frames, (2, 0, 1))
