"""Draws of samples: stratified, nested, of two pools that never mix."""

import numpy as np
import pytest

from recraft_jax import errors
from recraft_jax.data import draws


def pools(num_train=40, num_test=25, seed=0):
    """Samples that carry their number, of four classes."""
    rng = np.random.default_rng(seed)
    found = {}
    for split, num, first in (("train", num_train, 0), ("test", num_test, 1000)):
        y = rng.choice(4, num, p=(0.4, 0.3, 0.2, 0.1)).astype(np.int32)
        found[split] = {"x": first + np.arange(num, dtype=np.float32)[:, None], "y": y}
    return found


def subsets(arrays, num_train=0, num_test=0, seed=0):
    return draws.subsets(
        "toy", arrays, num_train=num_train, num_test=num_test, seed=seed
    )


def numbers(arrays):
    return arrays["x"][:, 0].astype(int).tolist()


@pytest.mark.parametrize("counts", [(70, 20, 10), (1, 1, 98), (25, 25, 25, 25)])
def test_every_first_part_has_classes_in_their_shares(counts):
    rng = np.random.default_rng(0)
    y = rng.permutation(np.repeat(np.arange(len(counts)), counts))
    order = draws.order(y, 3)
    assert sorted(order) == list(range(len(y)))
    share = np.array(counts) / sum(counts)
    for m in range(1, len(y) + 1):
        found = np.bincount(y[order[:m]], minlength=len(counts))
        assert np.all(np.abs(found - m * share) <= (1 + len(counts) * share) / 2)


def test_order_is_drawn_within_a_class_and_follows_its_seed():
    y = np.repeat([0, 1], 30)
    one, same, other = draws.order(y, 1), draws.order(y, 1), draws.order(y, 2)
    assert one.tolist() == same.tolist() != other.tolist()
    zeros = one[y[one] == 0]
    assert zeros.tolist() != sorted(zeros)


def test_order_of_numbers_is_a_shuffle():
    y = np.linspace(0, 1, 50, dtype=np.float32)[:, None]
    found = draws.order(y, 0)
    assert sorted(found) == list(range(50)) and found.tolist() != list(range(50))


def test_subsets_keep_everything_by_default():
    arrays = pools()
    found = subsets(arrays)
    for split in ("train", "test"):
        for key in "xy":
            np.testing.assert_array_equal(found[split][key], arrays[split][key])


def test_smaller_subsets_are_parts_of_larger_ones_in_stored_order():
    arrays = pools()
    sizes = [subsets(arrays, num_train=n, num_test=7)["train"] for n in (5, 17, 40)]
    small, large, whole = (numbers(one) for one in sizes)
    assert [len(one) for one in (small, large, whole)] == [5, 17, 40]
    assert set(small) < set(large) < set(whole)
    assert large == sorted(large)
    for one in sizes:
        np.testing.assert_array_equal(one["y"], arrays["train"]["y"][numbers(one)])


def test_test_subset_does_not_depend_on_training():
    tests = [subsets(pools(), num_train=n, num_test=9)["test"] for n in (5, 40)]
    assert numbers(tests[0]) == numbers(tests[1])
    assert min(numbers(tests[0])) >= 1000
    other = subsets(pools(), num_train=5, num_test=9, seed=1)["test"]
    assert numbers(other) != numbers(tests[0])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"num_train": 41},
            r"toy with data.num_samples = 41; allowed: 0 \(all\) to 40",
        ),
        ({"num_train": -1}, "data.num_samples = -1; allowed: 0"),
        ({"num_test": 26}, r"data.num_test = 26; allowed: 0 \(all\) to 25"),
        ({"seed": -1}, "toy with data.seed = -1; allowed: 0 or more"),
    ],
)
def test_numbers_that_cannot_be_served_are_refused(settings, message):
    with pytest.raises(errors.InputError, match=message):
        subsets(pools(), **settings)
