"""ORCA (Shen et al., ICML 2023): align the embedder class by class, then fit.

Stage 1 moves the embedder alone, down the label-aware distance (`losses/otdd.py`) of
each target class, which has one label, to the source with its own labels:

    loss = sum_y pi_y OTDD((U_s, Z_s), (F_y, y)),    pi_y the share of class y
    d((u, z), (u', y)) = 1/2 |u - u'|^2 + 1/2 D(z, y)

With one label on the target side, D(z, y) / 2 depends on the source point alone. The
potential of that point takes it up whole, so that, at convergence,

    OTDD = OT(U_s, F_y) - 1/2 OT(F_y, F_y) - 1/2 OT((U_s, Z_s), (U_s, Z_s))
           + 1/2 sum_z P(z) D(z, y)

with plain costs in the first two: the labels of the source move the value, not the
gradient, which is that of the divergence of features, class by class. The self term of
the source and the parts of D that are its own never change: `leaves` solves them once.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from absl import logging

from recraft_jax import errors, phase
from recraft_jax.losses import label_ot
from recraft_jax.methods import fit

_MAX_ITERATIONS = 2000  # sweeps at the last epsilon, of each problem


def phases(
    config: ml_collections.ConfigDict,
    model: Any,
    loss: Callable,
    *,
    target: phase.Target,
    fit_steps: int,
) -> list[phase.Phase]:
    """Stage 1 and stage 2 of `orca`."""
    return [
        align_phase(config, model, target=target),
        fit.fit_phase(
            config,
            model.apply,
            loss,
            num_steps=fit_steps,
            freeze_embedder=config.stage2.freeze_embedder,
        ),
    ]


def align_phase(
    config: ml_collections.ConfigDict, model: Any, *, target: phase.Target
) -> phase.Phase:
    """Build stage 1 over class-balanced batches: all classes in every step.

    Args:
      config: the run's config; reads `orca` and `stage1`.
      model: has `apply`, `(params, x) -> (pred, out)`.
      target: the training split; its labels give the shares of the classes.
    """
    counts = np.bincount(target.labels)
    # A batch holds the classes that are present, in order and equally often.
    counts = counts[counts > 0]
    per_class = config.stage1.batch_size // len(counts)
    class_weights = (counts / counts.sum()).astype(np.float32)

    def loss_fn(params, stats, batch, key, step):
        del key, step
        _, out = model.apply(params, batch["x"])
        distance, metrics = term(
            params,
            out["tokens"].mean(1),
            per_class,
            class_weights,
            threshold=config.orca.threshold,
        )
        return distance, (stats, metrics)

    return phase.Phase(
        name="align",
        stage="align",
        loss_fn=loss_fn,
        trainable=("embedder/.*",),
        num_steps=config.stage1.num_steps,
        optim=config.stage1.optim,
        stream="balanced",
        batch_size=config.stage1.batch_size,
    )


def leaves(
    section: ml_collections.ConfigDict, features: np.ndarray, labels: np.ndarray
) -> dict[str, np.ndarray]:
    """Compute what the term needs of the source, as frozen parameters.

    Args:
      section: `config.orca`: `epsilon` of the outer and of the inner problems,
        `max_source` points of the cloud (evenly spaced ones, 0 for all; its matrices
        are held densely), `threshold` of the marginal errors, here and in `term`.
      features: pooled source features `[n d]`.
      labels: their classes as rows `[n k]`. The largest entry is the class of a point,
        the first one at a tie; a row of zeros has none and is left out.

    Returns:
      Under `source/otdd/`: the points kept, `features` `[n d]` and `labels` `[n]`, the
      numbers of the classes that these have; `self_term` `[1]` of the whole cloud, and
      `class_self_terms` `[k]`; `epsilon`.

    Raises:
      InputError: a setting out of range, or no point with a label.
    """
    for name in ("epsilon", "threshold"):
        if not 0 < section[name] < np.inf:
            raise errors.InputError(
                f"orca.{name} = {section[name]}; allowed: a positive number"
            )
    if section.max_source < 0:
        raise errors.InputError(
            f"orca.max_source = {section.max_source}; allowed: 0 (all) or more"
        )
    labelled = np.flatnonzero(np.any(labels > 0, axis=1))
    if not len(labelled):
        raise errors.InputError(
            f"none of the {len(labels)} source samples has a label; allowed for orca: "
            "a source with labels"
        )
    size = min(section.max_source or len(labelled), len(labelled))
    kept = labelled[np.arange(size) * len(labelled) // size]
    _, classes = np.unique(labels[kept].argmax(1), return_inverse=True)
    points, classes = jnp.asarray(features[kept]), classes.astype(np.int32)
    num_classes = int(classes.max()) + 1
    limits = {"threshold": section.threshold, "max_iterations": _MAX_ITERATIONS}
    class_self_terms, inner = label_ot.self_terms(
        points, classes, epsilon=section.epsilon, num_classes=num_classes, **limits
    )
    between, cross = label_ot.class_cost(
        points,
        classes,
        points,
        classes,
        epsilon=section.epsilon,
        num_classes=num_classes,
        num_source_classes=num_classes,
        source_self=class_self_terms,
        **limits,
    )
    between = (between + between.T) / 2 * (1 - jnp.eye(num_classes))
    # 1/2 |.|^2 + D / 2 at epsilon is half of |.|^2 + D at twice that.
    self_term, outer = label_ot.self_terms(
        points,
        np.zeros_like(classes),
        epsilon=2 * section.epsilon,
        num_classes=1,
        extra=between[classes[:, None], classes],
        **limits,
    )
    error = max(float(info["marginal_error"]) for info in (inner, cross, outer))
    if not error <= section.threshold:
        logging.warning(
            "a distance within the source stopped at a marginal error of %.1e", error
        )
    found = {
        "features": points,
        "labels": classes,
        "self_term": self_term,
        "class_self_terms": class_self_terms,
        "epsilon": np.float32(section.epsilon),
    }
    return {f"source/otdd/{name}": np.asarray(leaf) for name, leaf in found.items()}


def term(
    params: dict[str, jax.Array],
    u: jax.Array,
    per_class: int,
    class_weights: np.ndarray,
    *,
    threshold: float,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Compute sum_y pi_y OTDD(source, class y) of a batch, with its gradient in u.

    Args:
      params: hold `leaves`, which are constants.
      u: target features `[k * per_class d]`, class after class.
      per_class: points of a class.
      class_weights: pi `[k]`; a class of weight 0 adds nothing.
      threshold: largest l1 error of a marginal, of any problem, to be converged.

    Returns:
      The term, and metrics: `otdd`, `sinkhorn_converged`, `sinkhorn_error`.
    """
    points, classes, self_term, class_self_terms, epsilon = (
        jax.lax.stop_gradient(params[f"source/otdd/{name}"])
        for name in ("features", "labels", "self_term", "class_self_terms", "epsilon")
    )
    num_classes = len(class_weights)
    labels = np.repeat(np.arange(num_classes), per_class)
    limits = {
        "num_classes": num_classes,
        "threshold": threshold,
        "max_iterations": _MAX_ITERATIONS,
    }
    twice, outer = label_ot.class_cost(
        u,
        labels,
        points,
        jnp.zeros_like(classes),
        epsilon=2 * epsilon,
        num_source_classes=1,
        source_self=self_term,
        **limits,
    )
    between, inner = label_ot.class_cost(
        jax.lax.stop_gradient(u),
        labels,
        points,
        classes,
        epsilon=epsilon,
        num_source_classes=len(class_self_terms),
        source_self=class_self_terms,
        **limits,
    )
    # The mean over points is that over classes by their shares.
    shift = jnp.mean(between[classes], axis=0)
    distance = jnp.sum(class_weights * (twice[0] + shift)) / 2
    converged = outer["converged"] & inner["converged"]
    return distance, {
        "otdd": distance,
        "sinkhorn_converged": converged.astype(jnp.float32),
        "sinkhorn_error": jnp.maximum(outer["marginal_error"], inner["marginal_error"]),
    }
