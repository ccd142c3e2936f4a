"""Time-series files and the three tasks that come in them, on files written by hand."""

import numpy as np
import pytest

from recraft_jax import assets, errors
from recraft_jax.data import japanese_vowels, plaid, tecator, ts_file

HEADER = "# said about the data\n@problemName toy\n\n@equalLength false\n@data\n"


def save(folder, lines, name="toy_TRAIN.ts", header=HEADER):
    path = folder / name
    path.write_text(header + "\n".join(lines) + "\n")
    return path


def both(folder, train, test):
    return save(folder, train), save(folder, test, "toy_TEST.ts")


def series(values):
    return ",".join(map(str, values))


def test_read_gives_channels_last_and_the_target(tmp_path):
    path = save(tmp_path, ["1,2,3:-4,5e-1,6:a", "", "7:8: b "])
    first, second = ts_file.read(path, num_channels=2)
    np.testing.assert_array_equal(first.values, [[1, -4], [2, 0.5], [3, 6]])
    np.testing.assert_array_equal(second.values, [[7, 8]])
    assert (first.target, second.target) == ("a", "b")
    assert first.values.dtype == np.float64


BAD = {
    "channels": (["1,2:a"], "line 6 is '1,2:a'; allowed: 2 channels apart by :"),
    "lengths": (["1,2:3:a"], "line 6 is '1,2:3:a'"),
    "missing": (["1,2:3,?:a"], "as many finite numbers each"),
    "nan": (["1,2:3,nan:a"], "as many finite numbers each"),
    "timestamps": (["(0,1),(1,2):(0,3),(1,4):a"], "line 6 is"),
    "empty": (["::a"], "line 6 is"),
    "second": (["1:2:a", "b"], "line 7 is 'b'"),
    "none": ([], "has no series after @data"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_lines_are_named(tmp_path, name):
    lines, message = BAD[name]
    path = save(tmp_path, lines)
    with pytest.raises(errors.InputError, match=message) as info:
        ts_file.read(path, num_channels=2)
    assert str(info.value).startswith(f"{path}: ") and "\n" not in str(info.value)


def test_header_must_be_one_and_the_file_readable(tmp_path):
    path = save(tmp_path, ["1:a"], header="@problemName toy\n")
    with pytest.raises(
        errors.InputError, match="line 2 is '1:a'; allowed before @data"
    ):
        ts_file.read(path, num_channels=1)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(errors.InputError, match="cannot be read"):
        ts_file.read(path, num_channels=1)
    path.unlink()
    with pytest.raises(errors.InputError, match="cannot be read .No such file"):
        ts_file.read(path, num_channels=1)


def test_training_has_no_copies_of_itself_or_of_the_test_file(tmp_path):
    train = ["1,2:a", "3:b", "1,2:a", "4,5:a", "3,3:b", "4,5:b"]
    paths = both(tmp_path, train, ["4,5:a", "9:b", "9:b"])
    splits = ts_file.read_splits(*paths, num_channels=1)
    kept = [one.values[:, 0].tolist() for one in splits["train"]]
    assert kept == [[1, 2], [3], [3, 3]]
    assert [one.values[0, 0] for one in splits["test"]] == [4, 9, 9]
    with pytest.raises(errors.InputError, match="every series is in .*toy_TEST.ts too"):
        ts_file.read_splits(*both(tmp_path, ["1:a"], ["1:b"]), num_channels=1)


def test_unknown_label_is_named(tmp_path):
    paths = both(tmp_path, ["1:0", "2:11"], ["3:0"])
    message = "train series 1 has label '11'; allowed: 0, 1, 2"
    with pytest.raises(errors.InputError, match=message):
        plaid.load(*paths, num_train=0, num_test=0, seed=0)


def test_plaid_repeats_and_compresses(tmp_path):
    long = np.arange(600) / 1000
    paths = both(
        tmp_path,
        [f"0,0.001,-0.002:{10}", f"{series(long)}:0"],
        ["5:3"],
    )
    data = plaid.load(*paths, num_train=0, num_test=0, seed=0)
    x = data["train"]["x"]
    assert x.shape == (2, 512, 1) and x.dtype == np.float32
    assert data["train"]["y"].tolist() == [10, 0] and data["test"]["y"].tolist() == [3]
    # asinh(1) = log(1 + sqrt(2)), asinh(-2) = -log(2 + sqrt(5)).
    want = [0, np.log(1 + np.sqrt(2)), -np.log(2 + np.sqrt(5))] * 171
    np.testing.assert_allclose(x[0, :, 0], want[:512], rtol=1e-6)
    np.testing.assert_allclose(np.sinh(x[1, :, 0]), np.arange(512), rtol=1e-5)


def vowel(frames, offset):
    channels = [offset + 100 * c + np.arange(frames) for c in range(12)]
    return ":".join(map(series, channels))


def test_japanese_vowels_repeat_the_last_frame(tmp_path):
    paths = both(
        tmp_path, [f"{vowel(7, 0)}:1", f"{vowel(31, 40)}:9"], [f"{vowel(29, 0)}:2"]
    )
    data = japanese_vowels.load(*paths, num_train=0, num_test=0, seed=0)
    x = data["train"]["x"]
    assert x.shape == (2, 29, 12) and x.dtype == np.float32
    assert data["train"]["y"].tolist() == [0, 8] and data["test"]["y"].tolist() == [1]
    steps = np.minimum(np.arange(29), 6)
    np.testing.assert_array_equal(x[0], steps[:, None] + 100 * np.arange(12))
    np.testing.assert_array_equal(x[1, :, 3], 340 + np.arange(29))


def test_tecator_has_percentages_as_targets(tmp_path):
    spectra = [np.arange(100) + n for n in range(4)]
    lines = [
        f"{series(s)}:{fat}" for s, fat in zip(spectra, (1.5, 0, 100), strict=False)
    ]
    paths = both(tmp_path, lines, [f"{series(spectra[3])}:49.1"])
    data = tecator.load(*paths, num_train=0, num_test=0, seed=0)
    x, y = data["train"]["x"], data["train"]["y"]
    assert x.shape == (3, 100, 1) and x.dtype == y.dtype == np.float32
    np.testing.assert_array_equal(y, np.float32([[1.5], [0], [100]]))
    np.testing.assert_array_equal(x[2, :, 0], np.arange(100) + 2)
    assert data["test"]["y"].tolist() == [[np.float32(49.1)]]
    few = tecator.load(*paths, num_train=2, num_test=1, seed=0)
    assert len(few["train"]["y"]) == 2


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (f"{series(range(99))}:5", "tecator: train spectrum 0 has 99 values"),
        (f"{series(range(100))}:fat", "target 'fat'; allowed: 100 values and a perc"),
        (f"{series(range(100))}:101", "target '101'"),
        (f"{series(range(100))}:nan", "target 'nan'"),
    ],
)
def test_other_spectra_are_refused(tmp_path, line, message):
    paths = both(tmp_path, [line], [f"{series(range(1, 101))}:5"])
    with pytest.raises(errors.InputError, match=message):
        tecator.load(*paths, num_train=0, num_test=0, seed=0)


