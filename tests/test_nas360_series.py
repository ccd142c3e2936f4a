"""ECG, Satellite, DeepSEA: files as published, values as computed by hand."""

import pickle
import tracemalloc
import zipfile

import nas360_files
import numpy as np
import pytest
from sklearn import model_selection

from recraft_jax import errors
from recraft_jax.data import rows
from recraft_jax.data.nas360 import deepsea, ecg, satellite


def ecg_by_loops(content):
    """The released procedure, with scikit-learn's own split, one window at a time."""
    labels = np.array([("N", "A", "O", "~").index(each) for each in content["label"]])
    numbers = np.arange(len(labels))
    parts = model_selection.train_test_split(numbers, test_size=0.1, random_state=0)
    found = {}
    for split, part in zip(("train", "test"), parts, strict=True):
        x, y, group = [], [], []
        for number in part:
            signal = content["data"][number]
            signal = (signal - np.mean(signal)) / np.std(signal)
            stride = {0: 500, 1: 83, 2: 250, 3: 25}[labels[number]]
            for start in range(0, len(signal) - 1000, stride):
                x.append(signal[start : start + 1000])
                y.append(labels[number])
                group.append(number)
        found[split] = np.float32(x)[..., None], np.array(y), np.array(group)
    return found


def test_ecg_is_the_released_procedure(tmp_path):
    lengths = (1800, 1501, 1300, 1025, 2750, 1000, 1001, 999, 1250, 1251, 30, 1026) * 3
    content = nas360_files.write_ecg(tmp_path, lengths)
    found = ecg.load(tmp_path)
    assert list(found) == ["train", "test"]
    for split, (x, y, group) in ecg_by_loops(content).items():
        got = found[split]
        assert isinstance(got["x"], rows.Rows) and got["x"].shape == x.shape
        np.testing.assert_array_equal(got["x"][:], x)
        np.testing.assert_array_equal(got["y"], y)
        np.testing.assert_array_equal(got["group"], group)
        assert got["y"].dtype == got["group"].dtype == np.int32
        np.testing.assert_array_equal(got["x"][[3, 0, 3]], x[[3, 0, 3]])
    assert not set(found["train"]["group"]) & set(found["test"]["group"])


def test_windows_of_one_recording_by_hand():
    """2,001 steps: starts below 1,001. 2,000 steps: the last start, 1,000, is not."""
    assert ecg.starts(np.array([2001]), np.array([500]))[1].tolist() == [0, 500, 1000]
    recording, start = ecg.starts(
        np.array([2000, 1000, 500, 1166]), np.array([500, 25, 25, 83])
    )
    assert recording.tolist() == [0, 0, 3, 3] and start.tolist() == [0, 500, 0, 83]


@pytest.mark.parametrize("num", [2, 10, 11, 29, 30, 8528])
def test_split_is_that_of_scikit_learn(num):
    want = model_selection.train_test_split(
        np.arange(num), test_size=0.1, random_state=0
    )
    found = ecg.split_recordings(num)
    np.testing.assert_array_equal(found["train"], want[0])
    np.testing.assert_array_equal(found["test"], want[1])


def test_standardisation_of_a_recording_by_hand():
    """Of 1, 2, 3, 6: mean 3, mean square 3.5, and not 14 / 3."""
    want = np.array([-2, -1, 0, 3]) / np.sqrt(3.5)
    found = ecg.standardised(np.array([1, 2, 3, 6], np.int16))
    np.testing.assert_allclose(found, want, rtol=1e-15)
    np.testing.assert_array_equal(ecg.standardised(np.full(5, 0.1)), np.zeros(5))


