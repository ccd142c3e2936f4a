"""Pseudo-labels: clusters of targets, fitted on the training split alone."""

import numpy as np
import pytest

from recraft_jax import errors
from recraft_jax.data import pseudo_labels

SIZES = (10, 25, 15)


def blobs(sizes=SIZES, seed=0):
    """Fields near one of three, shuffled, and which one."""
    rng = np.random.default_rng(seed)
    truth = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    centers = np.random.default_rng(9).normal(size=(len(sizes), 6, 2)) * 5
    fields = centers[truth] + 0.1 * rng.normal(size=(len(truth), 6, 2))
    return fields.astype(np.float32), truth


def splits():
    made = {s: blobs(seed=i) for i, s in enumerate(("train", "val", "test"))}
    return {s: f for s, (f, _) in made.items()}, {s: t for s, (_, t) in made.items()}


RANK = np.array([2, 0, 1])  # of SIZES by falling size


def test_fit_recovers_separated_clusters_in_every_split():
    fields, truth = splits()
    labels = pseudo_labels.fit(fields, 3, seed=0)
    assert set(labels) == {"train", "val", "test"}
    for split, found in labels.items():
        assert found.dtype == np.int32
        np.testing.assert_array_equal(found, RANK[truth[split]])


@pytest.mark.parametrize("seed", range(4))
def test_fit_numbers_clusters_by_falling_size(seed):
    fields, _ = splits()
    counts = np.bincount(pseudo_labels.fit(fields, 3, seed)["train"])
    np.testing.assert_array_equal(counts, [25, 15, 10])


def test_fit_orders_by_training_sizes():
    train, _ = blobs((10, 25, 15))
    test, truth = blobs((30, 2, 3), seed=1)
    labels = pseudo_labels.fit({"train": train, "test": test}, 3, seed=0)
    np.testing.assert_array_equal(labels["test"], RANK[truth])


def test_fit_looks_at_training_targets_only():
    fields, _ = splits()
    # More clusters than the data has: the cut then depends on every sample.
    labels = pseudo_labels.fit(fields, 7, seed=0)
    changed = fields | {"val": fields["val"] * -3 + 40, "test": fields["test"][:2]}
    again = pseudo_labels.fit(changed, 7, seed=0)
    np.testing.assert_array_equal(again["train"], labels["train"])
    np.testing.assert_array_equal(again["test"], labels["test"][:2])
    alone = pseudo_labels.fit({"train": fields["train"]}, 7, seed=0)
    np.testing.assert_array_equal(alone["train"], labels["train"])


def test_fit_is_deterministic():
    rng = np.random.default_rng(0)
    fields = {"train": rng.normal(size=(60, 8, 1)).astype(np.float32)}
    one, same, other = (
        pseudo_labels.fit(fields, 6, seed)["train"] for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)  # the seed is used


def test_fit_standardises_each_point():
    rng = np.random.default_rng(0)
    truth = np.arange(60) % 3 == 0
    fields = np.stack([np.where(truth, 1e-3, -1e-3), 1e3 * rng.normal(size=60)], 1)
    fields[:, 0] += 1e-5 * rng.normal(size=60)
    labels = pseudo_labels.fit({"train": fields}, 2, seed=0)["train"]
    np.testing.assert_array_equal(labels, truth)


def test_fit_allows_constant_points():
    fields, truth = splits()
    fields = {s: np.pad(y, [(0, 0), (2, 0), (0, 0)]) for s, y in fields.items()}
    labels = pseudo_labels.fit(fields, 3, seed=0)
    np.testing.assert_array_equal(labels["test"], RANK[truth["test"]])


@pytest.mark.parametrize("num_clusters", [0, 4])
def test_fit_refuses_more_clusters_than_distinct_targets(num_clusters):
    fields = np.repeat(np.float32([[1, 2], [3, 4], [5, 6]]), 5, axis=0)
    with pytest.raises(errors.InputError, match=f"= {num_clusters}; allowed: 1 to 3"):
        pseudo_labels.fit({"train": fields}, num_clusters, seed=0)
    labels = pseudo_labels.fit({"train": fields}, 3, seed=0)["train"]
    assert len(np.unique(labels)) == 3
