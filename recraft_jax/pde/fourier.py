"""Fourier series on the periodic unit interval, in float64.

Heat smooths so fast that from the first saved time on a few dozen modes hold a field
to the last digit, so that sums over modes are cheaper than transforms, at any points.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Complex, Float


def analyse(
    u: Float[Array, "*b m"], num_modes: int, offset: float
) -> Complex[Array, "*b k"]:
    r"""Compute the modes `\int_0^1 u(x) exp(-2 pi i j x) dx`, j = 0, ..., num_modes.

    Args:
      u: values at `(i + offset) / m`.
      num_modes: less than m / 2.
      offset: 0 for points from 0 on, 1/2 for the centres of m cells.
    """
    num = u.shape[-1]
    order = np.arange(num_modes + 1)
    shift = np.exp(-2j * np.pi * order * offset / num)
    return jnp.fft.rfft(u)[..., : num_modes + 1] * (shift / num)


def synthesise(
    modes: Complex[Array, "*b k"], points: Float[np.ndarray, " p"]
) -> Float[Array, "*b p"]:
    """Evaluate the real field with these modes, those of negative order included."""
    order = np.arange(modes.shape[-1])
    weight = np.where(order == 0, 1.0, 2.0)[:, None]
    angle = 2 * np.pi * order[:, None] * points
    real = jnp.real(modes) @ (weight * np.cos(angle))
    return real - jnp.imag(modes) @ (weight * np.sin(angle))
