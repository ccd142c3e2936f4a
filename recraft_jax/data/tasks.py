"""A task: named arrays in three splits, and what to do with them.

Arrays are float32 with channels last: `x` is `[n c]` or `[h w c]` per sample, `y` the
same grid for dense tasks, a class index for classification, `[k]` of 0 and 1 for
multi-label tasks, or `[k]` numbers for regression. Readers may add `group` `[n]`, which
no split takes apart: windows of one person, sequences with one beginning.
"""

import hashlib
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from recraft_jax import errors

SPLITS = ("train", "val", "test")
KINDS = ("dense", "classification", "multilabel", "regression")


class Task(NamedTuple):
    """Data of one task.

    Attributes:
      name: as on the command line.
      kind: a name in `KINDS`.
      metric: a name in `metrics.METRICS`, computed in the units of `y`.
      splits: `{"train" | "val" | "test": {"x": [n ...], "y": [n ...]}}`.
      num_classes: K_t for classification, k for multi-label, else 0.
      course: of 1-D fields in time, what figures show of the first test samples:
        `values` `[k t n c]` from input to target and on, `times` `[t]`, `coords` `[n]`
        and the target's `frame`; empty elsewhere.
    """

    name: str
    kind: str
    metric: str
    splits: Mapping[str, Mapping[str, np.ndarray]]
    num_classes: int = 0
    course: Mapping[str, np.ndarray] = {}


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


def fit_scale(values: np.ndarray, kind: str) -> Scale:
    """Fit a `Scale` on training values `[n ... c]`.

    Args:
      values: training samples.
      kind: `channel` (one mean and deviation per channel), `point` (the mean per grid
        point, one deviation per channel) or `none`.
    """
    if kind == "none":
        return Scale(np.float32(0), np.float32(1))
    if kind not in ("channel", "point"):
        raise errors.InputError(
            f"standardisation {kind!r}; allowed: channel, point, none"
        )
    over = tuple(range(values.ndim - 1))
    mean = values.mean(axis=0 if kind == "point" else over, dtype=np.float64)
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
) -> Task:
    """Hold a validation split out of the training samples and check everything.

    Args:
      name: the task.
      arrays: `train` and `test`, each with `x` and `y`. With `group` in `train`,
        validation takes whole groups; the splits do not keep it.
      kind: a name in `KINDS`.
      metric: name of the metric.
      protocol: `corrected` holds `val_frac` of the training samples out; `official`
        trains on all of them and selects on the test split, as the released code
        does.
      val_frac: share of training samples held out, drawn without replacement.
      split_seed: seed of that draw, apart from the run's seed so that runs with other
        seeds see the same split.
      num_classes: K_t for classification, k for multi-label.

    Raises:
      InputError: an empty split, unequal lengths, values that are not finite,
        multi-label targets other than 0 and 1, or a single group.
    """
    for split in ("train", "test"):  # as given, so that samples keep their numbers
        _check(name, split, arrays[split])
        if kind == "multilabel":
            _check_labels(name, split, arrays[split]["y"], num_classes)
    group = arrays["train"].get("group")
    train, test = (
        {key: value for key, value in arrays[split].items() if key != "group"}
        for split in ("train", "test")
    )
    if protocol == "official":
        splits = {"train": train, "val": test, "test": test}
    elif protocol == "corrected":
        if group is not None and len(np.unique(group)) < 2:
            raise errors.InputError(
                f"task {name}: all {len(group)} training samples are of one group, "
                "which cannot be split; allowed: two groups or more (try a larger "
                "data.num_samples)"
            )
        picks = hold_out(len(train["x"]), val_frac, split_seed, group)
        splits = {
            split: {k: v[i] for k, v in train.items()} for split, i in picks.items()
        } | {"test": test}
    else:
        raise errors.InputError(f"protocol {protocol!r}; allowed: corrected, official")
    return checked(Task(name, kind, metric, splits, num_classes))


def hold_out(
    num: int,
    val_frac: float,
    split_seed: int,
    group: Int[np.ndarray, " n"] | None = None,
) -> dict[str, np.ndarray]:
    """Draw which of `num` training samples validate: sorted rows of `train` and `val`.

    One sample at least validates if there are two. With groups, these are gone through
    in a drawn order, and each validates that brings the number of samples closer to
    the share asked for: one group at least, the smallest if all are too large, and all
    but one at most.
    """
    rng = np.random.default_rng(split_seed)
    if group is None:
        num_val = max(round(val_frac * num), min(1, num - 1))
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


def checked(task: Task) -> Task:
    """Return the task if no split is empty, ragged or not finite.

    Raises:
      InputError: naming the split and the first sample that is wrong.
    """
    for split in SPLITS:
        _check(task.name, split, task.splits[split])
    return task


def sha256(task: Task) -> str:
    """Hash of every array of every split, in a fixed order."""
    digest = hashlib.sha256()
    for split in SPLITS:
        for key in sorted(task.splits[split]):
            array = np.ascontiguousarray(task.splits[split][key])
            digest.update(f"{split}/{key}:{array.dtype}{array.shape}".encode())
            digest.update(array)
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
