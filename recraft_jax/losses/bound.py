"""The bound on the target error (Theorem 7, Eq. 10) on held-out samples, in nats.

    err_t <= err_s + omega W1 + FLD  (+ delta M),       A + B = err_t - err_s,
    B = E_t[ell_s(u)] - E_s[ell_s(u)] <= omega W1 + delta M,        A <= FLD,

where ell_s is the expected source loss at a feature. On target features nobody knows
the source label, so there D_s(z|u) := p_s(z|u), which makes ell_s(u) = H(p_s(.|u)).

FLD needs two label maps per feature u. The oracle Lambda*_u carries p_s(.|u) to the
label distribution at u; a held-out sample has one label per feature, so Lambda*_u(.|z)
is the one-hot label, whatever z. The map Lambda_u of the predictor carries p_s(.|u) to
p_t(.|u), and A <= -E sum p_s(z|u) log Lambda_u(label|z) for every such map. Evaluated
here are:

1. A label-map head p_t(.|u) = sum_z p_s(z|u) Lambda(.|z), whose map does not depend on
   u: FLD = -sum q log Lambda = H_q(Zt|Zs) + sum_z q(z) KL(Lambda_bar || Lambda), with
   q(z, z') the joint of source prediction and label and Lambda_bar = q(z, z') / q(z).
2. Any other predictor: the independent map Lambda_u(.|z) = p_t(.|u). By Jensen it is
   the best of all maps that fit p_t, and its FLD is the cross-entropy err_t. That is
   H_q(Zt|Zs) plus a remainder of either sign. The remainder is replaced by its positive
   part, FLD = max(H_q(Zt|Zs), err_t): weaker, but it repeats err_t only where p_t is
   worse than the best label map is certified to be.

In both cases err_t <= FLD on the sample itself, by Jensen and by construction, so that
`bound` cannot fail; omega, delta and M decide only whether `refined` is certified.

Everything here runs on the host in float64 (the joint in float32): for reports, not for
gradients and not inside `jit`.
"""

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Float, Int
from scipy import optimize, sparse
from scipy.spatial import distance

from recraft_jax.losses import checks, distortion

_PROGRAM_PAIRS = 100_000  # pairs up to which the linear program takes about a second
_SUM_TOLERANCE = 1e-3  # of rows of probabilities, and of a head against its label map


