"""PyTorch's default start of linear maps and convolutions, for flat parameter dicts.

Drawn outside of the modules because XLA compiles each shape's draw anew: 16 s for a
U-Net on two CPU cores against 1 s for one draw that is cut into leaves.
"""

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def uniform(key: jax.Array, like: Mapping[str, Any]) -> dict[str, Float[Array, "..."]]:
    """Draw U(-1, 1) for all leaves of the shapes in `like` at once."""
    sizes = {path: math.prod(like[path].shape) for path in sorted(like)}
    values = jax.random.uniform(key, (sum(sizes.values()),), minval=-1.0, maxval=1.0)
    drawn, at = {}, 0
    for path, size in sizes.items():
        drawn[path] = jnp.reshape(values[at : at + size], like[path].shape)
        at += size
    return drawn


def bound(like: Mapping[str, Any], path: str) -> float:
    """Bound of a kernel and of the bias beside it: `1 / sqrt(fan_in)`.

    The fan-in is all but the last axis of the kernel. Of a transposed convolution
    `[... out in]` that is its outputs, as PyTorch counts.
    """
    kernel = like[f"{path.rpartition('/')[0]}/kernel"]
    return math.prod(kernel.shape[:-1]) ** -0.5
