"""Darcy flow in two dimensions, `-div(a grad u) = beta`, as in PDEBench.

The permeability `a` is 1 where a sum of five Gaussians is above its mean over the run,
and 0.1 elsewhere. PDEBench relaxes `u_t - div(a grad u) = beta` from a random field and
stores the last frame but one, t = 1.75 (commit b5b646f,
`reaction_diffusion_2D_multi_solution_Hydra.py`). Where `a` is mostly 0.1 the start has
not died out by then: up to several times the steady state is left of it. Its ghost
cells hold u = 0, so the border lies half a cell outside of the square.

Mode `accurate` solves for the steady state with u = 0 on the border itself and `a`
constant on every cell, which is what `nu` says.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from recraft_jax import errors
from recraft_jax.pde import equation, finite_volume

TIMES = np.array([0.0])  # the file has no time axis
DOMAIN = (0.0, 1.0)
BETA = 0.1
PERMEABILITIES = (0.1, 1.0)
NUM_GAUSSIANS = 5
CFL = 0.25
SAVES = np.arange(8) * 0.25  # of the relaxation, up to the frame that is stored
MAX_WAVE = 4  # of the noise in the start
WINDOW_SLOPE = 0.01
COARSEST = 64  # cells per axis of the coarsest grid of mode `accurate`, at least
TOLERANCE = 1e-6  # of the conjugate gradients: error in the norm of the preconditioner


def draw(key: int, num: int, nx: int) -> dict[str, np.ndarray]:
    """Draw the permeability and the field from which the relaxation starts.

    The start is `u0 + delta w / mean|w|`; the noise w is the same for all samples of a
    run, and half of them have it in a window only. Keys follow one another, each the
    first half of the split one before, and are used again: the first three draw the
    Gaussians and, respectively, u0, delta and the window.

    Args:
      key: of `jax.random.PRNGKey`; the streams are those of
        `jax_threefry_partitionable=False`, as in 2022.
      num: samples of the run.
      nx: cells per axis.

    Returns:
      `nu` and `start` `[num x y]`, float32.
    """
    if nx < 2:
        raise errors.InputError(f"darcy: {nx} cells per axis; it needs at least 2")
    x = jnp.asarray(equation.centres(DOMAIN, nx), jnp.float32)
    with jax.threefry_partitionable(False), jax.enable_x64(False):
        keys = [jax.random.PRNGKey(key)]
        for _ in range((2 * MAX_WAVE) ** 2):
            keys.append(jax.random.split(keys[-1])[0])
        nu = _permeability(keys, num, x)
        noise = _noise(keys[1:], x)
        level = jax.random.uniform(keys[0], (num, 1, 1), minval=0.1, maxval=10)
        delta = jax.random.uniform(keys[1], (num, 1, 1), minval=0.01, maxval=0.5)
        even = jnp.array([0.5, 0.5])
        is_windowed = jax.random.choice(keys[2], 2, (num, 1, 1), p=even) == 1
        window = (
            _window(keys[2], num, x)[:, :, None] * _window(keys[3], num, x)[:, None]
        )
        noise = delta * noise / jnp.abs(noise).mean()
        start = level + jnp.where(is_windowed, window, 1) * noise
    return {"nu": np.asarray(nu), "start": np.asarray(start)}


def solve(sample: equation.Sample, *, nx: int, mode: str) -> dict[str, Array]:
    """Solve for `{"nu": [b x y], "tensor": [b 1 x y]}`."""
    nu = sample["nu"]
    found = compat(nu, sample["start"], nx) if mode == "compat" else accurate(nu)
    return {"nu": nu, "tensor": found[:, None]}


def compat(
    nu: Float[Array, "b x y"], start: Float[Array, "b x y"], nx: int
) -> Float[Array, "b x y"]:
    """Relax as PDEBench does: explicit half step, then the step with its fluxes.

    The order of the additions is the one that reproduces its float32 bit by bit.
    """
    dx = np.float32(1 / nx)
    a = jnp.pad(nu, ((0, 0), (1, 1), (1, 1)), mode="edge")
    across_x = 0.5 * (a[:, :-1, 1:-1] + a[:, 1:, 1:-1])
    across_y = 0.5 * (a[:, 1:-1, :-1] + a[:, 1:-1, 1:])
    longest = CFL * 0.5 * dx**2 / nu.max((1, 2))

    def update(u, fluxes_of, dt):
        p = jnp.pad(fluxes_of, ((0, 0), (1, 1), (1, 1)))
        flow_x = jnp.diff(across_x * (p[:, 1:, 1:-1] - p[:, :-1, 1:-1]), axis=1)
        flow_y = jnp.diff(across_y * (p[:, 1:-1, 1:] - p[:, 1:-1, :-1]), axis=2)
        share = dt / dx**2
        return (u + (share * flow_x + share * flow_y)) + dt * np.float32(BETA)

    def step(u, dt):
        dt = dt[:, None, None]
        return update(u, update(u, u, dt / 2), dt)

    return finite_volume.march(step, lambda _: longest, start, SAVES)[:, -1]


def _permeability(keys, num, x):
    """Permeability `[num x y]`: where the Gaussians are above their mean."""
    shape = (num, NUM_GAUSSIANS)
    x0, y0, size = (jax.random.uniform(key, shape)[..., None] for key in keys[:3])
    far = ((x - x0) ** 2)[..., :, None] + ((x - y0) ** 2)[..., None, :]
    total = jnp.exp(-far / (0.5 * size)[..., None]).sum(1)
    low, high = (np.float32(value) for value in PERMEABILITIES)
    return jnp.where(total > total.mean(), high, low)


def _noise(keys, x):
    """Noise w `[x y]`: waves of wavenumber k, each with `|k|^(-1/2)` and a phase."""
    orders = [i for i in range(-MAX_WAVE, MAX_WAVE + 1) if i]
    waves = np.array([(i, j) for j in orders for i in orders])
    phase = jnp.stack([jax.random.uniform(key) for key in keys[: len(waves)]])
    height = jnp.asarray(np.hypot(*waves.T) ** -0.5, jnp.float32)
    i, j = (2 * jnp.pi * jnp.asarray(w, jnp.float32)[:, None, None] for w in waves.T)
    angle = i * x[:, None] + j * x + 2 * jnp.pi * phase[:, None, None]
    return (height[:, None, None] * jnp.sin(angle)).sum(0)


def _window(key, num, x):
    """Window `[num x]`; its ends come from one key, so it is always 0.45 wide."""
    left = jax.random.uniform(key, (num, 1), minval=0.1, maxval=0.45)
    right = jax.random.uniform(key, (num, 1), minval=0.55, maxval=0.9)
    rise, fall = (jnp.tanh((x - end) / WINDOW_SLOPE) for end in (left, right))
    return (rise - fall) / 2


def accurate(nu: Float[Array, "b x y"]) -> Float[Array, "b x y"]:
    """Solve for the averages of the steady state over the cells of `nu`, in float64.

    Three grids, each cell cut in r, 2 r and 4 r, the coarsest with `COARSEST` cells per
    axis or more, and Richardson's extrapolation. Corners of the permeability are what
    decides its exponents: near one the solution is smooth up to a term of degree s, and
    the error of a grid is of order 2 s, then 2. Compared with extrapolation from grids
    twice as fine, 1e-5 to 5e-5 (relative L2 norm) at 16 to 128 cells per axis; one grid
    of cells cut in 4 would be off by 4e-4 at 128.
    """
    cut = 1
    while cut * nu.shape[1] < COARSEST:
        cut *= 2
    nu = jnp.asarray(nu, jnp.float64)
    coarse, middle, fine = (_averages(nu, cut * times) for times in (1, 2, 4))
    order = 2 * corner_degree(PERMEABILITIES[1] / PERMEABILITIES[0])
    pairs = (coarse, middle), (middle, fine)
    return _extrapolate(*(_extrapolate(*pair, order) for pair in pairs), 2.0)


def corner_degree(contrast: float) -> float:
    """Degree s of the solution at a corner, `r^s`, of a right angle with its surround.

    On the inside it is `cos(s phi)` about the diagonal, and flux and value agree on
    both sides if `contrast tan(s pi/4) + tan(3 s pi/4) = 0`.
    """
    return 4 / np.pi * np.arctan(np.sqrt((3 + contrast) / (1 + 3 * contrast)))


def steady(a: Float[Array, "b n n"]) -> Float[Array, "b n n"]:
    """Solve the finite-volume equations on the unit square, one cell per entry of `a`.

    The flux between two centres passes two half cells in series, which makes the
    harmonic mean; at the border it passes half a cell. Conjugate gradients in float64,
    preconditioned by the exact inverse for a = 1 in the basis of sines: the number of
    iterations depends on the contrast only.
    """
    n = a.shape[-1]
    sines, rates = _sine_basis(n)
    inverse = 1 / (rates[:, None] + rates)
    link_x, link_y = _links(a, 1), _links(a, 2)

    def outflow(u):
        p = jnp.pad(u, ((0, 0), (1, 1), (1, 1)))
        flow_x = jnp.diff(link_x * (p[:, 1:, 1:-1] - p[:, :-1, 1:-1]), axis=1)
        return -flow_x - jnp.diff(link_y * (p[:, 1:-1, 1:] - p[:, 1:-1, :-1]), axis=2)

    def precondition(rest):
        return sines.T @ ((sines @ rest @ sines.T) * inverse) @ sines

    def dot(x, y):
        return (x * y).sum((1, 2), keepdims=True)

    def is_unfinished(left):
        return left > TOLERANCE**2 * size

    def iterate(carry):
        u, rest, way, left = carry
        change = outflow(way)
        # A finished sample stays as it is: a constant `a` leaves 0 / 0 after one step.
        moves = is_unfinished(left)
        length = jnp.where(moves, left / jnp.where(moves, dot(way, change), 1), 0)
        rest = rest - length * change
        better = precondition(rest)
        now = jnp.where(moves, dot(rest, better), left)
        turn = now / jnp.where(moves, left, 1)
        return u + length * way, rest, better + turn * way, now

    # The barrier stops XLA from multiplying constant matrices while it compiles.
    rest = jax.lax.optimization_barrier(jnp.full(a.shape, BETA / n**2, a.dtype))
    way = precondition(rest)
    size = dot(rest, way)
    carry = (jnp.zeros_like(a), rest, way, size)
    return jax.lax.while_loop(lambda c: is_unfinished(c[-1]).any(), iterate, carry)[0]


def _averages(nu, cut):
    """Averages over the cells of `nu` of what `steady` finds on cells `cut` as fine."""
    num, nx, _ = nu.shape
    u = steady(jnp.repeat(jnp.repeat(nu, cut, 1), cut, 2))
    return u.reshape(num, nx, cut, nx, cut).mean((2, 4))


def _extrapolate(coarse, fine, order):
    """Remove an error of this order, given two grids of which one is twice as fine."""
    return fine + (fine - coarse) / (2**order - 1)


def _links(a, axis):
    """Conductances between neighbours along `axis`, one more than cells."""
    cells = a.shape[axis]

    def part(start, stop):
        return jax.lax.slice_in_dim(a, start, stop, axis=axis)

    low, high = part(0, cells - 1), part(1, cells)
    inner = 2 * low * high / (low + high)
    return jnp.concatenate([2 * part(0, 1), inner, 2 * part(cells - 1, cells)], axis)


def _sine_basis(n):
    """Orthonormal `sin(k pi (i + 1/2) / n)` `[k i]` and their eigenvalues `[k]`."""
    order = np.arange(1, n + 1)
    basis = np.sin(np.pi * order[:, None] * (np.arange(n) + 0.5) / n)
    rates = 4 * np.sin(np.pi * order / (2 * n)) ** 2
    return basis / np.linalg.norm(basis, axis=1, keepdims=True), rates


EQUATION = equation.Equation(
    draw,
    solve,
    TIMES,
    DOMAIN,
    run_size=200,
    cost={"compat": (0.05, 32, 4), "accurate": (0.08, 64, 2)},
)
