import gzip

import numpy as np
import pytest

from recraft_jax import assets, errors
from recraft_jax.data import images


def _refused(read, path, *parts):
    with pytest.raises(errors.InputError) as info:
        read(path)
    message = str(info.value)
    assert message.startswith(str(path)) and "\n" not in message
    for part in parts:
        assert part in message


def _csv(path, rows):
    lines = "".join(",".join(map(str, row)) + "\n" for row in rows)
    path.write_bytes(gzip.compress(lines.encode()))
    return path


def _mnist_rows(n=3):
    rows = np.zeros((n, 785), int)
    rows[:, -1] = [9, 0, 5][:n]
    rows[0, 28 * 2 + 7] = 255  # row 2, column 7
    return rows


def test_read_mnist5k(tmp_path):
    got = images.read_mnist5k(_csv(tmp_path / "a.csv.gz", _mnist_rows()))
    assert got.pixels.shape == (3, 28, 28, 1) and got.pixels.dtype == np.uint8
    assert got.pixels[0, 2, 7, 0] == 255 and got.pixels.sum(dtype=int) == 255
    np.testing.assert_array_equal(got.labels, [9, 0, 5])
    assert got.labels.dtype == np.int32 and got.names == tuple("0123456789")
    one = images.read_mnist5k(_csv(tmp_path / "b.csv.gz", _mnist_rows(1)))
    assert one.pixels.shape == (1, 28, 28, 1)


def test_bad_mnist5k(tmp_path):
    path = tmp_path / "a.csv.gz"
    _refused(images.read_mnist5k, path, "No such file")
    _refused(images.read_mnist5k, tmp_path, "Is a directory")
    path.write_text("0,0,0\n")
    _refused(images.read_mnist5k, path, "not a readable gz file")
    raw = _csv(path, _mnist_rows()).read_bytes()
    for size in (5, 20, len(raw) - 9, len(raw) - 1):
        path.write_bytes(raw[:size])
        _refused(images.read_mnist5k, path, "not a readable gz file")
    _refused(images.read_mnist5k, _csv(path, []), "0 rows of 0 columns")
    _refused(images.read_mnist5k, _csv(path, [[1] * 784]), "1 rows of 784 columns")
    _refused(images.read_mnist5k, _csv(path, [[1] * 785, [1] * 3]), "changed from 785")
    _refused(images.read_mnist5k, _csv(path, [["x"] * 785]), "not a table of numbers")
    for column, value in ((0, 256), (0, -1), (-1, 10), (-1, -1)):
        rows = _mnist_rows()
        rows[1, column] = value
        _refused(images.read_mnist5k, _csv(path, rows), str(value), "0..255 and 0..9")


@pytest.fixture
def cifar(tmp_path):
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(1, 6):
        records = rng.integers(0, 256, (2, 3073), np.uint8)
        records[:, 0] = [i, 2 * i - 1]
        (folder / f"data_batch_{i}.bin").write_bytes(records.tobytes())
    return folder


def test_read_cifar10(cifar):
    got = images.read_cifar10(cifar)
    assert got.pixels.shape == (10, 32, 32, 3) and got.pixels.dtype == np.uint8
    np.testing.assert_array_equal(got.labels, [1, 1, 2, 3, 3, 5, 4, 7, 5, 9])
    assert got.labels.dtype == np.int32
    assert got.names == images.CIFAR10_NAMES and got.names[3] == "cat"
    # Second record of the fourth file, blue plane, row 5, column 9, by the layout.
    raw = (cifar / "data_batch_4.bin").read_bytes()
    assert got.pixels[7, 5, 9, 2] == raw[3073 + 1 + 2 * 1024 + 5 * 32 + 9]
    assert got.pixels[7, 31, 0, 0] == raw[3073 + 1 + 31 * 32]


def test_cifar10_by_its_parent_and_with_names(cifar):
    names = [f"class{i}" for i in range(10)]
    (cifar / "batches.meta.txt").write_text("\n".join(names) + "\n\n")
    got = images.read_cifar10(cifar.parent)
    assert got.names == tuple(names) and got.pixels.shape == (10, 32, 32, 3)
    for text in ("a\nb\n", "\n".join(["a"] * 10)):
        (cifar / "batches.meta.txt").write_text(text)
        with pytest.raises(errors.InputError, match="ten different"):
            images.read_cifar10(cifar)


def test_bad_cifar10(cifar, tmp_path):
    second = cifar / "data_batch_2.bin"
    raw = second.read_bytes()
    for bad in (raw[:-1], b""):
        second.write_bytes(bad)
        _refused(images.read_cifar10, cifar, f"{second}: {len(bad)} bytes", "3073")
    second.write_bytes(raw[:3073] + b"\x0a" + raw[3074:])
    _refused(images.read_cifar10, cifar, f"{second}: label 10 in record 1")
    second.unlink()
    _refused(images.read_cifar10, cifar, "data_batch_2.bin: cannot be read")
    _refused(images.read_cifar10, tmp_path / "none", "data_batch_1.bin")


def test_pickled_cifar10_is_refused(tmp_path):
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    (folder / "data_batch_1").write_bytes(b"\x80\x02}.")
    for path in (folder, tmp_path):
        _refused(images.read_cifar10, path, "pickles are never loaded", "binary")


@pytest.mark.network
def test_real_mnist5k():
    got = images.read_mnist5k(assets.fetch("mnist5k") / "mnist_5k.csv.gz")
    assert got.pixels.shape == (5000, 28, 28, 1) and got.pixels.max() == 255
    np.testing.assert_array_equal(np.bincount(got.labels), [500] * 10)
    # An upright zero has a hole; a one does not.
    mean = [got.pixels[got.labels == k].mean(axis=0)[13:15, 13:15] for k in (0, 1)]
    assert mean[0].max() < 50 < 150 < mean[1].min()
