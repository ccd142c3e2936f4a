"""Samples that are read when somebody asks for them, for data larger than memory.

`Rows` stands where an array `[n ...]` would: it has its shape and type, and whoever
indexes it along the first axis gets an array.
"""

from collections.abc import Callable, Iterator

import numpy as np

BLOCK_VALUES = 1 << 22  # of a block: 16 MiB of float32


class Rows:
    """Samples `[n ...]` by row.

    Attributes:
      shape: with n first.
      dtype: of the arrays that indexing gives.
    """

    def __init__(
        self,
        read: Callable[[np.ndarray], np.ndarray],
        shape: tuple[int, ...],
        dtype=np.float32,
    ):
        """Take what reads samples.

        Args:
          read: rows `[k]`, ascending or not, to samples `[k ...]`. The same row is the
            same sample each time, in whatever order and process it is read.
          shape: `(n, ...)`.
          dtype: of the samples.
        """
        self._read = read
        self.shape = tuple(int(size) for size in shape)
        self.dtype = np.dtype(dtype)

    @classmethod
    def one_by_one(
        cls, read: Callable[[int], np.ndarray], shape: tuple[int, ...], dtype=np.float32
    ) -> "Rows":
        """Take what reads one sample."""
        return cls(
            lambda rows: np.stack([read(int(row)) for row in rows]), shape, dtype
        )

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of values."""
        return int(np.prod(self.shape, dtype=np.int64))

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index) -> np.ndarray:
        """Read a row, a slice of rows, or an array of rows (numbers or a mask)."""
        rows = _numbers(index, len(self))
        if rows.size == 0:
            return np.empty((*rows.shape, *self.shape[1:]), self.dtype)
        found = np.asarray(self._read(np.atleast_1d(rows)), self.dtype)
        return found[0] if rows.ndim == 0 else found

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        """Read all; for who knows that it fits."""
        return np.asarray(self[:], dtype)

    def take(self, rows: np.ndarray) -> "Rows":
        """The same, of these rows only."""
        rows = _numbers(rows, len(self))
        shape = (len(rows), *self.shape[1:])
        return Rows(lambda at: self._read(rows[at]), shape, self.dtype)

    def map(self, fn: Callable[[np.ndarray], np.ndarray]) -> "Rows":
        """The same samples after `fn`, which keeps their shape, as float32."""
        return Rows(lambda at: fn(self[at]), self.shape, np.float32)


def take(array: "np.ndarray | Rows", rows: np.ndarray) -> "np.ndarray | Rows":
    """Rows of an array, or of `Rows` without reading them."""
    return array.take(rows) if isinstance(array, Rows) else array[rows]


def some(array: "np.ndarray | Rows", max_values: int) -> np.ndarray:
    """The array; or, of `Rows`, at most so many values: samples evenly spaced."""
    if not isinstance(array, Rows):
        return array
    each = max(int(np.prod(array.shape[1:], dtype=np.int64)), 1)
    num = min(max(max_values // each, 1), len(array))
    return array[np.linspace(0, len(array) - 1, num).round().astype(np.int64)]


def joined(first: "np.ndarray | Rows", *others) -> "np.ndarray | Rows":
    """Concatenate along the first axis; nothing is read if one of them is `Rows`."""
    parts = (first, *others)
    if not any(isinstance(part, Rows) for part in parts):
        return np.concatenate(parts)
    starts = np.cumsum([0] + [len(part) for part in parts])

    def read(rows):
        found = np.empty((len(rows), *first.shape[1:]), first.dtype)
        for part, start, stop in zip(parts, starts, starts[1:], strict=False):
            inside = (rows >= start) & (rows < stop)
            found[inside] = part[rows[inside] - start]
        return found

    return Rows(read, (starts[-1], *first.shape[1:]), first.dtype)


def block_size(array: "np.ndarray | Rows") -> int:
    """Samples of a block that fits into memory."""
    each = max(int(np.prod(array.shape[1:], dtype=np.int64)), 1)
    return max(BLOCK_VALUES // each, 1)


def blocks(array: "np.ndarray | Rows", step: int = 0) -> Iterator[np.ndarray]:
    """Go through all samples in order, a block that fits into memory at a time.

    Args:
      array: samples.
      step: of a block; 0 is `block_size`.
    """
    step = step or block_size(array)
    for start in range(0, len(array), step):
        yield np.asarray(array[start : start + step])


def grouped(keys: np.ndarray) -> list[np.ndarray]:
    """Places of equal keys `[k]`: an array for each key that occurs, ascending."""
    order = np.argsort(keys, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(keys[order])) + 1)


def _numbers(index, num: int) -> np.ndarray:
    """Rows that an index means, without listing all `num` of them."""
    if index is Ellipsis:
        index = slice(None)
    if isinstance(index, slice):
        return np.arange(*index.indices(num))
    rows = np.asarray(index)
    if rows.dtype == bool and rows.shape == (num,):
        return np.flatnonzero(rows)
    if rows.size == 0:
        return rows.astype(np.int64)
    if rows.dtype.kind not in "iu":
        raise IndexError(f"rows {rows.dtype} {rows.shape} of {num}")
    if rows.min() < -num or rows.max() >= num:
        raise IndexError(f"rows {rows.min()} to {rows.max()} of {num}")
    return np.where(rows < 0, rows + num, rows)
