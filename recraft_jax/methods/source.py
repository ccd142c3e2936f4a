"""Stage 0: the source side, from real text or images through the pretrained model.

The source feature map theta is the backbone's own embedding layer; the source predictor
p_s(z|u) is its frozen encoder with a linear head on top. The head is a multinomial
logistic regression on frozen states, fitted to convergence, with the strength of its L2
penalty chosen on a part of the training set. `lipschitz.py` may then recalibrate it,
so that its loss is omega-Lipschitz in u (Def. 4).

FLD can only measure what this head knows: `information` is I(Z_s; true label) on
held-out samples, in nats, the same functional that stage 1 maximises for the target.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging

from recraft_jax import errors
from recraft_jax.losses import distortion
from recraft_jax.methods import heads, lipschitz, towers


class Source(NamedTuple):
    """What the later stages need of the source, as numpy arrays.

    Attributes:
      features: pooled embeddings of source samples `[n d]`, the cloud FA aligns with.
      labels: their classes as rows `[n k]`: one-hot, the shares of the classes of their
        tokens at token level, or zeros where no token has a label.
      kernel: of the source head, from the width of the hidden states, `[e k]`.
      bias: of the source head, `[k]`.
      held_features: pooled embeddings of held-out units `[m d]` (of their samples).
      held_log_probs: log p_s of these units `[m k]`.
      held_labels: their classes `[m]`.
      report: held-out figures of the head and what they were measured on.
    """

    features: np.ndarray
    labels: np.ndarray
    kernel: np.ndarray
    bias: np.ndarray
    held_features: np.ndarray
    held_log_probs: np.ndarray
    held_labels: np.ndarray
    report: dict[str, Any]


def prepare(
    tower: towers.Tower,
    *,
    num_features: int,
    test_frac: float,
    seed: int,
    recalibration: lipschitz.Settings,
    double_softmax: bool = False,
) -> Source:
    """Embed a labelled set, fit the source head and measure it on held-out samples.

    Args:
      tower: of `text_tower.make` or `image_tower.make`.
      num_features: most samples whose features are kept for FA.
      test_frac: share of samples held out for the report.
      seed: of the split and of the choice of features.
      recalibration: of the head, on training samples that it is then not fitted on.
      double_softmax: fit the head through a second soft-max, as the released code does
        for text; predictions use one.

    Raises:
      InputError: fewer than two classes, or too few samples to hold any out.
    """
    rng = np.random.default_rng(seed)
    pooled, units = tower.units()
    if tower.level == "token":
        units = units.take(_subsample_outside(units.labels, tower.names, rng))
    order = rng.permutation(tower.num_samples)
    num_test = round(test_frac * len(order))
    num_fit = round(0.8 * (len(order) - num_test))
    # Whole samples are held out, so no sentence lends tokens to both sides.
    part = np.full(len(order), 2)
    part[order[:num_test]] = 0
    part[order[num_test : num_test + num_fit]] = 1
    test, fit, choose = (part[units.sample] == i for i in range(3))
    states, labels, num_classes = units.states, units.labels, len(tower.names)
    if len(set(labels[fit])) < 2 or not test.any() or not choose.any():
        noun = tower.noun
        raise errors.InputError(
            f"the source has {tower.num_samples} {noun} and classes {tower.names}; "
            f"allowed: at least two classes and enough {noun} to hold some out"
        )
    fit_head = heads.double_softmax if double_softmax else heads.logistic
    head, strength = heads.choose(
        fit_head,
        (states[fit], labels[fit]),
        (states[choose], labels[choose]),
        num_classes,
    )
    is_calibrated = recalibration.method != "none"
    seen = fit if is_calibrated else fit | choose
    if not is_calibrated:
        head = fit_head(states[seen], labels[seen], num_classes, strength)
    report = {}
    if is_calibrated:
        head, report = _recalibrated(
            head,
            {"fit": units.take(choose), "test": units.take(test)},
            tower.gradients,
            recalibration,
            seed,
        )
    kernel, bias = head
    log_probs = heads.log_probs(head, states[test])
    report = _report(log_probs, labels[test], labels[seen], tower) | report
    report["l2_strength"] = float(strength)
    if report["accuracy"] <= report["majority"]:
        logging.warning(
            "the source head is not above its majority class on held-out %s "
            "(%.3f against %.3f): FLD will measure next to nothing; use more %s or "
            "labels that the backbone can tell apart",
            tower.noun,
            report["accuracy"],
            report["majority"],
            tower.noun,
        )
    chosen = np.sort(rng.permutation(len(pooled))[:num_features])
    return Source(
        features=pooled[chosen],
        labels=_sample_labels(units, len(pooled), num_classes)[chosen],
        kernel=kernel,
        bias=bias,
        held_features=pooled[units.sample[test]],
        held_log_probs=log_probs,
        held_labels=labels[test].astype(np.int32),
        report=report,
    )


def predict(params: dict[str, jax.Array], hidden: jax.Array) -> jax.Array:
    """Source log-probabilities `[... k]` of hidden states `[... d]`, pooled or not."""
    logits = hidden @ params["source/head/kernel"] + params["source/head/bias"]
    return jax.nn.log_softmax(logits.astype(jnp.float32))


def leaves(source: Source) -> dict[str, np.ndarray]:
    """Put the source under the parameter paths that stage 1 reads, all frozen there."""
    return {
        "source/features": source.features,
        "source/labels": source.labels,
        "source/head/kernel": source.kernel,
        "source/head/bias": source.bias,
    }


def _recalibrated(head, units: dict[str, towers.Units], gradients, settings, seed: int):
    """Recalibrate a head on `units["fit"]`; measure both heads on `units["test"]`."""
    kernel, bias = head
    samples = {}
    for name, found in units.items():
        order = np.random.default_rng(seed).permutation(len(found.labels))
        found = found.take(np.sort(order[: settings.num_samples]))
        grads = gradients(kernel, found, pooled=settings.u_space == "pooled")
        logits = found.states @ kernel + bias
        samples[name] = lipschitz.Samples(
            jnp.asarray(logits), jnp.asarray(grads), jnp.asarray(found.labels)
        )
    mix, shift, search = lipschitz.recalibrate(samples["fit"], settings)
    same = np.eye(len(bias)), np.zeros(len(bias))
    report = {
        "method": settings.method,
        "tau": settings.tau,
        "u_space": settings.u_space,
        "units": {name: len(found.labels) for name, found in samples.items()},
        "before": lipschitz.report(samples["test"], *same, settings),
        "after": lipschitz.report(samples["test"], mix, shift, settings),
        **search,
    }
    head = (kernel @ mix).astype(np.float32), (bias @ mix + shift).astype(np.float32)
    return head, {"lipschitz": report}


def _subsample_outside(labels, names, rng) -> np.ndarray:
    """Keep as many `O` units as the largest entity class has (95 % of WNUT-16 is O)."""
    if "O" not in names:
        return np.arange(len(labels))
    outside = names.index("O")
    most = max(np.bincount(labels[labels != outside], minlength=1).max(), 1)
    kept = rng.permutation(np.flatnonzero(labels == outside))[:most]
    return np.sort(np.concatenate([np.flatnonzero(labels != outside), kept]))


def _sample_labels(
    units: towers.Units, num_samples: int, num_classes: int
) -> np.ndarray:
    """Shares of the classes among the units of each sample, `[n k]`."""
    counts = np.zeros((num_samples, num_classes), np.float32)
    np.add.at(counts, (units.sample, units.labels), 1.0)
    return counts / np.maximum(counts.sum(1, keepdims=True), 1.0)


def _report(log_probs, labels, seen, tower: towers.Tower) -> dict[str, Any]:
    probs = np.exp(log_probs)
    one_hot = np.eye(len(tower.names))[labels]
    joint = distortion.joint(jnp.asarray(probs), jnp.asarray(one_hot))
    common = np.bincount(seen).argmax()
    return {
        "level": tower.level,
        "classes": list(tower.names),
        "units": {"train": len(seen), "test": len(labels)},
        "accuracy": float((probs.argmax(1) == labels).mean()),
        "majority": float((labels == common).mean()),
        "log_loss": float(-log_probs[np.arange(len(labels)), labels].mean()),
        "entropy": float(distortion.entropy(joint.sum(0))),
        "information": float(distortion.mutual_information(joint)),
    }
