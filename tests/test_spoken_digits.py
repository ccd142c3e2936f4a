"""Spoken digits: recordings cut out of one long array, and a stratified draw."""

import pathlib
import zipfile

import numpy as np
import pytest

from recraft_jax import assets, errors, main, targets
from recraft_jax.data import spoken_digits, tasks

OFFLINE = pathlib.Path(__file__).parents[1] / "configs" / "offline.py"
PER_DIGIT = 6


def content(seed=0):
    """A small file in the package's layout; values tell recording and frame."""
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.repeat(np.arange(10), PER_DIGIT))
    lengths = rng.integers(1, 50, size=len(y))
    lengths[:4] = [1, 31, 32, 33]
    x = np.concatenate(
        [
            1000 * i + np.arange(n)[:, None] + np.arange(13) / 100
            for i, n in enumerate(lengths)
        ]
    )
    return {"X": x.astype(np.float32), "y": y, "lengths": lengths}


def save(folder, arrays):
    path = folder / "digits.npz"
    np.savez_compressed(path, **arrays)
    return path


def load(path, num_train=30, num_test=20, seed=0):
    return spoken_digits.load(path, num_train=num_train, num_test=num_test, seed=seed)


def recordings(x):
    return (x[:, 0, 0] / 1000).round().astype(int).tolist()


def test_load_cuts_as_by_hand(tmp_path):
    raw = content()
    data = load(save(tmp_path, raw))
    assert list(data) == ["train", "test"]
    for split, num in (("train", 30), ("test", 20)):
        x, y = data[split]["x"], data[split]["y"]
        assert x.shape == (num, 32, 13) and x.dtype == np.float32
        assert y.shape == (num,) and y.dtype == np.int32
        for i, one, digit in zip(recordings(x), x, y, strict=True):
            start = sum(int(n) for n in raw["lengths"][:i])
            length = int(raw["lengths"][i])
            for t in range(32):
                frame = start + (t if t < length else length - 1)
                np.testing.assert_array_equal(one[t], raw["X"][frame])
            assert digit == raw["y"][i]
        assert recordings(x) == sorted(recordings(x))


@pytest.mark.parametrize("length", [1, 31, 32, 33, 92])
def test_cut_keeps_the_first_frames_and_repeats_the_last(length):
    lengths = np.array([5, length, 7])
    frames = np.arange(lengths.sum() * 2, dtype=np.float32).reshape(-1, 2)
    one = spoken_digits.cut(frames, lengths)[1]
    own = frames[5 : 5 + length]
    np.testing.assert_array_equal(one[:length], own[:32])
    np.testing.assert_array_equal(one[length:], np.repeat(own[-1:], 32, 0)[length:])


def test_no_patch_is_constant_zero_after_standardisation(tmp_path):
    # Such a token would have a variance of zero before the embedder's LayerNorm.
    x = load(save(tmp_path, content()))["train"]["x"]
    done = tasks.fit_scale(x, "channel").apply(x)
    assert np.abs(done).max(-1).min() > 1e-3


@pytest.mark.parametrize("seed", [0, 7])
def test_draw_is_disjoint_and_stratified(tmp_path, seed):
    raw = content()
    data = load(save(tmp_path, raw), seed=seed)
    train, test = (recordings(data[split]["x"]) for split in ("train", "test"))
    assert len({*train, *test}) == 50
    assert np.bincount(data["train"]["y"]).tolist() == [3] * 10
    assert np.bincount(data["test"]["y"]).tolist() == [2] * 10
    task = tasks.split_task(
        "spoken_digits",
        data,
        kind="classification",
        metric="error",
        protocol="corrected",
        val_frac=0.2,
        split_seed=0,
        num_classes=10,
    )
    found = [recordings(task.splits[split]["x"]) for split in tasks.SPLITS]
    assert [len(one) for one in found] == [24, 6, 20]
    assert len({i for one in found for i in one}) == 50


def test_draw_follows_its_seed_and_keeps_the_test_set(tmp_path):
    path = save(tmp_path, content())
    one, same, other, more = (
        load(path),
        load(path),
        load(path, seed=1),
        load(path, num_train=40),
    )
    for split in ("train", "test"):
        x = recordings(one[split]["x"])
        assert x == recordings(same[split]["x"])
        assert x != recordings(other[split]["x"])
    assert recordings(one["test"]["x"]) == recordings(more["test"]["x"])
    small, large = (set(recordings(d["train"]["x"])) for d in (one, more))
    assert small < large


def test_draw_gives_the_rest_to_the_lowest_digits(tmp_path):
    data = load(save(tmp_path, content()), num_train=23, num_test=11)
    assert np.bincount(data["train"]["y"]).tolist() == [3] * 3 + [2] * 7
    assert np.bincount(data["test"]["y"]).tolist() == [2] + [1] * 9


@pytest.mark.parametrize(
    ("num_train", "num_test", "message"),
    [
        (0, 20, "data.num_samples = 0 and data.num_test = 20; allowed: 1 or more"),
        (30, 0, "data.num_test = 0; allowed: 1 or more"),
        (41, 20, "needs 7 recordings of digit 0"),
    ],
)
def test_draw_refuses_numbers_it_cannot_serve(tmp_path, num_train, num_test, message):
    path = save(tmp_path, content())
    with pytest.raises(errors.InputError, match=message):
        load(path, num_train, num_test)


