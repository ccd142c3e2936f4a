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

The released code stops after a dozen sweeps, with a gradient that is 1 % away where
costs are 20 epsilon and 30 % where they are 500 (Gaussian clouds); `orca.threshold` 0
has that one.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from absl import logging

from recraft_jax import errors, mesh, phase
from recraft_jax.losses import label_ot, otdd
from recraft_jax.methods import fit

_MAX_ITERATIONS = 2000  # sweeps at the last epsilon, of each problem
_CONSTANT_THRESHOLD = 1e-2  # of constants, where the released sweeps need none


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
            model,
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
    config: ml_collections.ConfigDict, features: np.ndarray, labels: np.ndarray
) -> dict[str, np.ndarray]:
    """Compute what the term needs of the source, as frozen parameters.

    Args:
      config: the run's config; reads `orca`: `epsilon` of the outer and of the inner
        problems, `max_source` points of the cloud (evenly spaced ones, 0 for all; its
        matrices are held densely), `threshold` as in `term`.
      features: pooled source features `[n d]`.
      labels: their classes as rows `[n k]`. The largest entry is the class of a point,
        the first one at a tie; a row of zeros has none and is left out.

    Returns:
      Under `source/otdd/`: the points kept, `features` `[n d]` and `labels` `[n]`, the
      numbers of the classes that these have; D of these, `label_distances` `[k k]`;
      `self_term` `[1]` of the whole cloud, and `class_self_terms` `[k]`; `epsilon`.

    Raises:
      InputError: a setting out of range, or no point with a label.
    """
    section = config.orca
    _check(section)
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
    threshold = section.threshold or _CONSTANT_THRESHOLD
    limits = {"threshold": threshold, "max_iterations": _MAX_ITERATIONS}
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
    if not error <= threshold:
        logging.warning(
            "a distance within the source stopped at a marginal error of %.1e", error
        )
    found = {
        "features": points,
        "labels": classes,
        "label_distances": between,
        "self_term": self_term,
        "class_self_terms": class_self_terms,
        "epsilon": np.float32(section.epsilon),
    }
    return {f"source/otdd/{name}": np.asarray(leaf) for name, leaf in found.items()}


def term(
    params: dict[str, jax.Array],
    u: jax.Array,
    per_class: int,
    class_weights: np.ndarray | jax.Array,
    *,
    threshold: float,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Compute sum_y pi_y OTDD(source, class y) of a batch, with its gradient in u.

    Args:
      params: hold `leaves`, which are constants.
      u: target features `[k * per_class d]`, class after class.
      per_class: points of a class.
      class_weights: pi `[k]`; a class of weight 0 adds nothing.
      threshold: largest l1 error of a marginal, of any problem, to be converged; 0 for
        the released number of sweeps. Distances between labels converge even then, to
        0.01: they are constants.

    Returns:
      The term, and metrics: `otdd`, `sinkhorn_converged`, `sinkhorn_error` (of the
      released sweeps: whether all is finite, and an error of several tenths).
    """
    source = {
        path.removeprefix("source/otdd/"): jax.lax.stop_gradient(leaf)
        for path, leaf in params.items()
        if path.startswith("source/otdd/")
    }
    u = mesh.gathered(u)
    num_classes = len(class_weights)
    labels = np.repeat(np.arange(num_classes), per_class)
    between, inner = label_ot.class_cost(
        jax.lax.stop_gradient(u),
        labels,
        source["features"],
        source["labels"],
        epsilon=source["epsilon"],
        num_classes=num_classes,
        num_source_classes=len(source["class_self_terms"]),
        source_self=source["class_self_terms"],
        threshold=threshold or _CONSTANT_THRESHOLD,
        max_iterations=_MAX_ITERATIONS,
    )
    if threshold > 0:
        distances, outer = _converged(source, u, labels, between, threshold)
    else:
        distances, outer = _released(source, u, per_class, between)
    distance = jnp.sum(class_weights * distances)
    converged = jnp.all(outer["converged"]) & inner["converged"]
    error = jnp.maximum(jnp.max(outer["marginal_error"]), inner["marginal_error"])
    return distance, {
        "otdd": distance,
        "sinkhorn_converged": converged.astype(jnp.float32),
        "sinkhorn_error": error,
    }


def _converged(source, u, labels, between, threshold):
    """Compute the distances of all classes `[k]` as the module docstring splits them.

    The divergence for 1/2 |.|^2 at epsilon is half of that for |.|^2 at twice epsilon.
    """
    twice, info = label_ot.class_cost(
        u,
        labels,
        source["features"],
        jnp.zeros_like(source["labels"]),
        epsilon=2 * source["epsilon"],
        num_classes=between.shape[1],
        num_source_classes=1,
        source_self=source["self_term"],
        threshold=threshold,
        max_iterations=_MAX_ITERATIONS,
    )
    # The mean over points is the one over classes by their shares.
    return (twice[0] + jnp.mean(between[source["labels"]], axis=0)) / 2, info


def _released(source, u, per_class, between):
    """Compute the distances by the released sweeps, which see all labels."""

    def distance(points, from_classes):
        return otdd.otdd(
            source["features"],
            source["labels"],
            points,
            np.zeros(per_class, np.int32),
            epsilon=source["epsilon"],
            num_classes_x=len(from_classes),
            distances={
                "xy": from_classes[:, None],
                "xx": source["label_distances"],
                "yy": jnp.zeros((1, 1)),
            },
        )

    by_class = u.reshape(-1, per_class, u.shape[-1])
    # One class at a time: each holds the costs within the source.
    return jax.lax.map(lambda pair: distance(*pair), (by_class, between.T))


def _check(section):
    """Refuse settings out of range."""
    allowed = {
        "epsilon": (0 < section.epsilon < np.inf, "a positive number"),
        "threshold": (
            0 <= section.threshold < np.inf,
            "a positive number, or 0 for the released sweeps",
        ),
        "max_source": (section.max_source >= 0, "1 or more, or 0 for all"),
    }
    for name, (is_good, what) in allowed.items():
        if not is_good:
            raise errors.InputError(f"orca.{name} = {section[name]}; allowed: {what}")
