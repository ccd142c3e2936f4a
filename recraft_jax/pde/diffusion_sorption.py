"""Diffusion-sorption in one dimension, `R(u) u_t = D u_xx`, as in PDEBench.

A dissolved substance enters at x = 0, spreads through a porous medium and leaves at
x = 1; the medium holds part of it back by the retardation factor R (Freundlich
sorption). Every sample starts from a constant, its only random number (PDEBench commit
b5b646f, `gen_diff_sorp.py` and `sim_diff_sorp.py`).

PDEBench closes its stencil by ghost values, 1 on the left and `D (u_[n-2] - u_[n-1]) /
dx` on the right. On fine grids they say `u = 1` at x = 0 and `u = -D u_x` at x = 1:
what diffuses out is the concentration itself, as if carried off at unit speed. Mode
`accurate` solves this limit. On a grid of n cells the left ghost puts the 1 half a cell
outside, so `compat` differs from it by O(1 / n).
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from scipy import integrate

from recraft_jax import errors
from recraft_jax.pde import equation

TIMES = np.linspace(0.0, 500.0, 101)
DOMAIN = (0.0, 1.0)
MAX_START = 0.2
INFLOW = 1.0  # concentration at x = 0
DIFFUSIVITY = 5e-4
POROSITY = 0.29
CAPACITY = (1 - POROSITY) / POROSITY * 2880.0 * 3.5e-4  # bulk density, Freundlich k
EXPONENT = 0.874
FLOOR = 1e-6  # keeps the retardation finite where nothing is dissolved

# Mode `accurate`: with these, every frame after the first is within 2e-6 of runs on
# eight times finer grids with a quarter of the steps' lengths (relative L2 norm).
NUM_INTERVALS = 128
CLUSTERING = 3.0
FIRST_STEP = 1e-3
STEP_SHARE = 0.2  # of the time passed
NUM_NEWTON = 2
NUM_STENCIL = 6

# Fourth order, L-stable, stages of the same gamma (Hairer & Wanner, table IV.6.5). The
# last stage is the new value.
GAMMA = 0.25
STAGES = np.array(
    [
        [1 / 4, 0, 0, 0, 0],
        [1 / 2, 1 / 4, 0, 0, 0],
        [17 / 50, -1 / 25, 1 / 4, 0, 0],
        [371 / 1360, -137 / 2720, 15 / 544, 1 / 4, 0],
        [25 / 24, -49 / 48, 125 / 16, -85 / 12, 1 / 4],
    ]
)


def draw(key: int, num: int, nx: int) -> dict[str, np.ndarray]:
    """Draw the constants `{"level": [num]}` of the seeds `key`, `key` + 1, ..."""
    if nx < 2:
        raise errors.InputError(
            f"diffusion_sorption: {nx} cells; its stencil needs at least 2"
        )
    seeds = range(key, key + num)
    level = [np.random.RandomState(s).uniform(0, MAX_START) for s in seeds]
    return {"level": np.array(level)}


def solve(sample: equation.Sample, *, nx: int, mode: str) -> dict[str, Array]:
    """Solve for `{"data": [b t x 1]}` at the cell centres, in float64."""
    run = compat if mode == "compat" else accurate
    return {"data": run(sample["level"], nx)[..., None]}


def compat(level: Float[np.ndarray, " b"], nx: int) -> Float[np.ndarray, "b t x"]:
    """Solve as PDEBench does: central differences, SciPy's Runge-Kutta 4(5)."""
    scale = DIFFUSIVITY * nx**2

    def rate(_, u):
        v = np.empty((nx + 2, *u.shape[1:]))
        v[0], v[1:-1] = INFLOW, u
        v[-1] = DIFFUSIVITY * nx * (u[-2] - u[-1])
        return scale / retardation(u) * (v[2:] - 2 * u + v[:-2])

    def one(u0):
        start = np.full(nx, u0)
        ends = (TIMES[0], TIMES[-1])
        return integrate.solve_ivp(rate, ends, start, t_eval=TIMES).y.T

    # A trial step may undershoot zero; the NaN it gives makes SciPy refuse the step.
    with np.errstate(invalid="ignore"):
        return np.stack([one(u0) for u0 in np.asarray(level)])


def accurate(level: Float[Array, " b"], nx: int) -> Float[Array, "b t x"]:
    """Solve the limit of fine grids.

    With the stored amount `w(u)`, `w' = R`, the equation reads `w(u)_t = D u_xx`: the
    nonlinearity has no derivatives, so finite volumes on a grid clustered at both ends
    conserve the amount, and Newton's matrix is tridiagonal. Richardson's extrapolation
    from two grids makes the second order in space a fourth. Steps grow with the time
    passed, for the ends start with jumps.
    """
    coarse = _nodes(level, NUM_INTERVALS)
    fine = _nodes(level, 2 * NUM_INTERVALS)[..., ::2]
    values = fine + (fine - coarse) / 3
    found = jnp.einsum("btm,mx->btx", values, _interpolation(nx))
    start = jnp.broadcast_to(level[:, None, None], (*level.shape, 1, nx))
    return jnp.concatenate([start.astype(found.dtype), found], 1)


