"""Diffusion with sorption, `u_t = D / R(u) u_xx`: a front enters from the left.

PDEBench's `1D_diff-sorp_NA_NA`. The initial field is one number in [0, 0.2], drawn by
seed; u = 1 at the left end and u = -D u_x at the right one. R is the retardation of a
Freundlich isotherm (Takamoto et al. 2022, appendix D).
"""

import jax
import jax.numpy as jnp
import numpy as np
import scipy.integrate
from jaxtyping import Array, Float

from recraft_jax import errors
from recraft_jax.pde import equation

DOMAIN = (0.0, 1.0)
TIMES = np.linspace(0.0, 500.0, 101)
DIFFUSIVITY = 5e-4
POROSITY, BULK_DENSITY = 0.29, 2880.0
FREUNDLICH, EXPONENT = 3.5e-4, 0.874
SORPTION = (1 - POROSITY) / POROSITY * BULK_DENSITY * FREUNDLICH * EXPONENT
FLOOR = 1e-6  # keeps R finite at u = 0
MIN_CELLS = 3

# Accurate mode.
NUM_INTERVALS = 512
CLUSTERING = 0.9  # intervals at the ends are a tenth of their mean
NUM_STEPS, NUM_FIRST_STEPS = 4, 48  # per frame, and before the first one
NEWTON_STEPS = 3
# Alexander (1977): three stages, third order, L-stable, the last stage is the step.
STAGE = 0.43586652150845967
WEIGHT = -(6 * STAGE**2 - 16 * STAGE + 1) / 4


def draw(key: int, num: int, nx: int) -> dict[str, np.ndarray]:
    """Draw the initial value of seeds key, key + 1, ...: `u0` `[num]`.

    Raises:
      InputError: too few cells.
    """
    if nx < MIN_CELLS:
        raise errors.InputError(
            f"diffusion_sorption on {nx} cells; allowed: {MIN_CELLS} or more"
        )
    seeds = range(key, key + num)
    return {"u0": np.array([np.random.RandomState(s).uniform(0, 0.2) for s in seeds])}


def solve(sample: equation.Sample, *, nx: int, mode: str) -> dict:
    """Solve for `data` `[b t x 1]`; see `equation.Equation`."""
    if mode == "accurate":
        return {"data": accurate(sample["u0"], nx)[..., None]}
    frames = [compat(u0, nx) for u0 in np.asarray(sample["u0"])]
    return {"data": np.stack(frames)[..., None]}


def compat(u0: float, nx: int) -> Float[np.ndarray, "t x"]:
    """Central differences and SciPy's RK45 at its default tolerances.

    The boundary values sit in ghost cells, half a cell outside.
    """
    dx = 1 / nx

    def rate(_, u):
        right = DIFFUSIVITY * (u[-2] - u[-1]) / dx
        padded = np.concatenate([[1.0], u, [right]])
        second = (padded[2:] - 2 * u + padded[:-2]) / dx**2
        return DIFFUSIVITY / retardation(u) * second

    span = (TIMES[0], TIMES[-1])
    return scipy.integrate.solve_ivp(rate, span, np.full(nx, u0), t_eval=TIMES).y.T


