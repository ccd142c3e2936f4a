"""Smartwatch: windows by hand, and people who are in one split only."""

import numpy as np
import pytest

from recraft_jax import assets, errors
from recraft_jax.data import numpy_pickle, smartwatch, tasks


def content(length=200):
    """Each person does each exercise once; values tell recording and time."""
    subject, y = (v.reshape(-1) for v in np.indices((10, 7)))
    x = [
        1000.0 * number + np.arange(length + number % 60)[:, None] + np.arange(6) / 10
        for number in range(70)
    ]
    return {"X": x, "y": y, "subject": subject + 1, "side": np.zeros(70)}


def save(folder, value):
    path = folder / "file.npy"
    array = np.empty((), object)
    array[()] = value
    np.save(path, array)
    return path


def load(path, num_train=0, num_test=0, seed=0):
    return smartwatch.load(path, num_train=num_train, num_test=num_test, seed=seed)


@pytest.mark.parametrize(
    ("length", "starts"), [(100, [0]), (149, [0]), (150, [0, 50]), (230, [0, 50, 100])]
)
def test_windows_start_every_50_and_are_whole(length, starts):
    found = smartwatch.windows(np.arange(length)[:, None] * np.ones(6))
    assert found.shape == (len(starts), 100, 6)
    for window, start in zip(found, starts, strict=True):
        np.testing.assert_array_equal(window[:, 3], np.arange(start, start + 100))


def test_load_keeps_windows_with_their_exercise_and_person(tmp_path):
    data = load(save(tmp_path, content()))
    for split, people in (("train", range(1, 8)), ("test", range(8, 11))):
        x, y, group = (data[split][key] for key in ("x", "y", "group"))
        assert x.dtype == np.float32 and y.dtype == np.int32
        number = (x[:, 0, 0] / 1000).round(1).astype(int)
        np.testing.assert_array_equal(y, number % 7)
        np.testing.assert_array_equal(group, number // 7 + 1)
        assert set(group) == set(people)
        # 3 windows of 200 to 249 samples, 4 of 250 to 259.
        want = [3 + (i % 60 >= 50) for i in range(70) if i // 7 + 1 in people]
        assert np.bincount(number)[min(number) :].tolist() == want
        start = x[:, 0, 0] - 1000 * number
        assert set(start.round()) == set(range(0, 50 * max(want), 50))
        steps = x[:, 0, 0][:, None, None] + np.arange(100)[:, None] + np.arange(6) / 10
        np.testing.assert_allclose(x, steps, rtol=1e-5, atol=0.01)


@pytest.mark.parametrize("split_seed", [0, 1, 2])
def test_no_person_is_in_two_splits(tmp_path, split_seed):
    data = load(save(tmp_path, content()), num_train=100)
    task = tasks.split_task(
        "smartwatch",
        data,
        kind="classification",
        metric="error",
        protocol="corrected",
        val_frac=0.15,
        split_seed=split_seed,
        num_classes=7,
    )
    people = []
    for split in tasks.SPLITS:
        assert set(task.splits[split]) == {"x", "y"}
        x = task.splits[split]["x"]
        people.append(set((x[:, 0, 0] / 1000).round(1).astype(int) // 7 + 1))
    assert [len(one) for one in people] == [6, 1, 3]
    assert len(set.union(*people)) == 10


def test_fewer_windows_are_stratified(tmp_path):
    data = load(save(tmp_path, content()), num_train=70, num_test=21)
    for split, most in (("train", 10), ("test", 3)):
        counts = np.bincount(data[split]["y"])
        assert abs(counts - most).max() <= 1


def _with(**changes):
    return content() | changes


def _recording(value):
    return _with(X=[*content()["X"][:-1], value])


BAD = {
    "no dict": ([1], "has no 'X'; expected X, y, subject"),
    "no y": ({k: v for k, v in content().items() if k != "y"}, "has no 'y'"),
    "numbers": (_with(y=content()["y"][:-1]), "as many integers in y"),
    "floats": (_with(subject=np.ones(70)), "as many integers in subject"),
    "list": (_with(y=content()["y"].tolist()), "as many integers in y"),
    "none": (_with(X=[], y=np.zeros(0, int)), "expected recordings in X"),
    "channels": (_recording(np.zeros((200, 5))), r"recording 69 has shape \(200, 5\)"),
    "short": (_recording(np.zeros((99, 6))), r"allowed: \[t 6\] with t = 100 or more"),
    "no array": (_recording("text"), "recording 69 has shape None"),
    "scalar": (_recording(np.array(1.0)), r"recording 69 has shape \(\)"),
    "nan": (_recording(np.full((200, 6), np.nan)), "recording 69 has values that are"),
    "class": (_with(y=content()["y"] + 1), r"y must be in 0\.\.6, got 1\.\.7"),
    "people": (_with(subject=np.ones(70, int)), "no recording of subjects 8 to 10"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_content_gets_one_line(monkeypatch, name):
    value, message = BAD[name]
    monkeypatch.setattr(numpy_pickle, "load", lambda path: value)
    with pytest.raises(errors.InputError, match=message) as info:
        load("file.npy")
    assert str(info.value).startswith("file.npy: ") and "\n" not in str(info.value)


@pytest.mark.network
def test_real_file(tmp_path):
    folder = assets.fetch("smartwatch", str(tmp_path))
    data = load(folder / "watch_dataset.npy")
    assert data["train"]["x"].shape == (3193, 100, 6)
    assert data["test"]["x"].shape == (1484, 100, 6)
    assert np.unique(data["train"]["group"]).tolist() == list(range(1, 8))
    assert np.unique(data["test"]["group"]).tolist() == [8, 9, 10]
    assert np.bincount(data["test"]["y"]).tolist() == [
        164,
        260,
        258,
        218,
        221,
        171,
        192,
    ]
