"""What the transformers here have in common: attention, MLP, LayerNorm.

All of them are those of PyTorch: the erf GELU, a two-pass variance in LayerNorm, a
soft-max in float32 whatever the dtype of the products. Dropout and drop path are left
out: every method here runs the body without them. Gradients are those of `ops.py`.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from recraft_jax.models import ops


class LayerNorm(nn.Module):
    """LayerNorm over the last axis, with the parameters of `nn.LayerNorm`."""

    eps: float
    dtype: Any

    @nn.compact
    def __call__(self, x):
        """Normalise `[... d]`, to `dtype`."""
        scale = self.param("scale", nn.initializers.ones_init(), x.shape[-1:])
        bias = self.param("bias", nn.initializers.zeros_init(), x.shape[-1:])
        return ops.layer_norm(x, scale, bias, self.eps, self.dtype)


class Dense(nn.Module):
    """Affine map of the last axis, with the parameters of `nn.Dense`."""

    features: int
    dtype: Any
    has_bias: bool = True

    @nn.compact
    def weights(self, width: int):
        """Return the kernel `[width features]` and the bias, or None."""
        shape = (width, self.features)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), shape)
        if not self.has_bias:
            return kernel, None
        return kernel, self.param("bias", nn.initializers.zeros_init(), shape[1:])

    def __call__(self, x):
        """Map `[... width]` to `[... features]`."""
        (out,) = affine(x, self.dtype, [self.weights(x.shape[-1])])
        return out


def affine(x, dtype: Any, weights) -> list:
    """Map `x` by each `(kernel, bias)`: products in `dtype`, sums in float32."""
    outs = ops.products(x.astype(dtype), [kernel for kernel, _ in weights])
    return [
        (out if bias is None else out + bias).astype(dtype)
        for out, (_, bias) in zip(outs, weights, strict=True)
    ]


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
        maps = (
            Dense(width, self.dtype, self.has_qkv_bias, name=name).weights(width)
            for name in ("query", "key", "value")
        )
        query, key, value = (
            mapped.reshape(heads).swapaxes(-2, -3)
            for mapped in affine(x, self.dtype, list(maps))
        )
        mixed = ops.attention(query, key, value, jnp.asarray(bias, jnp.float32))
        mixed = mixed.swapaxes(-2, -3).reshape(x.shape)
        return Dense(width, self.dtype, name="out")(mixed)


class Mlp(nn.Module):
    """Two dense layers with an exact (erf) GELU between them."""

    hidden: int
    dtype: Any

    @nn.compact
    def __call__(self, x):
        """Map `[... d]` to `[... d]`."""
        up = ops.gelu(Dense(self.hidden, self.dtype, name="up")(x))
        return Dense(x.shape[-1], self.dtype, name="down")(up)


def scanned(layer: type[nn.Module], length: int, in_axes: Any = nn.broadcast):
    """Repeat a layer `(x, y) -> (x, None)`: one compiled body, parameters stacked."""
    return nn.scan(
        layer,
        variable_axes={"params": 0},
        split_rngs={"params": True},
        in_axes=in_axes,
        length=length,
    )
