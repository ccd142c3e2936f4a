"""Japanese vowels: which of nine men says "ae", from 12 cepstral coefficients a frame.

Kudo, Toyama & Shimbo 1999; 270 utterances for training, 30 a speaker, and 370 for
testing, as given. The speakers are the classes, so they are the same in both.
"""

import os

import numpy as np
from jaxtyping import Float

from recraft_jax.data import draws, ts_file

NUM_FRAMES = 29  # of the longest
NUM_CHANNELS = 12
NUM_CLASSES = 9


def load(
    train_path: str | os.PathLike,
    test_path: str | os.PathLike,
    *,
    num_train: int,
    num_test: int,
    seed: int,
) -> dict[str, dict[str, np.ndarray]]:
    """Read the two files and bring utterances of 7 to 29 frames to 29.

    Args:
        train_path: `JapaneseVowels_TRAIN.ts` of sktime 1.2.0 (asset
            `japanese_vowels`).
        test_path: `JapaneseVowels_TEST.ts`.
        num_train: See `draws.subsets`.
        num_test: See `draws.subsets`.
        seed: See `draws.subsets`.

    Returns:
        `train` and `test`, each with `x` `[n 29 12]` float32 and `y` `[n]` int32 in
        0..8.

    Raises:
        InputError: Files that cannot be read or hold something else, or more
            utterances wanted than there are.
    """
    splits = ts_file.read_splits(train_path, test_path, num_channels=NUM_CHANNELS)
    labels = [str(speaker) for speaker in range(1, NUM_CLASSES + 1)]
    return draws.subsets(
        "japanese_vowels",
        ts_file.arrays(splits, extend, labels),
        num_train=num_train,
        num_test=num_test,
        seed=seed,
    )


def extend(frames: Float[np.ndarray, "t c"]) -> Float[np.ndarray, "29 c"]:
    """Repeat the last frame up to 29, or keep the first 29.

    The last frame and not zeros, for the reasons of `spoken_digits.cut`.
    """
    return frames[np.minimum(np.arange(NUM_FRAMES), len(frames) - 1)]