def target_error_bound(
    target_log_probs: Float[ArrayLike, "n kt"],
    target_labels: Int[ArrayLike, " n"],
    target_source_log_probs: Float[ArrayLike, "n ks"],
    source_log_probs: Float[ArrayLike, "m ks"],
    source_labels: Int[ArrayLike, " m"],
    source_features: Float[ArrayLike, "m d"],
    target_features: Float[ArrayLike, "n d"],
    *,
    omega: float,
    delta: float = 0.0,
    loss_range: float = 0.0,
    label_map: Float[ArrayLike, "ks kt"] | None = None,
    weights: Float[ArrayLike, " n"] | None = None,
    max_points: int = 2000,
    seed: int = 0,
) -> dict[str, float | int | bool]:
    """Evaluate both sides of the bound of Theorem 7 on held-out samples.

    Args:
      target_log_probs: log p_t of the target predictor on the target sample.
      target_labels: Its labels (pseudo-labels if the target is continuous).
      target_source_log_probs: log p_s(z|u) of the source model on the target features.
      source_log_probs: The same on the source sample.
      source_labels: Labels of the source sample.
      source_features: Features of the source sample, in the space omega refers to.
      target_features: Features of the target sample, in the same space.
      omega: Lipschitz constant of the source loss in that space, in nats per unit of
        distance.
      delta: Mass on which the Lipschitz condition may fail.
      loss_range: M, the largest difference of the source loss between two features;
        it must be positive if delta is.
      label_map: Lambda(z'|z) with rows of sum 1 if the target predictor is the head
        `p_s @ label_map` (see 1. above), fitted on other samples; None for any other
        predictor (2.).
      weights: Nonnegative weights of the target sample, normalised here (uniform if
        None), for all its averages and its share in W1.
      max_points: See `exact_wasserstein1`.
      seed: See `exact_wasserstein1`.

    Returns:
      `err_t`, `err_s`: log-losses. `w1`, `fa` = omega w1, `num_points`: see
      `exact_wasserstein1`. `fld_entropy`: H_q(Zt|Zs). `fld_entropy_corrected`: with the
      Miller-Madow correction, in none of the sums. `fld_kl`: the KL part, for case 2.
      the positive part of err_t - H_q(Zt|Zs). `fld`: their sum. `bound` = err_s + fa +
      fld + delta loss_range. `posterior_entropy`: the mean of H(p_s(.|u)) over the
      target, which is E H_q(Zs|Zt,u). `refined` = bound - posterior_entropy.
      `source_shift`: B = posterior_entropy - err_s. `refined_holds`: whether B <= fa +
      delta loss_range on the samples; if so, err_t <= fld <= refined, if not, refined
      certifies nothing. `vacuous`: bound > log Kt, what guessing reaches; with one
      class that is any positive bound. `omega`, `delta`, `num_samples` (n).
      A label of probability zero makes `err_t` and `bound` infinite.

    Raises:
      ValueError: For shapes that disagree, empty samples, a NaN, rows that are not log-
        probabilities, labels out of range, or a label map that is not the head's.
    """
    log_t = _log_probs("target_log_probs", target_log_probs)
    log_st = _log_probs("target_source_log_probs", target_source_log_probs)
    log_ss = _log_probs("source_log_probs", source_log_probs)
    labels_t = _labels("target_labels", target_labels, log_t)
    labels_s = _labels("source_labels", source_labels, log_ss)
    x = _points("source_features", source_features)
    y = _points("target_features", target_features)
    if log_t.shape[0] != log_st.shape[0] or log_t.shape[0] != y.shape[0]:
        raise ValueError(
            "the target sample needs as many rows of log-probabilities as of features, "
            f"got {log_t.shape}, {log_st.shape} and {y.shape}"
        )
    if log_st.shape[1] != log_ss.shape[1] or log_ss.shape[0] != x.shape[0]:
        raise ValueError(
            "source log-probabilities must have the same classes on both samples and "
            f"fit the source features, got {log_st.shape}, {log_ss.shape}, {x.shape}"
        )
    _check_constants(omega, delta, loss_range)
    w = _weights("weights", weights, y)

    probs_s, used = np.exp(log_st), w > 0
    err_t = _mean(w[used], -log_t[used, labels_t[used]])
    err_s = _mean(np.full(len(x), 1 / len(x)), -log_ss[np.arange(len(x)), labels_s])
    plogp = np.where(probs_s > 0, probs_s * np.where(probs_s > 0, log_st, 0.0), 0.0)
    posterior_entropy = float(-w @ plogp.sum(axis=1))
    w1, num_points = exact_wasserstein1(
        x, y, weights_y=weights, max_points=max_points, seed=seed
    )

    one_hot = np.eye(log_t.shape[1])[labels_t]
    q = distortion.joint(*(jnp.asarray(v, jnp.float32) for v in (probs_s, one_hot, w)))
    fld_entropy = max(0.0, float(distortion.target_given_source(q)))
    if label_map is None:
        fld_kl = max(0.0, err_t - fld_entropy)
    else:
        head = _label_map(label_map, probs_s[used], log_t[used])
        fld_kl = _map_divergence(np.asarray(q, np.float64), head)
    effective = jnp.asarray(1 / np.sum(w**2), jnp.float32)
    fa, fld, slack = omega * w1, fld_entropy + fld_kl, delta * loss_range
    bound = err_s + fa + fld + slack
    return {
        "err_t": err_t,
        "err_s": err_s,
        "w1": w1,
        "fa": fa,
        "fld_entropy": fld_entropy,
        "fld_entropy_corrected": float(distortion.miller_madow(q, effective)),
        "fld_kl": fld_kl,
        "fld": fld,
        "bound": bound,
        "posterior_entropy": posterior_entropy,
        "refined": bound - posterior_entropy,
        "source_shift": posterior_entropy - err_s,
        "refined_holds": bool(posterior_entropy <= err_s + fa + slack),
        "vacuous": bool(bound > np.log(log_t.shape[1])),
        "omega": float(omega),
        "delta": float(delta),
        "num_samples": log_t.shape[0],
        "num_points": num_points,
    }


