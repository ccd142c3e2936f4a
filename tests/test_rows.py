"""Lazy samples: indexed like the array they stand for, read only when asked."""

import numpy as np
import pytest

from recraft_jax.data import rows

ARRAY = np.arange(24, dtype=np.float32).reshape(6, 2, 2)


def lazy(array=ARRAY):
    asked = []

    def read(at):
        asked.extend(at.tolist())
        return array[at]

    return rows.Rows(read, array.shape, array.dtype), asked


@pytest.mark.parametrize(
    "index",
    [
        *(3, -1, ..., slice(None), slice(1, 4), slice(None, None, -2), slice(5, 99)),
        *([4, 0, 4], np.array([], int), np.array([True] * 3 + [False] * 3)),
    ],
)
def test_indexing_is_that_of_the_array(index):
    found, _ = lazy()
    np.testing.assert_array_equal(found[index], ARRAY[index])
    assert found[index].shape == ARRAY[index].shape
    assert found[index].dtype == ARRAY.dtype


def test_only_asked_rows_are_read():
    found, asked = lazy()
    part = found.take(np.array([5, 2, 0])).map(lambda x: 2 * x)
    assert (len(found), found.ndim, found.size, asked) == (6, 3, 24, [])
    np.testing.assert_array_equal(part[1:], 2 * ARRAY[[2, 0]])
    assert asked == [2, 0]


@pytest.mark.parametrize(
    "index", [6, -7, [0, 6], np.array([True] * 5), np.array([0.0, 1.0])]
)
def test_row_out_of_range_is_refused(index):
    found, asked = lazy()
    with pytest.raises(IndexError):
        found[index]
    with pytest.raises(IndexError):
        found.take(np.atleast_1d(index))
    assert asked == []


def test_few_rows_of_many_are_found_without_listing_all():
    found = rows.Rows(lambda at: at[:, None], (10**12, 1), np.int64)
    assert found[[3, -1]].tolist() == [[3], [10**12 - 1]]
    assert found.take(np.array([7, 5]))[-1].tolist() == [5]
    assert found[10**11 : 10**11 + 2].tolist() == [[10**11], [10**11 + 1]]


def test_one_by_one_stacks_samples():
    found = rows.Rows.one_by_one(lambda i: ARRAY[i], ARRAY.shape)
    np.testing.assert_array_equal(found[[2, 1]], ARRAY[[2, 1]])
    np.testing.assert_array_equal(np.asarray(found), ARRAY)


def test_joined_reads_each_part_for_its_rows():
    first, asked = lazy()
    both = rows.joined(first, -ARRAY[:2])
    assert both.shape == (8, 2, 2)
    np.testing.assert_array_equal(both[[7, 1, 6]], [-ARRAY[1], ARRAY[1], -ARRAY[0]])
    assert asked == [1]
    plain = rows.joined(ARRAY, -ARRAY)
    assert isinstance(plain, np.ndarray) and len(plain) == 12


def test_blocks_are_all_samples_in_order(monkeypatch):
    monkeypatch.setattr(rows, "BLOCK_VALUES", 9)  # two samples of four values
    found, _ = lazy()
    parts = list(rows.blocks(found))
    assert [len(part) for part in parts] == [2, 2, 2]
    np.testing.assert_array_equal(np.concatenate(parts), ARRAY)


@pytest.mark.parametrize("array", [ARRAY, lazy()[0]])
def test_take_works_for_both(array):
    np.testing.assert_array_equal(rows.take(array, [1, 3])[:], ARRAY[[1, 3]])


def test_some_are_evenly_spaced_and_arrays_are_whole():
    found, asked = lazy()
    np.testing.assert_array_equal(rows.some(found, 12), ARRAY[[0, 2, 5]])
    assert asked == [0, 2, 5]
    np.testing.assert_array_equal(rows.some(found, 1), ARRAY[:1])
    assert rows.some(ARRAY, 1) is ARRAY
