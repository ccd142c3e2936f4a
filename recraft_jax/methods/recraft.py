"""Stage 1 of RECRAFT: learn the embedder phi by feature alignment plus distortion.

The bound (the paper's Theorem 7): target error <= source error + omega * W1 + FLD.
Stage 1 minimises the two terms that depend on phi, jointly:

    loss = omega * FA + lambda * FLD
    FA   = W1(source features, target features), token means, debiased Sinkhorn (Eq. 5)
    FLD  = H(Z_t | Z_s) = H(Z_t) - I(Z_s; Z_t) of the joint of frozen source predictions
           and target (pseudo-)labels (Eq. 7 at the best global label map)

Gradients pass through the frozen body and source head; only the embedder moves. `fa`
and `fld` are the same phase with one weight set to zero, and then that term costs
nothing. Other forms of the terms are in `alignment.py` and `label_distortion.py`; what
else the released code does differently is a switch here (`docs/theory.md` lists all).
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import ml_collections
import numpy as np

from recraft_jax import phase
from recraft_jax.methods import alignment, fit, label_distortion, source

MODES = ("joint", "sequential")


def phases(
    config: ml_collections.ConfigDict,
    model: Any,
    loss: Callable,
    *,
    target: phase.Target,
    fit_steps: int,
) -> list[phase.Phase]:
    """Stage 1 and stage 2 of `recraft`, `fa` and `fld`.

    With `stage1.mode` `sequential`, as in the released code (D1), alignment ends before
    the label term begins, and nothing holds it from then on.
    """
    fa, fld = config.fa.omega, config.fld.weight
    stage1 = config.stage1
    parts = {"align": (fa, fld, stage1.num_steps, stage1.batch_size)}
    label_lr = stage1.label_lr or stage1.optim.lr
    label_optim = ml_collections.ConfigDict(stage1.optim.to_dict() | {"lr": label_lr})
    if stage1.mode == "sequential" and fa > 0 and fld > 0:
        steps = stage1.num_label_steps or stage1.num_steps
        batch_size = stage1.label_batch_size or stage1.batch_size
        parts = {
            "align_fa": (fa, 0.0, stage1.num_steps, stage1.batch_size),
            "align_fld": (0.0, fld, steps, batch_size),
        }
    return [
        *(
            align_phase(
                config,
                model.apply,
                target=target,
                name=name,
                weights=weights,
                num_steps=num_steps,
                batch_size=batch_size,
                optim=label_optim if name == "align_fld" else stage1.optim,
            )
            for name, (*weights, num_steps, batch_size) in parts.items()
        ),
        fit.fit_phase(
            config,
            model,
            loss,
            num_steps=fit_steps,
            freeze_embedder=config.stage2.freeze_embedder,
        ),
    ]


def leaves(
    config: ml_collections.ConfigDict, features: np.ndarray, labels: np.ndarray
) -> dict[str, np.ndarray]:
    """What stage 1 needs of the source beside its features, as frozen parameters."""
    del labels
    return alignment.leaves(config.fa, features) if config.fa.omega > 0 else {}


def features(params, apply: Callable, x, *, per_token: bool = False):
    """Pooled target features `[b d]` and source log-probabilities of inputs.

    The latter are `[b k]`, of the mean hidden state, or with `per_token` `[b l k]`.
    """
    _, out = apply(params, x)
    hidden = out["hidden"] if per_token else out["hidden"].mean(1)
    return out["tokens"].mean(1), source.predict(params, hidden)


def align_phase(
    config: ml_collections.ConfigDict,
    apply: Callable,
    *,
    target: phase.Target,
    name: str,
    weights: Sequence[float],
    num_steps: int,
    batch_size: int,
    optim: ml_collections.ConfigDict,
) -> phase.Phase:
    """Build stage 1 over class-balanced batches with importance weights.

    Args:
      config: the run's config; reads `fa`, `fld`, `legacy`, and the batch size of
        `stage2`.
      apply: `(params, x) -> (pred, out)`.
      target: the training split.
      name: of the phase.
      weights: omega of FA and lambda of FLD; a term of weight 0 is not computed.
      num_steps: optimiser steps.
      batch_size: samples of one step.
      optim: config section of the optimiser.
    """
    omega, weight = weights
    num_classes = target.num_classes
    counts = np.bincount(target.labels, minlength=num_classes)
    per_class = batch_size // np.count_nonzero(counts)
    is_per_token = config.fld.dense_1d_per_token and target.is_dense_1d
    scale = _batch_count_scale(config, counts, per_class)
    distort = label_distortion.make(
        config.fld, num_classes=num_classes, class_scale=scale["fld"]
    )
    first_x = None
    if config.legacy.negative_index_bug and config.fld.kind == "negative_sets":
        picks = np.arange(per_class * np.count_nonzero(counts)) % len(target.x)
        first_x = target.x[picks]

    def loss_fn(params, stats, batch, key, step):
        del key
        u, log_probs = features(params, apply, batch["x"], per_token=is_per_token)
        loss, metrics = 0.0, {}
        if omega > 0:
            fa, measured = alignment.term(config.fa.kind, params, u, batch["weight"])
            loss += omega * scale["fa"] * fa
            metrics |= measured
        if weight > 0:
            log_first = None
            if first_x is not None:
                _, log_first = features(params, apply, first_x, per_token=is_per_token)
            fld, stats, measured = distort(
                params, stats, batch, u, log_probs, log_first, step
            )
            loss += weight * fld
            metrics |= measured
        return loss, (stats, metrics)

    head = ("source/head/.*",) if config.fld.train_source_head and weight > 0 else ()
    return phase.Phase(
        name=name,
        stage="align",
        loss_fn=loss_fn,
        trainable=("embedder/.*", *head),
        num_steps=num_steps,
        optim=optim,
        stream="balanced",
        batch_size=batch_size,
        init_stats=(
            label_distortion.init_stats(config.fld, num_classes) if weight > 0 else None
        ),
    )


def _batch_count_scale(config, counts: np.ndarray, per_class: int) -> dict:
    """Factors of the released code: samples used over number of loader batches (D9)."""
    if not config.legacy.batch_count_scale:
        return {"fa": 1.0, "fld": None}
    loader = config.stage2.batch_size
    used = per_class * np.count_nonzero(counts)
    batches = np.maximum(np.ceil(counts / loader), 1)
    return {
        "fa": used / math.ceil(counts.sum() / loader),
        "fld": jnp.asarray(per_class / batches, jnp.float32),
    }
