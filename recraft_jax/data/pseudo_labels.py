"""Class labels for targets that have none: k-means on standardised, reduced targets.

The released code clusters raw targets into k = 10 with whatever the global random state
is. Here targets are standardised, reduced by PCA and clustered with a seed, on the
training split only.
"""

from collections.abc import Mapping

import numpy as np
import sklearn.cluster
import sklearn.decomposition

from recraft_jax import errors
from recraft_jax.data import rows

MAX_DIMS = 64
MAX_FITTED = 10_000  # training samples that the clusters are fitted to
MAX_VALUES = 1 << 14  # of a target; a larger field is averaged over blocks first
MAX_EXACT = 1 << 26  # values whose principal components are exact


def fit(
    splits: Mapping[str, "np.ndarray | rows.Rows"],
    num_clusters: int,
    seed: int,
    *,
    is_raw: bool = False,
) -> dict[str, np.ndarray]:
    """Cluster training targets and assign every split to the clusters.

    Args:
      splits: targets `[n ...]` by split; `train` is clustered, by at most 10,000 of its
        samples, drawn.
      num_clusters: k.
      seed: of the restarts and of that draw.
      is_raw: cluster the targets as they are, neither standardised nor reduced, as the
        released code does (T16; its restarts have no seed).

    Returns:
      int32 labels `[n]` by split. Clusters are numbered by falling size in training.

    Raises:
      InputError: more clusters than distinct training targets.
    """
    num = len(splits["train"])
    drawn = np.arange(num)
    if num > MAX_FITTED:
        drawn = np.sort(np.random.default_rng(seed).permutation(num)[:MAX_FITTED])
    train = _flat(splits["train"][drawn])
    if not 1 <= num_clusters <= len(np.unique(train, axis=0)):
        raise errors.InputError(
            f"fld.num_clusters = {num_clusters}; allowed: 1 to "
            f"{len(np.unique(train, axis=0))}, the number of distinct training targets"
        )
    if is_raw:
        reduced = _same
    else:
        mean, std = train.mean(0), train.std(0)
        std = np.where(std > 0, std, 1.0)
        dims = min(MAX_DIMS, *train.shape)
        solver = "full" if train.size <= MAX_EXACT else "randomized"
        pca = sklearn.decomposition.PCA(dims, svd_solver=solver, random_state=seed)
        pca.fit((train - mean) / std)

        def reduced(flat):
            return pca.transform((flat - mean) / std)

    kmeans = sklearn.cluster.KMeans(num_clusters, n_init=10, random_state=seed)
    kmeans.fit(reduced(train))
    sizes = np.bincount(kmeans.labels_, minlength=num_clusters)
    rank = np.argsort(np.argsort(-sizes, kind="stable")).astype(np.int32)
    return {
        split: np.concatenate(
            [rank[kmeans.predict(reduced(_flat(y)))] for y in rows.blocks(values)]
        )
        for split, values in splits.items()
    }


def _same(flat: np.ndarray) -> np.ndarray:
    return flat


def _flat(y: np.ndarray) -> np.ndarray:
    """Targets `[n ...]` as `[n m]` in float64, large fields averaged over blocks."""
    y = y.astype(np.float64)
    while y.ndim > 2 and y[0].size > MAX_VALUES:
        for axis in range(1, y.ndim - 1):
            even = y.shape[axis] // 2 * 2
            y = np.take(y, range(even), axis)
            shape = (*y.shape[:axis], even // 2, 2, *y.shape[axis + 1 :])
            y = y.reshape(shape).mean(axis + 1)
    return y.reshape(len(y), -1)