def exact_wasserstein1(
    x: Float[ArrayLike, "n d"],
    y: Float[ArrayLike, "m d"],
    *,
    weights_x: Float[ArrayLike, " n"] | None = None,
    weights_y: Float[ArrayLike, " m"] | None = None,
    max_points: int = 2000,
    seed: int = 0,
) -> tuple[float, int]:
    """Compute the 1-Wasserstein distance of two clouds without regularisation.

    Exact for clouds of up to `max_points` that have (a) equal sizes, by assignment;
    (b) sizes whose least common multiple is at most `max_points`, by assignment of
    repeated points; (c) other sizes, or weights, and at most 100,000 pairs, by the
    transport linear program (HiGHS). Else exact for a part of the clouds: larger ones
    are first thinned at random to `max_points`, then the larger of the two to the
    largest multiple of the smaller; weighted ones are replaced by draws, with
    replacement, of as many points as the smaller cloud holds. Fewer points raise the
    value: W1 of two samples lies above that of their distributions on average.

    Args:
      x: One cloud, one row per point.
      y: The other cloud, in the same space.
      weights_x: Nonnegative weights of x, normalised here; uniform if None. Equal ones
        count as none.
      weights_y: Likewise of y.
      max_points: Most points per cloud, after those of weight zero are left out.
      seed: Seed of the thinning and the draws.

    Returns:
      The distance, and the number of distinct rows used of the smaller cloud (of a
      weighted cloud: of positive weight, or drawn).
    """
    x, y = _points("x", x), _points("y", y)
    (rows, columns, mass), num_points = _coupling(
        x, y, weights_x, weights_y, max_points, seed
    )
    return float(mass @ np.linalg.norm(x[rows] - y[columns], axis=1)), num_points


def exact_coupling(
    x: Float[ArrayLike, "n d"],
    y: Float[ArrayLike, "m d"],
    *,
    weights_x: Float[ArrayLike, " n"] | None = None,
    weights_y: Float[ArrayLike, " m"] | None = None,
    max_points: int = 2000,
    seed: int = 0,
) -> tuple[Int[np.ndarray, " p"], Int[np.ndarray, " p"], Float[np.ndarray, " p"]]:
    """Compute the transport plan that `exact_wasserstein1` measures.

    Args:
      x: As in `exact_wasserstein1`, and so for all others.
      y: The other cloud.
      weights_x: Weights of x.
      weights_y: Weights of y.
      max_points: Most points per cloud.
      seed: Seed of the thinning and the draws.

    Returns:
      Indices into x, indices into y, and the positive mass between each such pair, of
      sum 1. A pair may occur twice. The distance is `mass @ |x[rows] - y[columns]|`.
      Where `exact_wasserstein1` is exact the marginals are the weights; else they are
      those of the thinned or drawn clouds.
    """
    x, y = _points("x", x), _points("y", y)
    return _coupling(x, y, weights_x, weights_y, max_points, seed)[0]


