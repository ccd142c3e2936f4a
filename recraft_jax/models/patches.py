"""Arrays to patches and back, and from one grid to another.

Everything linear along an axis (resizing, pooling) is a small matrix `[new old]`,
made on the host and applied by a product: exact, differentiable, and fast everywhere.
All of them follow PyTorch's conventions, which the pretrained weights expect.
"""

import math
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


def grid(shape: Sequence[int], patch: int) -> tuple[int, ...]:
    """Number of patches along each spatial axis; the last may reach over the edge."""
    return tuple(math.ceil(n / patch) for n in shape)


def patchify(x: Float[Array, "b ..."], patch: int) -> Float[Array, "b l p"]:
    """Cut `[b n c]` or `[b h w c]` into flat patches, row by row.

    Sizes that `patch` does not divide are filled with zeros at the end. `unpatchify`
    is the inverse.
    """
    *spatial, channels = x.shape[1:]
    cells = grid(spatial, patch)
    fill = [(0, c * patch - n) for c, n in zip(cells, spatial, strict=True)]
    x = jnp.pad(x, [(0, 0), *fill, (0, 0)])
    axes = len(spatial)
    x = x.reshape(x.shape[0], *(v for c in cells for v in (c, patch)), channels)
    outer = [1 + 2 * i for i in range(axes)]
    inner = [2 + 2 * i for i in range(axes)]
    x = x.transpose(0, *outer, *inner, 1 + 2 * axes)
    return x.reshape(x.shape[0], math.prod(cells), patch**axes * channels)


def unpatchify(
    patches: Float[Array, "b l p"], patch: int, shape: Sequence[int]
) -> Float[Array, "b ..."]:
    """Put flat patches back into an array of `shape` (spatial axes and channels)."""
    *spatial, channels = shape
    cells = grid(spatial, patch)
    axes = len(spatial)
    x = patches.reshape(patches.shape[0], *cells, *([patch] * axes), channels)
    order = [v for i in range(axes) for v in (1 + i, 1 + axes + i)]
    x = x.transpose(0, *order, 1 + 2 * axes)
    x = x.reshape(x.shape[0], *(c * patch for c in cells), channels)
    return x[(slice(None), *(slice(n) for n in spatial))]


def shuffle(
    values: Float[Array, "b l v"], patch: int, shape: Sequence[int]
) -> Float[Array, "b ..."]:
    """Lay out the values of each token as its patch, channel by channel.

    PyTorch's PixelShuffle, for one or two spatial axes, channels last: a token's values
    are ordered (channel, place in the patch), where `unpatchify` has them (place,
    channel).
    """
    b, l, _ = values.shape
    values = values.reshape(b, l, shape[-1], -1).swapaxes(2, 3)
    return unpatchify(values.reshape(b, l, -1), patch, shape)


def fold(x: Float[Array, "b n c"]) -> Float[Array, "b h w c"]:
    """Lay a series row by row into a nearly square image, zeros at the end."""
    rows, columns = folded(x.shape[1])
    x = jnp.pad(x, [(0, 0), (0, rows * columns - x.shape[1]), (0, 0)])
    return x.reshape(x.shape[0], rows, columns, x.shape[2])


def folded(length: int) -> tuple[int, int]:
    """Rows and columns of the image that `fold` makes of a series."""
    columns = math.ceil(math.sqrt(length))
    return math.ceil(length / columns), columns


def linear(old: int, new: int) -> np.ndarray:
    """Matrix `[new old]` of linear interpolation, half-pixel centres, edges repeated.

    As PyTorch's `interpolate(mode="bilinear", align_corners=False)`, which does not
    smooth before it shrinks.
    """
    at = _centres(old, new).clip(0, old - 1)
    return np.maximum(0.0, 1.0 - np.abs(at[:, None] - np.arange(old)))


def cubic(old: int, new: int) -> np.ndarray:
    """Matrix `[new old]` of cubic convolution (Keys 1981) with a = -0.75.

    As PyTorch's `interpolate(mode="bicubic", align_corners=False)`: half-pixel
    centres, and taps beyond an edge read the edge.
    """
    at, a = _centres(old, new), -0.75
    first = np.floor(at).astype(int)
    weights = np.zeros((new, old))
    for tap in range(-1, 3):
        x = np.abs(at - (first + tap))
        near = (a + 2) * x**3 - (a + 3) * x**2 + 1
        far = a * (x**3 - 5 * x**2 + 8 * x - 4)
        value = np.where(x <= 1, near, far)
        np.add.at(weights, (np.arange(new), (first + tap).clip(0, old - 1)), value)
    return weights


def pooling(old: int, new: int) -> np.ndarray:
    """Matrix `[new old]` of adaptive average pooling.

    Output i is the mean of inputs floor(i old / new) to ceil((i + 1) old / new) - 1, so
    neighbours share inputs where `new` does not divide `old`.
    """
    out = np.arange(new)
    start, stop = out * old // new, -(-(out + 1) * old // new)
    inside = (np.arange(old) >= start[:, None]) & (np.arange(old) < stop[:, None])
    return inside / inside.sum(1, keepdims=True)


def resize(
    x: Float[Array, "b h w c"], shape: Sequence[int], matrix=linear
) -> Float[Array, "b h2 w2 c"]:
    """Bring both spatial axes to `shape` with `linear`, `cubic` or `pooling`."""
    for axis, new in ((1, shape[0]), (2, shape[1])):
        x = resize_axis(x, axis, new, matrix)
    return x


def resize_axis(x: Float[Array, "..."], axis: int, new: int, matrix=linear):
    """Bring one axis to `new` entries with `linear`, `cubic` or `pooling`."""
    if x.shape[axis] == new:
        return x
    weights = jnp.asarray(matrix(x.shape[axis], new), x.dtype)
    return jnp.moveaxis(jnp.tensordot(x, weights, axes=(axis, 1)), -1, axis)


def interpolate(table: Float[Array, "l d"], grid: Sequence[int]) -> Float[Array, "m d"]:
    """Bring learned positions of a square grid to another one: cubic, in float32."""
    side = math.isqrt(len(table))
    square = jnp.asarray(table, jnp.float32).reshape(1, side, side, -1)
    return resize(square, grid, cubic).reshape(-1, table.shape[-1])


def _centres(old: int, new: int) -> np.ndarray:
    """Where the centres of the new cells lie on the old ones."""
    return (np.arange(new) + 0.5) * old / new - 0.5
