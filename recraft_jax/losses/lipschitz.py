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
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from recraft_jax.losses import bound, checks

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
    checks.finite_rows("grads", grads)
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
    checks.finite_rows("norms", norms)
    return jnp.sum(jnp.square(jnp.maximum(norms - tau, 0.0))) / norms.shape[0]


def on_coupling(
    source_log_probs: Float[ArrayLike, "m ks"],
    source_labels: Int[ArrayLike, " m"],
    source_features: Float[ArrayLike, "m d"],
    target_source_log_probs: Float[ArrayLike, "n ks"],
    target_features: Float[ArrayLike, "n d"],
    *,
    omega: float,
    share: float = 0.95,
    max_points: int = 2000,
    seed: int = 0,
) -> dict[str, float]:
    """Measure the condition of Definition 4 where it is needed: on the coupling.

    The pairs are those of the optimal coupling of source and target features; ell_s is
    the observed loss on the source, whose noise makes slopes too large, and H(p_s(.|u))
    on the target.

    Args:
      source_log_probs: As in `bound.target_error_bound`, and so the next four.
      source_labels: Labels of the source sample.
      source_features: Features of the source sample.
      target_source_log_probs: Of the source model on the target features.
      target_features: Features of the target sample.
      omega: Slope to test, in nats per unit of distance.
      share: Mass of the coupling that `omega_95` must cover.
      max_points: See `bound.exact_wasserstein1`.
      seed: See `bound.exact_wasserstein1`.

    Returns:
      `delta`: mass of pairs steeper than omega. `loss_range`: M, the largest difference
      of losses among them, 0 if there is none. `slack` = delta loss_range: with it in
      the bound B <= omega W1 + slack holds on these samples by construction.
      `omega_95`: least slope that covers `share` of the mass.
    """
    checks.log_rows("source_log_probs", source_log_probs)
    checks.log_rows("target_source_log_probs", target_source_log_probs)
    x, y, log_ss, log_st = (
        np.asarray(v, np.float64)
        for v in (
            *(source_features, target_features),
            *(source_log_probs, target_source_log_probs),
        )
    )
    rows, columns, mass = bound.exact_coupling(x, y, max_points=max_points, seed=seed)
    source_loss = -log_ss[np.arange(len(log_ss)), np.asarray(source_labels)]
    target_loss = -np.sum(np.exp(log_st) * np.maximum(log_st, -1e300), axis=1)
    gap = np.abs(source_loss[rows] - target_loss[columns])
    length = np.linalg.norm(x[rows] - y[columns], axis=1)
    is_steep = gap > omega * length
    delta = float(mass[is_steep].sum())
    loss_range = float(gap[is_steep].max()) if is_steep.any() else 0.0
    # A pair of equal features with unequal losses has no finite slope.
    slope = np.where(gap > 0, gap, 0.0) / np.where(length > 0, length, np.nan)
    slope = np.where(np.isnan(slope), np.where(gap > 0, np.inf, 0.0), slope)
    order = np.argsort(slope)
    covered = np.searchsorted(np.cumsum(mass[order]), share * mass.sum())
    return {
        "delta": delta,
        "loss_range": loss_range,
        "slack": delta * loss_range,
        "omega_95": float(slope[order[min(covered, len(order) - 1)]]),
    }
