"""The tasks of NAS-Bench-360 from a config: what is read, switched and chosen."""

import functools
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import ml_collections
import numpy as np

from recraft_jax import errors
from recraft_jax.data import draws, rows, tasks
from recraft_jax.data.nas360 import (
    cifar100,
    cosmic,
    darcy_flow,
    deepsea,
    ecg,
    fsd50k,
    ninapro,
    psicov,
    satellite,
    spherical,
)

Arrays = Mapping[str, Mapping[str, Any]]


class Target(NamedTuple):
    """How to read a task, and what it is.

    Attributes:
      read: `(root, config) -> {"train" | "val" | "test": {"x", "y", ...}}`.
      kind: a name in `tasks.KINDS`.
      metric: `config.nas360 -> name in metrics.METRICS`.
      num_classes: K_t for classification, k for multi-label.
      options: `(config.nas360, arrays) -> switches of the metric`.
      also: further metrics of the test split.
      is_of_groups: whether a metric is of records or clips.
      augment: of training inputs.
      loss_options: `config.nas360 -> switches of the loss`.
      is_chunked: whether the released code averages chunks of the test split (T9).
      is_shuffled: whether these chunks are of shuffled samples (T9).
    """

    read: Callable[[pathlib.Path, ml_collections.ConfigDict], Arrays]
    kind: str
    metric: Callable[[ml_collections.ConfigDict], str]
    num_classes: int = 0
    options: Callable[..., dict[str, Any]] = lambda faults, arrays: {}
    also: tuple[str, ...] = ()
    is_of_groups: bool = False
    augment: Callable[..., np.ndarray] | None = None
    loss_options: Callable[..., dict[str, Any]] = lambda faults: {}
    is_chunked: bool = True
    is_shuffled: bool = False


def _always(name: str) -> Callable:
    return lambda faults: name


def _mae8(faults: ml_collections.ConfigDict, arrays: Arrays) -> dict[str, Any]:
    length = int(arrays["test"]["length"][0]) if faults.first_length else 0
    return {"is_official": faults.lopsided, "length": length}


def _auroc(faults: ml_collections.ConfigDict, arrays: Arrays) -> dict[str, Any]:
    del arrays
    return {"is_hard": faults.hard_auroc, "counts_ignored": faults.ignored_counts}


def _plain(module) -> Callable:
    return lambda root, config: module.load(root)


def _psicov(root: pathlib.Path, config: ml_collections.ConfigDict) -> Arrays:
    return psicov.load(
        root,
        masked=not config.nas360.padding_counts,
        random_test_crop=config.nas360.random_test_crop,
        seed=config.data.seed,
    )


def _fsd50k(root: pathlib.Path, config: ml_collections.ConfigDict) -> Arrays:
    mix_prob, seed = config.nas360.mix_prob, config.data.seed
    return fsd50k.load(root, mix_prob=mix_prob, augment=True, seed=seed)


_images = functools.partial(
    Target, kind="classification", metric=_always("error"), num_classes=100
)
TARGETS = {
    "cifar100": _images(_plain(cifar100), augment=cifar100.crop_and_flip),
    "spherical": _images(
        lambda root, config: spherical.load(
            root, test_in_train=config.nas360.test_in_train
        )
    ),
    "darcy_flow": Target(
        lambda root, config: darcy_flow.load(
            root, boundary_eps=config.nas360.boundary_eps
        ),
        "dense",
        _always("nrmse"),
    ),
    "psicov": Target(
        _psicov, "distance", _always("mae8"), options=_mae8, is_chunked=False
    ),
    "cosmic": Target(
        lambda root, config: cosmic.load(
            root, test_noise=config.nas360.test_noise, seed=config.data.seed
        ),
        "segmentation",
        _always("1-auroc"),
        options=_auroc,
        also=("fnr",),
        loss_options=lambda faults: {"counts_ignored": faults.ignored_counts},
    ),
    "ninapro": Target(_plain(ninapro), "classification", _always("error"), 18),
    "fsd50k": Target(
        *(_fsd50k, "multilabel", _always("1-map"), 200),
        is_of_groups=True,
        is_chunked=False,
    ),
    "ecg": Target(
        _plain(ecg),
        "classification",
        lambda faults: "1-f1" if faults.by_window else "1-f1_records",
        4,
        also=("1-f1", "1-f1_records"),
        is_of_groups=True,
    ),
    "satellite": Target(
        lambda root, config: satellite.load(
            root, standardise=not config.nas360.raw_series
        ),
        "classification",
        _always("error"),
        24,
    ),
    "deepsea": Target(
        *(_plain(deepsea), "multilabel", _always("1-auroc"), 36), is_shuffled=True
    ),
}


