"""Smartwatch: which shoulder exercise is done, from the motion of the wrist.

140 recordings, each of the seven exercises once by each of ten people with each arm,
of three accelerations and three rates of rotation at 50 Hz (Burns et al. 2018). No
person is in two splits: 1 to 7 train or validate, and windows of one are a group.
"""

import os
from typing import Any

import numpy as np
from jaxtyping import Float

from recraft_jax import errors
from recraft_jax.data import draws, numpy_pickle

WINDOW = 100  # samples, two seconds
STRIDE = 50
NUM_CHANNELS = 6
NUM_CLASSES = 7
TRAIN_SUBJECTS = range(1, 8)
TEST_SUBJECTS = range(8, 11)


def load(
    path: str | os.PathLike, *, num_train: int, num_test: int, seed: int
) -> dict[str, dict[str, np.ndarray]]:
    """Read the file, cut windows and split them by person: 1-7 train, 8-10 test.

    Windows of 100 samples start every 50; what is left at the end of a recording is not
    used. So a window shares half of its samples with each neighbour, never across a
    split.

    Args:
        path: `watch_dataset.npy` of seglearn 1.2.5 (asset `smartwatch`), a dict with
            `X`, a list of recordings `[t 6]`, and `y` and `subject` `[n]`.
        num_train: See `draws.subsets`.
        num_test: See `draws.subsets`.
        seed: See `draws.subsets`.

    Returns:
        `train` and `test`, each with `x` `[n 100 6]` float32 in the units of the file,
        `y` `[n]` int32 in 0..6 and `group` `[n]`, the person's number.

    Raises:
        InputError: A file that cannot be read or holds something else, or more windows
            wanted than there are.
    """
    recordings, y, subject = _checked(path, numpy_pickle.load(path))
    counts = [(len(each) - WINDOW) // STRIDE + 1 for each in recordings]
    x = np.concatenate([windows(each) for each in recordings]).astype(np.float32)
    y, subject = np.repeat(y, counts).astype(np.int32), np.repeat(subject, counts)
    pools = {}
    for split, subjects in (("train", TRAIN_SUBJECTS), ("test", TEST_SUBJECTS)):
        rows = np.isin(subject, subjects)
        if not rows.any():
            raise errors.InputError(
                f"{path}: has no recording of subjects {subjects[0]} to {subjects[-1]}"
            )
        pools[split] = {"x": x[rows], "y": y[rows], "group": subject[rows]}
    return draws.subsets(
        "smartwatch", pools, num_train=num_train, num_test=num_test, seed=seed
    )


def windows(recording: Float[np.ndarray, "t c"]) -> Float[np.ndarray, "n 100 c"]:
    """Cut `[t c]` into `[n 100 c]`, t being 100 or more."""
    starts = np.arange(0, len(recording) - WINDOW + 1, STRIDE)
    return recording[starts[:, None] + np.arange(WINDOW)]


def _checked(path: str | os.PathLike, raw: Any) -> tuple[list, np.ndarray, np.ndarray]:
    names = ("X", "y", "subject")
    missing = [name for name in names if not isinstance(raw, dict) or name not in raw]
    if missing:
        raise errors.InputError(
            f"{path}: has no {missing[0]!r}; expected {', '.join(names)}"
        )
    recordings, y, subject = (raw[name] for name in names)
    for name, values in (("y", y), ("subject", subject)):
        shape = getattr(values, "shape", None)
        if (
            not recordings
            or shape != (len(recordings),)
            or values.dtype.kind not in "iu"
        ):
            raise errors.InputError(
                f"{path}: expected recordings in X and as many integers in {name}"
            )
    for number, each in enumerate(recordings):
        shape = getattr(each, "shape", None)
        if not shape or shape != (max(shape[0], WINDOW), NUM_CHANNELS):
            raise errors.InputError(
                f"{path}: recording {number} has shape {shape}; allowed: "
                f"[t {NUM_CHANNELS}] with t = {WINDOW} or more"
            )
        if not np.isfinite(each).all():
            raise errors.InputError(
                f"{path}: recording {number} has values that are not finite"
            )
    if y.min() < 0 or y.max() >= NUM_CLASSES:
        raise errors.InputError(
            f"{path}: y must be in 0..{NUM_CLASSES - 1}, got {y.min()}..{y.max()}"
        )
    return recordings, y, subject
