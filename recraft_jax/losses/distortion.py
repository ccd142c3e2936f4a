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
`miller_madow`. Called eagerly, the functions refuse what is not finite and nonnegative
(features: finite) and name the first such row; under `jit` NaN gives NaN.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from recraft_jax.losses import checks

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
    if not probs.size * targets.size:
        raise ValueError(
            f"probs {probs.shape} and targets {targets.shape} must not be empty"
        )
    checks.nonnegative_rows("probs", probs)
    checks.nonnegative_rows("targets", targets)
    num_samples = probs.shape[0]
    if weights is None:
        weights = jnp.ones(num_samples)
    elif weights.shape != (num_samples,):
        raise ValueError(f"weights {weights.shape} do not fit {num_samples} samples")
    checks.weights("weights", weights)
    probs, targets, weights = (
        jnp.asarray(v, jnp.float32) for v in (probs, targets, weights)
    )
    weights = weights / jnp.sum(weights)
    return jnp.matmul(
        probs.T, weights[:, None] * targets, precision=jax.lax.Precision.HIGHEST
    )


def entropy(p: Float[Array, "..."]) -> Float[Array, ""]:
    """Compute H(p) = -sum p log p over all entries of p."""
    checks.nonnegative_rows("p", p)
    p = jnp.asarray(p, jnp.float32)
    return -jnp.sum(p * _safe_log(p))


def target_given_source(q: Float[Array, "ks kt"]) -> Float[Array, ""]:
    """Compute H(Zt | Zs) = -sum q log(q / a) = H(Zt) - I, the least FLD (Eq. 7).

    Between 0 and H(Zt). A source label that is never predicted contributes nothing.
    """
    checks.nonnegative_rows("q", q)
    q = jnp.asarray(q, jnp.float32)
    a = jnp.sum(q, axis=1, keepdims=True)
    return -jnp.sum(q * (_safe_log(q) - _safe_log(a)))


def source_given_target(
    q: Float[Array, "ks kt"], *, class_scale: Float[Array, " kt"] | None = None
) -> Float[Array, ""]:
    """Compute H(Zs | Zt) = sum_y b_y H(p_y), the loss of the released code.

    p_y = q(., y) / b_y is the mean prediction of class y. The value equals H(Zt | Zs) +
    H(Zs) - H(Zt): it is not the distortion, and zero for a constant one-hot prediction.

    Args:
      q: The joint. Empty target classes contribute nothing.
      class_scale: Factor of the term of each class, 1 if None. The released code has
        the number of samples of a chunk over the number of batches of the class there.
        No gradient flows through it.

    Returns:
      The conditional entropy, or with `class_scale` the sum of the scaled terms.
    """
    checks.nonnegative_rows("q", q)
    q = jnp.asarray(q, jnp.float32)
    return jnp.sum(_scale(class_scale, q) * _column_entropies(q))


def mutual_information(q: Float[Array, "ks kt"]) -> Float[Array, ""]:
    """Compute I(Zs; Zt) = sum q log(q / (a b^T)) = H(a) + H(b) - H(q)."""
    checks.nonnegative_rows("q", q)
    q = jnp.asarray(q, jnp.float32)
    a, b = jnp.sum(q, axis=1, keepdims=True), jnp.sum(q, axis=0)
    return jnp.sum(q * (_safe_log(q) - _safe_log(a) - _safe_log(b)))


