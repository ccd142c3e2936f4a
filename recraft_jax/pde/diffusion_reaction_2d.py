"""Diffusion-reaction (FitzHugh-Nagumo) in two dimensions, as in PDEBench.

`u_t = D_u lap u + u - u^3 - k - v` and `v_t = D_v lap v + u - v` on a square without
flux through its border, from independent normal noise in every cell (PDEBench commit
b5b646f, `gen_diff_react.py` and `sim_diff_react.py`).

Noise per cell has no limit on finer grids, so no solution of the differential equation
is meant by it. What mode `accurate` converges to is the system of ordinary differential
equations that the 5-point stencil makes on the given grid, the one `compat` integrates
with a tolerance of 1e-3.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from scipy import integrate

from recraft_jax import errors
from recraft_jax.pde import equation

TIMES = np.linspace(0.0, 5.0, 101)
DOMAIN = (-1.0, 1.0)
DIFFUSIVITY_U = 1e-3
DIFFUSIVITY_V = 5e-3
THRESHOLD = 5e-3  # k

# Runge-Kutta's steps of mode `accurate`. It is stable up to rates of 2.78 per step. The
# noise decays at all rates of the stencil at once: while it does, a step may only be a
# share of the time passed.
MAX_RATE = 2.0
MAX_SHARE = 0.05
MIN_STEPS = 6  # per frame: for the reaction alone
FIRST_STEPS = 40  # before the second frame


def draw(key: int, num: int, nx: int) -> dict[str, np.ndarray]:
    """Draw the noise of the seeds `key`, `key` + 1, and so on.

    Returns:
      `{"start": [num y x 2]}`, u and v in float64.
    """
    if nx < 2:
        raise errors.InputError(
            f"diffusion_reaction_2d: {nx} cells; its stencil needs at least 2"
        )
    noise = [np.random.RandomState(key + i).randn(2, nx, nx) for i in range(num)]
    return {"start": np.moveaxis(np.stack(noise), 1, -1)}


def solve(sample: equation.Sample, *, nx: int, mode: str) -> dict[str, Array]:
    """Solve for `{"data": [b t y x 2]}`, u and v, in float64."""
    run = compat if mode == "compat" else accurate
    return {"data": run(sample["start"], nx)}


def compat(
    start: Float[np.ndarray, "b y x 2"], nx: int
) -> Float[np.ndarray, "b t y x 2"]:
    """Integrate as PDEBench does: SciPy's Runge-Kutta 4(5), one sample at a time."""

    def one(noise):
        def rate(_, state):
            return np.stack(_rates(np, *state.reshape(2, nx, nx), nx)).ravel()

        state = np.moveaxis(noise, -1, 0).ravel()
        ends = (TIMES[0], TIMES[-1])
        found = integrate.solve_ivp(rate, ends, state, t_eval=TIMES).y
        return np.moveaxis(found.reshape(2, nx, nx, len(TIMES)), (0, 3), (3, 0))

    return np.stack([one(noise) for noise in np.asarray(start)])


def accurate(start: Float[Array, "b y x 2"], nx: int) -> Float[Array, "b t y x 2"]:
    """Integrate the same system, converged in time.

    The classical Runge-Kutta method at the largest stable steps, with shorter ones
    before the second frame.
    """
    counts = num_steps(nx)

    def step(state, dt):
        def at(share, rates):
            return [s + share * dt * r for s, r in zip(state, rates, strict=True)]

        one = _rates(jnp, *state, nx)
        two = _rates(jnp, *at(0.5, one), nx)
        three = _rates(jnp, *at(0.5, two), nx)
        four = _rates(jnp, *at(1.0, three), nx)
        mean = [
            (a + 2 * (b + c) + d) / 6
            for a, b, c, d in zip(one, two, three, four, strict=True)
        ]
        return tuple(at(1.0, mean))

    def to_frame(state, count):
        dt = (TIMES[1] - TIMES[0]) / count
        state = jax.lax.fori_loop(0, count, lambda _, s: step(s, dt), state)
        return state, jnp.stack(state, -1)

    state = (start[..., 0], start[..., 1])
    _, frames = jax.lax.scan(to_frame, state, counts)
    return jnp.concatenate([start[:, None], jnp.moveaxis(frames, 0, 1)], 1)


def num_steps(nx: int) -> np.ndarray:
    """Steps of mode `accurate` before each frame after the first, `[t]`."""
    fastest = 8 * DIFFUSIVITY_V * (nx / (DOMAIN[1] - DOMAIN[0])) ** 2
    stable = int(np.ceil(fastest * (TIMES[1] - TIMES[0]) / MAX_RATE))
    frame = np.arange(1, len(TIMES) - 1)
    later = np.maximum(np.ceil(1 / (MAX_SHARE * frame)), max(stable, MIN_STEPS))
    return np.append(max(stable, FIRST_STEPS), later).astype(int)


def _rates(xp, u, v, nx):
    """Right-hand sides of both fields `[... y x]` by the array functions of `xp`."""
    scale = (nx / (DOMAIN[1] - DOMAIN[0])) ** 2
    rate_u = DIFFUSIVITY_U * scale * _laplacian(xp, u) + (u - u * u * u - THRESHOLD - v)
    rate_v = DIFFUSIVITY_V * scale * _laplacian(xp, v) + (u - v)
    return rate_u, rate_v


def _laplacian(xp, u):
    """Sum of the neighbours less as many times the cell itself."""
    num = np.full(u.shape[-2:], 4.0)
    for edge in (num[0], num[-1], num[:, 0], num[:, -1]):
        edge -= 1
    # Padding by zeros is what XLA fuses.
    p = xp.pad(u, [(0, 0)] * (u.ndim - 2) + [(1, 1), (1, 1)])
    across = p[..., 1:-1, 2:] + p[..., 1:-1, :-2]
    return p[..., 2:, 1:-1] + p[..., :-2, 1:-1] + across - num * u


EQUATION = equation.Equation(
    draw,
    solve,
    TIMES,
    DOMAIN,
    run_size=1_000,
    cost={"compat": (0.03, 32, 3), "accurate": (0.008, 32, 3)},
    is_seeded=True,
    host_modes=("compat",),
)
