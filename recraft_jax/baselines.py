"""Trivial and linear baselines on the same split as the method.

`mean`: the training mean (dense and regression), the majority class, or how often each
label is on. `persistence`: the input itself, where input and target have one shape.
`input_mean`: the spatial mean of each of its channels, which is all that diffusion
leaves. `nearest`: the target of the training sample whose input is nearest. `linear`:
ridge or logistic regression on the flattened input, one for each label, its strength
chosen on the validation split.
"""

import contextlib
import hashlib
import json
import pathlib
import warnings
from collections.abc import Callable, Sequence

import numpy as np
import sklearn.exceptions
import sklearn.linear_model
import threadpoolctl
from jaxtyping import Float

from recraft_jax import metrics, writer
from recraft_jax.data import rows, tasks

RIDGE_ALPHAS = np.logspace(-6, 6, 25)
LOGISTIC_CS = np.logspace(-4, 2, 7)
MAX_VALUES = 1 << 27  # of the training inputs, for what looks at all of them at once
LOGISTIC_STEPS = 100  # weak penalties stop short of convergence and are no worse for it

VERSION = 2  # of what is computed here: a new one leaves stored scores aside


def stored_scores(
    task: tasks.Task, sha256: str, folder: pathlib.Path
) -> dict[str, float]:
    """Return `scores`, computed once for all runs on the same arrays.

    Args:
      task: the task.
      sha256: of its arrays.
      folder: where scores are kept, made if it is not there.
    """
    options = json.dumps(dict(task.metric_options), sort_keys=True)
    switches = hashlib.sha256(options.encode()).hexdigest()[:8]
    name = f"{task.kind}-{task.metric}-{switches}-{sha256}-{VERSION}.json"
    path = folder / name
    with contextlib.suppress(OSError, ValueError):
        return json.loads(path.read_text())
    found = scores(task)
    folder.mkdir(parents=True, exist_ok=True)
    writer.write_json(path, found)
    return found


def scores(task: tasks.Task) -> dict[str, float]:
    """Score every baseline that applies on the test split, in the task's metric.

    `nearest` and `linear` are left out where the training inputs have more than
    `MAX_VALUES` values, and `linear` for fields that are judged in places only.
    """
    train, test = task.splits["train"], task.splits["test"]
    linear = {
        "dense": _ridge,
        "regression": _ridge,
        "classification": _logistic,
        "multilabel": _per_label,
    }
    preds = {"mean": _mean(task, len(test["x"]))}
    if task.kind == "dense" and test["x"].shape == test["y"].shape:
        preds["persistence"] = test["x"]
        space = tuple(range(1, test["x"].ndim - 1))
        mean = test["x"].mean(space, keepdims=True, dtype=np.float64)
        pred = np.broadcast_to(mean, test["x"].shape).astype(np.float32)
        preds["input_mean"] = pred
    if task.kind in linear and train["x"].size <= MAX_VALUES:
        task = task._replace(
            splits={
                split: {**arrays, "x": np.asarray(arrays["x"])}
                for split, arrays in task.splits.items()
            }
        )
        preds["nearest"] = _nearest(task)
        if task.kind != "classification" or len(np.unique(train["y"])) > 1:
            preds["linear"] = linear[task.kind](task)
        else:
            preds["linear"] = preds["mean"]
    return {name: score(task, pred, "test") for name, pred in preds.items()}


def score(task: tasks.Task, pred: Float[np.ndarray, "n ..."], split: str) -> float:
    """Score predictions of a whole split in the task's metric."""
    metric = metrics.make(task.metric, task.metric_options)
    arrays = task.splits[split]
    return metrics.score(metric, pred, arrays["y"][:], arrays.get("group"))


def _mean(task: tasks.Task, num: int) -> np.ndarray:
    y = task.splits["train"]["y"]
    if task.kind in ("segmentation", "distance"):
        return np.repeat(_judged_mean(task.kind, y)[None], num, axis=0)
    if task.kind in ("dense", "regression"):
        mean = y.mean(0, keepdims=True, dtype=np.float64).astype(np.float32)
        return np.repeat(mean, num, axis=0)
    if task.kind == "multilabel":
        logits = _log_odds(y.mean(0, keepdims=True, dtype=np.float64))
        return np.repeat(logits, num, axis=0)
    counts = np.bincount(y, minlength=task.num_classes)
    return np.repeat(counts[None].astype(np.float32), num, axis=0)


