"""Trivial and linear baselines on the same split as the method.

`mean`: the training mean (dense), the majority class, or how often each label is on.
`persistence`: the input itself, where input and target have one shape. `input_mean`:
the spatial mean of each of its channels, which is all that diffusion leaves. `linear`:
ridge or logistic regression on the flattened input, one for each label, its strength
chosen on the validation split.
"""

import contextlib
import json
import pathlib
from collections.abc import Callable

import numpy as np
import sklearn.linear_model

from recraft_jax import metrics, writer
from recraft_jax.data import tasks

RIDGE_ALPHAS = np.logspace(-6, 6, 25)
LOGISTIC_CS = np.logspace(-4, 2, 7)

VERSION = 1  # of what is computed here: a new one leaves stored scores aside


def stored_scores(
    task: tasks.Task, sha256: str, folder: pathlib.Path
) -> dict[str, float]:
    """Return `scores`, computed once for all runs on the same arrays.

    Args:
      task: the task.
      sha256: of its arrays.
      folder: where scores are kept, made if it is not there.
    """
    path = folder / f"{task.kind}-{task.metric}-{sha256}-{VERSION}.json"
    with contextlib.suppress(OSError, ValueError):
        return json.loads(path.read_text())
    found = scores(task)
    folder.mkdir(parents=True, exist_ok=True)
    writer.write_json(path, found)
    return found


def scores(task: tasks.Task) -> dict[str, float]:
    """Score every baseline that applies on the test split, in the task's metric."""
    metric = metrics.METRICS[task.metric]

    def score(pred: np.ndarray, split: str) -> float:
        return metrics.score(metric, pred, task.splits[split]["y"])

    train, test = task.splits["train"], task.splits["test"]
    fit = {"dense": _ridge, "classification": _logistic, "multilabel": _per_label}
    found = {"mean": score(_mean(task, len(test["x"])), "test")}
    if task.kind == "dense" and test["x"].shape == test["y"].shape:
        found["persistence"] = score(test["x"], "test")
        space = tuple(range(1, test["x"].ndim - 1))
        mean = test["x"].mean(space, keepdims=True, dtype=np.float64)
        pred = np.broadcast_to(mean, test["x"].shape).astype(np.float32)
        found["input_mean"] = score(pred, "test")
    if task.kind != "classification" or len(np.unique(train["y"])) > 1:
        found["linear"] = score(fit[task.kind](task, score), "test")
    else:
        found["linear"] = found["mean"]
    return found


def _mean(task: tasks.Task, num: int) -> np.ndarray:
    y = task.splits["train"]["y"]
    if task.kind == "dense":
        mean = y.mean(0, keepdims=True, dtype=np.float64).astype(np.float32)
        return np.repeat(mean, num, axis=0)
    if task.kind == "multilabel":
        share = y.mean(0, keepdims=True, dtype=np.float64)
        with np.errstate(divide="ignore"):  # constant labels get an infinite logit
            logits = np.log(share) - np.log(1 - share)
        return np.repeat(logits.astype(np.float32), num, axis=0)
    counts = np.bincount(y, minlength=task.num_classes)
    return np.repeat(counts[None].astype(np.float32), num, axis=0)


def _ridge(task: tasks.Task, score: Callable[[np.ndarray, str], float]) -> np.ndarray:
    """Ridge by one singular value decomposition for all strengths; unscaled inputs."""
    flat = {
        s: {k: v.reshape(len(v), -1).astype(np.float64) for k, v in arrays.items()}
        for s, arrays in task.splits.items()
    }
    x_mean, y_mean = flat["train"]["x"].mean(0), flat["train"]["y"].mean(0)
    left, values, right = np.linalg.svd(
        flat["train"]["x"] - x_mean, full_matrices=False
    )
    projected = left.T @ (flat["train"]["y"] - y_mean)

    def predict(alpha: float, split: str) -> np.ndarray:
        shrunk = values / (values**2 + alpha)
        out = (flat[split]["x"] - x_mean) @ right.T @ (shrunk[:, None] * projected)
        return (out + y_mean).reshape(task.splits[split]["y"].shape).astype(np.float32)

    best = min(RIDGE_ALPHAS, key=lambda alpha: score(predict(alpha, "val"), "val"))
    return predict(best, "test")


def _logistic(task: tasks.Task, score) -> np.ndarray:
    flat = _standardised(task)

    def predict(strength: float, split: str) -> np.ndarray:
        model = sklearn.linear_model.LogisticRegression(C=strength, max_iter=500)
        model.fit(flat["train"], task.splits["train"]["y"])
        logits = np.full((len(flat[split]), task.num_classes), -np.inf, np.float32)
        logits[:, model.classes_] = model.predict_log_proba(flat[split])
        return logits

    best = min(LOGISTIC_CS, key=lambda strength: score(predict(strength, "val"), "val"))
    return predict(best, "test")


def _per_label(task: tasks.Task, score) -> np.ndarray:
    """One logistic regression a label; a label constant in training stays constant."""
    flat, y = _standardised(task), task.splits["train"]["y"]

    def predict(strength: float, split: str) -> np.ndarray:
        logits = _mean(task, len(flat[split]))
        for label in np.flatnonzero(y.min(0) != y.max(0)):
            model = sklearn.linear_model.LogisticRegression(C=strength, max_iter=500)
            model.fit(flat["train"], y[:, label])
            logits[:, label] = model.decision_function(flat[split])
        return logits

    best = min(LOGISTIC_CS, key=lambda strength: score(predict(strength, "val"), "val"))
    return predict(best, "test")


def _standardised(task: tasks.Task) -> dict[str, np.ndarray]:
    flat = {s: a["x"].reshape(len(a["x"]), -1) for s, a in task.splits.items()}
    flat = {s: x.astype(np.float64) for s, x in flat.items()}  # constants: std is 0
    mean, std = flat["train"].mean(0), flat["train"].std(0)
    return {s: (x - mean) / np.where(std > 0, std, 1) for s, x in flat.items()}
