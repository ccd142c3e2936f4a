"""Read `.ts` files, the text format of the UCR and UEA time-series archives.

Comments begin with `#`, header lines with `@`; after `@data` each line is one series:
channels apart by `:`, values by `,`, and last its label or target. Series may differ in
length. Timestamps and missing values, which the format also has, are refused.
"""

import os
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from recraft_jax import errors


class Series(NamedTuple):
    """One line of a file."""

    values: Float[np.ndarray, "t c"]
    target: str


def read(path: str | os.PathLike, *, num_channels: int) -> list[Series]:
    """Return every series of the file, values in float64.

    Raises:
        InputError: A file that cannot be read, or a line that is no series of
            `num_channels` channels of one length with finite numbers.
    """
    try:
        with open(path, encoding="utf-8") as stream:
            lines = stream.read().splitlines()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise errors.InputError(f"{path}: cannot be read ({reason})") from None
    is_header, found = True, []
    for number, line in enumerate(map(str.strip, lines), 1):
        if not line or line.startswith("#"):
            continue
        if is_header:
            if not line.startswith("@"):
                raise errors.InputError(
                    f"{path}: line {number} is {line[:40]!r}; allowed before @data: "
                    "lines that begin with # or @"
                )
            is_header = line.lower() != "@data"
            continue
        *channels, target = line.split(":")
        try:
            values = np.array([c.split(",") for c in channels], np.float64).T
        except ValueError:  # of unequal length, or no numbers
            values = np.empty((0, 0))
        if values.shape != (len(values), num_channels) or not np.isfinite(values).all():
            raise errors.InputError(
                f"{path}: line {number} is {line[:40]!r}; allowed: {num_channels} "
                "channels apart by : with as many finite numbers each, then the target"
            )
        found.append(Series(values, target.strip()))
    if not found:
        raise errors.InputError(f"{path}: has no series after @data")
    return found


def read_splits(
    train_path: str | os.PathLike, test_path: str | os.PathLike, *, num_channels: int
) -> dict[str, list[Series]]:
    """Read the two files of a given split, each series of the training file once.

    A training series that is in the test file too, value by value, is left out, and of
    equal ones in the training file the first is kept: some sets of the archives have
    such copies. The test file is taken as it is.
    """
    train, test = (
        read(path, num_channels=num_channels) for path in (train_path, test_path)
    )
    seen = {series.values.tobytes() for series in test}
    kept = []
    for series in train:
        key = series.values.tobytes()
        if key not in seen:
            seen.add(key)
            kept.append(series)
    if not kept:
        raise errors.InputError(f"{train_path}: every series is in {test_path} too")
    return {"train": kept, "test": test}


def arrays(
    splits: dict[str, list[Series]], fit: Callable, classes: Sequence[str]
) -> dict[str, dict[str, np.ndarray]]:
    """Bring the series to one shape and number their classes.

    Args:
        splits: Of `read_splits`.
        fit: `[t c] -> [n c]`, the same n for every series.
        classes: Labels as in the file, in order of their numbers.

    Raises:
        InputError: A label that is none of the classes.
    """
    numbers = {label: number for number, label in enumerate(classes)}
    for split, found in splits.items():
        for number, series in enumerate(found):
            if series.target not in numbers:
                raise errors.InputError(
                    f"{split} series {number} has label {series.target!r}; allowed: "
                    f"{', '.join(classes)}"
                )
    return {
        split: {
            "x": np.stack([fit(series.values) for series in found]).astype(np.float32),
            "y": np.array([numbers[series.target] for series in found], np.int32),
        }
        for split, found in splits.items()
    }
