"""CIFAR-100: 32 x 32 colour photographs of 100 kinds of things (Krizhevsky 2009).

50,000 images to train on and 10,000 to test on, as the authors split them. The files
are pickles of Python 2, read by allow-list.
"""

import os
import pathlib

import numpy as np
from jaxtyping import Float32, Int64

from recraft_jax.data import numpy_pickle, rows
from recraft_jax.data.nas360 import checked

NUM_CLASSES = 100
SIZE = 32
PAD = 4
# Per channel, of pixels in 0..1: the numbers that NAS-Bench-360 and ORCA write.
MEAN = (0.5071, 0.4867, 0.4408)
STD = (0.2675, 0.2565, 0.2761)


def load(root: pathlib.Path) -> dict[str, dict[str, "np.ndarray | rows.Rows"]]:
    """Read `cifar-100-python/{train,test}` under the root.

    Args:
        root: The folder with the files of all tasks.

    Returns:
        `train` and `test`, each with `x` `[n 32 32 3]` float32, normalised, made from
        one byte a value when it is asked for, and `y` `[n]` int32 in 0..99 (the fine
        labels).

    Raises:
        InputError: A file that cannot be read or holds something else.
    """
    return {
        split: {"x": rows.Rows(_normalise(pixels), pixels.shape), "y": labels}
        for split, (pixels, labels) in read(root / "cifar-100-python").items()
    }


def read(folder: str | os.PathLike) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return `(pixels, labels)` of `train` and `test` as they stand in the files.

    Args:
        folder: `cifar-100-python`, with `train` and `test`: dicts with `data`
            `[n 3072]` uint8, in the order channel, row, column, and `fine_labels`.

    Returns:
        `pixels` `[n 32 32 3]` uint8 and `labels` `[n]` int32 of each split.

    Raises:
        InputError: As `load`.
    """
    found = {}
    for split in ("train", "test"):
        path = pathlib.Path(folder) / split
        content = numpy_pickle.load_pickle(path, encoding="bytes")
        data = checked.entry(path, content, b"data")
        checked.check_array(path, "data", data, (None, 3 * SIZE * SIZE))
        checked.check_bytes(path, "data", data)
        labels = checked.entry(path, content, b"fine_labels")
        pixels = data.reshape(-1, 3, SIZE, SIZE).transpose(0, 2, 3, 1)
        found[split] = (
            np.ascontiguousarray(pixels),
            checked.classes(path, labels, len(data), NUM_CLASSES),
        )
    return found


def crop_and_flip(
    x: Float32[np.ndarray, "b 32 32 3"], seeds: Int64[np.ndarray, " b"]
) -> Float32[np.ndarray, "b 32 32 3"]:
    """Shift each image by -4 to 4 pixels each way, and mirror every other one.

    What torchvision's `RandomCrop(32, padding=4)` and `RandomHorizontalFlip()` do
    before the normalisation: pixels from outside are black, and black is normalised.

    Args:
        x: Normalised images.
        seeds: From 0 up, one an image: the same seed is the same draw in whatever
            batch.

    Returns:
        New arrays; `x` is left alone.
    """
    drawn = np.array([_draw(int(seed)) for seed in seeds], int)
    top, left, is_mirrored = drawn.reshape(-1, 3).T
    black = (0 - np.float32(MEAN)) / np.float32(STD)
    padded = np.empty((len(x), SIZE + 2 * PAD, SIZE + 2 * PAD, 3), x.dtype)
    padded[:] = black
    padded[:, PAD:-PAD, PAD:-PAD] = x
    steps = np.arange(SIZE)
    down = top[:, None] + steps
    across = left[:, None] + np.where(is_mirrored[:, None], steps[::-1], steps)
    image = np.arange(len(x))
    return padded[image[:, None, None], down[:, :, None], across[:, None, :]]


def _draw(seed: int) -> tuple[int, int, bool]:
    rng = np.random.default_rng(seed)
    top, left = rng.integers(0, 2 * PAD + 1, 2)
    return int(top), int(left), bool(rng.random() < 0.5)


def _normalise(pixels: np.ndarray):
    def read(at):
        x = pixels[at].astype(np.float32)
        x /= 255
        x -= np.float32(MEAN)
        x /= np.float32(STD)
        return x

    return read
