"""Spherical CIFAR-100: the reader, and the geometry of the maker by hand."""

import gzip
import math
import pickle

import nas360_files
import numpy as np
import pytest

from recraft_jax import errors
from recraft_jax.data import rows
from recraft_jax.data.nas360 import cifar100, spherical


@pytest.mark.parametrize("test_in_train", [False, True])
def test_load(tmp_path, test_in_train):
    wrote = nas360_files.write_spherical(tmp_path, 12, 8)
    found = spherical.load(tmp_path, test_in_train=test_in_train)
    images, labels = wrote["train"]["images"], wrote["train"]["labels"]
    if test_in_train:  # the first quarter of 8
        images = np.concatenate([images, wrote["test"]["images"][:2]])
        labels = np.concatenate([labels, wrote["test"]["labels"][:2]])
    x, y = found["train"]["x"], found["train"]["y"]
    assert isinstance(x, rows.Rows) and x.shape == (len(images), 60, 60, 3)
    assert y.dtype == np.int32
    np.testing.assert_array_equal(y, labels)
    np.testing.assert_array_equal(
        x[:], images.transpose(0, 2, 3, 1).astype(np.float32) / np.float32(255)
    )
    assert x[11][7, 59, 2] == np.float32(images[11, 2, 7, 59]) / np.float32(255)
    np.testing.assert_array_equal(x[[len(x) - 1, 0]], x[:][[len(x) - 1, 0]])
    assert x[[1, 0]].flags.c_contiguous
    test = found["test"]
    assert test["x"].shape == (8, 60, 60, 3)
    np.testing.assert_array_equal(test["y"], wrote["test"]["labels"])
    np.testing.assert_allclose(
        test["x"][5], wrote["test"]["images"][5].transpose(1, 2, 0) / 255, rtol=1e-6
    )


def changed(root, change):
    content = nas360_files.write_spherical(root)
    change(content)
    raw = gzip.compress(pickle.dumps(content, protocol=4), 1)
    (root / "s2_cifar100.gz").write_bytes(raw)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.pop("test"), "allowed: a dict with 'test'"),
        (lambda c: c["train"].pop("labels"), "allowed: a dict with 'labels'"),
        (lambda c: c["train"].update(images=np.zeros((12, 60, 60), "u1")), "n 3 n n"),
        (lambda c: c["test"].update(images=np.zeros((8, 3, 60, 60))), "allowed: uint8"),
        (lambda c: c["test"].update(images=np.zeros((8, 3, 6, 6), "u1")), "one size"),
        (lambda c: c["test"].update(labels=np.arange(7)), r"allowed: \[8\] whole"),
        (lambda c: c["test"].update(labels=np.arange(8) - 1), "label -1 in row 0"),
    ],
)
def test_other_files_are_refused(tmp_path, change, message):
    changed(tmp_path, change)
    with pytest.raises(errors.InputError, match=message):
        spherical.load(tmp_path, test_in_train=False)


def test_missing_or_cut_file(tmp_path):
    with pytest.raises(errors.InputError, match="No such file"):
        spherical.load(tmp_path, test_in_train=False)
    nas360_files.write_spherical(tmp_path)
    path = tmp_path / "s2_cifar100.gz"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(errors.InputError, match="not a readable pickle"):
        spherical.load(tmp_path, test_in_train=False)


def test_grid():
    points = spherical.grid(30)
    assert points.shape == (60, 60, 3)
    np.testing.assert_allclose(np.linalg.norm(points, axis=-1), 1, rtol=1e-14)
    np.testing.assert_allclose(points[0], [[0, 0, 1]] * 60, atol=1e-15)  # north pole
    np.testing.assert_allclose(points[30, 0], [1, 0, 0], atol=1e-15)
    np.testing.assert_allclose(points[30, 15], [0, 1, 0], atol=1e-15)
    np.testing.assert_allclose(points[30, 30], [-1, 0, 0], atol=1e-15)
    third, step = math.pi / 3, math.pi / 30
    want = [math.sin(third) * math.cos(step), math.sin(third) * math.sin(step), 0.5]
    np.testing.assert_allclose(points[20, 1], want, rtol=1e-14)
    assert points[-1, :, 2].max() > -1  # the south pole itself is not on the grid


def test_rotations_are_orthogonal_and_uniform():
    rng = np.random.default_rng(0)
    found = np.stack([spherical.rotation(rng) for _ in range(2000)])
    np.testing.assert_allclose(
        found @ found.transpose(0, 2, 1), [np.eye(3)] * 2000, atol=1e-14
    )
    np.testing.assert_allclose(np.linalg.det(found), 1, rtol=1e-13)
    # Each entry of a uniform rotation has mean 0 and mean square 1 / 3, and the angle
    # has the density (1 - cos angle) / pi, whose mean is pi / 2 + 2 / pi.
    assert abs(found.mean(0)).max() < 0.05
    assert abs((found**2).mean(0) - 1 / 3).max() < 0.03
    angle = np.arccos((np.trace(found, axis1=1, axis2=2) - 1) / 2)
    assert abs(angle.mean() - (math.pi / 2 + 2 / math.pi)) < 0.05