def _judged_mean(kind: str, y: np.ndarray | rows.Rows) -> np.ndarray:
    """Mean of each point over the samples where it is judged; 0 where it never is."""
    total, count = np.zeros(y.shape[1:]), np.zeros(y.shape[1:], int)
    for block in rows.blocks(y):
        total += np.where(block >= 0, block, 0).sum(0, dtype=np.float64)
        count += (block >= 0).sum(0)
    mean = total / np.maximum(count, 1)
    return _log_odds(mean) if kind == "segmentation" else mean.astype(np.float32)


def _log_odds(share: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore"):  # what is constant gets an infinite logit
        return (np.log(share) - np.log(1 - share)).astype(np.float32)


def _nearest(task: tasks.Task) -> np.ndarray:
    """One nearest neighbour by Euclidean distance, inputs standardised; ties: first."""
    flat, y = _standardised(task), task.splits["train"]["y"]
    squares = np.sum(flat["train"] ** 2, axis=1)
    parts = range(0, len(flat["test"]), 256)
    blocks = (flat["test"][start : start + 256] for start in parts)
    # The square of the test input is the same for all and left out.
    rows = [np.argmin(squares - 2 * x @ flat["train"].T, axis=1) for x in blocks]
    found = y[np.concatenate(rows)]
    if task.kind == "classification":
        return np.eye(task.num_classes, dtype=np.float32)[found]
    return 2 * found - 1 if task.kind == "multilabel" else found


def _ridge(task: tasks.Task) -> np.ndarray:
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

    def predict(alpha: float) -> Callable[[str], np.ndarray]:
        def of(split: str) -> np.ndarray:
            shrunk = values / (values**2 + alpha)
            out = (flat[split]["x"] - x_mean) @ right.T @ (shrunk[:, None] * projected)
            shape = task.splits[split]["y"].shape
            return (out + y_mean).reshape(shape).astype(np.float32)

        return of

    return _chosen(task, RIDGE_ALPHAS, predict)


def _logistic(task: tasks.Task) -> np.ndarray:
    flat, y = _standardised(task), task.splits["train"]["y"]

    def predict(strength: float) -> Callable[[str], np.ndarray]:
        model = _fitted(strength, flat["train"], y)

        def of(split: str) -> np.ndarray:
            logits = np.full((len(flat[split]), task.num_classes), -np.inf, np.float32)
            with np.errstate(divide="ignore"):  # a probability of 0 is no match
                logits[:, model.classes_] = model.predict_log_proba(flat[split])
            return logits

        return of

    return _chosen(task, LOGISTIC_CS, predict)


def _per_label(task: tasks.Task) -> np.ndarray:
    """One logistic regression a label; a label constant in training stays constant."""
    flat, y = _standardised(task), task.splits["train"]["y"]
    varied = np.flatnonzero(y.min(0) != y.max(0))

    def predict(strength: float) -> Callable[[str], np.ndarray]:
        models = {k: _fitted(strength, flat["train"], y[:, k]) for k in varied}

        def of(split: str) -> np.ndarray:
            logits = _mean(task, len(flat[split]))
            for label, model in models.items():
                logits[:, label] = model.decision_function(flat[split])
            return logits

        return of

    return _chosen(task, LOGISTIC_CS, predict)


def _chosen(
    task: tasks.Task,
    strengths: Sequence[float],
    predict: Callable[[float], Callable[[str], np.ndarray]],
) -> np.ndarray:
    """Predict the test split with the strength that has the best validation score."""
    fits = [predict(strength) for strength in strengths]
    return min(fits, key=lambda of: score(task, of("val"), "val"))("test")


def _fitted(
    strength: float, x: np.ndarray, y: np.ndarray
) -> sklearn.linear_model.LogisticRegression:
    model = sklearn.linear_model.LogisticRegression(C=strength, max_iter=LOGISTIC_STEPS)
    # Products this small gain nothing from a second thread, and where other processes
    # want the cores too, waiting for it made a fit ten times slower.
    with threadpoolctl.threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore", sklearn.exceptions.ConvergenceWarning)
        return model.fit(x, y)


def _standardised(task: tasks.Task) -> dict[str, np.ndarray]:
    """Flatten the inputs and give each value mean 0 and deviation 1 in training."""
    flat = {s: a["x"].reshape(len(a["x"]), -1) for s, a in task.splits.items()}
    # In float64: the deviation of a constant is 0.
    train = flat["train"].astype(np.float64)
    mean, std = train.mean(0), train.std(0)
    std = np.where(std > 0, std, 1)
    return {s: ((x - mean) / std).astype(np.float32) for s, x in flat.items()}
