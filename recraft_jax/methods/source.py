"""Stage 0: the source side, from real text through the pretrained model itself.

The source feature map theta is the backbone's own embedding layer; the source predictor
p_s(z|u) is its frozen encoder with a linear head on top. The head is
a multinomial logistic regression on frozen states, fitted to convergence, with the
strength of its L2 penalty chosen on a part of the training text.

FLD can only measure what this head knows: `information` is I(Z_s; true label) on
held-out text, in nats, the same functional that stage 1 maximises for the target.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import sklearn.linear_model
from absl import logging

from recraft_jax import errors
from recraft_jax.losses import distortion

STRENGTHS = np.logspace(-3, 2, 6)
BUCKET = 16  # sentences are padded to a multiple of this: few compiled shapes


class Source(NamedTuple):
    """What stage 1 needs of the source, as numpy arrays.

    Attributes:
      features: pooled embeddings of source sentences `[n d]`, the cloud FA aligns with.
      kernel: of the source head, `[d k]`.
      bias: of the source head, `[k]`.
      report: held-out figures of the head and what they were measured on.
    """

    features: np.ndarray
    kernel: np.ndarray
    bias: np.ndarray
    report: dict[str, Any]


def prepare(
    text: Any,
    params: dict[str, np.ndarray],
    embed: Callable[..., jax.Array],
    encode: Callable[..., jax.Array],
    *,
    num_features: int,
    test_frac: float,
    seed: int,
) -> Source:
    """Embed labelled text, fit the source head and measure it on held-out text.

    Args:
      text: `data.text.Text`: `ids` `[n l]`, `mask` `[n l]`, `labels` `[n]` (level
        `sentence`) or `[n l]` with -1 where there is none (level `token`), `names`.
      params: of the pretrained body.
      embed: `(params, ids [b l])` to tokens `[b l d]`.
      encode: `(params, tokens, mask [b l])` to hidden states `[b l d]`.
      num_features: most sentences whose features are kept for FA.
      test_frac: share of sentences held out for the report.
      seed: of the split and of the choice of features.

    Raises:
      InputError: fewer than two classes, or too few sentences to hold any out.
    """
    rng = np.random.default_rng(seed)
    pooled, states, labels, sentence = _frozen_states(text, params, embed, encode)
    if text.level == "token":
        keep = _subsample_outside(labels, text.names, rng)
        states, labels, sentence = states[keep], labels[keep], sentence[keep]
    order = rng.permutation(len(text.ids))
    num_test = round(test_frac * len(order))
    num_fit = round(0.8 * (len(order) - num_test))
    # Whole sentences are held out, so no sentence lends tokens to both sides.
    part = np.full(len(order), 2)
    part[order[:num_test]] = 0
    part[order[num_test : num_test + num_fit]] = 1
    test, fit, choose = (part[sentence] == i for i in range(3))
    if len(set(labels[fit])) < 2 or not test.any() or not choose.any():
        raise errors.InputError(
            f"the source text has {len(text.ids)} sentences and classes {text.names}; "
            "allowed: at least two classes and enough sentences to hold some out"
        )

    def head(rows: np.ndarray, strength: float):
        model = sklearn.linear_model.LogisticRegression(C=strength, max_iter=1000)
        return model.fit(states[rows], labels[rows])

    def log_loss(model, rows: np.ndarray) -> float:
        probs = _probs(model, states[rows], len(text.names))
        return float(-np.log(probs[np.arange(rows.sum()), labels[rows]]).mean())

    best = min(STRENGTHS, key=lambda s: log_loss(head(fit, s), choose))
    model = head(fit | choose, best)
    report = _report(model, states[test], labels[test], labels[fit | choose], text)
    if report["accuracy"] <= report["majority"]:
        logging.warning(
            "the source head is not above its majority class on held-out text "
            "(%.3f against %.3f): FLD will measure next to nothing; use more text or "
            "labels that the backbone can tell apart",
            report["accuracy"],
            report["majority"],
        )
    kernel, bias = _linear(model, len(text.names), states.shape[1])
    chosen = np.sort(rng.permutation(len(pooled))[:num_features])
    return Source(pooled[chosen], kernel, bias, report)


def predict(params: dict[str, jax.Array], hidden: jax.Array) -> jax.Array:
    """Source log-probabilities `[b k]` of pooled hidden states `[b d]`."""
    logits = hidden @ params["source/head/kernel"] + params["source/head/bias"]
    return jax.nn.log_softmax(logits.astype(jnp.float32))


def leaves(source: Source) -> dict[str, np.ndarray]:
    """Put the source under the parameter paths that stage 1 reads, all frozen there."""
    return {
        "source/features": source.features,
        "source/head/kernel": source.kernel,
        "source/head/bias": source.bias,
    }


def _frozen_states(text, params, embed, encode, batch_size: int = 64):
    """Return features by sentence; states, labels and sentence by labelled unit."""

    @jax.jit
    def run(params, ids, mask):
        tokens = embed(params, ids)
        hidden = encode(params, tokens, mask)
        weight = mask[..., None] / mask.sum(1)[:, None, None]
        return (tokens * weight).sum(1), (hidden * weight).sum(1), hidden

    params = jax.device_put(params)
    lengths = text.mask.sum(1)
    order = np.argsort(lengths, kind="stable")
    pooled = states = None
    units = {"state": [], "label": [], "sentence": []}
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        width = -(-int(lengths[rows].max()) // BUCKET) * BUCKET
        width = min(width, text.ids.shape[1])
        fill = batch_size - len(rows)
        ids = np.pad(text.ids[rows, :width], ((0, fill), (0, 0)))
        mask = np.pad(text.mask[rows, :width], ((0, fill), (0, 0)))
        mask[len(rows) :, 0] = True  # a filled row must not divide by zero
        u, mean, hidden = jax.device_get(run(params, ids, mask))
        if pooled is None:
            pooled = np.zeros((len(order), u.shape[1]), np.float32)
            states = np.zeros_like(pooled)
        pooled[rows], states[rows] = u[: len(rows)], mean[: len(rows)]
        if text.level == "token":
            labels = text.labels[rows, :width]
            at = np.argwhere(labels >= 0)
            units["state"].append(hidden[at[:, 0], at[:, 1]])
            units["label"].append(labels[at[:, 0], at[:, 1]])
            units["sentence"].append(rows[at[:, 0]])
    if text.level == "sentence":
        return pooled, states, text.labels, np.arange(len(order))
    return pooled, *(np.concatenate(part) for part in units.values())


def _subsample_outside(labels, names, rng) -> np.ndarray:
    """Keep as many `O` units as the largest entity class has (95 % of WNUT-16 is O)."""
    if "O" not in names:
        return np.arange(len(labels))
    outside = names.index("O")
    most = max(np.bincount(labels[labels != outside], minlength=1).max(), 1)
    kept = rng.permutation(np.flatnonzero(labels == outside))[:most]
    return np.sort(np.concatenate([np.flatnonzero(labels != outside), kept]))


def _probs(model, states, num_classes: int) -> np.ndarray:
    probs = np.full((len(states), num_classes), 1e-12)
    probs[:, model.classes_] = model.predict_proba(states)
    return np.clip(probs, 1e-12, None)


def _linear(model, num_classes: int, width: int):
    """Head arrays of a fitted model; a class it never saw gets a hopeless bias."""
    kernel = np.zeros((width, num_classes), np.float32)
    bias = np.full(num_classes, -30.0, np.float32)
    if len(model.classes_) == 2:  # scikit-learn keeps one row for two classes
        kernel[:, model.classes_[1]] = model.coef_[0]
        bias[model.classes_] = [0.0, model.intercept_[0]]
    else:
        kernel[:, model.classes_] = model.coef_.T
        bias[model.classes_] = model.intercept_
    return kernel, bias


def _report(model, states, labels, seen, text) -> dict[str, Any]:
    probs = _probs(model, states, len(text.names))
    one_hot = np.eye(len(text.names))[labels]
    joint = distortion.joint(jnp.asarray(probs), jnp.asarray(one_hot))
    common = np.bincount(seen).argmax()
    return {
        "level": text.level,
        "classes": list(text.names),
        "units": {"train": len(seen), "test": len(labels)},
        "accuracy": float((probs.argmax(1) == labels).mean()),
        "majority": float((labels == common).mean()),
        "log_loss": float(-np.log(probs[np.arange(len(labels)), labels]).mean()),
        "entropy": float(distortion.entropy(joint.sum(0))),
        "information": float(distortion.mutual_information(joint)),
        "l2_strength": float(model.C),
    }
