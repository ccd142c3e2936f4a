"""Somebody's own arrays: settings that follow from them, and the task."""

import functools
import math
import pathlib
from collections.abc import Mapping
from typing import Any

import ml_collections
import numpy as np

from recraft_jax import errors
from recraft_jax.data import custom, tasks

AUTO = "auto"
STEPS = {"demo": 800, "quick": 120}  # of stage 2, about
MAX_EPOCHS = {"demo": 100, "quick": 40}
# Learning rate of embedder and head over the body's, as in `configs/offline.py`.
NEW_LR = {"dense": 30.0}
NEW_LR_ELSEWHERE = 10.0
MEASURES = {
    "classification": ("error", "1-f1"),
    "multilabel": ("label_error", "1-auroc", "1-map"),
    "regression": ("rmse",),
    "dense": ("nrmse", "rmse"),
}


def resolve(config: ml_collections.ConfigDict) -> None:
    """Fill in, in place, what follows from the file.

    Raises:
      InputError: the file cannot be read, or makes no task.
    """
    fill(config, facts(config))


def facts(config: ml_collections.ConfigDict) -> custom.Facts:
    """Infer what the config leaves open, once for each state of a file."""
    data = config.data
    return _infer(
        data.path,
        _state(data.path),
        x=data.x,
        y=data.y,
        split=data.split,
        group=data.group,
        kind=data.kind,
        channels=data.channels,
        max_tokens=config.embedder.max_tokens,
    )


@functools.lru_cache(maxsize=4)
def _infer(path: str, state: Any, **given: Any) -> custom.Facts:
    del state
    return custom.infer(path, **given)


def _state(path: str) -> tuple:
    """What changes when a file or folder does."""
    place = pathlib.Path(path)
    files = sorted(place.rglob("*")) if place.is_dir() else [place]
    found = [file.stat() for file in files if file.exists()]
    return tuple((each.st_mtime_ns, each.st_size) for each in found)


def fill(config: ml_collections.ConfigDict, found: custom.Facts) -> None:
    """Fill in, in place, what follows from facts and is not given.

    Raises:
      InputError: a metric that is none of the kind of task.
    """
    data, stage2 = config.data, config.stage2
    inferred = {
        "kind": found.kind,
        "channels": found.channels_axis,
        "metric": found.metric,
        "scale_x": found.scale_x,
        "scale_y": found.scale_y,
        "loss": found.loss if found.kind == "dense" else "relative_l2",
    }
    with config.unlocked():
        for name, value in inferred.items():
            if data[name] == AUTO:
                data[name] = value
        data.columns, data.sha256 = found.x, found.sha256
        if config.embedder.patch == 0:
            config.embedder.patch = found.patch
        scale = config.scale
        if stage2.num_epochs == 0:
            used = min(data.num_samples or found.num_rows, found.num_rows)
            per_epoch = math.ceil(used * (1 - data.val_frac) / stage2.batch_size)
            epochs = math.ceil(STEPS[scale] / max(per_epoch, 1))
            stage2.num_epochs = min(epochs, MAX_EPOCHS[scale])
        if stage2.optim.new_lr_factor == 0:
            factor = NEW_LR.get(found.kind, NEW_LR_ELSEWHERE)
            stage2.optim.new_lr_factor = factor
        config.stage1.batch_size = max(config.stage1.batch_size, found.num_classes)
    allowed = MEASURES[found.kind]
    if data.metric not in allowed:
        raise errors.InputError(
            f"data.metric = {data.metric!r}; allowed for {found.kind}: "
            f"{', '.join(allowed)}"
        )


def load(config: ml_collections.ConfigDict) -> tasks.Task:
    """Read the task of a config that is resolved.

    Raises:
      InputError: the file cannot be read, or is another than the config was made for.
    """
    found = facts(config)
    if found.sha256 != config.data.sha256:
        raise errors.InputError(
            f"{config.data.path} has changed since this run began (data.sha256 = "
            f"{config.data.sha256[:12]}..., now {found.sha256[:12]}...); allowed: the "
            "same file, or another --workdir"
        )
    arrays, report = read(config, config.data.path, found)
    return make(config, found, arrays, report)


def read(
    config: ml_collections.ConfigDict, source: Any, found: custom.Facts
) -> tuple[Mapping[str, Mapping[str, Any]], Mapping[str, Any]]:
    """Read the rows of each split, of a file or of `custom.from_arrays`."""
    data = config.data
    return custom.load(
        source,
        found,
        protocol=config.protocol,
        val_frac=data.val_frac,
        test_frac=data.test_frac,
        split_seed=data.split_seed,
        num_samples=data.num_samples,
        num_test=data.num_test,
        keep_duplicates_together=data.keep_duplicates_together,
    )


def make(
    config: ml_collections.ConfigDict,
    found: custom.Facts,
    arrays: Mapping[str, Mapping[str, Any]],
    report: Mapping[str, Any],
) -> tasks.Task:
    """Make the task; without a test split, validation stands in for it."""
    data = config.data
    has_test = "test" in arrays
    given = dict(arrays) if has_test else {**arrays, "test": arrays["train"]}
    shown = found._replace(
        metric=data.metric,
        loss=data.loss if found.kind == "dense" else found.loss,
        scale_x=data.scale_x,
        scale_y=data.scale_y,
        patch=config.embedder.patch,
    )
    task = tasks.split_task(
        config.task,
        given,
        kind=found.kind,
        metric=data.metric,
        protocol=config.protocol,
        val_frac=data.val_frac,
        split_seed=data.split_seed,
        num_classes=found.num_classes,
        stratify=report["stratify"],
        labels=found.labels,
        about=custom.describe(shown, report),
    )
    if not has_test:
        splits = {**task.splits, "test": task.splits["val"]}
        task = task._replace(splits=splits)
    if not len(task.splits["val"]["x"]):
        raise errors.InputError(
            f"{found.path}: nothing is left to validate; allowed: two samples or more "
            "of a class"
        )
    if task.kind != "classification":
        most = num_clusters(task.splits["train"]["y"], config.fld.num_clusters)
        task = task._replace(most_clusters=most)
    return task


def num_clusters(y: np.ndarray, most: int) -> int:
    """As many clusters as asked for, or as the targets allow."""
    return min(most, len(np.unique(y.reshape(len(y), -1), axis=0)))
