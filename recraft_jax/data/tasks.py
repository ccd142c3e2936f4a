"""A task: named arrays in three splits, and what to do with them.

Arrays are float32 with channels last: `x` is `[n c]` or `[h w c]` per sample, `y` the
same grid for dense tasks, a class index for classification, `[k]` of 0 and 1 for
multi-label tasks, or `[k]` numbers for regression. Two kinds of dense task are judged
in places only, and their `y` is below 0 elsewhere: `segmentation`, 0 or 1 at each
point, and `distance`, 0 or more. Readers may add `group` `[n]`, which no split takes
apart: windows of one record, sequences with one beginning. Arrays larger than memory
are `rows.Rows`.
"""

import hashlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from recraft_jax import errors
from recraft_jax.data import draws, rows

SPLITS = ("train", "val", "test")
KINDS = (
    *("dense", "segmentation", "distance"),
    *("classification", "multilabel", "regression"),
)
SCALES = ("channel", "point", "column", "unit_gaussian", "none")
ON_GRID = KINDS[:3]  # kinds that predict an array on the grid of the input
LOOKED_AT = 1 << 28  # values of `Rows` that scales are fitted to
HASHED = 1 << 26  # values of `Rows` that are checked and hashed


class Task(NamedTuple):
    """Data of one task.

    Attributes:
      name: as on the command line.
      kind: a name in `KINDS`.
      metric: a name in `metrics.METRICS`, computed in the units of `y`.
      splits: `{"train" | "val" | "test": {"x": [n ...], "y": [n ...]}}`, the last two
        with `group` `[n]` where the metric is of records or clips.
      num_classes: K_t for classification, k for multi-label, else 0.
      course: of 1-D fields in time, what figures show of the first test samples:
        `values` `[k t n c]` from input to target and on, `times` `[t]`, `coords` `[n]`
        and the target's `frame`; empty elsewhere.
      metric_options: switches of the metric.
      also: names of further metrics of the test split.
      labels: names of the classes or labels, empty if they are numbers.
      augment: `(x [b ...], seeds [b]) -> x`, of training batches in the units of `x`.
      about: what to say of it before training.
      loss_options: switches of the loss.
      most_clusters: of pseudo-labels, where nobody knows how many distinct targets
        there are; 0 is as many as asked for.
    """

    name: str
    kind: str
    metric: str
    splits: Mapping[str, Mapping[str, Any]]
    num_classes: int = 0
    course: Mapping[str, np.ndarray] = {}
    metric_options: Mapping[str, Any] = {}
    also: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    augment: Callable[..., np.ndarray] | None = None
    about: str = ""
    loss_options: Mapping[str, Any] = {}
    most_clusters: int = 0


class Scale(NamedTuple):
    """Affine standardisation fitted on training data, undone on predictions."""

    mean: np.ndarray
    std: np.ndarray

    def apply(self, values):
        """Standardise."""
        return (values - self.mean) / self.std

    def invert(self, values):
        """Return to the units of the data."""
        return values * self.std + self.mean


class Signature(NamedTuple):
    """What a predictor takes and gives.

    Attributes:
      kind: a name in `KINDS`.
      x_shape: of one input, channels last.
      y_shape: of one target on the grid of the input; None elsewhere.
      num_outputs: values, logits or channels that are predicted.
      scale_x: applied to inputs before they reach the model.
      scale_y: undone on predicted values.
      labels: names of the classes or labels, empty if they are numbers.
    """

    kind: str
    x_shape: tuple[int, ...]
    y_shape: tuple[int, ...] | None
    num_outputs: int
    scale_x: Scale
    scale_y: Scale
    labels: tuple[str, ...] = ()


def sign(task: Task, scale_x: str, scale_y: str) -> Signature:
    """Describe the predictor of a task, with scales fitted on its training split.

    Args:
      task: the task.
      scale_x: kind of standardisation of inputs, see `fit_scale`.
      scale_y: the same of values that are predicted; not used for logits. Distances are
        scaled by those that are judged.
    """
    x, y = task.splits["train"]["x"], task.splits["train"]["y"]
    is_on_grid = task.kind in ON_GRID
    if task.kind == "distance" and scale_y != "none":
        judged = rows.some(y, LOOKED_AT)
        scale = fit_scale(judged[judged >= 0][:, None], "channel")
    else:
        values = task.kind in ("dense", "regression")
        scale = fit_scale(y, scale_y if values else "none")
    return Signature(
        task.kind,
        tuple(x.shape[1:]),
        tuple(y.shape[1:]) if is_on_grid else None,
        y.shape[-1] if is_on_grid else task.num_classes or y.shape[-1],
        fit_scale(x, scale_x),
        scale,
        task.labels,
    )


