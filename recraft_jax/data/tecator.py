"""Tecator: how much fat is in meat, from its absorbance of near-infrared light.

215 samples of minced pork, 100 wavelengths from 850 to 1050 nm, fat in percent by
chemical analysis (Borggaard & Thodberg 1992), split 172 and 43 as given. Spectra occur
twice in the files: eight of the training file are also in the test file and 14 are
there twice, with equal targets. They are left out of training, which leaves 150.
"""

import os

import numpy as np

from recraft_jax import errors
from recraft_jax.data import draws, ts_file

NUM_WAVELENGTHS = 100


def load(
    train_path: str | os.PathLike,
    test_path: str | os.PathLike,
    *,
    num_train: int,
    num_test: int,
    seed: int,
) -> dict[str, dict[str, np.ndarray]]:
    """Read the two files.

    Args:
        train_path: `Tecator_TRAIN.ts` of sktime 1.2.0 (asset `tecator`).
        test_path: `Tecator_TEST.ts`.
        num_train: See `draws.subsets`.
        num_test: See `draws.subsets`.
        seed: See `draws.subsets`.

    Returns:
        `train` and `test`, each with `x` `[n 100 1]` float32, absorbance as -log10 of
        the transmitted share, and `y` `[n 1]` float32, percent of fat.

    Raises:
        InputError: Files that cannot be read or hold something else, or more spectra
            wanted than there are.
    """
    splits = ts_file.read_splits(train_path, test_path, num_channels=1)
    pools = {}
    for split, found in splits.items():
        for number, series in enumerate(found):
            if len(series.values) != NUM_WAVELENGTHS or not _is_percent(series.target):
                raise errors.InputError(
                    f"tecator: {split} spectrum {number} has {len(series.values)} "
                    f"values and target {series.target!r}; allowed: {NUM_WAVELENGTHS} "
                    "values and a percentage"
                )
        pools[split] = {
            "x": np.stack([series.values for series in found]).astype(np.float32),
            "y": np.array([[float(series.target)] for series in found], np.float32),
        }
    return draws.subsets(
        "tecator", pools, num_train=num_train, num_test=num_test, seed=seed
    )


def _is_percent(text: str) -> bool:
    try:
        return 0 <= float(text) <= 100
    except ValueError:
        return False
