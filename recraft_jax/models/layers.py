"""What the transformers here have in common: attention, MLP, LayerNorm.

All of them are those of PyTorch: the erf GELU, a two-pass variance in LayerNorm, a
soft-max in float32 whatever the dtype of the products. Dropout and drop path are left
out: every method here runs the body without them.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp


def layer_norm(eps: float, dtype: Any, name: str) -> nn.LayerNorm:
    """LayerNorm with the two-pass variance that PyTorch uses."""
    return nn.LayerNorm(epsilon=eps, dtype=dtype, use_fast_variance=False, name=name)


class Attention(nn.Module):
    """Multi-head self-attention over the last but one axis of `[... l d]`."""

    num_heads: int
    dtype: Any
    has_qkv_bias: bool = True

    @nn.compact
    def __call__(self, x, bias=0.0):
        """Attend; `bias` is added to the scores, broadcast to `[... heads l l]`."""
        *batch, length, width = x.shape
        heads = (*batch, length, self.num_heads, width // self.num_heads)
        query, key, value = (
            nn.Dense(width, use_bias=self.has_qkv_bias, dtype=self.dtype, name=name)(
                x
            ).reshape(heads)
            for name in ("query", "key", "value")
        )
        scores = jnp.einsum("...lhc,...mhc->...hlm", query, key) / heads[-1] ** 0.5
        weights = jax.nn.softmax(scores.astype(jnp.float32) + bias).astype(self.dtype)
        mixed = jnp.einsum("...hlm,...mhc->...lhc", weights, value).reshape(x.shape)
        return nn.Dense(width, dtype=self.dtype, name="out")(mixed)


class Mlp(nn.Module):
    """Two dense layers with an exact (erf) GELU between them."""

    hidden: int
    dtype: Any

    @nn.compact
    def __call__(self, x):
        """Map `[... d]` to `[... d]`."""
        up = nn.Dense(self.hidden, dtype=self.dtype, name="up")(x)
        up = jax.nn.gelu(up, approximate=False)
        return nn.Dense(x.shape[-1], dtype=self.dtype, name="down")(up)


def scanned(layer: type[nn.Module], length: int, in_axes: Any = nn.broadcast):
    """Repeat a layer `(x, y) -> (x, None)`: one compiled body, parameters stacked."""
    return nn.scan(
        layer,
        variable_axes={"params": 0},
        split_rngs={"params": True},
        in_axes=in_axes,
        length=length,
    )