def fit_scale(values: "np.ndarray | rows.Rows", kind: str) -> Scale:
    """Fit a `Scale` on training values `[n ... c]`, of `Rows` on samples of them.

    Args:
      values: training samples.
      kind: `channel` (one mean and deviation per channel), `point` (the mean per grid
        point, one deviation per channel), `column` (mean and deviation of each value
        of a sample by itself, for columns of a table in different units),
        `unit_gaussian` (the same with the unbiased deviation and 1e-5 added to it, as
        the code of the Fourier neural operator has it: T22) or `none`.
    """
    if kind == "none":
        return Scale(np.float32(0), np.float32(1))
    if kind not in SCALES:
        raise errors.InputError(
            f"standardisation {kind!r}; allowed: {', '.join(SCALES)}"
        )
    values = rows.some(values, LOOKED_AT)
    if kind == "unit_gaussian":
        mean = values.mean(axis=0, dtype=np.float64)
        std = values.std(axis=0, dtype=np.float64, ddof=min(1, len(values) - 1)) + 1e-5
        return Scale(mean.astype(np.float32), std.astype(np.float32))
    over = tuple(range(values.ndim - 1))
    mean = values.mean(axis=over if kind == "channel" else 0, dtype=np.float64)
    if kind == "column":
        # Rounding leaves equal values a deviation; theirs is none.
        is_equal = values.max(axis=0) == values.min(axis=0)
        mean = np.where(is_equal, values[0], mean)
        over = 0
    std = (values - mean).std(axis=over, dtype=np.float64)
    # A constant channel stays at zero instead of being divided by nothing.
    std = np.where(std > 0, std, 1.0)
    return Scale(mean.astype(np.float32), std.astype(np.float32))


def split_task(
    name: str,
    arrays: Mapping[str, Mapping[str, np.ndarray]],
    *,
    kind: str,
    metric: str,
    protocol: str,
    val_frac: float,
    split_seed: int,
    num_classes: int = 0,
    stratify: bool = False,
    keeps_groups: bool = False,
    **about: Any,
) -> Task:
    """Hold a validation split out of the training samples and check everything.

    Args:
      name: the task.
      arrays: `train` and `test`, each with `x` and `y`, and `val` if it is given. With
        `group` in `train`, validation takes whole groups. A `val` that is given
        validates in `corrected`, and nothing is held out.
      kind: a name in `KINDS`.
      metric: name of the metric.
      protocol: `corrected` holds `val_frac` of the training samples out; `official`
        trains on all of them and selects on the test split, as the released code
        does.
      val_frac: share of training samples held out, drawn without replacement.
      split_seed: seed of that draw, apart from the run's seed so that runs with other
        seeds see the same split.
      num_classes: K_t for classification, k for multi-label.
      stratify: whether classes keep their shares, see `hold_out`; not with groups.
      keeps_groups: whether validation and test split keep `group`.
      **about: further attributes of `Task`.

    Raises:
      InputError: an empty split, unequal lengths, values that are not finite,
        multi-label targets other than 0 and 1, or a single group.
    """
    for split in arrays:  # as given, so that samples keep their numbers
        _check(name, split, arrays[split])
        if kind == "multilabel":
            _check_labels(name, split, arrays[split]["y"], num_classes)
    train, test = dict(arrays["train"]), dict(arrays["test"])
    given = dict(arrays["val"]) if "val" in arrays else None
    group = train.pop("group", None)
    for part in () if keeps_groups else (test, given or {}):
        part.pop("group", None)
    if protocol == "official":
        if given is not None:
            train = {k: rows.joined(train[k], given[k]) for k in train}
        splits = {"train": train, "val": test, "test": test}
    elif protocol == "corrected" and given is not None:
        splits = {"train": train, "val": given, "test": test}
    elif protocol == "corrected":
        if group is not None and len(np.unique(group)) < 2:
            raise errors.InputError(
                f"task {name}: all {len(group)} training samples are of one group, "
                "which cannot be split; allowed: two groups or more (try a larger "
                "data.num_samples)"
            )
        labels = train["y"] if stratify else None
        picks = hold_out(len(train["x"]), val_frac, split_seed, group, labels)
        splits = {
            split: {k: rows.take(v, i) for k, v in train.items()}
            for split, i in picks.items()
        } | {"test": test}
        if keeps_groups:
            splits["val"]["group"] = group[picks["val"]]
    else:
        raise errors.InputError(f"protocol {protocol!r}; allowed: corrected, official")
    return checked(Task(name, kind, metric, splits, num_classes, **about))