def accurate(
    u0: Float[Array, " b"],
    nx: int,
    *,
    num_intervals: int = NUM_INTERVALS,
    num_steps: int = NUM_STEPS,
) -> Float[Array, "b t x"]:
    """Boundaries where they belong, on a grid dense at both; implicit steps; float64.

    Second order in space, on intervals that grow smoothly away from the ends, third in
    time, with steps that start short: the initial field jumps at the left end. Cubic
    interpolation to the cell centres.

    Args:
      u0: initial values.
      nx: cells of the frames.
      num_intervals: of the inner grid.
      num_steps: from one frame to the next.
    """
    nodes = _nodes(num_intervals)
    width = np.diff(nodes)
    left, right = width[:-1], width[1:]
    # Rows of u_xx: inner nodes, then the right end, where -u / D takes the place of
    # the slope behind it. The left end stays at 1.
    lower = np.concatenate([[0], 2 / (left * (left + right)), [2 / width[-1] ** 2]])
    upper = np.concatenate([[0], 2 / (right * (left + right)), [0]])
    middle = -lower - upper
    middle[-1] -= 2 / (width[-1] * DIFFUSIVITY)

    def second(u):
        before, after = jnp.roll(u, 1, -1), jnp.roll(u, -1, -1)
        return lower * before + middle * u + upper * after

    def rate(u):
        return DIFFUSIVITY / retardation(u) * second(u)

    def stage(known, guess, dt):
        """Solve `u - STAGE dt rate(u) = known` by Newton's method."""

        def newton(u, _):
            mobility = DIFFUSIVITY / retardation(u)
            slope = -mobility / retardation(u) * _retardation_slope(u)
            factor = STAGE * dt * mobility
            diagonal = 1 - factor * middle - STAGE * dt * slope * second(u)
            residual = u - STAGE * dt * rate(u) - known
            step = jax.lax.linalg.tridiagonal_solve(
                -factor * lower, diagonal, -factor * upper, residual[..., None]
            )
            return u - step[..., 0], None

        return jax.lax.scan(newton, guess, None, length=NEWTON_STEPS)[0]

    def step(u, dt):
        first = stage(u, u, dt)
        k1 = (first - u) / (STAGE * dt)
        known = u + dt * (1 - STAGE) / 2 * k1
        middle_stage = stage(known, first, dt)
        k2 = (middle_stage - known) / (STAGE * dt)
        known = u + dt * (WEIGHT * k1 + (1 - WEIGHT - STAGE) * k2)
        return stage(known, middle_stage, dt), None

    def to_save(u, _):
        spacing = (TIMES[1] - TIMES[0]) / num_steps
        u, _ = jax.lax.scan(step, u, jnp.full(num_steps, spacing))
        return u, u @ sample_at

    sample_at = jnp.asarray(_interpolation(num_intervals, nx).T)
    u = jnp.tile(u0[:, None], num_intervals + 1).at[:, 0].set(1.0)
    first = (TIMES[1] - TIMES[0]) * np.linspace(0, 1, NUM_FIRST_STEPS + 1) ** 4
    u, _ = jax.lax.scan(step, u, jnp.asarray(np.diff(first)))
    _, later = jax.lax.scan(to_save, u, length=len(TIMES) - 2)
    start = jnp.broadcast_to(u0[:, None], (len(u0), nx))
    frames = jnp.concatenate([jnp.stack([start, u @ sample_at]), later])
    return jnp.swapaxes(frames, 0, 1)


def retardation(u):
    """R(u)."""
    return 1 + SORPTION * (u + FLOOR) ** (EXPONENT - 1)


def _retardation_slope(u):
    return SORPTION * (EXPONENT - 1) * (u + FLOOR) ** (EXPONENT - 2)


def _nodes(num_intervals: int) -> np.ndarray:
    """Nodes from 0 to 1, smoothly denser at both ends."""
    place = np.linspace(0, 1, num_intervals + 1)
    return place - CLUSTERING * np.sin(2 * np.pi * place) / (2 * np.pi)


def _interpolation(num_intervals: int, nx: int) -> Float[np.ndarray, "x m"]:
    """Matrix from nodes to cell centres: the cubic through the four nearest nodes."""
    nodes, points = _nodes(num_intervals), equation.centres(DOMAIN, nx)
    first = np.searchsorted(nodes, points) - 2
    near = np.clip(first, 0, num_intervals - 3)[:, None] + np.arange(4)
    matrix = np.zeros((nx, num_intervals + 1))
    for k in range(4):
        others = [j for j in range(4) if j != k]
        at, own = nodes[near[:, others]], nodes[near[:, [k]]]
        weight = ((points[:, None] - at) / (own - at)).prod(axis=1)
        matrix[np.arange(nx), near[:, k]] = weight
    return matrix


EQUATION = equation.Equation(
    draw=draw,
    solve=solve,
    times=TIMES,
    domain=DOMAIN,
    run_size=10_000,
    cost={"compat": (0.2, 128, 3), "accurate": (0.06, 1024, 0)},
    is_seeded=True,
    host_modes=("compat",),
)
