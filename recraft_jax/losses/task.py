"""Task losses, one value per sample; callers take the mean."""

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int


def relative_l2(
    pred: Float[ArrayLike, "b ..."], target: Float[ArrayLike, "b ..."]
) -> Float[Array, " b"]:
    r"""Compute `\|pred - target\|_2 / \|target\|_2` of each flattened sample.

    The nRMSE of the cross-modal papers before its mean. A target of zeros
    gives infinity, a perfect prediction a zero gradient.
    """
    error = _flat_norm(pred.astype(jnp.float32) - target.astype(jnp.float32))
    return error / _flat_norm(target.astype(jnp.float32))


def cross_entropy(
    logits: Float[ArrayLike, "b k"], labels: Int[ArrayLike, " b"]
) -> Float[Array, " b"]:
    """Compute `-log softmax(logits)[label]` of each sample, in nats."""
    return optax.softmax_cross_entropy_with_integer_labels(
        logits.astype(jnp.float32), labels
    )


def double_softmax_cross_entropy(
    logits: Float[ArrayLike, "b k"], labels: Int[ArrayLike, " b"]
) -> Float[Array, " b"]:
    """Compute `-log softmax(softmax(logits))[label]` of each sample, in nats.

    The released code trains its one-dimensional source head with it: the soft-max of
    the head meets that of the cross-entropy. It lies between log(1 + (k - 1) / e) and
    log(k - 1 + e), and its gradient vanishes at sure predictions, right or wrong.
    """
    return cross_entropy(jax.nn.softmax(logits.astype(jnp.float32)), labels)


def _flat_norm(x):
    """Norm over all but the first axis, with gradient zero (not NaN) at zero."""
    square = jnp.sum(jnp.square(x.reshape(x.shape[0], -1)), axis=1)
    is_zero = square == 0
    return jnp.where(is_zero, 0.0, jnp.sqrt(jnp.where(is_zero, 1.0, square)))
