"""Diffusion-reaction, `u_t = 0.5 u_xx + u (1 - u)` (Fisher-KPP), periodic on (0, 1).

PDEBench's `ReacDiff_Nu0.5_Rho1.0`. Its steps are so short on the published grid that
float32 loses both the growth and the late diffusion: the published fields stop moving
by t = 0.3 (compat), where the equation's own solution grows on (accurate).
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from recraft_jax.pde import equation, fourier, scalar

DIFFUSIVITY = 0.5
GROWTH = 1.0
CFL = 0.25
REACH = 2  # one ghost cell for the predictor, one for the corrector
NUM_MODES = 64
NUM_KEPT = 24  # exp(-DIFFUSIVITY (2 pi 24)^2 0.01) is 1e-49
NUM_STEPS = 4  # per frame
TIMES = np.linspace(0.0, 1.0, 101)


def compat(
    sample: equation.Sample, nx: int, times: Sequence[float]
) -> Float[Array, "b t x"]:
    """Logistic growth and central diffusion, midpoint rule; float32.

    The growth keeps this form, rather than an equal one with fewer operations: where
    it stalls depends on how it is rounded.
    """
    dx = 1 / nx

    def update(u, at, dt, stride):
        flux = -DIFFUSIVITY * scalar.difference(at, stride) / dx
        grown = 1 / (1 + jnp.exp(-GROWTH * dt) * (1 - u) / u)
        return grown - dt / dx * scalar.difference(flux, stride)

    def advance(u, dt, stride):
        half = update(u[stride:-stride], u, 0.5 * dt, stride)
        return update(u[2 * stride : -2 * stride], half, dt, stride)

    u = scalar.cells(sample, nx, np.float32)
    step = CFL * 0.5 * dx**2 / DIFFUSIVITY
    return scalar.march(advance, REACH, step, normalise(u, u), times)


def accurate(
    sample: equation.Sample,
    nx: int,
    times: Sequence[float],
    *,
    num_modes: int = NUM_MODES,
    num_steps: int = NUM_STEPS,
) -> Float[Array, "b t x"]:
    """Solve in Fourier space with both parts of the equation exact; float64.

    Diffusion and logistic growth alternate as in Strang (1968), extrapolated to fourth
    order in the step. Modes above the 64th die within 1e-5 and do not come back. Steps
    start short, as the initial field has kinks and a jump at the ends.

    Args:
      sample: of `draw`, or some of its rows.
      nx: cells.
      times: equally spaced, at least 0.01 apart.
      num_modes: resolved ones.
      num_steps: from one frame to the next.
    """
    u = scalar.cells(sample, nx, np.float64)
    fine = scalar.fine(sample, nx, scalar.NUM_FINE)
    modes = fourier.analyse(normalise(fine, u), num_modes, 0.5)
    rate = DIFFUSIVITY * (2 * np.pi * np.arange(num_modes + 1)) ** 2
    num_grid = 4 * num_modes  # the logistic makes higher modes: room for them

    def strang(modes, dt):
        decay = jnp.exp(-0.5 * rate * dt)
        u = num_grid * jnp.fft.irfft(decay * modes, num_grid)
        u = u / (u + jnp.exp(-GROWTH * dt) * (1 - u))
        return decay * fourier.analyse(u, num_modes, 0.0)

    def step(modes, dt):
        twice = strang(strang(modes, 0.5 * dt), 0.5 * dt)
        return (4 * twice - strang(modes, dt)) / 3, None

    def to_save(modes, _):
        spacing = (times[1] - times[0]) / num_steps
        modes, _ = jax.lax.scan(step, modes, jnp.full(num_steps, spacing))
        return modes, modes[:, : NUM_KEPT + 1]

    modes, _ = jax.lax.scan(step, modes, graded(times[1] - times[0], num_steps))
    early = modes[:, : NUM_KEPT + 1]
    _, late = jax.lax.scan(to_save, modes, length=len(times) - 2)
    kept = jnp.concatenate([early[None], late])
    later = fourier.synthesise(kept, equation.centres(scalar.DOMAIN, nx))
    return jnp.concatenate([normalise(u, u)[:, None], jnp.swapaxes(later, 0, 1)], 1)


def normalise(
    u: Float[Array, "b p"], cells: Float[Array, "b x"]
) -> Float[Array, "b p"]:
    """Map the range of `cells` to [0, 1]; between them `u` may leave it a little."""
    low = cells.min(1, keepdims=True)
    return (u - low) / (cells - low).max(1, keepdims=True)


def graded(span: float, num_steps: int) -> np.ndarray:
    """Steps that add up to `span`, the first one a millionth of it."""
    return np.diff(span * np.linspace(0, 1, 8 * num_steps + 1) ** 4)


COST = {"compat": (0.01, 128, 3), "accurate": (0.006, 1024, 1)}
EQUATION = scalar.make(compat, accurate, TIMES, COST)
