"""CIFAR-100, NinaPro: files as published, values as computed by hand."""

import pickle

import nas360_files
import numpy as np
import pytest

from recraft_jax import errors
from recraft_jax.data import numpy_pickle, rows
from recraft_jax.data.nas360 import cifar100, ninapro

MEAN = np.array([0.5071, 0.4867, 0.4408])
STD = np.array([0.2675, 0.2565, 0.2761])


def test_writer_is_python_2(tmp_path):
    """Python's own reader takes the strings for bytes, as in the published file."""
    wrote = nas360_files.write_cifar100(tmp_path)
    with open(tmp_path / "cifar-100-python" / "train", "rb") as stream:
        raw = stream.read()
    content = pickle.loads(raw, encoding="bytes")
    assert raw[:2] == b"\x80\x02" and b"numpy.core.multiarray\n_reconstruct" in raw
    assert all(type(key) is bytes for key in content)
    np.testing.assert_array_equal(content[b"data"], wrote["train"][0])
    assert b"_codecs" not in raw


def test_cifar100(tmp_path):
    wrote = nas360_files.write_cifar100(tmp_path, 12, 8)
    found = cifar100.load(tmp_path)
    assert list(found) == ["train", "test"]
    for split, num in (("train", 12), ("test", 8)):
        x, y = found[split]["x"], found[split]["y"]
        pixels, labels = wrote[split]
        assert isinstance(x, rows.Rows) and x.shape == (num, 32, 32, 3)
        assert x.dtype == np.float32 and y.dtype == np.int32
        np.testing.assert_array_equal(y, labels)
        # Row 5, column 7 of channel 2 is byte 2 * 1024 + 5 * 32 + 7.
        value = (pixels[3, 2 * 1024 + 5 * 32 + 7] / 255 - MEAN[2]) / STD[2]
        np.testing.assert_allclose(x[3][5, 7, 2], value, rtol=1e-6, atol=1e-6)
        want = pixels.reshape(num, 3, 32, 32).transpose(0, 2, 3, 1)
        np.testing.assert_allclose(x[:], (want / 255 - MEAN) / STD, rtol=0, atol=1e-6)
        np.testing.assert_array_equal(x[[4, 1]], x[:][[4, 1]])
        assert x[[4, 1]].flags.c_contiguous


def test_read_gives_bytes(tmp_path):
    wrote = nas360_files.write_cifar100(tmp_path)
    pixels, labels = cifar100.read(tmp_path / "cifar-100-python")["test"]
    assert pixels.dtype == np.uint8 and pixels.shape == (8, 32, 32, 3)
    assert pixels[2, 31, 0, 1] == wrote["test"][0][2, 1024 + 31 * 32]
    np.testing.assert_array_equal(labels, wrote["test"][1])


def normalised(seed=0, num=40):
    pixels = np.random.default_rng(seed).integers(0, 256, (num, 32, 32, 3)) / 255
    return ((pixels - MEAN) / STD).astype(np.float32)


def test_crop_and_flip_is_a_shift_a_border_of_black_and_a_mirror():
    x = normalised()
    seeds = np.arange(100, 100 + len(x))
    before = x.copy()
    found = cifar100.crop_and_flip(x, seeds)
    assert found.shape == x.shape and found.dtype == np.float32
    np.testing.assert_array_equal(x, before)
    black = (-MEAN / STD).astype(np.float32)
    shifts = set()
    for image, result in zip(x, found, strict=True):
        wide = np.tile(black, (40, 40, 1))
        wide[4:36, 4:36] = image
        fits = [
            (top, left, mirror)
            for top in range(9)
            for left in range(9)
            for mirror in (False, True)
            if np.allclose(
                wide[top : top + 32, left : left + 32][:, :: -1 if mirror else 1],
                result,
                rtol=0,
                atol=1e-6,
            )
        ]
        assert len(fits) == 1
        shifts.add(fits[0])
    assert len(shifts) > 30
    assert {top for top, _, _ in shifts} == set(range(9))
    assert {mirror for _, _, mirror in shifts} == {False, True}


def test_crop_and_flip_depends_on_the_seed_alone():
    x = normalised()
    seeds = np.random.default_rng(1).integers(0, 2**62, len(x))
    found = cifar100.crop_and_flip(x, seeds)
    order = [7, 3, 3, 39]
    np.testing.assert_array_equal(
        cifar100.crop_and_flip(x[order], seeds[order]), found[order]
    )
    others = cifar100.crop_and_flip(x, seeds + 1)
    assert (others != found).any(axis=(1, 2, 3)).mean() > 0.9
    assert cifar100.crop_and_flip(x[:0], seeds[:0]).shape == (0, 32, 32, 3)


