"""Class labels of any type to 0..k-1 and back."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int, Shaped

from recraft_jax import errors
from recraft_jax.data import custom_names


def encode_labels(
    y: Shaped[np.ndarray, " n"], labels: Sequence[str] | None = None, path: str = "y"
) -> tuple[Int[np.ndarray, " n"], tuple[str, ...]]:
    """Number the classes in the order of their values, or as `labels` has them.

    A label is known by its text: 3, 3.0 and "3" are one class. Whole numbers of any
    size are told apart.

    Args:
      y: text, bytes in UTF-8, whole numbers (of a float type too) or bool.
      labels: the classes that are known; None takes those of `y`.
      path: what holds the labels, for messages.

    Returns:
      Classes int32, and the text of each class.

    Raises:
      InputError: other types, a label that is missing, or one that is not known.
    """
    y = np.asarray(y)
    if y.ndim != 1 or y.dtype.kind not in "biufUS":
        raise errors.InputError(
            f"{path}: labels are {y.dtype} of shape {y.shape}; allowed: text, whole "
            "numbers or bool of shape (n,)"
        )
    if y.dtype.kind == "f":
        _check_whole(y, path)
    values, index = np.unique(y, return_inverse=True)
    words = tuple(_text(value, path) for value in values)
    if "" in words:
        row = int((index == words.index("")).argmax())
        raise errors.InputError(
            f"{path}: the label is empty in row {row} (from 0); allowed: one in every "
            "row"
        )
    if labels is None:
        return index.astype(np.int32), words
    known = {label: code for code, label in enumerate(labels)}
    for word in words:
        if word not in known:
            raise errors.InputError(
                f"{path}: label {word!r} is not known; allowed: "
                f"{custom_names.few(labels, 10)}"
            )
    codes = np.array([known[word] for word in words], np.int32)
    return codes[index], tuple(labels)


def decode(
    codes: Int[np.ndarray, " n"], labels: Sequence[str], dtype: str = "str"
) -> Shaped[np.ndarray, " n"]:
    """Turn classes back into labels of a type that `encode_labels` takes.

    Args:
      codes: 0..k-1.
      labels: text of each class.
      dtype: of the labels as they were given.

    Raises:
      InputError: a code that is none of a class.
    """
    codes, kind = np.asarray(codes), np.dtype(dtype).kind
    bad = (codes < 0) | (codes >= len(labels))
    if bad.any():
        raise errors.InputError(
            f"class {codes[bad][0]}; allowed: 0 to {len(labels) - 1}"
        )
    if kind == "b":
        values = np.array([label == "True" for label in labels])
    elif kind in "iu":  # not through float, which ends at 2^53
        values = np.array([int(label) for label in labels], dtype)
    elif kind == "f":
        values = np.array([float(label) for label in labels], dtype)
    elif kind == "S":
        values = np.array([label.encode() for label in labels])
    else:
        values = np.array(labels, str)
    return values[codes]


def _check_whole(y: np.ndarray, path: str) -> None:
    bad = ~np.isfinite(y)
    bad[~bad] = y[~bad] != np.round(y[~bad])
    if bad.any():
        raise errors.InputError(
            f"{path}: label {y[bad][0]} in row {bad.argmax()} (from 0); allowed as "
            "classes: text, whole numbers or bool"
        )


def _text(value, path: str) -> str:
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            raise errors.InputError(
                f"{path}: label {bytes(value)!r} is not UTF-8; allowed: text in UTF-8"
            ) from None
    is_word = isinstance(value, str | np.bool_)
    return str(value) if is_word else str(int(value))
