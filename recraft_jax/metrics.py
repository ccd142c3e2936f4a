"""Metrics in two halves: `update` makes sums over a batch, `finish` divides once.

Sums add across batches and hosts, means do not. Every metric here is better when lower.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int


class Metric(NamedTuple):
    """A metric: `update(pred, y, mask) -> sums`, `finish(sums) -> float`."""

    update: Callable[..., dict[str, Array]]
    finish: Callable[[Mapping[str, ArrayLike]], float]


def nrmse_update(
    pred: Float[ArrayLike, "b ..."],
    y: Float[ArrayLike, "b ..."],
    mask: Bool[ArrayLike, " b"],
) -> dict[str, Array]:
    """Sum `||pred - y||_2 / ||y||_2` over samples (channels and grid flattened).

    The nRMSE of the cross-modal papers, also called mean relative L2. No epsilon: a
    target of zeros counts as infinite.
    """
    pred, y = (v.reshape(v.shape[0], -1).astype(jnp.float32) for v in (pred, y))
    scale = jnp.linalg.norm(jnp.where(mask[:, None], y, 1.0), axis=1)
    ratio = jnp.linalg.norm(pred - y, axis=1) / scale
    return {"sum": jnp.sum(jnp.where(mask, ratio, 0.0)), "count": jnp.sum(mask)}


def error_update(
    pred: Float[ArrayLike, "b k"], y: Int[ArrayLike, " b"], mask: Bool[ArrayLike, " b"]
) -> dict[str, Array]:
    """Count samples whose largest logit is not their class."""
    wrong = jnp.argmax(pred, axis=1) != y
    return {"sum": jnp.sum(jnp.where(mask, wrong, 0)), "count": jnp.sum(mask)}


def label_error_update(
    pred: Float[ArrayLike, "b k"],
    y: Float[ArrayLike, "b k"],
    mask: Bool[ArrayLike, " b"],
) -> dict[str, Array]:
    """Sum the share of wrong labels over samples; a logit above 0 says the label is on.

    All samples have k labels, so the mean is the share of wrong labels of the split.
    """
    wrong = jnp.mean((pred > 0) != (y > 0), axis=1)
    return {"sum": jnp.sum(jnp.where(mask, wrong, 0.0)), "count": jnp.sum(mask)}


def mean(sums: Mapping[str, ArrayLike]) -> float:
    """Divide the sum by the count."""
    return float(sums["sum"]) / float(sums["count"])


METRICS = {
    "nrmse": Metric(nrmse_update, mean),
    "error": Metric(error_update, mean),
    "label_error": Metric(label_error_update, mean),
}
