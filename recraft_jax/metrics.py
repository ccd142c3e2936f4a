"""Metrics: a value for each sample, whose mean over a split gives the score.

`update` sums over a batch, `finish` divides once: sums add across batches and hosts,
means do not. Values of samples are what comparisons of methods resample.
"""

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int


class Metric(NamedTuple):
    """A metric.

    Attributes:
      each: `(pred, y) -> [b]`, the value of each sample.
      root: whether the score is the square root of the mean of these values.
      better: `lower` or `higher`.
    """

    each: Callable[[ArrayLike, ArrayLike], Array]
    root: bool = False
    better: str = "lower"


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


METRICS = {
    "nrmse": Metric(nrmse),
    "rmse": Metric(squared_error, root=True),
    "error": Metric(error),
    "label_error": Metric(label_error),
}


def update(
    metric: Metric, pred: ArrayLike, y: ArrayLike, mask: Bool[ArrayLike, " b"]
) -> dict[str, Array]:
    """Sum the values of the samples that `mask` keeps, and count them."""
    values = jnp.where(mask, metric.each(pred, y), 0.0)
    return {"sum": jnp.sum(values), "count": jnp.sum(mask)}


def finish(metric: Metric, sums: Mapping[str, ArrayLike]) -> float:
    """Turn sums over a split into its score."""
    mean = float(sums["sum"]) / float(sums["count"])
    return math.sqrt(mean) if metric.root else mean


def score(metric: Metric, pred: ArrayLike, y: ArrayLike) -> float:
    """Score the predictions of a whole split."""
    return finish(metric, update(metric, pred, y, np.ones(len(y), bool)))


def is_better(metric: Metric, value: float, other: float) -> bool:
    """Whether a score beats another."""
    return value < other if metric.better == "lower" else value > other
