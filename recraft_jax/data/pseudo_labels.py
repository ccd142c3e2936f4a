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

MAX_DIMS = 64


def fit(
    splits: Mapping[str, np.ndarray], num_clusters: int, seed: int
) -> dict[str, np.ndarray]:
    """Cluster training targets and assign every split to the clusters.

    Args:
      splits: targets `[n ...]` by split; `train` is clustered.
      num_clusters: k.
      seed: of the restarts.

    Returns:
      int32 labels `[n]` by split. Clusters are numbered by falling size in training.

    Raises:
      InputError: more clusters than distinct training targets.
    """
    flat = {s: y.reshape(len(y), -1).astype(np.float64) for s, y in splits.items()}
    train = flat["train"]
    if not 1 <= num_clusters <= len(np.unique(train, axis=0)):
        raise errors.InputError(
            f"fld.num_clusters = {num_clusters}; allowed: 1 to "
            f"{len(np.unique(train, axis=0))}, the number of distinct training targets"
        )
    mean, std = train.mean(0), train.std(0)
    std = np.where(std > 0, std, 1.0)
    flat = {s: (y - mean) / std for s, y in flat.items()}
    dims = min(MAX_DIMS, *train.shape)
    pca = sklearn.decomposition.PCA(dims, svd_solver="full").fit(flat["train"])
    kmeans = sklearn.cluster.KMeans(num_clusters, n_init=10, random_state=seed)
    kmeans.fit(pca.transform(flat["train"]))
    sizes = np.bincount(kmeans.labels_, minlength=num_clusters)
    rank = np.argsort(np.argsort(-sizes, kind="stable")).astype(np.int32)
    return {s: rank[kmeans.predict(pca.transform(y))] for s, y in flat.items()}
