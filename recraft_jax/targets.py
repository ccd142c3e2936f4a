"""The target task of a config: arrays read, or made once, and split."""

import fcntl
import pathlib
from collections.abc import Callable, Mapping
from typing import NamedTuple

import ml_collections
import numpy as np

from recraft_jax import (
    asset_table,
    assets,
    errors,
    generate,
    paths,
    targets_custom,
    targets_nas360,
    writer,
)
from recraft_jax.data import (
    burgers16,
    darcy,
    gene_families,
    japanese_vowels,
    pdebench,
    pdebench_layout,
    peptides,
    plaid,
    smartwatch,
    spoken_digits,
    synthetic,
    tasks,
    tecator,
)

NUM_COURSES = 4  # test samples whose whole solution is kept for figures


class Target(NamedTuple):
    """How to get the arrays of a task, and what they are.

    Attributes:
      read: `config -> {"train": {"x", "y"}, "test": {"x", "y"}}`.
      kind: a name in `tasks.KINDS`.
      metric: a name in `metrics.METRICS`.
      num_classes: K_t for classification, k for multi-label, else 0.
    """

    read: Callable[[ml_collections.ConfigDict], Mapping[str, Mapping[str, np.ndarray]]]
    kind: str
    metric: str
    num_classes: int = 0


def _packaged(name: str, load: Callable) -> Callable:
    """Read the files of the asset `name`, in the order of its table, with `load`."""

    def read(config: ml_collections.ConfigDict):
        folder = assets.fetch(name, config.assets.cache)
        return load(
            *(folder / key for key in asset_table.ASSETS[name].files),
            num_train=config.data.num_samples,
            num_test=config.data.num_test,
            seed=config.data.seed,
        )

    return read


def _made(make: Callable, num_classes: int) -> Callable:
    """Make synthetic arrays with `make`."""

    def read(config: ml_collections.ConfigDict):
        data = config.data
        return make(
            data.num_samples,
            data.num_test,
            data.num_points,
            num_classes,
            data.noise,
            data.seed,
        )

    return read


def _classes(name: str, module) -> Target:
    read = _packaged(name, module.load)
    return Target(read, "classification", "error", module.NUM_CLASSES)


# Of every task but those of PDEBench, NAS-Bench-360 and the user.
TARGETS = {
    "darcy16": Target(_packaged("darcy16", darcy.load), "dense", "nrmse"),
    "burgers16": Target(_packaged("burgers16", burgers16.load), "dense", "nrmse"),
    "tecator": Target(_packaged("tecator", tecator.load), "regression", "rmse"),
    "spoken_digits": _classes("spoken_digits", spoken_digits),
    "gene_families": _classes("gene_families", gene_families),
    "smartwatch": _classes("smartwatch", smartwatch),
    "plaid": _classes("plaid", plaid),
    "japanese_vowels": _classes("japanese_vowels", japanese_vowels),
    "peptides": _classes("peptides", peptides),
    "waves": Target(_made(synthetic.waves, 3), "classification", "error", 3),
    "tones": Target(_made(synthetic.tones, 4), "multilabel", "label_error", 4),
}


def load(config: ml_collections.ConfigDict) -> tasks.Task:
    """Read or make the arrays of the config's task and split them.

    Raises:
      InputError: an unknown task, or data that cannot be used.
    """
    if config.task in pdebench.PAIRS:
        return _pde(config)
    if config.task in targets_nas360.TARGETS:
        return targets_nas360.load(config)
    if config.task == "custom":
        return targets_custom.load(config)
    if config.task not in TARGETS:
        names = (*pdebench.PAIRS, *TARGETS, *targets_nas360.TARGETS, "custom")
        raise errors.InputError(f"task {config.task!r}; allowed: {', '.join(names)}")
    target = TARGETS[config.task]
    return tasks.split_task(
        config.task,
        target.read(config),
        kind=target.kind,
        metric=target.metric,
        protocol=config.protocol,
        val_frac=config.data.val_frac,
        split_seed=config.data.split_seed,
        num_classes=target.num_classes,
    )


def _pde(config: ml_collections.ConfigDict) -> tasks.Task:
    """Read the pairs of a PDEBench task, channels last."""
    data, name = config.data, config.task
    path = find_file(config)
    splits = {}
    for split in tasks.SPLITS:
        found = pdebench.load(
            path,
            name,
            split,
            config.protocol,
            val_frac=data.val_frac,
            split_seed=data.split_seed,
            num_samples=data.num_samples,
            num_test=data.num_test,
        )
        splits[split] = {side: _channels_last(config, found[side]) for side in "xy"}
    course = pdebench.course(path, name, config.protocol, NUM_COURSES)
    return tasks.checked(tasks.Task(name, "dense", "nrmse", splits, course=course))


def _channels_last(config: ml_collections.ConfigDict, values: np.ndarray) -> np.ndarray:
    if config.task == "cfd_1d" and config.protocol == "corrected":
        # Three fields on one grid rather than one three times as long.
        fields = pdebench_layout.LAYOUTS["cfd_1d"].fields
        values = values.reshape(len(values), len(fields), -1)
    return np.ascontiguousarray(np.moveaxis(values, 1, -1))


def find_file(config: ml_collections.ConfigDict) -> pathlib.Path:
    """Return the PDEBench file of the config, made now if it is nowhere.

    `data.path` is a file or a folder with the file under its published name; without
    one the data are generated, once for all runs that ask for the same.
    """
    data, layout = config.data, pdebench_layout.LAYOUTS[config.task]
    cache = assets.cache_dir(config.assets.cache)
    if paths.is_url(data.path):
        return paths.fetch(data.path, layout.file, cache / "fetched", "data.path")
    if data.path:
        path = pathlib.Path(data.path)
        return path / layout.file if path.is_dir() else path
    asked = {
        "task": config.task,
        # As many as it takes for a tenth to be `num_test`.
        "num": max(data.num_samples + data.num_test, 10 * data.num_test),
        "nx": data.num_points,
        "key": layout.key if data.key < 0 else data.key,
        "mode": data.mode,
    }
    named = "{task}-{num}x{nx}-key{key}-{mode}".format(**asked)
    path = cache / "pdebench" / named / layout.file
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with (path.parent / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # another run may be making it
            if not path.exists():
                writer.say(generate.announcement(**asked, out=path))
                generate.make(path, **asked, chunk=0)
    return path
