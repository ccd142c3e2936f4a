"""The Lipschitz condition of Definition 4, on gradients of the source loss.

FA = omega W1 bounds how much the source loss can grow between two features only if that
loss is omega-Lipschitz there. Its slope at a sample is the norm of

    grad_u ell = grad_u [-log p_s(z | u)],

and the recalibration of the source head (stage 0) minimises

    CE + rho mean_i max(0, |grad_u ell_i| - tau)^2,      tau = omega.

The feature u must be the one whose distance FA measures: the mean of the tokens. Moving
u by v means moving every token by v, so grad_u is the sum of the gradients of the
tokens. The released code takes token gradients instead (`mixed`), their norm over the
token axis only, and the gradient of the mean loss of a batch; see `gradient_norms`.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

AXES = ("sample", "tokens")


def gradient_norms(
    grads: Float[Array, "b ..."], axis: str = "sample"
) -> Float[Array, "b ..."]:
    """Compute the norm of each sample's gradient.

    Args:
      grads: gradient of the loss of each sample, `[b d]` (pooled features) or
        `[b l d]` (tokens).
      axis: `sample` for the norm over all axes but the first, which is the slope of the
        loss; `tokens` for the norm over axis 1 of `[b l d]` only, as in the released
        code: d norms for each sample, each far smaller than the slope.

    Returns:
      `[b]`, or `[b d]` for `tokens`. The derivative at a zero gradient is zero.

    Raises:
      ValueError: an unknown axis, or `tokens` without a token axis.
    """
    if axis not in AXES:
        raise ValueError(f"axis {axis!r}; allowed: {', '.join(AXES)}")
    if axis == "tokens" and grads.ndim != 3:
        raise ValueError(f"axis 'tokens' needs gradients [b l d], got {grads.shape}")
    over = 1 if axis == "tokens" else tuple(range(1, grads.ndim))
    square = jnp.sum(jnp.square(grads.astype(jnp.float32)), axis=over)
    is_zero = square == 0
    return jnp.where(is_zero, 0.0, jnp.sqrt(jnp.where(is_zero, 1.0, square)))


def penalty(norms: Float[Array, "b ..."], tau: float) -> Float[Array, ""]:
    """Compute 1/b sum max(0, norm - tau)^2, without the factor rho.

    Args:
      norms: of `gradient_norms`; several per sample are summed.
      tau: slope that costs nothing, in nats per unit of feature distance.
    """
    return jnp.sum(jnp.square(jnp.maximum(norms - tau, 0.0))) / norms.shape[0]
