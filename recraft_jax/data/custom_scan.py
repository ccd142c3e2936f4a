"""One pass through samples: are they finite, what never varies, which are copies.

A pass takes the memory of a block, and eight bytes a row.
"""

import hashlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int, UInt64

from recraft_jax import errors
from recraft_jax.data import rows


class Seen(NamedTuple):
    """What a pass found.

    Attributes:
      constant: values of a sample that are equal in all rows.
      counting: values of a sample that grow by one from row to row.
      hashes: of each row's bytes as float32; empty if not asked for.
    """

    constant: Bool[np.ndarray, "..."]
    counting: Bool[np.ndarray, "..."]
    hashes: UInt64[np.ndarray, " n"]


def scan(
    values: np.ndarray | rows.Rows,
    path: str,
    name: str,
    columns: Sequence[str] = (),
    at: Int[np.ndarray, " n"] | None = None,
    keep: Callable[[int, np.ndarray], None] = lambda start, block: None,
    is_hashed: bool = True,
) -> Seen:
    """Go through samples by blocks.

    Args:
      values: `[n ...]`, numbers of any real type.
      path: for messages.
      name: for messages.
      columns: names of the values of a sample, for messages.
      at: rows to go through; None is all of them.
      keep: is given the number of the first sample and each block as float32.
      is_hashed: whether rows are hashed, a microsecond each.

    Raises:
      InputError: a value that float32 holds only as inf or NaN, by row and column.
    """
    num, shape = len(values) if at is None else len(at), values.shape[1:]
    step = max(rows.BLOCK_VALUES // max(int(np.prod(shape)), 1), 1)
    constant, counting = np.ones(shape, bool), np.full(shape, num > 1)
    hashes = np.zeros(num if is_hashed else 0, np.uint64)
    first = None
    for start in range(0, num, step):
        stop = min(start + step, num)
        part = slice(start, stop)
        raw = np.asarray(values[part if at is None else at[part]])
        with np.errstate(over="ignore"):  # is seen as inf
            block = raw.astype(np.float32)
        bad = ~np.isfinite(block)
        if bad.any():
            place = np.argwhere(bad)[0]
            row = start + place[0] if at is None else at[start + place[0]]
            raise _not_finite(path, name, columns, row, place[1:], raw[tuple(place)])
        first = raw[0] if first is None else first
        constant &= (raw == first).all(axis=0)
        if counting.any():
            order = np.arange(start, stop).reshape(-1, *[1] * len(shape))
            counting &= (raw == first + order).all(axis=0)
        if is_hashed:
            hashes[part] = _hashes(block)
        keep(start, block)
    return Seen(constant, counting, hashes)


def read(
    values: np.ndarray | rows.Rows,
    path: str,
    name: str,
    columns: Sequence[str],
    at: Int[np.ndarray, " n"],
    shape: tuple[int, ...],
    axis: str,
    is_small: bool = True,
) -> tuple[np.ndarray | rows.Rows, Seen]:
    """Scan rows and bring them to `[n *shape]` float32, channels last.

    Args:
      values: as in the file.
      path: for messages.
      name: for messages.
      columns: for messages.
      at: rows.
      shape: of a sample, channels last.
      axis: where channels are in the file, see `arranged`.
      is_small: whether to keep all of them in memory; else they stay in their file.

    Raises:
      InputError: as `scan`.
    """
    out = np.empty((len(at), *shape), np.float32) if is_small else None

    def keep(start, block):
        if is_small:
            out[start : start + len(block)] = arranged(block, shape, axis)

    def read_rows(wanted):
        block = np.asarray(values[at[wanted]]).astype(np.float32)
        return arranged(block, shape, axis)

    seen = scan(values, path, name, columns, at, keep, is_hashed=name == "x")
    found = out if is_small else rows.Rows(read_rows, (len(at), *shape))
    return found, seen


def arranged(block: np.ndarray, shape: tuple[int, ...], axis: str) -> np.ndarray:
    """Samples as they are in the file to `[n *shape]`, channels last."""
    if axis == "first":
        block = np.moveaxis(block, 1, -1)
    return block.reshape(len(block), *shape)


def num_copies(hashes: UInt64[np.ndarray, " n"], of: UInt64[np.ndarray, " m"]) -> int:
    """Count the rows of `hashes` that occur in `of`."""
    return int(np.isin(hashes, of).sum())


def _hashes(block: np.ndarray) -> np.ndarray:
    flat = np.ascontiguousarray(block + 0.0).reshape(len(block), -1)  # one zero only
    digests = [hashlib.blake2b(row, digest_size=8).digest() for row in flat]
    return np.frombuffer(b"".join(digests), np.uint64)


def _not_finite(path, name, columns, row, place, value) -> errors.InputError:
    where = ""
    if len(place) == 1:
        where = f", column {columns[place[0]]!r}" if columns else f", column {place[0]}"
    elif len(place):
        where = f", at {[int(each) for each in place]}"
    allowed = "finite numbers"
    if np.isfinite(value):
        allowed = "numbers that float32 holds, up to 3.4e38"
    return errors.InputError(
        f"{path}: {name} is {value} in row {row} (from 0){where}; allowed: {allowed}"
    )