@pytest.mark.network
@pytest.mark.parametrize(
    ("module", "file", "counts", "kept"),
    [
        (plaid, "PLAID", [537, 537], (532, 512, 1)),
        (japanese_vowels, "JapaneseVowels", [270, 370], (270, 29, 12)),
        (tecator, "Tecator", [172, 43], (150, 100, 1)),
    ],
)
def test_real_files(tmp_path, module, file, counts, kept):
    folder = assets.fetch(module.__name__.rpartition(".")[2], str(tmp_path))
    paths = [folder / f"{file}_{split}.ts" for split in ("TRAIN", "TEST")]
    channels = kept[2]
    assert [len(ts_file.read(p, num_channels=channels)) for p in paths] == counts
    data = module.load(*paths, num_train=0, num_test=0, seed=0)
    assert data["train"]["x"].shape == kept
    assert data["test"]["x"].shape == (counts[1], *kept[1:])
    train = {x.tobytes() for x in data["train"]["x"]}
    assert len(train) == kept[0]
    assert not any(x.tobytes() in train for x in data["test"]["x"])
    y = np.concatenate([data[split]["y"] for split in data])
    if module is tecator:
        assert y.shape == (193, 1)
        assert (y.min(), y.max()) == (np.float32(0.9), np.float32(49.1))
    else:
        assert np.unique(y).tolist() == list(range(module.NUM_CLASSES))
