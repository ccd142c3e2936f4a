"""Products, LayerNorm, attention and GELU with gradients written out.

They compute what their plain forms compute. The gradients are written out for two
reasons, both measured (`docs/performance.md`): every product, those of the backward
pass too, takes operands in the low precision and accumulates in float32; and what the
backward pass needs is kept in the low precision, once.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float


@jax.custom_vjp
def products(
    x: Float[Array, "... d"], kernels: Sequence[Float[Array, "d n"]]
) -> list[Float[Array, "... n"]]:
    """Multiply in the type of `x`, accumulate in float32.

    Args:
      x: float32 or bfloat16; its gradient has its type.
      kernels: of any float type, which their gradients have too.

    Returns:
      `x` times each of them, float32.
    """
    return [_dot(x, kernel.astype(x.dtype), x.ndim - 1, 0) for kernel in kernels]


def _products_forward(x, kernels):
    rows = x.reshape(-1, x.shape[-1])
    return products(x, kernels), (_pack(_apart(rows)), kernels)


def _products_backward(kept, grads):
    packed, kernels = kept
    x = _unpack(packed)
    grads = [grad.astype(x.dtype) for grad in grads]
    grad_x = sum(
        _dot(grad, kernel.astype(x.dtype), grad.ndim - 1, 1)
        for grad, kernel in zip(grads, kernels, strict=True)
    )
    turned = _turn(x)[: len(kernels[0])]
    grad_kernels = [
        _dot(turned, grad.reshape(-1, grad.shape[-1]), 1, 0).astype(kernel.dtype)
        for grad, kernel in zip(grads, kernels, strict=True)
    ]
    return grad_x.astype(x.dtype), grad_kernels


products.defvjp(_products_forward, _products_backward)


@jax.custom_vjp
def gelu(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """Compute x Phi(x), the exact GELU (Hendrycks and Gimpel 2016), within float32."""
    return jax.nn.gelu(x.astype(jnp.float32), approximate=False).astype(x.dtype)


def _gelu_backward(packed, grad):
    x = _unpack(packed)
    wide = x.astype(jnp.float32)
    below = 0.5 * (1 + lax.erf(wide * math.sqrt(0.5)))
    density = jnp.exp(-0.5 * jnp.square(wide)) / math.sqrt(2 * math.pi)
    return ((below + wide * density) * grad.astype(jnp.float32)).astype(x.dtype)


gelu.defvjp(lambda x: (gelu(x), _pack(x)), lambda x, g: (_gelu_backward(x, g),))


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def layer_norm(
    x: Float[Array, "... d"],
    scale: Float[Array, " d"],
    bias: Float[Array, " d"],
    eps: float,
    dtype: Any,
) -> Float[Array, "... d"]:
    """Normalise the last axis (Ba et al. 2016) within float32, the variance two-pass.

    Args:
      x: of any float type.
      scale: float32.
      bias: float32.
      eps: added to the variance.
      dtype: of the result.
    """
    return _layer_norm_forward(x, scale, bias, eps, dtype)[0]


def _layer_norm_forward(x, scale, bias, eps, dtype):
    wide = x.astype(jnp.float32)
    apart = wide - jnp.mean(wide, axis=-1, keepdims=True)
    variance = jnp.mean(jnp.square(apart), axis=-1, keepdims=True)
    inverse = lax.rsqrt(variance + eps)
    normal = apart * inverse
    like = jnp.zeros((), x.dtype)  # its type is the gradient's
    kept = _pack(normal.astype(dtype)), inverse, scale, like
    return (normal * scale + bias).astype(dtype), kept


def _layer_norm_backward(eps, dtype, kept, grad):
    del eps, dtype
    packed, inverse, scale, like = kept
    normal, grad = (a.astype(jnp.float32) for a in (_unpack(packed), grad))
    scaled = grad * scale
    mean = jnp.mean(scaled, axis=-1, keepdims=True)
    along = jnp.mean(scaled * normal, axis=-1, keepdims=True)
    grad_x = inverse * (scaled - mean - normal * along)
    of_scale = _sum_to(grad * normal, scale.shape)
    return grad_x.astype(like.dtype), of_scale, _sum_to(grad, scale.shape)


layer_norm.defvjp(_layer_norm_forward, _layer_norm_backward)


def attention(
    query: Float[Array, "... h l c"],
    key: Float[Array, "... h m c"],
    value: Float[Array, "... h m c"],
    bias: Float[Array, "..."],
) -> Float[Array, "... h l c"]:
    """Compute softmax(q k' / sqrt(c) + bias) v, the soft-max in float32.

    Args:
      query: float32 or bfloat16, as `key`, `value` and the result.
      key: see `query`.
      value: see `query`.
      bias: added to the scores, broadcast to `[... h l m]`.
    """
    return _attention(jnp.shape(bias), query, key, value, bias)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attention(bias_shape, query, key, value, bias):
    return _attention_forward(bias_shape, query, key, value, bias)[0]


def _attention_forward(bias_shape, query, key, value, bias):
    del bias_shape
    scores = _each(query, key, -1, -1) * query.shape[-1] ** -0.5
    weights = jax.nn.softmax(scores + bias).astype(query.dtype)
    mixed = _each(weights, value, -1, -2).astype(query.dtype)
    return mixed, tuple(map(_pack, (query, key, value, weights)))


def _attention_backward(bias_shape, kept, grad):
    query, key, value, weights = map(_unpack, kept)
    wide = weights.astype(jnp.float32)
    grad_weights = _each(grad, value, -1, -1)
    mean = jnp.sum(wide * grad_weights, axis=-1, keepdims=True)
    grad_bias = wide * (grad_weights - mean)
    grad_scores = (grad_bias * query.shape[-1] ** -0.5).astype(query.dtype)
    grads = (
        _each(grad_scores, key, -1, -2),
        _each(_turn(grad_scores), query, -1, -2),
        _each(_turn(weights), grad, -1, -2),
    )
    return *(g.astype(query.dtype) for g in grads), _sum_to(grad_bias, bias_shape)


_attention.defvjp(_attention_forward, _attention_backward)


def _sum_to(x, shape):
    """Undo a broadcast from `shape`."""
    lead = x.ndim - len(shape)
    ones = tuple(a for a, n in enumerate(shape) if n == 1)
    flat = x.reshape(math.prod(x.shape[:lead]), -1)
    # As a product: XLA on CPU takes 20 times as long to add over the first axes.
    total = jnp.matmul(jnp.ones(len(flat)), flat, precision="highest")
    return jnp.sum(total.reshape(x.shape[lead:]), axis=ones).reshape(shape)


def _dot(x, y, x_axis: int, y_axis: int):
    dims = ((x_axis,), (y_axis,)), ((), ())
    return lax.dot_general(x, y, dims, preferred_element_type=jnp.float32)


def _each(x, y, x_axis: int, y_axis: int):
    """Multiply the matrices of two stacks of equal shape `[... , , ]`."""
    lead = tuple(range(x.ndim - 2))
    dims = ((x.ndim + x_axis,), (y.ndim + y_axis,)), (lead, lead)
    return lax.dot_general(x, y, dims, preferred_element_type=jnp.float32)


def _pack(x):
    """Bits of bfloat16 as integers: how to keep it for the backward pass.

    XLA on CPU writes a layer into the stack of a scan in place only if it is of a type
    that the processor has; bfloat16 takes the whole stack to float32 and back.
    """
    return lax.bitcast_convert_type(x, jnp.uint16) if x.dtype == jnp.bfloat16 else x


def _unpack(x):
    return lax.bitcast_convert_type(x, jnp.bfloat16) if x.dtype == jnp.uint16 else x


def _apart(rows):
    """Lengthen rows of whole 4 KiB by a cache line, on CPU, in the low precision.

    The caches have room for few lines at such a distance, which is that of a column.
    """
    is_whole = rows.dtype == jnp.bfloat16 and 2 * rows.shape[1] % 4096 == 0
    if not is_whole or jax.default_backend() != "cpu":
        return rows
    return jnp.pad(rows, ((0, 0), (0, 32)))


def _turn(x):
    """Swap the last two axes, on CPU in memory.

    XLA on CPU multiplies bfloat16 fast only where the operands lie as their shapes say
    when it first looks, and it looks through a transpose, but not through this.
    """

    def in_memory(x):
        *lead, rows, columns = x.shape
        turned = jnp.swapaxes(x, -1, -2).reshape(*lead, columns, 1, rows)
        return lax.optimization_barrier(turned).reshape(*lead, columns, rows)

    if x.dtype == jnp.float32:
        return jnp.swapaxes(x, -1, -2)
    return lax.platform_dependent(
        x, cpu=in_memory, default=lambda x: jnp.swapaxes(x, -1, -2)
    )
