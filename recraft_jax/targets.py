"""The target task of a config: arrays read, or made once, and split."""

import fcntl
import pathlib

import ml_collections
import numpy as np

from recraft_jax import assets, errors, generate, writer
from recraft_jax.data import (
    darcy,
    pdebench,
    pdebench_layout,
    spoken_digits,
    synthetic,
    tasks,
)

NUM_COURSES = 4  # test samples whose whole solution is kept for figures


def load(config: ml_collections.ConfigDict) -> tasks.Task:
    """Read or make the arrays of the config's task and split them.

    Raises:
      InputError: an unknown task, or data that cannot be used.
    """
    if config.task in pdebench.PAIRS:
        return _pde(config)
    data = config.data
    kind, metric, num_classes = "dense", "nrmse", 0
    if config.task == "darcy16":
        folder = assets.fetch("darcy16", config.assets.cache)
        arrays = darcy.load(folder / "darcy_train_16.pt", folder / "darcy_test_16.pt")
    elif config.task == "spoken_digits":
        kind, metric, num_classes = "classification", "error", spoken_digits.NUM_CLASSES
        arrays = spoken_digits.load(
            assets.fetch("spoken_digits", config.assets.cache) / "digits.npz",
            num_train=data.num_samples,
            num_test=data.num_test,
            seed=data.seed,
        )
    elif config.task in ("waves", "tones"):
        make, kind, metric, num_classes = {
            "waves": (synthetic.waves, "classification", "error", 3),
            "tones": (synthetic.tones, "multilabel", "label_error", 4),
        }[config.task]
        arrays = make(
            data.num_samples,
            data.num_test,
            data.num_points,
            num_classes,
            data.noise,
            data.seed,
        )
    else:
        raise errors.InputError(
            f"task {config.task!r}; allowed: {', '.join(pdebench.PAIRS)}, darcy16, "
            "spoken_digits, waves, tones"
        )
    return tasks.split_task(
        config.task,
        arrays,
        kind=kind,
        metric=metric,
        protocol=config.protocol,
        val_frac=data.val_frac,
        split_seed=data.split_seed,
        num_classes=num_classes,
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
    path = assets.cache_dir(config.assets.cache) / "pdebench" / named / layout.file
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with (path.parent / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # another run may be making it
            if not path.exists():
                writer.say(generate.announcement(**asked, out=path))
                generate.make(path, **asked, chunk=0)
    return path
