"""Feature-label distortion (FLD, Eq. 7) for one global label map.

The source model assigns to a target sample the probabilities p_s(z | u_i). With one-hot
target labels they give the joint

    q(z, z') = sum_i w_i p_s(z | u_i) 1[z'_i = z'],    a = q 1,    b = q^T 1,

and for a row-stochastic label map Lambda (one for all u) the distortion is

    FLD(Lambda) = -sum q log Lambda = H(Zt | Zs) + sum_z a_z KL(q(.|z) || Lambda(.|z)).

Its least value over Lambda is H(Zt | Zs) = H(Zt) - I(Zs; Zt). The released code
minimises H(Zs | Zt) instead, which a constant prediction brings to zero.

Everything is in nats and float32, and differentiable in q, so in the probabilities.
Cells without mass count 0 log 0 = 0, and the logarithm of an empty cell, row or column
has gradient zero. Small batches are biased towards too small a distortion; see
`miller_madow`.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

_MIN_ROW = 1e-8  # label-map rows with less mass are left out
_MIN_LAMBDA = 1e-30  # keeps the logarithm of an underflown plan finite


def joint(
    probs: Float[Array, "n ks"],
    targets: Float[Array, "n kt"],
    weights: Float[Array, " n"] | None = None,
) -> Float[Array, "ks kt"]:
    """Compute the joint q(z, z') of source prediction and target label.

    Args:
      probs: Source probabilities, rows on the simplex.
      targets: Target labels, one-hot or rows on the simplex.
      weights: Nonnegative sample weights, normalised here (uniform if None); they undo
        class-balanced sampling. A sample of weight zero has no influence; the sum must
        be positive.

    Returns:
      The joint, of sum 1: source labels in rows, target labels in columns. A class
      without samples leaves a column of zeros.
    """
    if probs.ndim != 2 or targets.ndim != 2 or probs.shape[0] != targets.shape[0]:
        raise ValueError(
            "probs and targets must be [n Ks] and [n Kt], got "
            f"{probs.shape} and {targets.shape}"
        )
    num_samples = probs.shape[0]
    if weights is None:
        weights = jnp.ones(num_samples)
    elif weights.shape != (num_samples,):
        raise ValueError(f"weights {weights.shape} do not fit {num_samples} samples")
    probs, targets, weights = (
        jnp.asarray(v, jnp.float32) for v in (probs, targets, weights)
    )
    weights = weights / jnp.sum(weights)
    return jnp.matmul(
        probs.T, weights[:, None] * targets, precision=jax.lax.Precision.HIGHEST
    )


def entropy(p: Float[Array, "..."]) -> Float[Array, ""]:
    """Compute H(p) = -sum p log p over all entries of p."""
    p = jnp.asarray(p, jnp.float32)
    return -jnp.sum(p * _safe_log(p))


def target_given_source(q: Float[Array, "ks kt"]) -> Float[Array, ""]:
    """Compute H(Zt | Zs) = -sum q log(q / a) = H(Zt) - I, the least FLD (Eq. 7).

    Between 0 and H(Zt). A source label that is never predicted contributes nothing.
    """
    q = jnp.asarray(q, jnp.float32)
    a = jnp.sum(q, axis=1, keepdims=True)
    return -jnp.sum(q * (_safe_log(q) - _safe_log(a)))


def source_given_target(q: Float[Array, "ks kt"]) -> Float[Array, ""]:
    """Compute H(Zs | Zt) = -sum q log(q / b), the loss of the released code.

    It equals H(Zt | Zs) + H(Zs) - H(Zt): not the distortion, and zero for a constant
    one-hot prediction. Empty target classes contribute nothing.
    """
    return target_given_source(q.T)


def mutual_information(q: Float[Array, "ks kt"]) -> Float[Array, ""]:
    """Compute I(Zs; Zt) = sum q log(q / (a b^T)) = H(a) + H(b) - H(q)."""
    q = jnp.asarray(q, jnp.float32)
    a, b = jnp.sum(q, axis=1, keepdims=True), jnp.sum(q, axis=0)
    return jnp.sum(q * (_safe_log(q) - _safe_log(a) - _safe_log(b)))


def label_map(q: Float[Array, "ks kt"]) -> Float[Array, "ks kt"]:
    """Compute the best label map Lambda_bar(z' | z) = q(z, z') / a(z).

    The head `probs @ label_map(q)` has a cross-entropy of at most H(Zt | Zs). Rows sum
    to 1; the row of a source label that is never predicted is uniform.
    """
    q = jnp.asarray(q, jnp.float32)
    a = jnp.sum(q, axis=1, keepdims=True)
    return jnp.where(a > 0, q / jnp.where(a > 0, a, 1.0), 1 / q.shape[1])


def miller_madow(
    q: Float[Array, "ks kt"], num_samples: int | Float[Array, ""]
) -> Float[Array, ""]:
    """Compute H(Zt | Zs) with the Miller-Madow correction, for reports.

    Adds (number of cells with mass - number of rows with mass) / (2 num_samples), the
    leading bias of H(q) - H(a) for counted labels. Soft predictions vary less, so for
    them it is an upper estimate; it can exceed H(Zt).

    Args:
      q: The joint of a sample.
      num_samples: Size of the sample (for weights the effective one).

    Returns:
      The corrected value; no gradient flows through the correction.
    """
    num_cells = jnp.sum(q > 0)
    num_rows = jnp.sum(jnp.sum(q, axis=1) > 0)
    return target_given_source(q) + (num_cells - num_rows) / (2 * num_samples)


def transport_distortion(
    q: Float[Array, "ks kt"], plan: Float[Array, "ks kt"]
) -> Float[Array, ""]:
    """Compute FLD = -sum q log Lambda for the map Lambda = plan / (plan 1).

    Equals H(Zt | Zs) for plan = q and H(Zt) for plan = a b^T. Rows of the plan below
    1e-8 are left out; elsewhere Lambda is kept above 1e-30, so that mass of q where the
    plan has none costs much, but not infinitely, and without a gradient.

    Args:
      q: The joint, for example from `joint`.
      plan: A coupling of the same marginals, for example `ot.transport_plan`.

    Returns:
      The distortion, at least H(Zt | Zs).
    """
    if q.shape != plan.shape:
        raise ValueError(f"q {q.shape} and plan {plan.shape} must agree")
    q, plan = jnp.asarray(q, jnp.float32), jnp.asarray(plan, jnp.float32)
    mass = jnp.sum(plan, axis=1, keepdims=True)
    is_used = mass >= _MIN_ROW
    log_map = jnp.log(jnp.maximum(plan / jnp.where(is_used, mass, 1.0), _MIN_LAMBDA))
    return -jnp.sum(jnp.where(is_used, q * log_map, 0.0))


def moving_average(
    q_ema: Float[Array, "ks kt"], q_batch: Float[Array, "ks kt"], momentum: float = 0.9
) -> Float[Array, "ks kt"]:
    """Average joints over batches, against the bias and variance of small ones.

    Args:
      q_ema: The average so far. No gradient flows through it.
      q_batch: The joint of this batch.
      momentum: Share m of the average so far, in [0, 1).

    Returns:
      m q_ema + (1 - m) q_batch, to be the next q_ema too. Its derivative in q_batch is
      1, not 1 - m: a loss of it has the gradient of the loss of a batch joint that
      happens to lie at the average, whatever the momentum.
    """
    if isinstance(momentum, int | float) and not 0 <= momentum < 1:
        raise ValueError(f"momentum must be in [0, 1), got {momentum!r}")
    if q_ema.shape != q_batch.shape:
        raise ValueError(f"q_ema {q_ema.shape} and q_batch {q_batch.shape} must agree")
    q_ema, q_batch = (jnp.asarray(q, jnp.float32) for q in (q_ema, q_batch))
    fixed = jax.lax.stop_gradient(q_batch)
    average = momentum * jax.lax.stop_gradient(q_ema) + (1 - momentum) * fixed
    return average + (q_batch - fixed)


def per_label(
    probs: Float[Array, "n ks"],
    targets: Float[Array, "n c"],
    weights: Float[Array, " n"] | None = None,
) -> Float[Array, ""]:
    """Compute the mean over labels c of H(Y_c | Z_s), for multi-label targets.

    Every label is a binary target of its own: the least FLD (Eq. 7) of c separate label
    maps. Between 0 and log 2; a label that all samples have, or none, contributes 0.

    Args:
      probs: Source probabilities, rows on the simplex.
      targets: 1 where a sample has the label, 0 where not.
      weights: As in `joint`.

    Returns:
      The mean conditional entropy.
    """
    targets = jnp.asarray(targets, jnp.float32)
    halves = [joint(probs, side, weights) for side in (targets, 1 - targets)]
    return jnp.mean(jax.vmap(target_given_source, 1)(jnp.stack(halves, axis=-1)))


def negative_sets(q: Float[Array, "ks kt"]) -> Float[Array, ""]:
    """Compute sum_y b_y [H(p_y) - H(p_not_y)], the `C_entropy` loss of the release.

    p_y = q(., y) / b_y is the mean prediction of class y, and p_not_y that of all other
    samples, which stands for a: the loss approximates H(Zs | Zt) - H(Zs) for many
    classes. For two it is (b_0 - b_1) (H(p_0) - H(p_1)), so 0 if they are balanced. An
    empty class contributes nothing, and an empty complement the entropy 0.
    """
    q = jnp.asarray(q, jnp.float32)
    q = q / jnp.sum(q)
    others = 1 - jnp.eye(q.shape[1])
    rest = jnp.matmul(q, others, precision=jax.lax.Precision.HIGHEST)
    b, mass = jnp.sum(q, axis=0), jnp.sum(rest, axis=0)
    rest_entropy = -jnp.sum(rest * (_safe_log(rest) - _safe_log(mass)), axis=0)
    share = jnp.where(mass > 0, b / jnp.where(mass > 0, mass, 1.0), 0.0)
    return source_given_target(q) - jnp.sum(share * rest_entropy)


def prototype_cost(
    features: Float[Array, "n d"],
    targets: Float[Array, "n kt"],
    source_features: Float[Array, "m d"],
    source_labels: Float[Array, "m ks"],
) -> Float[Array, "ks kt"]:
    """Compute the squared distances between source and target class means.

    The cost of `ot.transport_plan` that ties the label map to the geometry.

    Args:
      features: Target features.
      targets: Their labels, one-hot or rows on the simplex.
      source_features: Source features, in the same space.
      source_labels: Their labels, one-hot, or the source probabilities.

    Returns:
      |mu_z - nu_z'|^2. A class without mass is at the mean cost of the pairs that have
      mass (0 if there is none), as a constant: it draws nothing and repels nothing.
    """
    source, has_source = _class_means(source_features, source_labels)
    target, has_target = _class_means(features, targets)
    cost = jnp.sum((source[:, None] - target) ** 2, axis=-1)
    is_known = has_source[:, None] & has_target
    mean = jnp.sum(jnp.where(is_known, cost, 0.0)) / jnp.maximum(jnp.sum(is_known), 1)
    return jnp.where(is_known, cost, jax.lax.stop_gradient(mean))


def joint_cost(q: Float[Array, "ks kt"]) -> Float[Array, "ks kt"]:
    """Compute -log q, the cost whose plan at epsilon 1 is q itself; +inf at zeros."""
    q = jnp.asarray(q, jnp.float32)
    return jnp.where(q > 0, -_safe_log(q), jnp.inf)


def _class_means(features, labels):
    """Compute the class means `[k d]`, and which classes have mass."""
    if features.ndim != 2 or labels.ndim != 2 or len(features) != len(labels):
        raise ValueError(
            "features and labels must be [n d] and [n k], got "
            f"{features.shape} and {labels.shape}"
        )
    features, labels = (jnp.asarray(v, jnp.float32) for v in (features, labels))
    mass = jnp.sum(labels, axis=0)
    sums = jnp.matmul(labels.T, features, precision=jax.lax.Precision.HIGHEST)
    return sums / jnp.where(mass > 0, mass, 1.0)[:, None], mass > 0


def _safe_log(p: Float[Array, "..."]) -> Float[Array, "..."]:
    """Compute log p, with value and gradient zero where p is zero."""
    return jnp.where(p > 0, jnp.log(jnp.where(p > 0, p, 1.0)), 0.0)