def stored(u):
    """Amount `w(u)` per volume, dissolved and sorbed, whose derivative is R."""
    return u + CAPACITY * (_at_least_0(u) + FLOOR) ** EXPONENT


def retardation(u):
    """Retardation factor R(u)."""
    return 1 + CAPACITY * EXPONENT * (u + FLOOR) ** (EXPONENT - 1)


def grid(num: int) -> Float[np.ndarray, " m"]:
    """`num` + 1 nodes from 0 to 1, clustered at both ends by a hyperbolic tangent."""
    xi = np.linspace(-1, 1, num + 1)
    return 0.5 * (1 + np.tanh(CLUSTERING * xi) / np.tanh(CLUSTERING))


def steps() -> tuple[np.ndarray, np.ndarray]:
    """Lengths `[k]` of the time steps, and how many are taken by each frame `[t]`.

    A step is at most `STEP_SHARE` of the time passed (at first `FIRST_STEP`), and every
    frame after the first is hit.
    """
    lengths, counts = [], []
    for begin, end in zip(TIMES[:-1], TIMES[1:], strict=True):
        if begin == 0:
            ratio = 1 + STEP_SHARE
            num = np.ceil(np.log(1 + end * STEP_SHARE / FIRST_STEP) / np.log(ratio))
            piece = ratio ** np.arange(num)
        else:
            piece = np.ones(int(np.ceil((end - begin) / (STEP_SHARE * begin))))
        lengths.append(piece * (end - begin) / piece.sum())
        counts.append(len(piece))
    return np.concatenate(lengths), np.cumsum(counts)


def _nodes(level, num):
    """Concentrations `[b t m]` at the nodes of `grid(num)` from the second frame on."""
    x = grid(num)
    link = DIFFUSIVITY / np.diff(x)
    volume = np.append((x[2:] - x[:-2]) / 2, (x[-1] - x[-2]) / 2)
    lower = np.append(0.0, link[1:])  # node 0 is known: unknowns are nodes 1, 2, ...
    upper = np.append(link[1:], 0.0)
    middle = -link - np.append(link[1:], 1.0)  # 1: the speed of the outflow
    source = np.append(link[0] * INFLOW, np.zeros(num - 1))

    def net_flux(u):
        before = jnp.pad(u[:, :-1], ((0, 0), (1, 0)))
        after = jnp.pad(u[:, 1:], ((0, 0), (0, 1)))
        return lower * before + middle * u + upper * after + source

    def newton(u, base, dt):
        error = volume * (stored(u) - base) - dt * net_flux(u)
        slope = volume * retardation(_at_least_0(u)) - dt * middle
        low, up = (jnp.broadcast_to(-dt * band, u.shape) for band in (lower, upper))
        return (
            u
            - jax.lax.linalg.tridiagonal_solve(low, slope, up, error[..., None])[..., 0]
        )

    def step(u, dt):
        old, rates = stored(u), []
        for row in STAGES:
            base = old + dt * sum(a * r for a, r in zip(row, rates, strict=False))
            u = jax.lax.fori_loop(
                0, NUM_NEWTON, lambda _, u, base=base: newton(u, base, GAMMA * dt), u
            )
            rates.append((stored(u) - base) / (GAMMA * dt))
        return u

    lengths, counts = steps()
    lengths = jnp.asarray(lengths)

    def to_frame(u, ends):
        u = jax.lax.fori_loop(*ends, lambda k, u: step(u, lengths[k]), u)
        return u, u

    start = jnp.broadcast_to(level[:, None], (level.shape[0], num))
    ends = np.append(0, counts[:-1]), counts
    _, frames = jax.lax.scan(to_frame, start.astype(lengths.dtype), ends)
    return jnp.pad(
        frames.swapaxes(0, 1), ((0, 0), (0, 0), (1, 0)), constant_values=INFLOW
    )


def _interpolation(nx):
    """Weights `[m nx]` of Lagrange's polynomials in the grid's own coordinate."""
    num = NUM_INTERVALS
    centres = equation.centres(DOMAIN, nx)
    xi = np.arctanh((2 * centres - 1) * np.tanh(CLUSTERING)) / CLUSTERING
    place = (xi + 1) / 2 * num
    first = np.floor(place).astype(int) - NUM_STENCIL // 2 + 1
    near = np.clip(first, 0, num + 1 - NUM_STENCIL) + np.arange(NUM_STENCIL)[:, None]
    weights = np.zeros((num + 1, nx))
    for node in near:
        others = np.stack([other for other in near if other[0] != node[0]])
        lagrange = np.prod((place - others) / (node - others), 0)
        weights[node, np.arange(nx)] = lagrange
    return weights


def _at_least_0(u):
    """Cut off what an unfinished Newton iteration may leave below zero."""
    return jnp.maximum(u, 0)


EQUATION = equation.Equation(
    draw,
    solve,
    TIMES,
    DOMAIN,
    run_size=10_000,
    cost={"compat": (0.3, 128, 3), "accurate": (0.03, 1024, 0)},
    is_seeded=True,
    host_modes=("compat",),
)