def test_windows_are_not_copied(tmp_path):
    """Class ~ has a window every 25 steps, 40 copies of each step."""
    nas360_files.write_ecg(tmp_path, (20_000,) * 20)
    tracemalloc.start()
    found = ecg.load(tmp_path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(found["train"]["x"]) > 4000
    assert peak < 4 * 20 * 20_000 * 4 < 4 * found["train"]["x"].size


def changed_ecg(root, change):
    content = nas360_files.write_ecg(root)
    changed = change(content)
    content = changed if type(changed) is list else content
    with open(root / "challenge2017.pkl", "wb") as stream:
        pickle.dump(content, stream)


def recording(content, number, value):
    content["data"][number] = value


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.pop("label"), "allowed: a dict with 'label'"),
        (lambda c: [1], "has list; allowed: a dict with 'data'"),
        (lambda c: c.update(data=c["data"][:-1]), "15 recordings with 16 labels"),
        (lambda c: c.update(data=[], label=[]), "one recording or label or more"),
        (lambda c: c.update(data="text"), "data is str"),
        (lambda c: c["label"].__setitem__(3, "B"), "label 'B' of recording 3; .*~"),
        (lambda c: c["label"].__setitem__(3, np.ones(2)), "label ndarray of recording"),
        (lambda c: recording(c, 5, np.zeros((2, 3))), r"recording 5 .*numbers \[n\]"),
        (lambda c: recording(c, 5, "abc"), r"recording 5 is str .*numbers \[n\]"),
        (lambda c: recording(c, 5, np.array([1.0, np.inf])), "recording 5 .*not finit"),
        (lambda c: c.update(data=[np.arange(1000)] * 16), "longer than 1000 steps"),
    ],
)
def test_other_ecg_files_are_refused(tmp_path, change, message):
    changed_ecg(tmp_path, change)
    with pytest.raises(errors.InputError, match=message):
        ecg.load(tmp_path)


def test_ecg_recordings_of_one_length_are_a_plain_array(tmp_path):
    """numpy makes two axes of them when the file is written."""
    changed_ecg(tmp_path, lambda c: c.update(data=np.arange(16 * 1100).reshape(16, -1)))
    ramp = (np.arange(1100) - 549.5) / np.std(np.arange(1100))
    found = ecg.load(tmp_path)["train"]
    np.testing.assert_allclose(found["x"][0][:, 0], ramp[:1000], rtol=1e-6, atol=1e-6)


def test_satellite(tmp_path):
    wrote = nas360_files.write_satellite(tmp_path, 24, 12)
    raw = satellite.load(tmp_path, standardise=False)
    found = satellite.load(tmp_path, standardise=True)
    for split, num in (("train", 24), ("test", 12)):
        series = wrote[split]["data"]
        assert raw[split]["x"].shape == (num, 46, 1)
        np.testing.assert_array_equal(raw[split]["x"][..., 0], series.astype("f"))
        mean = series.sum(1, keepdims=True) / 46
        std = np.sqrt(((series - mean) ** 2).sum(1, keepdims=True) / 46)
        np.testing.assert_allclose(
            found[split]["x"][..., 0], (series - mean) / std, rtol=1e-6, atol=1e-6
        )
        for each in (raw, found):
            assert each[split]["x"].dtype == np.float32
            assert each[split]["y"].dtype == np.int32
            np.testing.assert_array_equal(each[split]["y"], wrote[split]["label"] - 1)


def save_satellite(root, **entries):
    content = nas360_files.write_satellite(root)["test"] | entries
    np.save(root / "satellite_test.npy", content, allow_pickle=True)


def test_series_of_one_value_become_zeros(tmp_path, monkeypatch):
    monkeypatch.setattr(satellite, "BLOCK", 5)
    series = np.random.default_rng(0).normal(size=(12, 46))
    series[7] = 0.1  # whose deviation is not 0, but a rounding
    assert series[7].std() > 0
    save_satellite(tmp_path, data=series)
    x = satellite.load(tmp_path, standardise=True)["test"]["x"]
    assert np.isfinite(x).all() and abs(x[7]).max() < 1e-6
    np.testing.assert_allclose(x[[0, 6, 8, 11]].std(axis=1), 1, rtol=1e-5)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"data": np.zeros((12, 45))}, r"allowed: numbers \[n 46\]"),
        ({"data": np.full((12, 46), np.nan)}, "not finite in 552 of 552"),
        ({"label": np.arange(12)}, "label 0 in row 0; allowed: 1 to 24"),
        ({"label": np.full(12, 25)}, "label 25 in row 0; allowed: 1 to 24"),
        ({"label": np.ones(11)}, r"allowed: \[12\] whole numbers"),
    ],
)
def test_other_satellite_files_are_refused(tmp_path, entries, message):
    save_satellite(tmp_path, **entries)
    with pytest.raises(errors.InputError, match=message) as info:
        satellite.load(tmp_path, standardise=False)
    assert str(info.value).startswith(str(tmp_path / "satellite_test.npy"))


