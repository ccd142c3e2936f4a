"""What several readers of NAS-Bench-360 check: arrays in files, classes."""

import os
from typing import Any

import numpy as np
from jaxtyping import Int32, Shaped

from recraft_jax import errors


def read_npy(
    path: str | os.PathLike, shape: tuple[int | None, ...]
) -> Shaped[np.ndarray, "..."]:
    """Read an array of numbers.

    Args:
        path: `.npy`.
        shape: What is expected, None being any size.

    Raises:
        InputError: A file that cannot be read or holds something else.
    """
    try:
        array = np.load(path, allow_pickle=False)
    except Exception as error:  # a damaged file can raise nearly anything
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise errors.InputError(
            f"{path}: not a readable array of numbers ({reason})"
        ) from None
    check_array(path, "the file", array, shape)
    return array


def check_array(
    path: str | os.PathLike, name: str, array: Any, shape: tuple[int | None, ...]
) -> None:
    """Refuse what is no array of numbers of this shape (None being any size)."""
    found = getattr(array, "shape", None)
    kind = array.dtype.kind if isinstance(array, np.ndarray) else type(array).__name__
    fits = found is not None and len(found) == len(shape)
    fits = fits and all(b in (None, a) for a, b in zip(found, shape, strict=True))
    if not fits or kind not in "biuf" or 0 in found:
        sizes = " ".join("n" if size is None else str(size) for size in shape)
        what = found if isinstance(array, np.ndarray) else kind
        raise errors.InputError(
            f"{path}: {name} is {what} of type {getattr(array, 'dtype', kind)}; "
            f"allowed: numbers [{sizes}]"
        )


def classes(
    path: str | os.PathLike,
    values: Any,
    num: int,
    num_classes: int,
    *,
    first: int = 0,
) -> Int32[np.ndarray, " n"]:
    """Return class indices from 0 of a file's labels.

    Args:
        path: Of the file, for messages.
        values: An array or list of whole numbers.
        num: How many are expected.
        num_classes: K; labels are `first` to `first + K - 1`.
        first: The label of class 0.

    Raises:
        InputError: Another number of labels, or one that is no class.
    """
    # Whatever else a list holds is not made an array: what is shared in it grows.
    is_list = type(values) is list and all(type(each) is int for each in values)
    labels = np.asarray(values) if is_list else values
    kind = getattr(labels, "dtype", type(labels).__name__)
    shape = getattr(labels, "shape", None)
    if not isinstance(labels, np.ndarray) or shape != (num,) or kind.kind not in "iuf":
        raise errors.InputError(
            f"{path}: labels are {shape} of type {kind}; allowed: [{num}] whole "
            "numbers, one a sample"
        )
    last = first + num_classes - 1
    bad = ~((labels >= first) & (labels <= last) & (labels == np.floor(labels)))
    if bad.any():
        row = bad.argmax()
        raise errors.InputError(
            f"{path}: label {labels[row]} in row {row}; allowed: {first} to {last}"
        )
    return labels.astype(np.int32) - np.int32(first)


def entry(path: str | os.PathLike, content: Any, name: Any) -> Any:
    """Return an entry of a file's dict, or refuse the file."""
    if type(content) is not dict or name not in content:
        there = list(content) if type(content) is dict else type(content).__name__
        raise errors.InputError(
            f"{path}: has {str(there)[:80]}; allowed: a dict with {name!r}"
        )
    return content[name]


def check_bytes(path: str | os.PathLike, name: str, array: np.ndarray) -> None:
    """Refuse an array whose values are not single bytes."""
    if array.dtype != np.uint8:
        raise errors.InputError(
            f"{path}: {name} is of type {array.dtype}; allowed: uint8"
        )


def check_finite(
    path: str | os.PathLike, array: np.ndarray, name: str = "the file"
) -> None:
    """Refuse an array with values that are not finite."""
    bad = ~np.isfinite(array)
    if bad.any():
        raise errors.InputError(
            f"{path}: {name} has values that are not finite in {bad.sum()} of "
            f"{bad.size} places, first at {np.argwhere(bad)[0].tolist()}; allowed: "
            "finite numbers"
        )
