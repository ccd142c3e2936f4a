"""FitzHugh-Nagumo on a square, from white noise, no flux through the border.

    u_t = 1e-3 Lap u + u - u^3 - 5e-3 - v,    v_t = 5e-3 Lap v + u - v

PDEBench's `2D_diff-react_NA_NA`. The initial values are independent in each cell, so
they have no limit on finer grids: the equation meant by both modes is the one on the
cells, with the five-point Laplacian. `compat` integrates it at SciPy's default
tolerances, `accurate` until the time steps no longer matter.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
import scipy.integrate
from jaxtyping import Array, Float

from recraft_jax import errors
from recraft_jax.pde import equation

DOMAIN = (-1.0, 1.0)
TIMES = np.linspace(0.0, 5.0, 101)
DIFFUSIVITY_U, DIFFUSIVITY_V, SHIFT = 1e-3, 5e-3, 5e-3
MIN_CELLS = 2
REACTION_RATE = 64.0  # of 3 u^2 at the largest values white noise takes, about 4.6
STEP_RATE = 1.0  # largest rate times step of the accurate mode


def draw(key: int, num: int, nx: int) -> dict[str, np.ndarray]:
    """Draw the noise of seeds key, key + 1, ...: `noise` `[num y x 2]`, u then v.

    Raises:
      InputError: too few cells.
    """
    if nx < MIN_CELLS:
        raise errors.InputError(
            f"diffusion_reaction_2d on {nx} cells an axis; allowed: {MIN_CELLS} or more"
        )
    fields = [
        np.random.RandomState(seed).standard_normal((2, nx, nx))
        for seed in range(key, key + num)
    ]
    return {"noise": np.moveaxis(np.stack(fields), 1, -1)}


def solve(sample: equation.Sample, *, nx: int, mode: str) -> dict:
    """Solve for `data` `[b t y x 2]`; see `equation.Equation`."""
    if mode == "accurate":
        return {"data": accurate(sample["noise"], nx)}
    return {"data": np.stack([compat(noise) for noise in np.asarray(sample["noise"])])}


def compat(noise: Float[np.ndarray, "y x 2"]) -> Float[np.ndarray, "t y x 2"]:
    """SciPy's RK45 at its default tolerances, in float64."""
    nx = len(noise)

    def flat_rate(_, state):
        u, v = state.reshape(2, nx, nx)
        return np.stack(rate(u, v, nx, np)).ravel()

    start = np.moveaxis(noise, -1, 0).ravel()
    span = (TIMES[0], TIMES[-1])
    found = scipy.integrate.solve_ivp(flat_rate, span, start, t_eval=TIMES).y
    return np.transpose(found.reshape(2, nx, nx, -1), (3, 1, 2, 0))


def accurate(
    noise: Float[Array, "b y x 2"], nx: int, *, step_rate: float = STEP_RATE
) -> Float[Array, "b t y x 2"]:
    """Classical Runge-Kutta with a step that resolves the fastest rate; float64.

    Args:
      noise: initial values.
      nx: cells of each axis.
      step_rate: largest rate times step; the error falls with its fourth power.
    """
    spacing = TIMES[1] - TIMES[0]
    fastest = 8 * DIFFUSIVITY_V / _width(nx) ** 2 + REACTION_RATE
    num_steps = math.ceil(spacing * fastest / step_rate)
    dt = spacing / num_steps

    def along(state, slope, step):
        return jax.tree.map(lambda y, k: y + step * k, state, slope)

    def step(_, state):
        k1 = rate(*state, nx, jnp)
        k2 = rate(*along(state, k1, dt / 2), nx, jnp)
        k3 = rate(*along(state, k2, dt / 2), nx, jnp)
        k4 = rate(*along(state, k3, dt), nx, jnp)
        return jax.tree.map(
            lambda y, a, b, c, d: y + dt / 6 * (a + 2 * b + 2 * c + d),
            state,
            *(k1, k2, k3, k4),
        )

    def to_save(state, _):
        state = jax.lax.fori_loop(0, num_steps, step, state)
        return state, jnp.stack(state, axis=-1)

    start = (noise[..., 0], noise[..., 1])
    _, later = jax.lax.scan(to_save, start, length=len(TIMES) - 1)
    return jnp.swapaxes(jnp.concatenate([noise[None], later]), 0, 1)


def rate(u, v, nx: int, xp):
    """Right-hand sides of both equations, by NumPy or by JAX (`xp`)."""
    return (
        DIFFUSIVITY_U * _laplacian(u, nx, xp) + u - u**3 - SHIFT - v,
        DIFFUSIVITY_V * _laplacian(v, nx, xp) + u - v,
    )


def _laplacian(u, nx: int, xp):
    """Five-point stencil over the last two axes; the border mirrors its cells."""
    pads = [(0, 0)] * (u.ndim - 2) + [(1, 1), (1, 1)]
    p = xp.pad(u, pads, mode="edge")
    around = p[..., 2:, 1:-1] + p[..., :-2, 1:-1] + p[..., 1:-1, 2:] + p[..., 1:-1, :-2]
    return (around - 4 * u) / _width(nx) ** 2


def _width(nx: int) -> float:
    return (DOMAIN[1] - DOMAIN[0]) / nx


EQUATION = equation.Equation(
    draw=draw,
    solve=solve,
    times=TIMES,
    domain=DOMAIN,
    run_size=1_000,
    cost={"compat": (0.06, 32, 4), "accurate": (0.01, 32, 3)},
    is_seeded=True,
    host_modes=("compat",),
)
