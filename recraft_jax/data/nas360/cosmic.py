"""Cosmic of NAS-Bench-360: which pixels of a Hubble image a cosmic ray has hit.

Files of deepCR (Zhang & Bloom 2020): exposures of the camera ACS-WFC in pieces of 256 x
256 pixels. The benchmark takes those of filter f435w that show galaxies; its script
`preprocess_cosmic.py` writes their paths into `train_dirs.npy` and `test_dirs.npy`.
"""

import os
import pathlib

import numpy as np
from jaxtyping import Float

from recraft_jax import errors
from recraft_jax.data import rows

SIZE = 128
CROP = slice(64, 64 + SIZE)
SKY = (-0.9, 3.0)  # range of the share of the sky's level that is added
IGNORED = -1.0


def load(
    root: str | os.PathLike, *, test_noise: bool, seed: int
) -> dict[str, dict[str, rows.Rows | np.ndarray]]:
    """Find the images; they are read when they are asked for.

    The sky's level of the exposure, times a number drawn from U(-0.9, 3), is added to
    each training image. The released code draws at every access; here an image has one
    number for each seed and place in its list. Nothing is standardised.

    Args:
      root: folder with `cosmic/{train,test}_dirs.npy`, arrays of text, and the files
        they name: what follows `npy_train` or `npy_test` in a path is looked for in
        that folder of `cosmic`, wherever the list was made. Beside the images of a
        visit lies `sky.npy`; image `<k>_...npy` takes its k-th number. Without the
        file nothing is added, as released.
      test_noise: True, as released: sky is added to test images, too. False: they are
        what was measured.
      seed: of the sky.

    Returns:
      `train` and `test`, each with `x` `[n 128 128 1]`, the middle of the image as
      stored, `y` `[n 128 128 1]`, 1 where a cosmic ray is, 0 where none is, -1 where
      the files ask to look away, and `group` `[n]` int32, the visit: images of one
      field of stars.

    Raises:
      InputError: a list or file that is not there, cannot be read or holds something
        else; for images when they are read.
    """
    folder = pathlib.Path(root) / "cosmic"
    if seed < 0:
        raise errors.InputError(f"cosmic with data.seed = {seed}; allowed: 0 or more")
    paths = {split: _paths(folder, split) for split in ("train", "test")}
    visits = {split: [str(path.parent) for path in paths[split]] for split in paths}
    numbers = np.unique(visits["train"] + visits["test"])
    found = {}
    for number, split in enumerate(paths):
        has_sky = split == "train" or test_noise
        found[split] = {
            **_images(paths[split], (seed, number) if has_sky else None),
            "group": np.searchsorted(numbers, visits[split]).astype(np.int32),
        }
    return found


def _images(paths: list[pathlib.Path], seed: tuple | None) -> dict[str, rows.Rows]:
    def read_x(row):
        image = np.float32(_read(paths[row])[0])
        if seed is not None:
            share = np.random.default_rng((*seed, row)).uniform(*SKY)
            image = image + np.float32(share * _sky(paths[row]))
        return image[..., None]

    def read_y(row):
        _, mask, *ignore = _read(paths[row])
        if not np.isin(mask, (0, 1)).all():
            raise errors.InputError(
                f"{paths[row]}: the mask of cosmic rays holds other numbers; allowed: "
                "0 and 1"
            )
        is_ignored = np.zeros(mask.shape, bool) if not ignore else ignore[0] != 0
        return np.where(is_ignored, np.float32(IGNORED), np.float32(mask))[..., None]

    shape = (len(paths), SIZE, SIZE, 1)
    return {
        "x": rows.Rows.one_by_one(read_x, shape),
        "y": rows.Rows.one_by_one(read_y, shape),
    }


def _read(path: pathlib.Path) -> Float[np.ndarray, "c 128 128"]:
    """Crop of the image, the mask and, in most files, what to ignore."""
    stored = _load(path)
    num = stored.shape[0] if stored.ndim == 3 else 0
    if num not in (2, 3) or min(stored.shape[1:]) < CROP.stop:
        raise errors.InputError(
            f"{path}: an array {stored.shape}; allowed: image, mask and pixels to "
            "ignore [3 256 256], or without the last"
        )
    return np.array(stored[:, CROP, CROP])


def _sky(path: pathlib.Path) -> float:
    """Level of the sky in the exposure; 0 if it is not known."""
    place = path.parent / "sky.npy"
    if not place.is_file():
        return 0.0
    levels = _load(place).ravel()
    exposure = path.name.partition("_")[0]
    if not exposure.isdecimal() or not 1 <= int(exposure) <= len(levels):
        raise errors.InputError(
            f"{path}: no level of exposure {exposure!r} in sky.npy; allowed: names "
            f"that begin with 1 to {len(levels)} and _"
        )
    return float(levels[int(exposure) - 1])


def _paths(folder: pathlib.Path, split: str) -> list[pathlib.Path]:
    place = folder / f"{split}_dirs.npy"
    listed = _load(place)
    if listed.dtype.kind != "U" or listed.ndim != 1 or len(listed) == 0:
        raise errors.InputError(
            f"{place}: an array of {listed.dtype} {listed.shape}; allowed: one or more "
            "paths as text, as preprocess_cosmic.py writes them"
        )
    base, found = f"npy_{split}", []
    for path in listed.tolist():
        parts = pathlib.PurePosixPath(path).parts
        if base not in parts or ".." in parts:
            raise errors.InputError(f"{place}: path {path!r} is not below {base}")
        found.append(folder.joinpath(*parts[parts.index(base) :]))
    return found


def _load(path: pathlib.Path) -> np.ndarray:
    try:
        return np.load(path, mmap_mode="r")
    except Exception as error:  # a damaged file can raise nearly anything
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise errors.InputError(f"{path}: cannot be read ({reason})") from None