def label_map(q: Float[Array, "ks kt"]) -> Float[Array, "ks kt"]:
    """Compute the best label map Lambda_bar(z' | z) = q(z, z') / a(z).

    The head `probs @ label_map(q)` has a cross-entropy of at most H(Zt | Zs). Rows sum
    to 1; the row of a source label that is never predicted is uniform.
    """
    checks.nonnegative_rows("q", q)
    q = jnp.asarray(q, jnp.float32)
    a = jnp.sum(q, axis=1, keepdims=True)
    # `<=`, here and below: a NaN must stay one.
    return jnp.where(a <= 0, 1 / q.shape[1], q / jnp.where(a <= 0, 1.0, a))


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
    checks.positive("num_samples", num_samples)
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
    checks.nonnegative_rows("q", q)
    checks.nonnegative_rows("plan", plan)
    q, plan = jnp.asarray(q, jnp.float32), jnp.asarray(plan, jnp.float32)
    mass = jnp.sum(plan, axis=1, keepdims=True)
    is_left_out = mass < _MIN_ROW
    share = plan / jnp.where(is_left_out, 1.0, mass)
    log_map = jnp.log(jnp.maximum(share, _MIN_LAMBDA))
    return -jnp.sum(jnp.where(is_left_out, 0.0, q * log_map))


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
    checks.nonnegative_rows("q_ema", q_ema)
    checks.nonnegative_rows("q_batch", q_batch)
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
      targets: 1 where a sample has the label, 0 where not, or between.
      weights: As in `joint`.

    Returns:
      The mean conditional entropy.
    """
    checks.unit_rows("targets", targets)
    targets = jnp.asarray(targets, jnp.float32)
    halves = [joint(probs, side, weights) for side in (targets, 1 - targets)]
    return jnp.mean(jax.vmap(target_given_source, 1)(jnp.stack(halves, axis=-1)))


def negative_sets(
    q: Float[Array, "ks kt"],
    *,
    negatives: Float[Array, "ks kt"] | None = None,
    class_scale: Float[Array, " kt"] | None = None,
) -> Float[Array, ""]:
    """Compute sum_y b_y [H(p_y) - H(p_not_y)], the `C_entropy` loss of the release.

    p_y = q(., y) / b_y is the mean prediction of class y, and p_not_y that of all other
    samples, which stands for a: the loss approximates H(Zs | Zt) - H(Zs) for many
    classes. For two it is (b_0 - b_1) (H(p_0) - H(p_1)), so 0 if they are balanced.

    Args:
      q: The joint, of any positive sum. An empty class contributes nothing.
      negatives: Source label mass of the negatives of each class, in columns of any
        sum: p_not_y is the column y over its sum. None for the rest of q, the sum of
        its other columns. An empty column has the entropy 0.
      class_scale: As in `source_given_target`; it scales both entropies of a class.

    Returns:
      The loss, of either sign.
    """
    checks.weights("q", q)
    checks.nonnegative_rows("negatives", negatives)
    q = jnp.asarray(q, jnp.float32)
    q = q / jnp.sum(q)
    if negatives is None:
        others = 1 - jnp.eye(q.shape[1])
        negatives = jnp.matmul(q, others, precision=jax.lax.Precision.HIGHEST)
    elif negatives.shape != q.shape:
        raise ValueError(f"negatives {negatives.shape} and q {q.shape} must agree")
    negatives = jnp.asarray(negatives, jnp.float32)
    b, mass = jnp.sum(q, axis=0), jnp.sum(negatives, axis=0)
    share = b / jnp.where(mass <= 0, 1.0, mass)
    terms = _column_entropies(q) - share * _column_entropies(negatives)
    return jnp.sum(_scale(class_scale, q) * terms)


def misplaced_negatives(
    first_probs: Float[Array, "b ks"], targets: Float[Array, "b kt"]
) -> Float[Array, "ks kt"]:
    """Compute the `negatives` of `negative_sets` that the released code really uses.

    It takes the batch positions of the samples of other classes for positions in the
    data set: the negatives of class y are the first samples of the data set at the
    positions i of the batch whose label is not y, whatever class they are of.

    Args:
      first_probs: Source probabilities of the first b samples of the data set.
      targets: Labels of the batch, one-hot.

    Returns:
      The mean over the b positions; zero for a class that fills the batch.
    """
    checks.nonnegative_rows("first_probs", first_probs)
    checks.unit_rows("targets", targets)
    return joint(first_probs, 1 - jnp.asarray(targets, jnp.float32))


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
    checks.finite_rows("features", features)
    checks.nonnegative_rows("targets", targets)
    checks.finite_rows("source_features", source_features)
    checks.nonnegative_rows("source_labels", source_labels)
    source, has_source = _class_means(source_features, source_labels)
    target, has_target = _class_means(features, targets)
    if source.shape[1] != target.shape[1]:
        raise ValueError(
            "features and source_features must have one width, got "
            f"{features.shape} and {source_features.shape}"
        )
    cost = jnp.sum((source[:, None] - target) ** 2, axis=-1)
    return fill_unknown(cost, has_source[:, None] & has_target)


def fill_unknown(
    cost: Float[Array, "ks kt"], is_known: Bool[Array, "ks kt"]
) -> Float[Array, "ks kt"]:
    """Put unknown costs at the mean of the known ones (0 if none), as a constant."""
    mean = jnp.sum(jnp.where(is_known, cost, 0.0)) / jnp.maximum(jnp.sum(is_known), 1)
    return jnp.where(is_known, cost, jax.lax.stop_gradient(mean))


def joint_cost(q: Float[Array, "ks kt"]) -> Float[Array, "ks kt"]:
    """Compute -log q, the cost whose plan at epsilon 1 is q itself; +inf at zeros."""
    checks.nonnegative_rows("q", q)
    q = jnp.asarray(q, jnp.float32)
    return jnp.where(q == 0, jnp.inf, -_safe_log(q))


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
    is_empty = mass <= 0
    return sums / jnp.where(is_empty, 1.0, mass)[:, None], ~is_empty


def _column_entropies(q: Float[Array, "ks kt"]) -> Float[Array, " kt"]:
    """Compute -sum_z q log(q / b): the mass of a column times its entropy."""
    return -jnp.sum(q * (_safe_log(q) - _safe_log(jnp.sum(q, axis=0))), axis=0)


def _scale(class_scale, q):
    """Check the factors of the class terms and cut their gradient; 1 for None."""
    if class_scale is None:
        return 1.0
    if class_scale.shape != q.shape[1:]:
        raise ValueError(f"class_scale {class_scale.shape} does not fit q {q.shape}")
    checks.finite_rows("class_scale", class_scale)
    return jax.lax.stop_gradient(jnp.asarray(class_scale, jnp.float32))


def _safe_log(p: Float[Array, "..."]) -> Float[Array, "..."]:
    """Compute log p, with value and gradient zero where p is zero."""
    return jnp.where(p <= 0, 0.0, jnp.log(jnp.where(p <= 0, 1.0, p)))