def test_projection_to_the_plane():
    """By hand: the ray from (0, 0, 2.001) through a point one above the plane."""
    south, equator, half = [0, 0, -1], [1, 0, 0], [0, -0.6, -0.8]
    row, column = spherical.on_plane(np.array([[south, equator, half]], float))
    # The equator goes to x = 2.001 / (2.001 - 1); half, at height 0.2, to y = -0.6 *
    # 2.001 / 1.801. The image is the square from -1.5 to 1.5.
    np.testing.assert_allclose(row, [[0.5, (2.001 / 1.001 + 1.5) / 3, 0.5]], rtol=1e-14)
    np.testing.assert_allclose(
        column, [[0.5, 0.5, (-0.6 * 2.001 / 1.801 + 1.5) / 3]], rtol=1e-14
    )


def at(x, y):
    """Return the point of the sphere `[1 1 3]` that is projected to x, y by hand.

    On the ray (0, 0, 2.001) + s (x, y, -2.001), whose distance to (0, 0, 1) is 1,
    the lower one of two.
    """
    a = x * x + y * y + 2.001**2
    b = -2 * 2.001 * 1.001
    c = 1.001**2 - 1
    s = (-b + math.sqrt(b * b - 4 * a * c)) / (2 * a)
    return np.array([[[s * x, s * y, 1.001 - 2.001 * s]]])


def test_one_pixel_by_hand():
    """A point at pixel (10.25, 20.5) sees rows 9 and 11, columns 19 and 21."""
    x, y = (place / 32 * 3 - 1.5 for place in (10.25, 20.5))
    # A second point, at (3.5, 3.5), sees the whitest four pixels, a third sees none.
    points = np.concatenate(
        [at(x, y), at(*[3.5 / 32 * 3 - 1.5] * 2), [[[0.6, 0, 0.8]]]], 1
    )
    pixels = np.random.default_rng(0).integers(0, 200, (2, 32, 32, 3), dtype=np.uint8)
    pixels[:, 2:5:2, 2:5:2] = 250
    found = spherical.project(pixels, points)
    assert found.shape == (2, 3, 1, 3)
    for image in range(2):
        for channel in range(3):
            p = pixels[image, :, :, channel].astype(float)
            first = 0.75 * p[9, 19] + 1.25 * p[11, 19]
            second = 0.75 * p[9, 21] + 1.25 * p[11, 21]
            # Of rows, 11 - 10.25 to the lower one; of columns, both are 1 away of
            # the cut place 20, at 20.5: 0.5 to the lower one.
            value = 0.5 * first + 1.5 * second
            assert found[image, channel, 0, 0] == math.floor(value / (4 * 250) * 255)
    np.testing.assert_array_equal(found[:, :, 0, 1], 255)
    np.testing.assert_array_equal(found[:, :, 0, 2], 0)


def test_rows_of_the_image_lie_along_x():
    pixels = np.zeros((1, 32, 32, 3), np.uint8)
    pixels[0, 25, 8] = 255
    points = spherical.grid(30)
    found = spherical.project(pixels, points)[0, 0]
    seen = points[found > 0]
    assert len(seen) and (seen[:, 0] > 0).all() and (seen[:, 1] < 0).all()


def test_constant_image_is_a_constant_cap():
    """Inside, four pixels of one value; around it a border, also just north."""
    pixels = np.full((1, 32, 32, 3), 77, np.uint8)
    points = spherical.grid(30)[1:]  # without the north pole
    found = spherical.project(pixels, points)[0]
    height = points[..., 2]
    plane = np.abs(points[..., :2] * (2.001 / (1.001 - height))[..., None]).max(-1)
    pixel = 3 / 32
    # The largest sum of weights is a rounding above the others, which are cut to 254.
    assert (found[:, plane < 1.5 - 2 * pixel] >= 254).all()
    assert (found[:, plane > 1.5 + 2 * pixel] == 0).all()
    assert (found[:, height > 0.2] == 0).all() and found[:, height > 0].any()
    border = found[:, (plane > 1.5 - pixel) & (plane < 1.5)]
    assert ((border > 0) & (border < 255)).any()
    assert (plane < 1.5 - 2 * pixel).sum() > 300


def test_north_pole_sees_the_middle():
    """It is the one point below the eye that is right above the image."""
    pixels = np.random.default_rng(0).integers(0, 256, (1, 32, 32, 3), dtype=np.uint8)
    points = np.array([[[0, 0, 1], [0, 0, -1], [0.6, 0, 0.8]]], float)
    found = spherical.project(pixels, points)[0, :, 0]
    np.testing.assert_array_equal(found[:, 0], found[:, 1])
    assert found.max() == 255 and (found[:, 2] == 0).all()


