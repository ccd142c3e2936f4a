"""Averages over square cells of what depends on the radius only.

A function constant on rings of equal width has closed averages: the areas that cells
and discs share. Cells that eight reflections map to each other share a row, and rows
of cells equally far out are multiplied as one block, as they meet the same rings.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

BLOCK = 32  # rows

Numbers = Float[np.ndarray, "..."] | np.floating | float


class Averaging(NamedTuple):
    """A banded matrix in blocks and where its rows go.

    Attributes:
      weight: `[block row ring]`, the share of a cell's area in each ring.
      first: `[block]`, the ring of a block's first column.
      row: `[x y]`, the row of each cell.
    """

    weight: Float[np.ndarray, "k r w"]
    first: Int[np.ndarray, " k"]
    row: Int[np.ndarray, "x y"]


def shared_area(radius: Numbers, x: Numbers, y: Numbers) -> Numbers:
    """Area that the disc round the origin shares with the box from there to (x, y).

    Odd in x and in y, so that four corners give the area for any box.
    """
    sign = np.sign(x) * np.sign(y)
    x, y = np.minimum(abs(x), radius), np.minimum(abs(y), radius)
    bend = np.minimum(np.sqrt(np.maximum(radius**2 - y**2, 0)), x)

    def under(s):  # the arc, from 0 to s
        angle = np.arcsin(np.minimum(s / np.where(radius > 0, radius, 1), 1))
        height = np.sqrt(np.maximum(radius**2 - s**2, 0))
        return (s * height + radius**2 * angle) / 2

    return sign * (bend * y + under(x) - under(bend))


def averaging(nx: int, spacing: float, ring: float, num_rings: int) -> Averaging:
    """Weights of rings in the cells of a grid with the origin in its middle.

    Args:
      nx: cells along each axis.
      spacing: of the grid.
      ring: width of a ring.
      num_rings: what lies beyond them has no weight.
    """
    # Distance from the axes in half cells, the farther one first.
    steps = np.abs(2 * np.arange(nx) - (nx - 1))
    far, near = np.maximum(steps[:, None], steps), np.minimum(steps[:, None], steps)
    # A complex number sorts by its real part first, here the distance.
    kinds, row = np.unique(far**2 + near**2 + 1j * far, return_inverse=True)
    far = kinds.imag
    near = np.sqrt(kinds.real - far**2).round()
    low, high = (spacing / 2 * np.stack([far + d, near + d]) for d in (-1, 1))

    num_blocks = -(-len(kinds) // BLOCK)
    rows = np.minimum(np.arange(num_blocks * BLOCK), len(kinds) - 1)
    rows = rows.reshape(num_blocks, BLOCK)
    inner = np.hypot(*np.maximum(low, 0))[rows].min(1)
    outer = np.hypot(*high)[rows].max(1)
    first = np.minimum(inner / ring, num_rings).astype(int)
    width = int(np.max(np.ceil(outer / ring) - np.floor(inner / ring))) + 1

    edge = np.minimum(first[:, None] + np.arange(width + 1), num_rings) * ring
    x0, y0, x1, y1 = (a[rows][..., None] for a in (*low, *high))
    edge = edge[:, None]
    inside = (
        shared_area(edge, x1, y1)
        - shared_area(edge, x0, y1)
        - shared_area(edge, x1, y0)
        + shared_area(edge, x0, y0)
    )
    return Averaging(np.diff(inside) / spacing**2, first, row.reshape(nx, nx))


def average(a: Averaging, rings: Float[Array, "n w"]) -> Float[Array, "n x y"]:
    """Average over each cell; 0 where there is no ring."""
    num_blocks, _, width = a.weight.shape
    rings = jnp.pad(rings, ((0, 0), (0, width))).T
    window = rings[a.first[:, None] + np.arange(width)]
    cells = jnp.einsum("krw,kwn->nkr", a.weight, window, precision="highest")
    return cells.reshape(len(cells), -1)[:, a.row]
