"""Which samples are used: small sets are parts of large ones, classes keep shares.

Readers first make two pools that must not mix, by the data set's own split, by groups
or by chance; how many samples of each pool are used is decided here.
"""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Int, Shaped

from recraft_jax import errors


def order(y: Shaped[np.ndarray, "n ..."], seed: int) -> Int[np.ndarray, " n"]:
    """Shuffle samples so that any first part holds every class in nearly its share.

    Each class is shuffled by itself and the i-th of its n_k samples is placed at
    (i + 1/2) / n_k of the way. So the first m of n samples hold m n_k / n of class k
    up to (1 + K n_k / n) / 2, K being the number of classes.

    Args:
        y: Classes, or other targets, which are shuffled without regard to y.
        seed: Of the shuffle.
    """
    rng = np.random.default_rng(seed)
    if y.ndim != 1 or y.dtype.kind not in "iu":
        return rng.permutation(len(y))
    place = np.empty(len(y))
    for label in np.unique(y):
        rows = rng.permutation(np.flatnonzero(y == label))
        place[rows] = (np.arange(len(rows)) + 0.5) / len(rows)
    return np.lexsort((rng.random(len(y)), place))  # ties by chance


def subsets(
    name: str,
    pools: Mapping[str, Mapping[str, np.ndarray]],
    *,
    num_train: int,
    num_test: int,
    seed: int,
) -> dict[str, dict[str, np.ndarray]]:
    """Keep the first samples of each pool in `order`, put back as they were stored.

    A smaller set is part of a larger one, and neither depends on the other's number.

    Args:
        name: Of the task, for messages.
        pools: `train` and `test`, each a dict of arrays with `y` among them.
        num_train: Samples to keep for training and validation; 0 is all.
        num_test: Samples to keep for testing; 0 is all.
        seed: Of the draw.

    Raises:
        InputError: A negative number, or more samples than there are.
    """
    if seed < 0:
        raise errors.InputError(f"{name} with data.seed = {seed}; allowed: 0 or more")
    kept = {}
    for split, field, num in (
        ("train", "num_samples", num_train),
        ("test", "num_test", num_test),
    ):
        arrays = pools[split]
        most = len(arrays["y"])
        if not 0 <= num <= most:
            raise errors.InputError(
                f"{name} with data.{field} = {num}; allowed: 0 (all) to {most}"
            )
        rows = np.sort(order(arrays["y"], seed)[: num or most])
        kept[split] = {key: value[rows] for key, value in arrays.items()}
    return kept