def _coupling(x, y, weights_x, weights_y, max_points, seed):
    """Solve for the plan, as index arrays and masses, and count the points used."""
    if x.shape[1] != y.shape[1]:
        raise ValueError(f"clouds of different dimension: {x.shape} and {y.shape}")
    if max_points < 1:
        raise ValueError(f"max_points must be at least 1, got {max_points!r}")
    a, b = _weights("weights_x", weights_x, x), _weights("weights_y", weights_y, y)
    rng = np.random.default_rng(seed)
    # Indices of the points that are left.
    i, j = np.flatnonzero(a), np.flatnonzero(b)
    if np.ptp(a[i]) > 0 or np.ptp(b[j]) > 0:
        size = min(len(i), len(j), max_points)
        if max(len(i), len(j)) <= max_points and len(i) * len(j) <= _PROGRAM_PAIRS:
            return _program(x, y, i, j, a[i], b[j]), size
        i, j = rng.choice(i, size, p=a[i]), rng.choice(j, size, p=b[j])
    i, j = _thin(i, max_points, rng), _thin(j, max_points, rng)
    low, high = sorted((len(i), len(j)))
    if np.lcm(low, high) > max_points:
        if low * high <= _PROGRAM_PAIRS:
            a, b = np.full(len(i), 1 / len(i)), np.full(len(j), 1 / len(j))
            return _program(x, y, i, j, a, b), low
        size = high // low * low
        i, j = (_thin(index, size, rng) for index in (i, j))
    size = int(np.lcm(len(i), len(j)))
    i, j = i.repeat(size // len(i)), j.repeat(size // len(j))
    rows, columns = optimize.linear_sum_assignment(distance.cdist(x[i], y[j]))
    return (i[rows], j[columns], np.full(size, 1 / size)), low


def _program(x, y, i, j, a, b):
    """Solve min <P, |x_i - y_j|> over the couplings of a and b."""
    cost = distance.cdist(x[i], y[j])
    n, m = cost.shape
    marginals = sparse.vstack(
        [
            sparse.kron(sparse.eye(n), np.ones((1, m))),
            # One equation less: all of them together are dependent.
            sparse.kron(np.ones((1, n)), sparse.eye(m)).tocsr()[:-1],
        ]
    ).tocsr()
    out = optimize.linprog(
        cost.ravel(), A_eq=marginals, b_eq=np.concatenate([a, b[:-1]]), method="highs"
    )
    if out.status != 0:
        raise RuntimeError(f"the transport program was not solved: {out.message}")
    plan = np.reshape(out.x, (n, m))
    rows, columns = np.nonzero(plan > 0)
    mass = plan[rows, columns]
    return i[rows], j[columns], mass / np.sum(mass)


def _thin(index, size, rng):
    """Keep at most `size` entries, without replacement."""
    if len(index) <= size:
        return index
    return index[np.sort(rng.choice(len(index), size, replace=False))]


def _mean(w, values) -> float:
    """Compute the weighted mean; 0 rather than -0."""
    return float(w @ values) + 0.0


def _map_divergence(q, head) -> float:
    """Compute sum_z q(z) KL(Lambda_bar || head), infinite where head misses mass."""
    best = q / np.maximum(q.sum(axis=1, keepdims=True), np.finfo(float).tiny)
    mass, best, head = q[q > 0], best[q > 0], head[q > 0]
    with np.errstate(divide="ignore"):
        return max(0.0, float(mass @ (np.log(best) - np.log(head))))


def _label_map(label_map, probs_s, log_t):
    """Check that the map is row-stochastic and makes the head it is said to make."""
    out = np.asarray(label_map, np.float64)
    if out.shape != (probs_s.shape[1], log_t.shape[1]):
        raise ValueError(
            f"label_map must be [{probs_s.shape[1]} {log_t.shape[1]}], got {out.shape}"
        )
    is_map = np.all(out >= 0) and np.all(np.abs(out.sum(axis=1) - 1) < _SUM_TOLERANCE)
    if not is_map:
        raise ValueError("label_map must have nonnegative rows of sum 1")
    gap = np.max(np.abs(probs_s @ out - np.exp(log_t)))
    if gap > _SUM_TOLERANCE:
        raise ValueError(
            f"target_log_probs differ by {gap:.3g} from the head of label_map; pass "
            "None for a predictor that is not that head"
        )
    return out


def _log_probs(name, value):
    """Check rows of log-probabilities and promote them to float64."""
    out = np.asarray(value, np.float64)
    if out.ndim != 2 or out.size == 0:
        raise ValueError(f"{name} must be [samples classes], got {out.shape}")
    checks.log_rows(name, out)
    sums = np.logaddexp.reduce(out, axis=1)
    bad = np.flatnonzero(~(np.abs(sums) < _SUM_TOLERANCE))
    if bad.size:
        raise ValueError(
            f"{name} must hold log-probabilities; those of row {bad[0]} sum to "
            f"{np.exp(sums[bad[0]]):.6g}"
        )
    return out


def _labels(name, value, log_probs):
    """Check labels against the rows and classes of their predictions."""
    out, (num_rows, num_classes) = np.asarray(value), log_probs.shape
    if out.shape != (num_rows,) or not np.issubdtype(out.dtype, np.integer):
        raise ValueError(
            f"{name} must be {num_rows} integers, got {out.dtype} {out.shape}"
        )
    bad = out[(out < 0) | (out >= num_classes)]
    if bad.size:
        raise ValueError(f"{name} must lie in 0..{num_classes - 1}, got {bad[0]}")
    return out


def _points(name, value):
    """Check a cloud and promote it to float64."""
    out = np.asarray(value, np.float64)
    if out.ndim != 2 or out.size == 0:
        raise ValueError(f"{name} must be [points d], not empty; got {out.shape}")
    checks.finite_rows(name, out)
    return out


def _weights(name, value, points):
    """Check and normalise weights; uniform ones for None."""
    if value is None:
        return np.full(len(points), 1 / len(points))
    out = np.asarray(value, np.float64)
    if out.shape != (len(points),):
        raise ValueError(f"{name} {out.shape} do not fit {len(points)} samples")
    checks.weights(name, out)
    return out / np.sum(out)


def _check_constants(omega, delta, loss_range):
    """Check the constants of the Lipschitz condition."""
    if not (np.isfinite(omega) and omega >= 0):
        raise ValueError(f"omega must be finite and nonnegative, got {omega!r}")
    if not 0 <= delta <= 1:
        raise ValueError(f"delta must lie in [0, 1], got {delta!r}")
    if not (np.isfinite(loss_range) and loss_range >= 0):
        raise ValueError(f"loss_range must be finite, nonnegative; got {loss_range!r}")
    if delta > 0 and loss_range == 0:
        raise ValueError(f"delta = {delta!r} needs a positive loss_range")
