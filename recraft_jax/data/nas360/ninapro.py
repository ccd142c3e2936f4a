"""NinaPro: gestures of a hand from the electricity of the muscles of the forearm.

Windows of NinaPro DB5 (Pizzolato et al. 2017), 52 steps of 16 electrodes, of 18
gestures, as NAS-Bench-360 cut and split them: 2,638 to train on, 659 to validate, 659
to test. The released code trains on training and validation windows together.
"""

import pathlib

import numpy as np

from recraft_jax.data.nas360 import checked

NUM_CLASSES = 18
NUM_STEPS = 52
NUM_ELECTRODES = 16


def load(root: pathlib.Path) -> dict[str, dict[str, np.ndarray]]:
    """Read `ninaPro/{ninapro,label}_{train,val,test}.npy` under the root.

    Args:
        root: The folder with the files of all tasks.

    Returns:
        `train`, `val` and `test`, each with `x` `[n 16 52 1]` float32, an image whose
        rows are electrodes and whose columns are steps in time, in the units of the
        file, and `y` `[n]` int32 in 0..17.

    Raises:
        InputError: A file that cannot be read or holds something else.
    """
    found = {}
    for split in ("train", "val", "test"):
        path = root / "ninaPro" / f"ninapro_{split}.npy"
        windows = checked.read_npy(path, (None, NUM_STEPS, NUM_ELECTRODES))
        checked.check_finite(path, windows)
        path = root / "ninaPro" / f"label_{split}.npy"
        labels = checked.read_npy(path, (None,))
        x = np.ascontiguousarray(windows.transpose(0, 2, 1), np.float32)
        y = checked.classes(path, labels, len(x), NUM_CLASSES)
        found[split] = {"x": x[..., None], "y": y}
    return found
