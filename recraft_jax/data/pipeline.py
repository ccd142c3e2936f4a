"""Batches from arrays in memory, as random-access Grain chains.

A stream is a function of its seed and of the step alone: step i of a resumed run gets
the batch that step i of an uninterrupted run got, with no iterator state to save.
"""

from collections.abc import Iterator, Mapping

import grain
import numpy as np

from recraft_jax import errors

Arrays = Mapping[str, np.ndarray]


class Rows:
    """Random access to samples held in equal-length arrays."""

    def __init__(self, arrays: Arrays):
        """Wrap `{"x": [n ...], "y": [n ...], ...}`."""
        self.arrays = arrays

    def __len__(self) -> int:
        """Count the samples."""
        return len(next(iter(self.arrays.values())))

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        """Take one sample."""
        return {name: array[index] for name, array in self.arrays.items()}


def shuffled(arrays: Arrays, batch_size: int, seed: int) -> grain.MapDataset:
    """Endless shuffled batches; every epoch is a new permutation.

    Args:
      arrays: samples along the first axis.
      batch_size: samples per batch; may exceed the number of samples.
      seed: of the permutations.
    """
    rows = grain.MapDataset.source(Rows(arrays)).seed(seed).shuffle().repeat()
    return rows.batch(batch_size, drop_remainder=True)


def balanced(
    arrays: Arrays, labels: np.ndarray, batch_size: int, seed: int
) -> grain.MapDataset:
    """Endless batches with equally many samples of each class, and importance weights.

    Weights undo the balancing: within a batch a class weighs as much as it does in
    `labels`, and all weights sum to 1.

    Args:
      arrays: samples along the first axis.
      labels: class of each sample `[n]`.
      batch_size: rounded down to a multiple of the number of classes present.
      seed: of the permutations within each class.

    Returns:
      Batches of `arrays` with `label` `[b]` int32 and `weight` `[b]` float32 added.
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
        rows = {name: array[member] for name, array in arrays.items()}
        rows["label"] = np.full(count, label, np.int32)
        weight = count / len(labels) / per_class
        rows["weight"] = np.full(count, weight, np.float32)
        part = grain.MapDataset.source(Rows(rows)).seed(seed + index)
        parts.append(part.shuffle().repeat().batch(per_class, drop_remainder=True))
    return Joined(parts)


def paired(arrays: Arrays, source: Arrays, batch_size: int, seed: int) -> "Paired":
    """Endless shuffled batches of the target with as many samples of the source.

    Args:
      arrays: target samples.
      source: source samples, under other names.
      batch_size: of either.
      seed: of the target's permutations, which are those of `shuffled`.
    """
    # Not seed + 1, at which the target of the next run is shuffled.
    source_seed = seed + 2**31
    return Paired(
        (
            shuffled(arrays, batch_size, seed),
            shuffled(source, batch_size, source_seed),
        )
    )


class Paired:
    """Random access to batches that have the arrays of one batch of each part."""

    def __init__(self, parts):
        """Wrap endless datasets of batches with unlike names."""
        self.parts = parts

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        """Merge batch `index` of every part."""
        return {k: v for part in self.parts for k, v in part[index].items()}


class Joined:
    """Random access to batches that join one batch of each part."""

    def __init__(self, parts):
        """Wrap endless datasets of batches."""
        self.parts = parts

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        """Join batch `index` of every part along the first axis."""
        batches = [part[index] for part in self.parts]
        return {k: np.concatenate([b[k] for b in batches]) for k in batches[0]}


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
