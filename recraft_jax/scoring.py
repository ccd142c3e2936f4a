"""Run a metric or a feature map over a split, padded and masked."""

from collections.abc import Callable, Mapping

import jax
import numpy as np
from jax.sharding import Mesh

from recraft_jax import mesh as meshes
from recraft_jax import metrics
from recraft_jax.data import pipeline


def score(
    eval_step: Callable[[dict, dict], dict],
    params: dict[str, jax.Array],
    arrays: Mapping[str, np.ndarray],
    *,
    metric: metrics.Metric,
    batch_size: int,
    mesh: Mesh,
) -> float:
    """Compute a metric over a split: sums over batches, one division at the end.

    Args:
      eval_step: `(params, batch) -> sums`, jitted.
      params: flat dict.
      arrays: `x` and `y` of the split.
      metric: what the sums are of.
      batch_size: samples per step; the last step is padded and masked.
      mesh: devices.
    """
    total: dict[str, float] = {}
    for _, batch in _batches(arrays, batch_size, mesh):
        sums = jax.device_get(eval_step(params, batch))
        total = {name: total.get(name, 0) + value for name, value in sums.items()}
    return metrics.finish(metric, total)


def collect(
    eval_step: Callable[[dict, dict], dict],
    params: dict[str, jax.Array],
    arrays: Mapping[str, np.ndarray],
    *,
    batch_size: int,
    mesh: Mesh,
) -> dict[str, np.ndarray]:
    """Gather per-sample outputs of a split on the host, padding removed.

    Args:
      eval_step: `(params, batch) -> {"name": [b ...]}`, jitted.
      params: flat dict.
      arrays: samples of the split.
      batch_size: samples per step.
      mesh: devices.
    """
    parts = []
    for mask, batch in _batches(arrays, batch_size, mesh):
        out = jax.device_get(eval_step(params, batch))
        parts.append({name: value[mask] for name, value in out.items()})
    return {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}


def _batches(arrays: Mapping[str, np.ndarray], batch_size: int, mesh: Mesh):
    """Put the samples on the devices in order, batch by batch, each with its mask.

    Batches are as many samples larger as the devices need to share them.
    """
    rows = -(-batch_size // mesh.size) * mesh.size
    share = meshes.share(mesh, rows)
    for batch in pipeline.once(arrays, rows):
        ours = {name: value[share] for name, value in batch.items()}
        yield batch["mask"], meshes.put(mesh, ours, rows)