def test_build_makes_the_task_of_the_config(tmp_path, monkeypatch):
    save(tmp_path, content())
    monkeypatch.setattr(assets, "fetch", lambda name, cache: tmp_path)
    fields = ["--config.data.num_samples=30", "--config.data.num_test=20"]
    config, _ = main.parse(["main", f"--config={OFFLINE}", *fields])
    task = targets.load(config)
    assert task[:3] == ("spoken_digits", "classification", "error")
    assert task.num_classes == 10
    assert [len(task.splits[split]["y"]) for split in tasks.SPLITS] == [24, 6, 20]


@pytest.mark.parametrize("method", ["recraft", "nft"])
def test_scales_differ_in_length(method):
    steps = []
    for scale in ("quick", "demo", "paper"):
        argument = f"spoken_digits,method={method},scale={scale}"
        config, _ = main.parse(["main", f"--config={OFFLINE}:{argument}"])
        steps.append((config.stage1.num_steps, config.stage2.num_epochs))
    assert steps == sorted(steps) and len(set(steps)) == 3
    assert [one[0] > 0 for one in steps] == [method == "recraft"] * 3


def test_draw_refuses_a_negative_seed(tmp_path):
    with pytest.raises(errors.InputError, match="data.seed = -1; allowed: 0 or more"):
        load(save(tmp_path, content()), seed=-1)


def _without(name):
    return {key: value for key, value in content().items() if key != name}


def _with(**changes):
    return content() | changes


def _changed(name, index, value):
    array = content()[name].copy()
    array[index] = value
    return _with(**{name: array})


BAD = {
    "no X": (_without("X"), "has no array 'X'"),
    "no y": (_without("y"), "has no array 'y'"),
    "no lengths": (_without("lengths"), "has no array 'lengths'"),
    "lengths of other sum": (_changed("lengths", 5, 1000), "must .* add up to the"),
    "length of zero": (_changed("lengths", 5, 0), "a smallest of 0"),
    "digit of eleven": (_changed("y", 3, 11), r"must be in 0\.\.9, got 0\.\.11"),
    "digit below zero": (_changed("y", 3, -1), r"got -1\.\.9"),
    "channels": (_with(X=content()["X"][:, :12]), r"expected X \[frames 13\]"),
    "flat": (_with(X=content()["X"][:, 0]), r"expected X \[frames 13\]"),
    "numbers of recordings": (_with(y=content()["y"][:-1]), r"lengths \[n\] and y"),
    "text": (_with(y=content()["y"].astype(str)), "integers in lengths and y"),
    "integers": (_with(X=content()["X"].astype(int)), "expected floats in X"),
    "pickle": (_with(y=content()["y"].astype(object)), "not a readable npz file"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_content_gets_one_line(tmp_path, name):
    arrays, message = BAD[name]
    path = save(tmp_path, arrays)
    with pytest.raises(errors.InputError, match=message) as info:
        load(path)
    assert str(info.value).startswith(f"{path}: ") and "\n" not in str(info.value)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_value_that_is_not_finite_is_named_by_its_recording(tmp_path, value):
    starts = np.cumsum(content()["lengths"])
    path = save(tmp_path, _changed("X", (starts[8], 4), value))  # the first of 9
    with pytest.raises(
        errors.InputError, match="1 frames of X .* first in recording 9"
    ):
        load(path)


def _truncated(path):
    path.write_bytes(path.read_bytes()[:-200])


def _flipped(path):
    with zipfile.ZipFile(path) as archive:
        info = archive.getinfo("X.npy")
    raw = bytearray(path.read_bytes())
    raw[info.header_offset + 200 : info.header_offset + 300] = b"\0" * 100
    path.write_bytes(raw)


def _array(path):
    with path.open("wb") as file:
        np.save(file, np.zeros(3))


@pytest.mark.parametrize(
    "damage",
    [
        _truncated,
        _flipped,
        _array,
        lambda path: path.write_bytes(b""),
        lambda path: path.write_text("not an archive"),
        lambda path: path.unlink(),
    ],
)
def test_damaged_file_gets_one_line(tmp_path, damage):
    path = save(tmp_path, content())
    damage(path)
    with pytest.raises(errors.InputError, match="not a readable npz file") as info:
        load(path)
    assert str(info.value).startswith(f"{path}: ") and "\n" not in str(info.value)


@pytest.mark.network
def test_real_file(tmp_path):
    folder = assets.fetch("spoken_digits", str(tmp_path))
    data = load(folder / "digits.npz", num_train=2400, num_test=600, seed=2022)
    assert np.bincount(data["train"]["y"]).tolist() == [240] * 10
    assert np.bincount(data["test"]["y"]).tolist() == [60] * 10
    x = np.concatenate([data["train"]["x"], data["test"]["x"]])
    assert len({one.tobytes() for one in x}) == 3000
    # Zeros as padding would be far above what the first coefficient is.
    assert -365 < x[..., 0].mean() < -355