def test_satellite_without_dict(tmp_path):
    nas360_files.write_satellite(tmp_path)
    np.save(tmp_path / "satellite_train.npy", np.zeros((3, 46)))
    with pytest.raises(errors.InputError, match="instead of objects"):
        satellite.load(tmp_path, standardise=True)


@pytest.mark.parametrize("dtype", [np.uint8, bool, np.int64, np.float32, ">f4"])
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_deepsea(tmp_path, monkeypatch, dtype, save):
    monkeypatch.setattr(deepsea, "BLOCK_BYTES", 3 * 4000)  # several blocks, one cut
    wrote = nas360_files.write_deepsea(tmp_path, 10, 4, 6, dtype=dtype, save=save)
    found = deepsea.load(tmp_path)
    assert list(found) == ["train", "val", "test"]
    for split, num in (("train", 10), ("val", 4), ("test", 6)):
        x, y = found[split]["x"], found[split]["y"]
        assert isinstance(x, rows.Rows) and x.shape == (num, 1000, 4)
        assert isinstance(y, np.ndarray) and y.shape == (num, 36)
        assert x[:].dtype == y.dtype == np.float32
        np.testing.assert_array_equal(x[:], wrote[f"x_{split}"])
        np.testing.assert_array_equal(y, wrote[f"y_{split}"])
        np.testing.assert_array_equal(x[[3, 1]], wrote[f"x_{split}"][[3, 1]])


def test_deepsea_needs_an_eighth_of_its_bytes(tmp_path):
    nas360_files.write_deepsea(tmp_path, 3000, 4, 4)
    tracemalloc.start()
    found = deepsea.load(tmp_path)
    size, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert size < 1.5 * 3000 * 500 and peak < 16 * deepsea.BLOCK_BYTES
    assert found["train"]["x"][2999].sum() == 1000


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("x_val", np.full((4, 1000, 4), 2, "u1"), "others than 0 and 1 in row 0"),
        ("x_val", np.zeros((4, 4, 1000), "u1"), r"x_val is \(4, 4, 1000\)"),
        ("x_val", np.zeros((4, 1000, 4), "U1"), "x_val is .* of <U1"),
        ("x_val", np.zeros((3, 1000, 4), "u1"), "3 x_val with 4 y_val"),
        ("x_val", np.zeros((4, 1000, 4), "u1", order="F"), "x_val is"),
        ("y_train", np.full((10, 36), 0.5), "y_train has others than 0 and 1 in row 0"),
        ("y_train", np.zeros((0, 36)), "y_train is empty"),
        ("y_train", np.zeros((10, 919)), r"y_train is \(10, 919\)"),
        ("y_train", np.array({}, object), "y_train is"),
    ],
)
def test_other_deepsea_files_are_refused(tmp_path, name, array, message):
    arrays = nas360_files.write_deepsea(tmp_path)
    np.savez(tmp_path / "deepsea_filtered.npz", **(arrays | {name: array}))
    with pytest.raises(errors.InputError, match=message) as info:
        deepsea.load(tmp_path)
    assert "\n" not in str(info.value)


def test_row_that_is_neither_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(deepsea, "BLOCK_BYTES", 3 * 4000)
    arrays = nas360_files.write_deepsea(tmp_path)
    arrays["x_test"][4, 7, 1] = 3
    np.savez(tmp_path / "deepsea_filtered.npz", **arrays)
    with pytest.raises(errors.InputError, match="x_test has .* in row 4"):
        deepsea.load(tmp_path)


def test_damaged_deepsea_files(tmp_path):
    path = tmp_path / "deepsea_filtered.npz"
    with pytest.raises(errors.InputError, match="No such file"):
        deepsea.load(tmp_path)
    arrays = nas360_files.write_deepsea(tmp_path)
    raw = path.read_bytes()
    flipped = bytearray(raw)
    flipped[2000] ^= 1  # one base of x_train, as 0 and 1 still: the check sum tells
    for each in (b"", b"text", raw[:-50], raw[:5000], bytes(flipped)):
        path.write_bytes(each)
        with pytest.raises(errors.InputError, match="not a readable archive"):
            deepsea.load(tmp_path)
    arrays.pop("x_val")
    np.savez(path, **arrays)
    with pytest.raises(errors.InputError, match="x_val"):
        deepsea.load(tmp_path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("x_val.npy", b"\x93NUMPY\x01\x00nonsense")
    with pytest.raises(errors.InputError, match="not a readable archive"):
        deepsea.load(tmp_path)