def test_shifts_and_mirrors_are_uniform():
    """Black but for one white pixel, 4,000 times: where it ends says what was done."""
    x = np.zeros((4000, 32, 32, 3), np.float32)
    x[:, 10, 12] = 9
    found = cifar100.crop_and_flip(x, np.arange(4000))
    _, row, column = (found[..., 0] == 9).nonzero()
    counts = np.bincount(row, minlength=15)[6:15]
    assert counts.sum() == 4000 and abs(counts - 4000 / 9).max() < 90  # 4.5 deviations
    is_mirrored = column > 14  # 31 - 12 +- 4 instead of 12 +- 4; 15, 16 are both
    columns = np.bincount(column, minlength=32)
    assert abs(columns[8:15].sum() + columns[15:17].sum() / 2 - 2000) < 200
    assert is_mirrored.any() and column.min() == 8 and column.max() == 23


def damaged(folder, change):
    """Write a split of CIFAR-100 again after a change of its dict."""
    path = folder / "cifar-100-python" / "train"
    content = numpy_pickle.load_pickle(path, encoding="bytes")
    change(content)
    path.write_bytes(pickle.dumps(content, protocol=2))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.pop(b"fine_labels"), "allowed: a dict with b'fine_labels'"),
        (lambda c: c.update({b"data": c[b"data"][:, :-1]}), r"\[n 3072\]"),
        (lambda c: c.update({b"data": c[b"data"] / 255}), "allowed: uint8"),
        (lambda c: c.update({b"data": None}), r"data is NoneType .* \[n 3072\]"),
        (lambda c: c[b"fine_labels"].pop(), r"allowed: \[12\] whole numbers"),
        (lambda c: c[b"fine_labels"].__setitem__(3, 100), "label 100 in row 3; .*99"),
        (lambda c: c[b"fine_labels"].__setitem__(3, "1"), "whole numbers"),
        (lambda c: c[b"fine_labels"].__setitem__(3, [1]), "whole numbers"),
    ],
)
def test_other_cifar_files_are_refused(tmp_path, change, message):
    nas360_files.write_cifar100(tmp_path)
    damaged(tmp_path, change)
    with pytest.raises(errors.InputError, match=message) as info:
        cifar100.load(tmp_path)
    assert str(info.value).startswith(str(tmp_path / "cifar-100-python" / "train"))


def test_missing_cifar_file(tmp_path):
    nas360_files.write_cifar100(tmp_path)
    (tmp_path / "cifar-100-python" / "test").unlink()
    with pytest.raises(errors.InputError, match="test: not a readable .*No such file"):
        cifar100.load(tmp_path)


def test_ninapro(tmp_path):
    wrote = nas360_files.write_ninapro(tmp_path, 12, 6, 8)
    found = ninapro.load(tmp_path)
    assert list(found) == ["train", "val", "test"]
    for split, num in (("train", 12), ("val", 6), ("test", 8)):
        x, y = found[split]["x"], found[split]["y"]
        windows, labels = wrote[split]
        assert x.shape == (num, 16, 52, 1) and x.dtype == np.float32
        assert x[2, 15, 3, 0] == np.float32(windows[2, 3, 15])
        np.testing.assert_array_equal(x[..., 0], windows.transpose(0, 2, 1).astype("f"))
        assert y.dtype == np.int32
        np.testing.assert_array_equal(y, labels)


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("ninapro_val", np.zeros((6, 16, 52)), r"allowed: numbers \[n 52 16\]"),
        ("ninapro_val", np.zeros((0, 52, 16)), r"allowed: numbers \[n 52 16\]"),
        ("ninapro_val", np.full((6, 52, 16), np.nan), r"not finite .*\[0, 0, 0\]"),
        ("ninapro_val", np.zeros((5, 52, 16)), r"allowed: \[5\] whole numbers"),
        ("ninapro_val", np.full((6, 52, 16), "a"), r"of type <U1"),
        ("ninapro_val", np.array([{}] * 6, object), "not a readable array of numbers"),
        ("label_test", np.full(8, 18), "label 18 in row 0; allowed: 0 to 17"),
        ("label_test", np.full(8, -1), "label -1 in row 0; allowed: 0 to 17"),
        ("label_test", np.full(8, 0.5), "label 0.5 in row 0; allowed: 0 to 17"),
        ("label_test", np.full(8, np.nan), "label nan in row 0; allowed: 0 to 17"),
    ],
)
def test_other_ninapro_files_are_refused(tmp_path, name, array, message):
    nas360_files.write_ninapro(tmp_path)
    np.save(tmp_path / "ninaPro" / f"{name}.npy", array)
    with pytest.raises(errors.InputError, match=message):
        ninapro.load(tmp_path)


def test_ninapro_labels_may_be_floats(tmp_path):
    """As the released loader, which casts them."""
    nas360_files.write_ninapro(tmp_path)
    np.save(tmp_path / "ninaPro" / "label_test.npy", np.arange(8.0))
    np.testing.assert_array_equal(ninapro.load(tmp_path)["test"]["y"], range(8))


def test_missing_or_cut_ninapro_file(tmp_path):
    nas360_files.write_ninapro(tmp_path)
    path = tmp_path / "ninaPro" / "ninapro_test.npy"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(errors.InputError, match="not a readable array"):
        ninapro.load(tmp_path)
    path.unlink()
    with pytest.raises(errors.InputError, match="No such file"):
        ninapro.load(tmp_path)
