"""Streams of batches: permutations, balance, random access."""

import contextlib

import numpy as np
import pytest
from absl import flags

from recraft_jax import errors
from recraft_jax.data import pipeline, rows


def numbered(num):
    """Samples that carry their own index twice."""
    index = np.arange(num)
    return {"x": np.stack([index, -index], 1)[..., None].astype(np.float32), "y": index}


def first(stream, num):
    return np.concatenate([stream[step]["y"] for step in range(num)])


def test_shuffled_epochs_are_different_permutations():
    order = first(pipeline.shuffled(numbered(12), 4, seed=0), 9).reshape(3, 12)
    for epoch in order:
        np.testing.assert_array_equal(np.sort(epoch), np.arange(12))
    assert len({tuple(epoch) for epoch in order} | {tuple(range(12))}) == 4


def test_shuffled_keeps_samples_whole():
    batch = pipeline.shuffled(numbered(12), 4, seed=0)[1]
    assert batch["x"].shape == (4, 2, 1)
    assert batch["x"].dtype == np.float32
    np.testing.assert_array_equal(batch["x"][:, 0, 0], batch["y"])
    np.testing.assert_array_equal(batch["x"][:, 1, 0], -batch["y"])


@pytest.mark.parametrize("batch_size", [3, 5, 12])
def test_shuffled_batches_run_on_across_epochs(batch_size):
    # Batches larger than the data, or that do not divide it, lose no sample.
    stream = pipeline.shuffled(numbered(5), batch_size, seed=0)
    order = first(stream, 5)
    assert order.shape == (5 * batch_size,)
    for epoch in order.reshape(-1, 5):
        np.testing.assert_array_equal(np.sort(epoch), np.arange(5))


def test_shuffled_is_a_function_of_seed_and_step():
    one, same, other = (pipeline.shuffled(numbered(12), 4, seed=s) for s in (3, 3, 4))
    straight = [one[step]["y"] for step in range(8)]
    for step in (7, 2, 5, 2):  # another order of access, as after a restart
        np.testing.assert_array_equal(same[step]["y"], straight[step])
    assert not np.array_equal(first(one, 3), first(other, 3))


LABELS = np.repeat([0, 2, 5], [12, 5, 3])  # classes need not be contiguous


def test_balanced_batches_hold_equal_counts():
    stream = pipeline.balanced(numbered(20), LABELS, batch_size=10, seed=0)
    for step in range(6):
        batch = stream[step]
        assert len(batch["y"]) == 9  # rounded down to three per class
        classes, counts = np.unique(batch["label"], return_counts=True)
        np.testing.assert_array_equal(classes, [0, 2, 5])
        np.testing.assert_array_equal(counts, 3)


def test_balanced_labels_belong_to_their_samples():
    batch = pipeline.balanced(numbered(20), LABELS, batch_size=9, seed=0)[3]
    assert batch["label"].dtype == np.int32
    np.testing.assert_array_equal(batch["label"], LABELS[batch["y"]])
    np.testing.assert_array_equal(batch["x"][:, 0, 0], batch["y"])


def test_balanced_weights_give_each_class_its_share():
    stream = pipeline.balanced(numbered(20), LABELS, batch_size=10, seed=0)
    for step in range(3):
        batch = stream[step]
        assert batch["weight"].dtype == np.float32
        np.testing.assert_allclose(batch["weight"].sum(), 1.0, rtol=1e-6)
        for label, share in ((0, 0.6), (2, 0.25), (5, 0.15)):
            weight = batch["weight"][batch["label"] == label]
            np.testing.assert_allclose(weight, share / 3, rtol=1e-6)


