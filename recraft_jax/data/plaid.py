"""PLAID: which of eleven appliances is plugged in, from what it draws when it starts.

Made by the UCR archive from currents and voltages of the Plug Load Appliance
Identification Dataset (Gao et al. 2014): 537 recordings for training and 537 for
testing, 100 to 1,344 values long. The values have no unit; 96 % are positive,
so they are no alternating currents, though the file's own text speaks of currents. Five
recordings of the training file are also in the test file and are left out of training.
Appliances and homes may be on both sides: the files do not say whose a recording is.
"""

import os

import numpy as np
from jaxtyping import Float

from recraft_jax.data import draws, ts_file

NUM_SAMPLES = 512
NUM_CLASSES = 11
GAIN = 1000.0


def load(
    train_path: str | os.PathLike,
    test_path: str | os.PathLike,
    *,
    num_train: int,
    num_test: int,
    seed: int,
) -> dict[str, dict[str, np.ndarray]]:
    """Read the two files and bring recordings to one length and one range.

    Args:
        train_path: `PLAID_TRAIN.ts` of sktime 1.2.0 (asset `plaid`).
        test_path: `PLAID_TEST.ts`.
        num_train: See `draws.subsets`.
        num_test: See `draws.subsets`.
        seed: See `draws.subsets`.

    Returns:
        `train` and `test`, each with `x` `[n 512 1]` float32 (see `fit`) and `y` `[n]`
        int32 in 0..10.

    Raises:
        InputError: Files that cannot be read or hold something else, or more
            recordings wanted than there are.
    """
    splits = ts_file.read_splits(train_path, test_path, num_channels=1)
    labels = [str(kind) for kind in range(NUM_CLASSES)]
    return draws.subsets(
        "plaid",
        ts_file.arrays(splits, fit, labels),
        num_train=num_train,
        num_test=num_test,
        seed=seed,
    )


def fit(values: Float[np.ndarray, "t 1"]) -> Float[np.ndarray, "512 1"]:
    """Keep or fill up 512 values and compress their range to `asinh(1000 v)`.

    A shorter recording begins anew where it ends, as often as it takes: like the last
    frames of `spoken_digits.cut` that stays in the range of the data, and unlike them
    it is not constant for half of the tokens of most recordings.

    Values go from 0.001 (a quarter is below) to 460: the inverse hyperbolic sine is
    linear below a thousandth, where recordings are noise, and logarithmic above, and
    keeps the sign. Of factors 10 and 1000 the latter is easier to classify by a linear
    model.
    """
    rows = np.arange(NUM_SAMPLES) % len(values)
    return np.arcsinh(GAIN * values[rows])
