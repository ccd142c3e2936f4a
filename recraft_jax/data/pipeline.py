"""Batches from arrays in memory, by random access over Grain's permutations.

A stream is a function of its seed and of the step alone: step i of a resumed run gets
the batch that step i of an uninterrupted run got, with no iterator state to save. Each
process reads its own rows of the one global batch, so neither do the batches depend on
how many processes there are.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import grain
import numpy as np

from recraft_jax import errors
from recraft_jax.data import rows as lazy

Arrays = Mapping[str, np.ndarray | lazy.Rows]
Augment = Callable[[np.ndarray, np.ndarray], np.ndarray]
PREFETCH = 2  # batches read ahead of the step


class Part(NamedTuple):
    """Endless samples, of which every batch takes `per_batch`.

    Attributes:
      arrays: samples along the first axis.
      order: sample of the endless sequence to row of `arrays`; by epoch a permutation.
      per_batch: consecutive samples of the sequence in one batch.
      seed: of what `augment` draws, with the place in the sequence.
      augment: `(x [b ...], seeds [b]) -> x`.
    """

    arrays: Arrays
    order: grain.MapDataset
    per_batch: int
    seed: int = 0
    augment: Augment | None = None

    def read(self, places: np.ndarray) -> dict[str, np.ndarray]:
        """Read samples by their place in the endless sequence."""
        at = [self.order[int(place)] for place in places]
        found = {name: array[at] for name, array in self.arrays.items()}
        if self.augment:
            seeds = (self.seed << 32) + places.astype(np.int64)
            found["x"] = self.augment(found["x"], seeds)
        return found


def _part(
    arrays: Arrays, per_batch: int, seed: int, augment: Augment | None = None
) -> Part:
    num = len(next(iter(arrays.values())))
    order = grain.MapDataset.range(num).seed(seed).shuffle().repeat()
    return Part(arrays, order, per_batch, seed, augment)


class Stream:
    """Endless batches by step: those of several parts, one after the other.

    Attributes:
      num_rows: samples of a global batch.
    """

    def __init__(self, parts: Sequence[Part], rows: np.ndarray | None = None):
        """Join parts.

        Args:
          parts: with arrays of the same names.
          rows: of the global batch to read; None is all of them.
        """
        self.parts = list(parts)
        self.num_rows = sum(part.per_batch for part in self.parts)
        self.rows = np.arange(self.num_rows) if rows is None else rows

    def only(self, rows: np.ndarray) -> "Stream":
        """The same batches, of which these rows are read."""
        return Stream(self.parts, rows)

    def __getitem__(self, step: int) -> dict[str, np.ndarray]:
        """Read the rows of one batch."""
        found, start = [], 0
        for part in self.parts:
            stop = start + part.per_batch
            within = self.rows[(self.rows >= start) & (self.rows < stop)] - start
            if len(within):
                found.append(part.read(step * part.per_batch + within))
            start = stop
        return {k: np.concatenate([f[k] for f in found]) for k in found[0]}


def shuffled(
    arrays: Arrays, batch_size: int, seed: int, augment: Augment | None = None
) -> Stream:
    """Endless shuffled batches; every epoch is a new permutation.

    Args:
      arrays: samples along the first axis.
      batch_size: samples per batch; may exceed the number of samples.
      seed: of the permutations, and of what `augment` draws.
      augment: `(x [b ...], seeds [b]) -> x`, pure; draws anew in each epoch.
    """
    return Stream([_part(arrays, batch_size, seed, augment)])


def balanced(
    arrays: Arrays,
    labels: np.ndarray,
    batch_size: int,
    seed: int,
    augment: Augment | None = None,
) -> Stream:
    """Endless batches with equally many samples of each class, and importance weights.

    Weights undo the balancing: within a batch a class weighs as much as it does in
    `labels`, and all weights sum to 1.

    Args:
      arrays: samples along the first axis.
      labels: class of each sample `[n]`.
      batch_size: rounded down to a multiple of the number of classes present.
      seed: of the permutations within each class.
      augment: as of `shuffled`.

    Returns:
      Batches of `arrays` with `label` `[b]` int32 and `weight` `[b]` float32 added.

    Raises:
      InputError: fewer samples than classes.
    """
    classes, counts = np.unique(labels, return_counts=True)
    per_class = batch_size // len(classes)
    if per_class < 1:
        raise errors.InputError(
            f"stage1.batch_size = {batch_size} is smaller than the {len(classes)} "
            "classes of the target; allowed: at least one sample per class"
        )
    parts = []
    for index, (label, count) in enumerate(zip(classes, counts, strict=True)):
        member = np.flatnonzero(labels == label)
        rows = {name: lazy.take(array, member) for name, array in arrays.items()}
        rows["label"] = np.full(count, label, np.int32)
        weight = count / len(labels) / per_class
        rows["weight"] = np.full(count, weight, np.float32)
        parts.append(_part(rows, per_class, seed + index, augment))
    return Stream(parts)


class Paired(NamedTuple):
    """Batches that have the arrays of two streams, under unlike names."""

    target: Stream
    source: Stream

    @property
    def num_rows(self) -> int:
        """Samples of a global batch, of either stream."""
        return self.target.num_rows

    def only(self, rows: np.ndarray) -> "Paired":
        """The same batches, of which these rows are read."""
        return Paired(self.target.only(rows), self.source.only(rows))

    def __getitem__(self, step: int) -> dict[str, np.ndarray]:
        """Read the rows of one batch."""
        return self.target[step] | self.source[step]


def paired(
    arrays: Arrays,
    source: Arrays,
    batch_size: int,
    seed: int,
    augment: Augment | None = None,
) -> Paired:
    """Endless shuffled batches of the target with as many samples of the source.

    Args:
      arrays: target samples.
      source: source samples, under other names.
      batch_size: of either.
      seed: of the target's permutations, which are those of `shuffled`.
      augment: of target samples, as of `shuffled`.
    """
    # Not seed + 1, at which the target of the next run is shuffled.
    source_seed = seed + 2**31
    return Paired(
        shuffled(arrays, batch_size, seed, augment),
        shuffled(source, batch_size, source_seed),
    )


class _Steps:
    """A stream as a source of a known length, which Grain reads ahead of the step."""

    def __init__(self, stream: Stream | Paired, start: int, stop: int):
        self.stream, self.start, self.stop = stream, start, stop

    def __len__(self) -> int:
        return self.stop - self.start

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        return self.stream[self.start + index]


def read(
    stream: Stream | Paired, start: int, stop: int, *, num_workers: int = 0
) -> Iterator[dict[str, np.ndarray]]:
    """Read batches `start` to `stop` of a stream, ahead of who takes them.

    Args:
      stream: of this module.
      start: first step.
      stop: behind the last step.
      num_workers: processes that read; 0 is a thread of this one.
    """
    steps = grain.MapDataset.source(_Steps(stream, start, stop))
    ahead = grain.ReadOptions(num_threads=1, prefetch_buffer_size=PREFETCH)
    batches = steps.to_iter_dataset(ahead)
    if num_workers:
        options = grain.MultiprocessingOptions(num_workers, PREFETCH)
        batches = batches.mp_prefetch(options)
    return iter(batches)


def once(arrays: Arrays, batch_size: int) -> Iterator[dict[str, np.ndarray]]:
    """All samples in order, once, in batches of one size for one compiled step.

    The last batch is filled with zeros; `mask` `[b]` is False there.
    """
    total = len(next(iter(arrays.values())))
    for start in range(0, total, batch_size):
        stop = min(start + batch_size, total)
        batch = {}
        for name, array in arrays.items():
            part = array[start:stop]
            fill = [(0, batch_size - len(part))] + [(0, 0)] * (array.ndim - 1)
            batch[name] = np.pad(part, fill)
        batch["mask"] = np.arange(batch_size) < stop - start
        yield batch