def test_balanced_visits_each_class_by_permutations():
    stream = pipeline.balanced(numbered(20), LABELS, batch_size=9, seed=0)
    batches = [stream[step] for step in range(12)]
    for label, member in ((0, range(12)), (2, range(12, 17)), (5, range(17, 20))):
        seen = np.concatenate([b["y"][b["label"] == label] for b in batches])
        epochs = seen[: len(seen) // len(member) * len(member)]
        for epoch in epochs.reshape(-1, len(member)):
            np.testing.assert_array_equal(np.sort(epoch), member)


def test_balanced_is_a_function_of_seed_and_step():
    one, same, other = (
        pipeline.balanced(numbered(20), LABELS, 9, seed=seed) for seed in (3, 3, 4)
    )
    straight = [one[step] for step in range(8)]
    for step in (7, 2, 5):
        for name, value in same[step].items():
            np.testing.assert_array_equal(value, straight[step][name])
    assert not np.array_equal(first(one, 3), first(other, 3))


def test_balanced_refuses_batch_smaller_than_the_classes():
    with pytest.raises(errors.InputError, match=r"batch_size = 2 .* 3 classes"):
        pipeline.balanced(numbered(20), LABELS, batch_size=2, seed=0)


@pytest.mark.parametrize(
    ("batch_size", "sizes"), [(3, [3, 3, 1]), (7, [7]), (10, [7]), (1, [1] * 7)]
)
def test_once_pads_the_last_batch_to_one_size(batch_size, sizes):
    batches = list(pipeline.once(numbered(7), batch_size))
    assert [batch["mask"].sum() for batch in batches] == sizes
    for batch in batches:
        assert batch["mask"].dtype == bool
        assert batch["x"].shape == (batch_size, 2, 1)
        assert batch["y"].shape == (batch_size,)
        assert not batch["x"][~batch["mask"]].any()
        assert not batch["y"][~batch["mask"]].any()
    seen = {k: np.concatenate([b[k][b["mask"]] for b in batches]) for k in "xy"}
    np.testing.assert_array_equal(seen["y"], np.arange(7))
    np.testing.assert_array_equal(seen["x"], numbered(7)["x"])


def test_once_keeps_types():
    batch = next(pipeline.once(numbered(2), 4))
    assert batch["x"].dtype == np.float32
    assert batch["y"].dtype == numbered(2)["y"].dtype


def test_paired_joins_the_shuffled_target_with_other_source_samples():
    source = {"source_label": np.arange(9, dtype=np.int32)}
    stream = pipeline.paired(numbered(20), source, 4, seed=3)
    alone = pipeline.shuffled(numbered(20), 4, seed=3)
    for step in (5, 0, 2):
        batch = stream[step]
        assert set(batch) == {"x", "y", "source_label"}
        np.testing.assert_array_equal(batch["y"], alone[step]["y"])
        assert len(batch["source_label"]) == 4
    # An epoch of the source is 9 samples, whatever the target's is.
    seen = np.concatenate([stream[step]["source_label"] for step in range(9)])
    np.testing.assert_array_equal(np.bincount(seen), np.full(9, 4))
    again = pipeline.paired(numbered(20), source, 4, seed=3)
    np.testing.assert_array_equal(again[2]["source_label"], stream[2]["source_label"])
    other = pipeline.paired(numbered(20), source, 4, seed=4)
    assert not np.array_equal(other[2]["source_label"], stream[2]["source_label"])


STREAMS = {
    "shuffled": lambda: pipeline.shuffled(numbered(20), 8, seed=1),
    "balanced": lambda: pipeline.balanced(numbered(20), LABELS, 12, seed=1),
    "paired": lambda: pipeline.paired(
        numbered(20), {"source_label": np.arange(9, dtype=np.int32)}, 8, seed=1
    ),
}


@pytest.mark.parametrize("name", STREAMS)
@pytest.mark.parametrize("count", [1, 2, 4])
def test_shares_are_the_rows_of_one_batch(name, count):
    whole = STREAMS[name]()
    size = whole.num_rows // count
    parts = [whole.only(np.arange(p * size, (p + 1) * size)) for p in range(count)]
    for step in (0, 3, 11):
        joined = [part[step] for part in parts]
        for key, values in whole[step].items():
            found = np.concatenate([part[key] for part in joined])
            np.testing.assert_array_equal(found, values)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_reading_ahead_changes_nothing(num_workers):
    flags.FLAGS.mark_as_parsed()  # as `main` does
    stream = STREAMS["balanced"]()
    with contextlib.closing(
        pipeline.read(stream, 2, 7, num_workers=num_workers)
    ) as batches:
        found = list(batches)
    assert len(found) == 5
    for step, batch in enumerate(found, start=2):
        for key, values in stream[step].items():
            np.testing.assert_array_equal(batch[key], values)


# ------------------------------------------------------------------------- augmentation
def noted(x, seeds):
    """Replace each sample by the seed it is given."""
    return np.broadcast_to(seeds[:, None], x.shape).astype(np.float64)


@pytest.mark.parametrize("kind", ["shuffled", "balanced", "paired"])
def test_augmentation_draws_anew_by_place_in_the_sequence(kind):
    x = np.zeros((10, 2))
    arrays = {"x": x, "y": np.arange(10)}
    if kind == "balanced":
        labels = np.arange(10) % 2
        stream = pipeline.balanced(arrays, labels, 4, seed=3, augment=noted)
    elif kind == "paired":
        stream = pipeline.paired(arrays, {"source": x}, 4, seed=3, augment=noted)
    else:
        stream = pipeline.shuffled(arrays, 4, seed=3, augment=noted)
    batches = [stream[step]["x"][:, 0] for step in range(10)]
    assert len(set(np.concatenate(batches))) == 40  # four epochs, no seed twice
    np.testing.assert_array_equal(batches[7], stream[7]["x"][:, 0])
    # A process that reads some rows draws for them what all would.
    some = stream.only(np.array([1, 3]))
    np.testing.assert_array_equal(some[7]["x"][:, 0], batches[7][[1, 3]])


def test_lazy_samples_make_the_same_batches():
    x = np.arange(20, dtype=np.float32).reshape(10, 2)
    found = rows.Rows(lambda at: x[at], x.shape)
    labels = np.arange(10) % 2
    for make in (
        lambda x: pipeline.shuffled({"x": x}, 4, seed=3),
        lambda x: pipeline.balanced({"x": x}, labels, 4, seed=3),
    ):
        for step in range(3):
            np.testing.assert_array_equal(make(found)[step]["x"], make(x)[step]["x"])
    lazy, plain = (list(pipeline.once({"x": v}, 4)) for v in (found, x))
    for one, other in zip(lazy, plain, strict=True):
        np.testing.assert_array_equal(one["x"], other["x"])
