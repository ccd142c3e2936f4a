"""FLD, the label term of stage 1, in its forms.

    mi             H(Z_t | Z_s) = H(Z_t) - I(Z_s; Z_t): FLD at the best map (Eq. 7)
    transport      FLD at the map of an entropic coupling of the labels
    entropy        H(Z_s | Z_t), what the released code minimises by default (D4)
    negative_sets  its `C_entropy` option (D5)

Only `mi` and `transport` are distortions of the bound. The others can be brought to
their minimum by predictions that say nothing about the target label.
"""

import math
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import ml_collections

from recraft_jax.losses import distortion, label_ot, ot

KINDS = ("mi", "entropy", "transport", "negative_sets")
COSTS = ("prototype", "class", "joint")


def make(
    section: ml_collections.ConfigDict,
    *,
    num_classes: int,
    class_scale: jax.Array | None,
) -> Callable[..., tuple[jax.Array, dict, dict]]:
    """Build the term `(params, stats, batch, u, log_probs, log_first, step)`.

    It returns the loss, the next `stats` (the moving average, if there is one) and
    metrics: `fld`, `source_entropy` (H(Z_s) of the batch) and `source_collapsed`.
    `u` are pooled features `[b d]`; `log_probs` are source predictions `[b ks]`, or one
    for each token `[b l ks]`, whose losses are then summed as in the released code
    (D16); `log_first` are those of the first b samples of the data set, or None (D18).

    Args:
      section: `config.fld`.
      num_classes: kt.
      class_scale: factor of each class `[kt]`, for the last two kinds, or None.
    """
    form = _form(section, class_scale)

    def term(params, stats, batch, u, log_probs, log_first, step):
        targets = jax.nn.one_hot(batch["label"], num_classes)
        q = joint_of(log_probs, targets, batch["weight"])
        if section.momentum > 0:
            past = jnp.where(step == 0, q, stats["joint"])
            q = distortion.moving_average(past, q, section.momentum)
            stats = {"joint": jax.lax.stop_gradient(q)}
        negatives = None if log_first is None else misplaced(log_first, targets)
        samples = {
            "features": u,
            "targets": targets,
            "source_features": params["source/features"],
            "source_labels": params["source/labels"],
        }

        def loss_of(q, negatives):
            return form(q, samples | {"negatives": negatives})

        if q.ndim == 3:
            fld = jnp.sum(jax.vmap(loss_of)(q, negatives))
            q = q.mean(0)
        else:
            fld = loss_of(q, negatives)
        entropy = distortion.entropy(q.sum(1))
        collapsed = entropy < 0.5 * math.log(q.shape[0])
        return (
            fld,
            stats,
            {
                "fld": fld,
                "source_entropy": entropy,
                "source_collapsed": collapsed.astype(jnp.float32),
            },
        )

    return term


def init_stats(
    section: ml_collections.ConfigDict, num_classes: int
) -> Callable[[dict], dict] | None:
    """What `phase.init_stats` is for the term; the first step replaces the average."""
    if section.momentum == 0:
        return None

    def init(params):
        num_source = params["source/head/bias"].shape[0]
        return {"joint": jnp.zeros((num_source, num_classes), jnp.float32)}

    return init


def _form(section, class_scale) -> Callable[[jax.Array, Mapping], jax.Array]:
    """The loss of a joint `[ks kt]`, and of samples for the kinds that look at them."""
    if section.kind == "mi":
        return lambda q, samples: distortion.target_given_source(q)
    if section.kind == "entropy":
        return lambda q, samples: distortion.source_given_target(
            q, class_scale=class_scale
        )
    if section.kind == "negative_sets":
        return lambda q, samples: distortion.negative_sets(
            q, negatives=samples["negatives"], class_scale=class_scale
        )

    def transport(q, samples):
        cost, epsilon = _label_cost(section, q, samples)
        # A row of mass zero has no place in the map; the loss leaves it out as well.
        plan, _ = ot.transport_plan(cost, q.sum(1), q.sum(0), epsilon=epsilon)
        return distortion.transport_distortion(q, plan)

    return transport


def joint_of(log_probs: jax.Array, targets: jax.Array, weights: jax.Array) -> jax.Array:
    """Joint `[ks kt]` of predictions `[b ks]`, or one per token of `[b l ks]`."""
    probs = jnp.exp(log_probs)
    if probs.ndim == 2:
        return distortion.joint(probs, targets, weights)
    return jax.vmap(distortion.joint, in_axes=(1, None, None))(probs, targets, weights)


def misplaced(log_first: jax.Array, targets: jax.Array) -> jax.Array:
    """Negatives of the index bug (D18), `[ks kt]`, or one per token like `joint_of`.

    Args:
      log_first: predictions for the first b samples of the data set.
      targets: one-hot labels of the batch `[b kt]`.
    """
    probs = jnp.exp(log_first)
    if probs.ndim == 2:
        return distortion.misplaced_negatives(probs, targets)
    found = jax.vmap(distortion.misplaced_negatives, in_axes=(1, None))
    return found(probs, targets)


def _label_cost(section, q, samples: Mapping[str, jax.Array]):
    """Cost between labels, and epsilon in its units."""
    if section.transport_cost == "joint":
        return distortion.joint_cost(q), 1.0  # the plan is then q itself
    if section.transport_cost == "prototype":
        cost = distortion.prototype_cost(
            samples["features"],
            samples["targets"],
            samples["source_features"],
            samples["source_labels"],
        )
    else:
        rows = samples["source_labels"]
        cost, _ = label_ot.class_cost(
            samples["features"],
            jnp.argmax(samples["targets"], axis=1),
            samples["source_features"],
            jnp.where(rows.sum(1) > 0, jnp.argmax(rows, axis=1), -1),
            epsilon=0.1,
            num_classes=q.shape[1],
            num_source_classes=q.shape[0],
        )
    median = jax.lax.stop_gradient(jnp.median(cost))
    return cost, section.transport_epsilon * jnp.where(median > 0, median, 1.0)
