"""Satellite: what grows on a spot of land, from 46 looks at it from orbit.

Series of one value a look (the vegetation index of Sentinel/Formosat images; Petitjean
et al. 2012), of 24 kinds of land cover: 900,000 to train on, 100,000 to test on, as
NAS-Bench-360 split them.
"""

import pathlib

import numpy as np

from recraft_jax.data import numpy_pickle
from recraft_jax.data.nas360 import checked

NUM_CLASSES = 24
NUM_STEPS = 46
BLOCK = 1 << 16  # series that are standardised at once


def load(root: pathlib.Path, *, standardise: bool) -> dict[str, dict[str, np.ndarray]]:
    """Read `satellite_train.npy` and `satellite_test.npy` under the root.

    Args:
        root: The folder with the files of all tasks.
        standardise: True as NAS-Bench-360: from each series its own mean is taken, and
            it is divided by its own deviation (over 46, not 45; no epsilon). A series
            of one value, which that makes NaN, becomes 0. False as ORCA and RECRAFT:
            the values of the file.

    Returns:
        `train` and `test`, each with `x` `[n 46 1]` float32 and `y` `[n]` int32 in
        0..23 (the files have 1 to 24).

    Raises:
        InputError: A file that cannot be read or holds something else.
    """
    found = {}
    for split in ("train", "test"):
        path = root / f"satellite_{split}.npy"
        content = numpy_pickle.load(path)
        series = checked.entry(path, content, "data")
        checked.check_array(path, "data", series, (None, NUM_STEPS))
        checked.check_finite(path, series)
        labels = checked.entry(path, content, "label")
        y = checked.classes(path, labels, len(series), NUM_CLASSES, first=1)
        x = np.empty((len(series), NUM_STEPS, 1), np.float32)
        for start in range(0, len(series), BLOCK):
            block = series[start : start + BLOCK]
            x[start : start + BLOCK, :, 0] = _scaled(block) if standardise else block
        found[split] = {"x": x, "y": y}
    return found


def _scaled(series: np.ndarray) -> np.ndarray:
    series = series.astype(np.float64)
    std = series.std(axis=1, keepdims=True)
    # A series of one value can have a deviation of rounding, which would blow it up.
    std[(series == series[:, :1]).all(axis=1)] = np.inf
    return (series - series.mean(axis=1, keepdims=True)) / std
