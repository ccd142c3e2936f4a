"""Spherical: photographs of CIFAR-100 seen on a sphere turned at random.

The benchmark's file was made with the recipe of spherical MNIST (Cohen et al. 2018,
`examples/mnist/gendata.py` of s2cnn). `load` reads it; `make` makes a file of the same
layout from CIFAR-100, since the recipe is known but its random rotations are not.
"""

import math
import os
import pathlib

import numpy as np
from jaxtyping import Float, Int, UInt8

from recraft_jax import errors
from recraft_jax.data import numpy_pickle, rows
from recraft_jax.data.nas360 import checked, cifar100

NUM_CLASSES = 100
TEST_SHARE = 4  # one of so many test images is what `test_in_train` takes
EYE = 2.001  # height above the south pole; the north pole is at 2
REACH = 1.5  # half the side of the square that the image covers on the plane


def load(
    root: pathlib.Path, *, test_in_train: bool
) -> dict[str, dict[str, "np.ndarray | rows.Rows"]]:
    """Read `s2_cifar100.gz` under the root.

    Args:
        root: The folder with the files of all tasks.
        test_in_train: Append the first quarter of the test images to the training
            ones, as the released code of RECRAFT does. The test error then says little:
            a quarter of the test images has been learnt.

    Returns:
        `train` and `test`, each with `x` `[n 60 60 3]` float32 in 0..1, made from one
        byte a value when it is asked for, rows being colatitudes and columns
        longitudes, and `y` `[n]` int32 in 0..99. The benchmark's file has 50,000 and
        10,000.

    Raises:
        InputError: A file that cannot be read or holds something else.
    """
    path = root / "s2_cifar100.gz"
    content = numpy_pickle.load_pickle(path)
    found = {split: _split(path, content, split) for split in ("train", "test")}
    sizes = {each["x"].shape[1:] for each in found.values()}
    if len(sizes) > 1:
        raise errors.InputError(f"{path}: images of {sizes}; allowed: all of one size")
    if test_in_train:
        train, test = found["train"], found["test"]
        quarter = np.arange(len(test["y"]) // TEST_SHARE)
        found["train"] = {
            key: rows.joined(train[key], rows.take(test[key], quarter)) for key in train
        }
    return found


def make(
    cifar_folder: str | os.PathLike,
    out: str | os.PathLike,
    *,
    seed: int = 0,
    bandwidth: int = 30,
    chunk: int = 500,
    num_train: int = 0,
    num_test: int = 0,
) -> None:
    """Project CIFAR-100 to the sphere and write a file in the benchmark's layout.

    The geometry of the recipe:

    - The grid is Driscoll and Healy's of bandwidth b: 2b colatitudes pi j / 2b from the
      north pole on, without the south pole, times 2b longitudes pi k / b.
    - Each chunk of images has one rotation, drawn uniformly; the points are rotated,
      then looked at as they lie.
    - The unit sphere stands with its south pole on the plane. A point is projected
      along the ray from an eye just above the north pole (`EYE`), which is nearly the
      stereographic projection: the equator is a circle of radius 2. The image covers
      the square of `REACH` around the south pole, its rows along x. So it lies in the
      southern hemisphere but for its four corners, and every other point sees 0 but the
      north pole, right below the eye, which sees the middle if a point of the grid
      comes there. (The recipe also multiplies by a mask of the hemisphere, which
      compares a height that is never above 1 with 1: it does nothing, and is left out.)
    - A point sees four pixels: with i its place along an axis, in pixels and cut to a
      whole number towards 0, those at i - 1 and i + 1, weighted by the distance to the
      other. These are two pixels apart, so the image is blurred, and the weights add up
      to 4. Pixels outside are 0, so that the border fades: one pixel past the image, or
      two on its low side, where places are cut upwards.
    - Each image is brought to 0..255 by its least and largest value and cut to whole
      numbers.

    Where it differs from that recipe, or has to guess: rotations are drawn from numpy's
    PCG64 by way of unit quaternions and so are others than in the benchmark's file; the
    least and largest value are those of all three channels together, which keeps
    colours (how the authors extended the recipe to colour is not published); an image
    of one value 0 stays 0 where the recipe divides by 0.

    Args:
        cifar_folder: `cifar-100-python`.
        out: The file, `s2_cifar100.gz` under the root. It is replaced when all is done.
        seed: Of the rotations: training chunks in order, then test chunks.
        bandwidth: b; images become `[2b 2b]`.
        chunk: Images with one rotation.
        num_train: How many training images, the first ones; 0 is all.
        num_test: How many test images; 0 is all.

    Raises:
        InputError: Files that cannot be read, or a number out of range.
    """
    for name, value, least in (
        *(("seed", seed, 0), ("bandwidth", bandwidth, 1), ("chunk", chunk, 1)),
        *(("num_train", num_train, 0), ("num_test", num_test, 0)),
    ):
        if value < least:
            raise errors.InputError(f"{name} = {value}; allowed: {least} or more")
    if not pathlib.Path(out).parent.is_dir():
        raise errors.InputError(f"{out}; allowed: a file in a folder that exists")
    rng = np.random.default_rng(seed)
    points = grid(bandwidth)
    content = {}
    wanted = {"train": num_train, "test": num_test}
    for split, (pixels, labels) in cifar100.read(cifar_folder).items():
        if wanted[split] > len(labels):
            raise errors.InputError(
                f"num_{split} = {wanted[split]}; allowed: 0 (all) to {len(labels)}"
            )
        num = wanted[split] or len(labels)
        images = np.empty((num, 3, 2 * bandwidth, 2 * bandwidth), np.uint8)
        for start in range(0, num, chunk):
            part = slice(start, min(start + chunk, num))
            images[part] = project(pixels[part], points @ rotation(rng).T)
        content[split] = {"images": images, "labels": labels[:num].astype(np.int64)}
    numpy_pickle.save_gzip(out, content)


def grid(bandwidth: int) -> Float[np.ndarray, "i j 3"]:
    """Return the points `[2b 2b 3]` of the grid on the unit sphere around 0.

    Colatitude by row, longitude by column; Driscoll & Healy 1994.
    """
    steps = np.arange(2 * bandwidth)
    colatitude = math.pi * steps[:, None] / (2 * bandwidth)
    longitude = math.pi * steps / bandwidth
    x = np.sin(colatitude) * np.cos(longitude)
    y = np.sin(colatitude) * np.sin(longitude)
    z = np.broadcast_to(np.cos(colatitude), x.shape)
    return np.stack([x, y, z], axis=-1)


def rotation(rng: np.random.Generator) -> Float[np.ndarray, "3 3"]:
    """Draw a rotation uniformly: that of a uniform unit quaternion (Shoemake 1992)."""
    quaternion = rng.normal(size=4)
    w, x, y, z = quaternion / np.linalg.norm(quaternion)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + 2 * w * cross + 2 * cross @ cross


def on_plane(
    points: Float[np.ndarray, "*p 3"],
) -> tuple[Float[np.ndarray, "*p"], Float[np.ndarray, "*p"]]:
    """Project points of the unit sphere; the image is the unit square `[0, 1]^2`."""
    height = points[..., 2] + 1  # above the plane
    stretch = EYE / (EYE - height)
    x, y = (points[..., axis] * stretch for axis in (0, 1))
    return (x + REACH) / (2 * REACH), (y + REACH) / (2 * REACH)


def project(
    pixels: UInt8[np.ndarray, "n h w 3"], points: Float[np.ndarray, "i j 3"]
) -> UInt8[np.ndarray, "n 3 i j"]:
    """Return what the points see of each image, see `make`."""
    num, height, width, _ = pixels.shape
    row, column = on_plane(points.reshape(-1, 3))
    rows_seen, row_weights = _neighbours(row * height, height)
    columns_seen, column_weights = _neighbours(column * width, width)
    places = (rows_seen[:, None] * width + columns_seen).reshape(4, -1)
    weights = (row_weights[:, None] * column_weights).reshape(4, -1)
    inside = np.flatnonzero(weights.any(0))  # the others see nothing
    # Pixels first, so that one place of all images is one stretch of memory.
    flat = pixels.transpose(1, 2, 0, 3).reshape(height * width, -1).astype(np.float64)
    seen = np.zeros((len(inside), flat.shape[1]))
    for place, weight in zip(places[:, inside], weights[:, inside], strict=True):
        seen += weight[:, None] * flat[place]
    everywhere = np.zeros((len(row), flat.shape[1]))
    everywhere[inside] = seen
    values = everywhere.reshape(len(row), num, 3).transpose(1, 2, 0)
    return _to_bytes(values).reshape(num, 3, *points.shape[:-1])


def _neighbours(
    place: Float[np.ndarray, " p"], size: int
) -> tuple[Int[np.ndarray, "2 p"], Float[np.ndarray, "2 p"]]:
    """Return the two pixels along an axis and their weights, 0 for those outside."""
    middle = np.trunc(place).astype(np.int64)
    below, above = middle - 1, middle + 1
    pixels = np.stack([below, above])
    weights = np.stack([above - place, place - below])
    is_outside = (pixels < 0) | (pixels >= size)
    return np.where(is_outside, 0, pixels), np.where(is_outside, 0.0, weights)


def _to_bytes(values: Float[np.ndarray, "n c p"]) -> UInt8[np.ndarray, "n c p"]:
    least = values.min(axis=(1, 2), keepdims=True)
    span = values.max(axis=(1, 2), keepdims=True) - least
    span[span == 0] = 1
    return ((values - least) / span * 255).astype(np.uint8)


def _split(path: pathlib.Path, content: object, split: str) -> dict:
    part = checked.entry(path, content, split)
    images = checked.entry(path, part, "images")
    checked.check_array(path, f"images of {split}", images, (None, 3, None, None))
    checked.check_bytes(path, f"images of {split}", images)
    num, _, height, width = images.shape
    labels = checked.entry(path, part, "labels")

    def read(at):
        x = images[at].transpose(0, 2, 3, 1).astype(np.float32, order="C")
        x /= 255
        return x

    y = checked.classes(path, labels, num, NUM_CLASSES)
    return {"x": rows.Rows(read, (num, height, width, 3)), "y": y}
