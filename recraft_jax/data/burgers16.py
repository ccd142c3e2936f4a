"""Burgers' equation on 16 points, the small simulated set of neuraloperator.

u_t + u u_x = nu u_xx with nu = 0.01 on a periodic interval: from the state at the start
predict the one at the end (Li et al. 2021, section 5.1, is the same map on finer grids
and with another viscosity). The states at the start are smooth: two directions of 16
hold 97 % of their variance, so that a nearest neighbour is a strong baseline.
"""

import os

import numpy as np

from recraft_jax import errors
from recraft_jax.data import draws, torch_file

GRID = 16
NUM_TEST = 200

_NAMES = ("input", "output", "visc")


def load(
    path: str | os.PathLike, *, num_train: int, num_test: int, seed: int
) -> dict[str, dict[str, np.ndarray]]:
    """Read the file; the last 200 of its samples are for testing.

    Args:
        path: `burgers_lowres.pt` of neuraloperator 0.3.0 (asset `burgers16`), with
            `input` `[n 16]` and `output` `[n t 16]`, the states at 17 times of which
            the first is the input. The file has no split of its own.
        num_train: See `draws.subsets`.
        num_test: See `draws.subsets`.
        seed: See `draws.subsets`.

    Returns:
        `train` and `test`, each with `x` and `y` `[n 16 1]` float32, as stored.

    Raises:
        InputError: A file that cannot be read or holds something else, or more samples
            wanted than there are.
    """
    try:
        raw = torch_file.load(path)
    except (OSError, ValueError) as error:
        raise errors.InputError(" ".join(str(error).split())) from None
    if not isinstance(raw, dict) or set(raw) != set(_NAMES):
        got = ", ".join(map(str, raw)) if isinstance(raw, dict) else type(raw).__name__
        raise errors.InputError(f"{path}: expected {', '.join(_NAMES)}, got {got}")
    first, course = raw["input"], raw["output"]
    shapes = [getattr(value, "shape", ()) for value in (first, course)]
    num = (*shapes[0], 0)[0]
    if shapes[0] != (num, GRID) or shapes[1] != (num, *shapes[1][1:2], GRID):
        raise errors.InputError(
            f"{path}: expected input [n {GRID}] and output [n t {GRID}], got "
            f"{shapes[0]} and {shapes[1]}"
        )
    if shapes[1][1] < 2 or not np.array_equal(course[:, 0], first):
        raise errors.InputError(
            f"{path}: expected 2 times or more in output and the input as the first"
        )
    if num <= NUM_TEST:
        raise errors.InputError(
            f"{path}: has {num} samples; allowed: more than the {NUM_TEST} for testing"
        )
    x, y = (v[..., None].astype(np.float32) for v in (first, course[:, -1]))
    pools = {
        "train": {"x": x[:-NUM_TEST], "y": y[:-NUM_TEST]},
        "test": {"x": x[-NUM_TEST:], "y": y[-NUM_TEST:]},
    }
    return draws.subsets(
        "burgers16", pools, num_train=num_train, num_test=num_test, seed=seed
    )
