"""Run a metric or a feature map over a split, padded and masked; FA and FLD of it."""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from jax.sharding import Mesh

from recraft_jax import mesh as meshes
from recraft_jax.data import pipeline
from recraft_jax.losses import distortion, ot

FA_POINTS = 2048  # of the reported FA, at most
FLD_POINTS = 1 << 16  # of the reported FLD, at most


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


def alignment(
    out: dict[str, dict[str, np.ndarray]],
    labels: dict[str, np.ndarray],
    bank: np.ndarray,
    num_classes: int,
) -> dict[str, float]:
    """Measure FA and FLD on whole splits.

    Args:
      out: pooled features `u` `[n d]` and source `probs` `[n k]`, of `train` and `val`,
        of all samples or the first ones.
      labels: target (pseudo-)labels by split.
      bank: source features `[m d]`.
      num_classes: K_t.

    Returns:
      `fa` and `fa_val`: W1 in units of feature distance, on at most 2,048 samples of
      the training and the validation split (which, being smaller, is biased up); `fld`
      and `fld_val`: H(Z_t | Z_s) in nats, plug-in, on the training and the validation
      split, whatever the form stage 1 minimises; `fld_corrected`: the first with the
      Miller-Madow correction, an upper estimate; `source_entropy`: H(Z_s) in nats on
      the training split, whose fall towards zero is the sign of a collapse.
    """
    distances = {}
    for split, found in out.items():
        fa, info = _wasserstein1(found["u"][:FA_POINTS], bank)
        distances[split] = float(fa)
        if not info["converged"]:
            logging.warning(
                "the reported FA is off: Sinkhorn stopped at a marginal error of %.1e",
                info["marginal_error"],
            )
    seen = {split: labels[split][: len(found["u"])] for split, found in out.items()}
    joints = {
        split: distortion.joint(
            jnp.asarray(found["probs"]), jax.nn.one_hot(seen[split], num_classes)
        )
        for split, found in out.items()
    }
    return {
        "fa": distances["train"],
        "fa_val": distances["val"],
        "fld": float(distortion.target_given_source(joints["train"])),
        "fld_corrected": float(
            distortion.miller_madow(joints["train"], len(seen["train"]))
        ),
        "fld_val": float(distortion.target_given_source(joints["val"])),
        "source_entropy": float(distortion.entropy(joints["train"].sum(1))),
    }


def _batches(arrays: Mapping[str, np.ndarray], batch_size: int, mesh: Mesh):
    """Put the samples on the devices in order, batch by batch, each with its mask.

    Batches are as many samples larger as the devices need to share them.
    """
    rows = -(-batch_size // mesh.size) * mesh.size
    share = meshes.share(mesh, rows)
    for batch in pipeline.once(arrays, rows):
        ours = {name: value[share] for name, value in batch.items()}
        yield batch["mask"], meshes.put(mesh, ours, rows)


_wasserstein1 = jax.jit(ot.wasserstein1)
