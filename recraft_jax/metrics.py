"""Metrics: what each sample contributes, and how that becomes the score of a split.

`each` runs on the devices, batch by batch. `finish` sees what all samples of the split
contribute, on the host: a ranking or an F1 of a split is not the mean of those of its
batches. Means are taken in float64. `METRICS` has them by name, each with the switches
that turn it into what the released code computes (data faults T8 to T10,
docs/nas360.md).
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import sklearn.metrics
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int, Num

CONTACT = 8.0  # angstrom, of the pairs that MAE8 looks at
APART = 24  # residues between the two of a pair, at least
PAD = 5  # pixels around a distance map
LARGE = 1e30


class Metric(NamedTuple):
    """A metric.

    Attributes:
      each: `(pred, y) -> [b ...]`, what each sample contributes.
      combine: `(values [n ...], y [n ...], group [n] or None) -> score`; or `mean` or
        `root` (the square root of the mean), where `each` gives a value a sample.
      better: `lower` or `higher`.
      chunk: samples of the pieces whose scores are averaged, each with equal weight; 0
        is one piece. The released code averages chunks of at least 1,000 samples (T9).
    """

    each: Callable[[ArrayLike, ArrayLike], Array]
    combine: Callable[..., float] | str = "mean"
    better: str = "lower"
    chunk: int = 0


def make(name: str, options: Mapping[str, Any] | None = None) -> Metric:
    """Return the metric of a name in `METRICS`, with its switches and `chunk`."""
    options = dict(options or {})
    chunk = options.pop("chunk", 0)
    return METRICS[name](**options)._replace(chunk=chunk)


def finish(
    metric: Metric,
    values: Num[np.ndarray, "n ..."],
    y: Num[np.ndarray, "n ..."],
    group: Int[np.ndarray, " n"] | None = None,
) -> float:
    """Turn what the samples of a split contribute into its score.

    Args:
      metric: the metric.
      values: of `metric.each`, in the order of the split.
      y: targets of the split, which means do not look at.
      group: which record or clip each sample is a part of, for metrics of these.
    """
    if metric.chunk:
        starts = range(0, len(values), metric.chunk)
        parts = [np.s_[start : start + metric.chunk] for start in starts]
        whole = metric._replace(chunk=0)
        return float(np.mean([finish(whole, values[p], y[p]) for p in parts]))
    if callable(metric.combine):
        return float(metric.combine(np.asarray(values), np.asarray(y), group))
    mean = float(np.mean(values, dtype=np.float64))
    return mean**0.5 if metric.combine == "root" else mean


def score(
    metric: Metric,
    pred: Num[ArrayLike, "n ..."],
    y: Num[np.ndarray, "n ..."],
    group: Int[np.ndarray, " n"] | None = None,
) -> float:
    """Score the predictions of a whole split."""
    return finish(metric, np.asarray(metric.each(pred, y)), y, group)


def is_better(metric: Metric, value: float, other: float) -> bool:
    """Whether a score beats another."""
    return value < other if metric.better == "lower" else value > other


# ------------------------------------------------------------------- values of samples
def nrmse(
    pred: Float[ArrayLike, "b ..."], y: Float[ArrayLike, "b ..."]
) -> Float[Array, " b"]:
    """Compute `||pred - y||_2 / ||y||_2`, channels and grid flattened.

    Its mean is the nRMSE of the cross-modal papers, also called mean relative L2. No
    epsilon: a target of zeros counts as infinite.
    """
    pred, y = (v.reshape(v.shape[0], -1).astype(jnp.float32) for v in (pred, y))
    return jnp.linalg.norm(pred - y, axis=1) / jnp.linalg.norm(y, axis=1)


def squared_error(
    pred: Float[ArrayLike, "b k"], y: Float[ArrayLike, "b k"]
) -> Float[Array, " b"]:
    """Compute the mean square of the errors of the k values of a sample."""
    pred, y = (v.reshape(v.shape[0], -1).astype(jnp.float32) for v in (pred, y))
    return jnp.mean(jnp.square(pred - y), axis=1)


def error(pred: Float[ArrayLike, "b k"], y: Int[ArrayLike, " b"]) -> Float[Array, " b"]:
    """Say 1 where the largest logit is not the class, else 0."""
    return (jnp.argmax(pred, axis=1) != y).astype(jnp.float32)


def label_error(
    pred: Float[ArrayLike, "b k"], y: Float[ArrayLike, "b k"]
) -> Float[Array, " b"]:
    """Compute the share of wrong labels; a logit above 0 says the label is on.

    All samples have k labels, so the mean is the share of wrong labels of the split.
    """
    return jnp.mean(((pred > 0) != (y > 0)).astype(jnp.float32), axis=1)


def contact_error(
    pred: Float[ArrayLike, "b n n c"],
    y: Float[ArrayLike, "b n n c"],
    *,
    is_official: bool = False,
    length: int = 0,
) -> Float[Array, " b"]:
    """Compute the mean error, in angstrom, of the distances of residues in contact.

    Of pairs p, q with q - p >= 24 and a true distance of 0 to 8 angstrom; the predicted
    distance is the mean of those of (p, q) and (q, p). NaN for a protein without such a
    pair; the mean over proteins leaves it out.

    Args:
      pred: distance maps, one channel.
      y: true ones; below 0 where there is none.
      is_official: the released form (T8): distances are at least 0.01, and where the
        upper triangle u and the lower one l are averaged, u alone is replaced, and then
        both are averaged again: (u + 3 l) / 4.
      length: residues of a protein, and none beyond, behind 5 pixels of padding; the
        released code takes that of the first protein for all (T8). 0 is all.
    """
    pred, y = pred[..., 0].astype(jnp.float32), y[..., 0]
    mirrored = pred.swapaxes(1, 2)
    if is_official:
        upper = jnp.maximum((pred + mirrored) / 2, 0.01)
        pred = (upper + jnp.maximum(mirrored, 0.01)) / 2
    else:
        pred = (pred + mirrored) / 2
    row, column = jnp.indices(y.shape[1:])
    keep = (column - row >= APART) & (y >= 0) & (y <= CONTACT)
    if length:
        keep &= (row >= PAD) & (column < PAD + length)
    total = jnp.sum(jnp.where(keep, jnp.abs(pred - y), 0.0), axis=(1, 2))
    return total / jnp.sum(keep, axis=(1, 2))


# ------------------------------------------------------------------ scores of splits
def one_minus_auroc(
    pred: Float[np.ndarray, "n ... k"],
    y: Num[np.ndarray, "n ... k"],
    group: Any = None,
    *,
    is_hard: bool = False,
    counts_ignored: bool = False,
) -> float:
    """Compute 1 - area under the ROC curve, the mean over labels that occur and do not.

    All samples, and all points of dense targets, are pooled. NaN if there is no label
    to average over.

    Args:
      pred: logits.
      y: 1, 0, or below 0 for what is not judged.
      group: not used.
      is_hard: rank by whether the logit is above 0, which leaves 1 - (TPR + TNR) / 2
        (T10).
      counts_ignored: what is not judged counts as a negative with logit 0 (T10).
    """
    del group

    def area(pred, y):
        return sklearn.metrics.roc_auc_score(y, pred > 0 if is_hard else pred)

    return 1 - _mean_over_labels(area, pred, y, counts_ignored)


def one_minus_ap(
    pred: Float[np.ndarray, "n ... k"],
    y: Num[np.ndarray, "n ... k"],
    group: Int[np.ndarray, " n"] | None = None,
) -> float:
    """Compute 1 - average precision, the mean over labels that occur and do not.

    Logits of one clip are averaged first; its chunks have the same labels.
    """
    if group is not None:
        _, first, index = np.unique(group, return_index=True, return_inverse=True)
        counts = np.bincount(index)
        total = np.zeros((len(counts), *pred.shape[1:]))
        np.add.at(total, index, pred)
        pred, y = total / counts[:, None], y[first]
    return 1 - _mean_over_labels(
        lambda pred, y: sklearn.metrics.average_precision_score(y, pred), pred, y
    )


def one_minus_f1(
    pred: Int[np.ndarray, " n"],
    y: Int[np.ndarray, " n"],
    group: Int[np.ndarray, " n"] | None = None,
    *,
    by_group: bool = False,
) -> float:
    """Compute 1 - F1, the mean over classes that occur or are predicted.

    Args:
      pred: predicted classes.
      y: classes.
      group: record of each sample.
      by_group: judge records: each votes with its samples, the lowest of several
        classes with most votes wins; the class is that of its first sample.
    """
    if by_group:
        if group is None:
            raise ValueError("votes by record need to know the records")
        _, first, index = np.unique(group, return_index=True, return_inverse=True)
        votes = np.zeros((len(first), max(pred.max(), y.max()) + 1), int)
        np.add.at(votes, (index, pred), 1)
        pred, y = votes.argmax(1), y[first]
    return 1 - float(sklearn.metrics.f1_score(y, pred, average="macro"))


def miss_rate(
    pred: Float[np.ndarray, "n ..."], y: Num[np.ndarray, "n ..."], group: Any = None
) -> float:
    """Compute the share of positives with a logit not above 0 (FNR), points pooled."""
    del group
    return float(np.mean(pred[y > 0] <= 0)) if (y > 0).any() else float("nan")


def _mean_over_labels(fn, pred, y, counts_ignored: bool = False) -> float:
    """Average `fn(pred [m], y [m])` over the labels of which both values occur."""
    pred, y = (v.reshape(-1, v.shape[-1]) for v in (pred, y))
    found = []
    for label in range(y.shape[1]):
        one, truth = pred[:, label], y[:, label]
        judged: Bool[np.ndarray, " m"] = truth >= 0
        if counts_ignored:
            one, truth = np.where(judged, one, 0), np.maximum(truth, 0)
        else:
            one, truth = one[judged], truth[judged]
        if truth.size and truth.min() != truth.max():
            found.append(fn(one, truth > 0))
    return float(np.mean(found)) if found else float("nan")


def _mean_if_any(values, y, group) -> float:
    """Average over samples that have a value."""
    del y, group
    known = values[~np.isnan(values)].astype(np.float64)
    return float(known.mean()) if known.size else float("nan")


def _logits(pred, y):
    """Logits as they are ranked; scikit-learn refuses infinite ones."""
    del y
    return jnp.clip(pred.astype(jnp.float32), -LARGE, LARGE)


def _classes(pred, y):
    del y
    return jnp.argmax(pred, axis=1)


def _ranking(combine: Callable) -> Callable[..., Metric]:
    return lambda **options: Metric(
        _logits, functools.partial(combine, **options) if options else combine
    )


METRICS: dict[str, Callable[..., Metric]] = {
    "nrmse": lambda: Metric(nrmse),
    "rmse": lambda: Metric(squared_error, "root"),
    "error": lambda: Metric(error),
    "label_error": lambda: Metric(label_error),
    "mae8": lambda **options: Metric(
        functools.partial(contact_error, **options), _mean_if_any
    ),
    "1-auroc": _ranking(one_minus_auroc),
    "1-map": _ranking(one_minus_ap),
    "fnr": _ranking(miss_rate),
    "1-f1": lambda: Metric(_classes, one_minus_f1),
    "1-f1_records": lambda: Metric(
        _classes, functools.partial(one_minus_f1, by_group=True)
    ),
}