def hold_out(
    num: int,
    val_frac: float,
    split_seed: int,
    group: Int[np.ndarray, " n"] | None = None,
    stratify: Int[np.ndarray, " n"] | None = None,
) -> dict[str, np.ndarray]:
    """Draw which of `num` training samples validate: sorted rows of `train` and `val`.

    One sample at least validates if there are two. With groups, these are gone through
    in a drawn order, and each validates that brings the number of samples closer to
    the share asked for: one group at least, the smallest if all are too large, and all
    but one at most.

    With classes as `stratify` and no groups, each class validates with its share, and
    one sample of it at least trains: so none validates if each is of another class.
    """
    rng = np.random.default_rng(split_seed)
    if group is None:
        num_val = max(round(val_frac * num), min(1, num - 1))
        if stratify is not None:
            return _hold_out_classes(stratify, num_val, split_seed)
        order = rng.permutation(num)
        return {"val": np.sort(order[:num_val]), "train": np.sort(order[num_val:])}
    _, index, sizes = np.unique(group, return_inverse=True, return_counts=True)
    order = rng.permutation(len(sizes))
    missing, held = val_frac * num, np.zeros(len(sizes), bool)
    for each in order:
        if abs(missing - sizes[each]) < abs(missing) and held.sum() < len(sizes) - 1:
            held[each] = True
            missing -= sizes[each]
    if not held.any():
        held[order[sizes[order].argmin()]] = len(sizes) > 1
    return {"val": np.flatnonzero(held[index]), "train": np.flatnonzero(~held[index])}


def _hold_out_classes(labels: np.ndarray, num_val: int, seed: int) -> dict:
    order = draws.order(labels, seed)
    # The last sample of each class in this order is kept for training.
    _, last = np.unique(labels[order][::-1], return_index=True)
    free = np.ones(len(order), bool)
    free[len(order) - 1 - last] = False
    held = np.zeros(len(order), bool)
    held[order[free][:num_val]] = True
    return {"val": np.flatnonzero(held), "train": np.flatnonzero(~held)}


def checked(task: Task) -> Task:
    """Return the task if no split is empty, ragged or not finite.

    Raises:
      InputError: naming the split and the first sample that is wrong.
    """
    for split in SPLITS:
        _check(task.name, split, task.splits[split])
    return task


def sha256(task: Task) -> str:
    """Hash of every array of every split, in a fixed order; of `Rows`, some samples."""
    digest = hashlib.sha256()
    for split in SPLITS:
        for key in sorted(task.splits[split]):
            array = task.splits[split][key]
            digest.update(f"{split}/{key}:{array.dtype}{array.shape}".encode())
            digest.update(np.ascontiguousarray(rows.some(array, HASHED)))
    return digest.hexdigest()


def _check(name: str, split: str, arrays: Mapping[str, np.ndarray]) -> None:
    lengths = {key: len(value) for key, value in arrays.items()}
    if min(lengths.values()) == 0:
        raise errors.InputError(
            f"task {name}: the {split} split is empty; allowed: at least one sample"
        )
    if len(set(lengths.values())) != 1:
        raise errors.InputError(f"task {name}: {split} has unequal lengths {lengths}")
    for key, value in arrays.items():
        value = rows.some(value, HASHED)
        flat = value.reshape(len(value), -1)
        bad = ~np.isfinite(flat).all(axis=1)
        if bad.any():
            raise errors.InputError(
                f"task {name}: {split} {key} has values that are not finite in "
                f"{bad.sum()} of {len(bad)} samples, first in sample {bad.argmax()}; "
                "allowed: finite numbers"
            )


def _check_labels(name: str, split: str, y: np.ndarray, num_labels: int) -> None:
    if y.shape[1:] != (num_labels,):
        raise errors.InputError(
            f"task {name}: {split} y has shape {y.shape}; allowed: "
            f"({len(y)}, {num_labels}), one value a label"
        )
    bad = (y != 0) & (y != 1)
    if bad.any():
        sample, label = np.argwhere(bad)[0]
        raise errors.InputError(
            f"task {name}: {split} y is neither 0 nor 1 in {bad.sum()} of {bad.size} "
            f"labels, first {y[sample, label]} in sample {sample}; allowed: 0 and 1"
        )
