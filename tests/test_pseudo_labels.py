"""Pseudo-labels: clusters of targets, fitted on the training split alone."""

import numpy as np
import pytest

from recraft_jax import errors
from recraft_jax.data import pseudo_labels, rows

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


def test_lazy_targets_have_the_same_labels():
    fields = np.random.default_rng(0).normal(size=(40, 6, 1)).astype(np.float32)
    found = rows.Rows(lambda at: fields[at], fields.shape)
    for raw in (False, True):
        lazy = pseudo_labels.fit({"train": found}, 3, seed=0, is_raw=raw)
        plain = pseudo_labels.fit({"train": fields}, 3, seed=0, is_raw=raw)
        np.testing.assert_array_equal(lazy["train"], plain["train"])


def test_raw_targets_are_clustered_by_their_largest_numbers():
    """Standardised, both values count alike; raw, only the one that is large."""
    rng = np.random.default_rng(0)
    side = rng.integers(2, size=(60, 2))
    y = (side * [1000.0, 1.0] + 1e-3 * rng.normal(size=(60, 2))).astype(np.float32)
    raw = pseudo_labels.fit({"train": y}, 2, seed=0, is_raw=True)["train"]
    agree = np.mean(raw == side[:, 0])
    assert agree in (0.0, 1.0)
    four = pseudo_labels.fit({"train": y}, 4, seed=0)["train"]
    assert all(len(set(four[(side == s).all(1)])) == 1 for s in ((0, 0), (0, 1)))
    assert len(set(four)) == 4


def test_clusters_are_fitted_to_a_part_of_many_samples(monkeypatch):
    monkeypatch.setattr(pseudo_labels, "MAX_FITTED", 30)
    centres = np.float32([[0, 0], [9, 0], [0, 9]])
    which = np.arange(300) % 3
    noise = 0.1 * np.random.default_rng(0).normal(size=(300, 2))
    labels = pseudo_labels.fit({"train": centres[which] + noise}, 3, seed=0)["train"]
    assert len(labels) == 300
    assert all(len(set(labels[which == k])) == 1 for k in range(3))


def test_large_fields_are_averaged_over_blocks(monkeypatch):
    monkeypatch.setattr(pseudo_labels, "MAX_VALUES", 6)
    y = np.arange(2 * 5 * 4, dtype=np.float32).reshape(2, 5, 4, 1)
    found = pseudo_labels._flat(y)
    want = [[v[r : r + 2, c : c + 2].mean() for r in (0, 2) for c in (0, 2)] for v in y]
    np.testing.assert_allclose(found, want)
