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


def rmse(
    pred: Float[ArrayLike, "b ..."], target: Float[ArrayLike, "b ..."]
) -> Float[Array, " b"]:
    r"""Compute `\|pred - target\|_2 / \sqrt{m}` of each sample of m values.

    Root mean square error; the released code trains Burgers and 1-D CFD on it. A
    perfect prediction has a zero gradient.
    """
    error = pred.astype(jnp.float32) - target.astype(jnp.float32)
    return _flat_norm(error) / (error.size / len(error)) ** 0.5


def mean_squared_error(
    pred: Float[ArrayLike, "b k"],
    target: Float[ArrayLike, "b k"],
    scale: Float[ArrayLike, " k"] | float = 1.0,
) -> Float[Array, " b"]:
    """Compute the mean of `((pred - target) / scale)^2` over the k values of a sample.

    The deviation of the targets as `scale` makes it 1 for predicting their mean, in
    whatever units they are.
    """
    error = (pred.astype(jnp.float32) - target.astype(jnp.float32)) / scale
    return jnp.mean(jnp.square(error), axis=1)


def cross_entropy(
    logits: Float[ArrayLike, "b k"], labels: Int[ArrayLike, " b"]
) -> Float[Array, " b"]:
    """Compute `-log softmax(logits)[label]` of each sample, in nats."""
    return optax.softmax_cross_entropy_with_integer_labels(
        logits.astype(jnp.float32), labels
    )


def binary_cross_entropy(
    logits: Float[ArrayLike, "b k"],
    targets: Float[ArrayLike, "b k"],
    pos_weight: float = 1.0,
) -> Float[Array, " b"]:
    r"""Compute the mean over labels of `-w y log s(z) - (1 - y) log s(-z)`, in nats.

    Here s is the sigmoid of a logit z, y a target of 0 or 1 and w is `pos_weight`, as
    in PyTorch's `BCEWithLogitsLoss`: above 1 it makes missed labels dearer.
    """
    logits, targets = logits.astype(jnp.float32), targets.astype(jnp.float32)
    present = targets * jax.nn.softplus(-logits)  # softplus(-z) is -log s(z), stable
    absent = (1 - targets) * jax.nn.softplus(logits)
    return jnp.mean(pos_weight * present + absent, axis=1)


def judged_squared_error(
    pred: Float[ArrayLike, "b ..."], target: Float[ArrayLike, "b ..."]
) -> Float[Array, " b"]:
    """Compute the mean square error of each sample where its target is 0 or more.

    Targets below 0 are not judged; a sample of which nothing is judged has loss 0.
    """
    pred, target = pred.astype(jnp.float32), target.astype(jnp.float32)
    return _judged_mean(jnp.square(pred - target), target >= 0)


def judged_cross_entropy(
    logits: Float[ArrayLike, "b ..."],
    targets: Float[ArrayLike, "b ..."],
    counts_ignored: bool = False,
) -> Float[Array, " b"]:
    r"""Compute the mean over points of `-y log s(z) - (1 - y) log s(-z)`, in nats.

    Args:
      logits: z, s is the sigmoid.
      targets: 0 or 1, below 0 what is not judged.
      counts_ignored: the mean is over all points, those not judged with loss log 2, as
        the released code multiplies logits and targets by the mask (T10).
    """
    logits, targets = logits.astype(jnp.float32), targets.astype(jnp.float32)
    judged = targets >= 0
    z, y = jnp.where(judged, logits, 0.0), jnp.maximum(targets, 0.0)
    each = y * jax.nn.softplus(-z) + (1 - y) * jax.nn.softplus(z)
    return _judged_mean(each, judged | counts_ignored)


def double_softmax_cross_entropy(
    logits: Float[ArrayLike, "b k"], labels: Int[ArrayLike, " b"]
) -> Float[Array, " b"]:
    """Compute `-log softmax(softmax(logits))[label]` of each sample, in nats.

    The released code trains its one-dimensional source head with it: the soft-max of
    the head meets that of the cross-entropy. It lies between log(1 + (k - 1) / e) and
    log(k - 1 + e), and its gradient vanishes at sure predictions, right or wrong.
    """
    return cross_entropy(jax.nn.softmax(logits.astype(jnp.float32)), labels)


def _judged_mean(values, judged):
    """Mean over all but the first axis of the values that are judged; 0 of none."""
    values, judged = (v.reshape(v.shape[0], -1) for v in (values, judged))
    total = jnp.sum(jnp.where(judged, values, 0.0), axis=1)
    return total / jnp.maximum(jnp.sum(judged, axis=1), 1)


def _flat_norm(x):
    """Norm over all but the first axis, with gradient zero (not NaN) at zero."""
    square = jnp.sum(jnp.square(x.reshape(x.shape[0], -1)), axis=1)
    is_zero = square == 0
    return jnp.where(is_zero, 0.0, jnp.sqrt(jnp.where(is_zero, 1.0, square)))
