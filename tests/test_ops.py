"""Gradients of `models/ops.py` against plain forms, closed forms and float64."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from jax.test_util import check_grads

from recraft_jax.models import ops

WIDE = functools.partial(np.asarray, dtype=np.float64)


def normal(seed, *shape, dtype=jnp.float32):
    return jax.random.normal(jax.random.key(seed), shape, jnp.float32).astype(dtype)


def product(x, kernel):
    (out,) = ops.products(x, [kernel])
    return out


def plain_attention(query, key, value, bias):
    scores = jnp.einsum("...hlc,...hmc->...hlm", query, key) / query.shape[-1] ** 0.5
    return jnp.einsum("...hlm,...hmc->...hlc", jax.nn.softmax(scores + bias), value)


def rounded(got, want, dtype):
    """Assert equality up to the rounding of values as large as the largest."""
    tolerance = 2e-6 if dtype == jnp.float32 else 2e-2
    scale = max(np.abs(WIDE(want)).max(), 1.0)  # a constant bias has gradient 0
    np.testing.assert_allclose(
        WIDE(got.astype(jnp.float32)) / scale, WIDE(want) / scale, atol=tolerance
    )


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("wide", [5, 2048])
@pytest.mark.parametrize("lead", [(), (1,), (7,), (2, 7)])
def test_product_and_its_gradients(lead, wide, dtype):
    x, kernel = normal(0, *lead, wide, dtype=dtype), normal(1, wide, 3)
    grad = normal(2, *lead, 3, dtype=dtype).astype(jnp.float32)
    out, back = jax.vjp(product, x, kernel)
    grad_x, grad_kernel = back(grad)
    assert out.dtype == jnp.float32
    assert (grad_x.dtype, grad_kernel.dtype) == (dtype, jnp.float32)
    narrow = WIDE(kernel.astype(dtype).astype(jnp.float32))
    x, grad = WIDE(x.astype(jnp.float32)), WIDE(grad)
    rounded(out, x @ narrow, jnp.float32)
    rounded(grad_x, grad @ narrow.T, dtype)
    want = x.reshape(-1, wide).T @ grad.reshape(-1, 3)
    rounded(grad_kernel, want, jnp.float32)


def test_gradient_of_several_products_is_the_sum():
    x, kernels = normal(0, 7, 5), [normal(i, 5, n) for i, n in ((1, 3), (2, 4))]
    grads = [normal(3, 7, 3), normal(4, 7, 4)]
    _, back = jax.vjp(ops.products, x, kernels)
    grad_x, grad_kernels = back(grads)
    want = sum(WIDE(g) @ WIDE(k).T for g, k in zip(grads, kernels, strict=True))
    rounded(grad_x, want, jnp.float32)
    for got, grad in zip(grad_kernels, grads, strict=True):
        rounded(got, WIDE(x).T @ WIDE(grad), jnp.float32)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_gelu_is_x_phi_of_x(dtype):
    x = jnp.linspace(-6, 6, 101).astype(dtype)
    out, back = jax.vjp(ops.gelu, x)
    (grad,) = back(jnp.ones_like(x))
    assert out.dtype == grad.dtype == dtype
    x = WIDE(x.astype(jnp.float32))
    below = scipy.special.ndtr(x)
    rounded(out, x * below, dtype)
    density = np.exp(-(x**2) / 2) / math.sqrt(2 * math.pi)
    rounded(grad, below + x * density, dtype)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize(
    "shape", [(), (1, 1, 1, 1), (3, 4, 6), (2, 1, 1, 6), (2, 3, 4, 6)]
)
def test_attention_and_its_gradients(shape, dtype):
    given = [normal(i, 2, 3, n, 5, dtype=dtype) for i, n in enumerate((4, 6, 6))]
    bias, grad = normal(3, *shape), normal(4, 2, 3, 4, 5, dtype=dtype)
    out, back = jax.vjp(ops.attention, *given, bias)
    with jax.enable_x64(True):
        wide = [jnp.asarray(WIDE(a.astype(jnp.float32))) for a in (*given, bias, grad)]
        want, want_back = jax.vjp(plain_attention, *wide[:-1])
        want_grads = want_back(wide[-1])
    rounded(out, want, dtype)
    for got, want, like in zip(back(grad), want_grads, (*given, bias), strict=True):
        assert got.dtype == like.dtype and got.shape == like.shape
        rounded(got, want, dtype)


def test_gradients_are_those_of_finite_differences():
    x, kernel = normal(0, 4, 5), normal(1, 5, 3)
    given = [normal(i, 2, n, 5) for i, n in enumerate((4, 6, 6))]
    check = functools.partial(check_grads, order=1, modes=["rev"], rtol=2e-2, atol=2e-2)
    check(product, (x, kernel))
    check(ops.gelu, (x,))
    check(ops.attention, (*given, normal(3, 4, 6)))


def test_bilevel_gradients_go_through():
    """MoNA differentiates a step of gradient descent."""
    x, kernel = normal(0, 4, 5), normal(1, 5, 5)

    def after_a_step(product, kernel):
        def loss(kernel):
            return jnp.mean(jnp.square(ops.gelu(product(x, kernel)) - x))

        return loss(kernel - 0.1 * jax.grad(loss)(kernel))

    got = jax.grad(functools.partial(after_a_step, product))(kernel)
    want = jax.grad(functools.partial(after_a_step, jnp.matmul))(kernel)
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-6)


def test_bfloat16_is_kept_as_such():
    """No layer of a scan keeps a float32 copy for the backward pass."""
    kernels = normal(0, 3, 64, 64)

    def loss(kernels, x):
        def layer(x, kernel):
            return ops.gelu(product(x, kernel).astype(x.dtype)), None

        return jnp.sum(jax.lax.scan(layer, x, kernels)[0].astype(jnp.float32))

    x = normal(1, 32, 64, dtype=jnp.bfloat16)
    compiled = jax.jit(jax.grad(loss)).lower(kernels, x).compile().as_text()
    assert "u16[3,32,64]" in compiled
    assert "f32[3,32,64]" not in compiled and "bf16[3,32,64]" not in compiled


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("lead", [(), (1,), (2, 7)])
def test_layer_norm_and_its_gradients(lead, dtype):
    def plain(x, scale, bias):
        apart = x - x.mean(-1, keepdims=True)
        variance = jnp.mean(apart**2, -1, keepdims=True)
        return apart / jnp.sqrt(variance + 1e-2) * scale + bias

    x = (3 + normal(0, *lead, 5)).astype(dtype)
    scale, bias = 1 + normal(1, 5), normal(2, 5)
    grad = normal(3, *lead, 5, dtype=dtype)
    norm = functools.partial(ops.layer_norm, eps=1e-2, dtype=dtype)
    out, back = jax.vjp(lambda *given: norm(*given), x, scale, bias)
    with jax.enable_x64(True):
        given = (x.astype(jnp.float32), scale, bias, grad.astype(jnp.float32))
        wide = [jnp.asarray(WIDE(a)) for a in given]
        want, want_back = jax.vjp(plain, *wide[:-1])
        want_grads = want_back(wide[-1])
    assert out.dtype == dtype
    rounded(out, want, dtype)
    for got, want, like in zip(back(grad), want_grads, (x, scale, bias), strict=True):
        assert got.dtype == like.dtype and got.shape == like.shape
        rounded(got, want, dtype)