def load(config: ml_collections.ConfigDict) -> tasks.Task:
    """Read the task of a config of `configs/nas360.py`.

    Raises:
      InputError: no folder, or files that are missing or cannot be read.
    """
    target, faults, data = TARGETS[config.task], config.nas360, config.data
    if not data.path:
        raise errors.InputError(
            "data.path is empty; allowed: the folder with the official files (python "
            "-m recraft_jax.data.nas360 --root=DIR --check says which)"
        )
    arrays = target.read(pathlib.Path(data.path), config)
    arrays = chosen(arrays, data.num_samples, data.num_test, data.val_frac, data.seed)
    if target.is_shuffled and faults.shuffled_chunks:
        arrays["test"] = _shuffled(arrays["test"], config.seed)
    options = target.options(faults, arrays)
    metric = target.metric(faults)
    if target.is_chunked and faults.chunk:
        options["chunk"] = faults.chunk
    known = ("x", "y", "group")
    arrays = {s: {k: v for k, v in a.items() if k in known} for s, a in arrays.items()}
    return tasks.split_task(
        config.task,
        arrays,
        kind=target.kind,
        metric=metric,
        protocol="official" if faults.select_on_test else "corrected",
        val_frac=data.val_frac,
        split_seed=data.split_seed,
        num_classes=target.num_classes,
        keeps_groups=target.is_of_groups,
        metric_options=options,
        loss_options=target.loss_options(faults),
        also=tuple(name for name in target.also if name != metric),
        augment=target.augment,
    )


def chosen(
    arrays: Arrays, num_samples: int, num_test: int, val_frac: float, seed: int
) -> dict[str, dict[str, Any]]:
    """Keep some samples of each split, classes in their shares, groups whole.

    Args:
      arrays: by split.
      num_samples: of training and validation, 0 is all; a given validation split has
        `val_frac` of them.
      num_test: of the test split, 0 is all.
      val_frac: see there.
      seed: of the draw. A smaller number is a part of a larger one.
    """
    wanted = {"train": num_samples, "test": num_test}
    if "val" in arrays and num_samples:
        wanted["val"] = max(round(val_frac * num_samples), 1)
        wanted["train"] -= wanted["val"]
    found = {}
    for split, part in arrays.items():
        num = wanted.get(split, 0)
        keep = slice(None)
        if 0 < num < len(part["x"]):
            keep = _drawn(part, num, seed)
        found[split] = {name: rows.take(value, keep) for name, value in part.items()}
    return found


def _drawn(part: Mapping[str, Any], num: int, seed: int) -> np.ndarray:
    """Rows of about `num` samples, in the order of the file."""
    group = part.get("group")
    if group is None:
        return np.sort(draws.order(part["y"], seed)[:num])
    names, index, sizes = np.unique(group, return_inverse=True, return_counts=True)
    order = np.random.default_rng(seed).permutation(len(names))
    enough = np.searchsorted(np.cumsum(sizes[order]), num) + 1
    return np.flatnonzero(np.isin(index, order[:enough]))


def _shuffled(part: Mapping[str, Any], seed: int) -> dict[str, Any]:
    order = np.random.default_rng(seed).permutation(len(part["x"]))
    return {name: rows.take(value, order) for name, value in part.items()}