def test_all_channels_share_least_and_largest():
    pixels = np.zeros((2, 32, 32, 3), np.uint8)
    pixels[0] = (200, 100, 0)
    points = spherical.grid(30)
    found = spherical.project(pixels, points)
    assert found[0].max(axis=(1, 2)).tolist() == [255, 127, 0]
    assert found[1].max() == 0  # black stays black


def test_agrees_with_a_loop_over_points():
    """The recipe written out for one point and one image at a time."""
    rng = np.random.default_rng(3)
    pixels = rng.integers(0, 256, (2, 8, 8, 3), dtype=np.uint8)
    points = spherical.grid(6) @ spherical.rotation(rng).T
    found = spherical.project(pixels, points)
    values = np.zeros((2, 3, 12, 12))
    for i, j in np.ndindex(12, 12):
        x, y, z = points[i, j]
        scale = 2.001 / (2.001 - (z + 1))
        places = [(x * scale + 1.5) / 3 * 8, (y * scale + 1.5) / 3 * 8]
        middle = [int(place) for place in places]
        for row in (middle[0] - 1, middle[0] + 1):
            for column in (middle[1] - 1, middle[1] + 1):
                if 0 <= row < 8 and 0 <= column < 8:
                    other = 2 * middle[0] - row, 2 * middle[1] - column
                    weight = abs(other[0] - places[0]) * abs(other[1] - places[1])
                    values[:, :, i, j] += weight * pixels[:, row, column]
    for image in range(2):
        low, high = values[image].min(), values[image].max()
        exact = (values[image] - low) / (high - low) * 255
        # Cut to whole numbers; rounding may take either side of one.
        assert (abs(found[image] - np.floor(exact + 1e-9)) <= (exact % 1 < 1e-6)).all()


def make(tmp_path, **options):
    out = tmp_path / "s2_cifar100.gz"
    spherical.make(tmp_path / "cifar-100-python", out, bandwidth=5, **options)
    return out.read_bytes()


def test_make_writes_what_the_reader_reads(tmp_path):
    wrote = nas360_files.write_cifar100(tmp_path, 12, 8)
    raw = make(tmp_path, chunk=5, num_test=6)
    content = pickle.loads(gzip.decompress(raw))
    assert content["train"]["images"].dtype == np.uint8
    assert type(content["test"]["labels"]) is np.ndarray
    found = spherical.load(tmp_path, test_in_train=False)
    assert found["train"]["x"].shape == (12, 10, 10, 3)
    assert found["test"]["x"].shape == (6, 10, 10, 3)
    np.testing.assert_array_equal(found["train"]["y"], wrote["train"][1])
    np.testing.assert_array_equal(found["test"]["y"], wrote["test"][1][:6])
    # Chunks of 5: rotations of rows 0-4, 5-9, 10-11 of train, then 0-4, 5 of test.
    rng = np.random.default_rng(0)
    turns = [spherical.rotation(rng) for _ in range(5)]
    pixels = cifar100.read(tmp_path / "cifar-100-python")
    for split, row, turn in (("train", 11, 2), ("test", 4, 3), ("test", 5, 4)):
        points = np.einsum("ab,ijb->ija", turns[turn], spherical.grid(5))
        want = spherical.project(pixels[split][0][row : row + 1], points)[0]
        np.testing.assert_array_equal(content[split]["images"][row], want)


def test_make_depends_on_the_seed_alone(tmp_path):
    nas360_files.write_cifar100(tmp_path, 12, 8)
    first = make(tmp_path, seed=3)
    assert make(tmp_path, seed=3) == first != make(tmp_path, seed=4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seed": -1}, "seed = -1; allowed: 0 or more"),
        ({"chunk": 0}, "chunk = 0; allowed: 1 or more"),
        ({"num_train": 13}, r"num_train = 13; allowed: 0 \(all\) to 12"),
        ({"num_test": -1}, "num_test = -1"),
    ],
)
def test_make_refuses(tmp_path, options, message):
    nas360_files.write_cifar100(tmp_path, 12, 8)
    with pytest.raises(errors.InputError, match=message):
        make(tmp_path, **options)
    assert not (tmp_path / "s2_cifar100.gz").exists()


def test_make_needs_a_folder_and_leaves_no_parts(tmp_path, monkeypatch):
    nas360_files.write_cifar100(tmp_path, 12, 8)
    folder = tmp_path / "cifar-100-python"
    with pytest.raises(errors.InputError, match="allowed: a file in a folder"):
        spherical.make(folder, tmp_path / "none" / "s2_cifar100.gz", bandwidth=5)
    whole = make(tmp_path)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(gzip.GzipFile, "write", full)
    with pytest.raises(OSError, match="No space left"):
        make(tmp_path)
    names = sorted(each.name for each in tmp_path.iterdir())
    assert names == ["cifar-100-python", "s2_cifar100.gz"]
    assert (tmp_path / "s2_cifar100.gz").read_bytes() == whole
