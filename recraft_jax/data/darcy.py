"""Darcy flow on a 16x16 grid, the small simulated set of the neuraloperator package.

The equation is -div(a grad u) = f on the unit square with u = 0 on its border: from the
permeability `a` predict the pressure `u` (Li et al. 2021, section 5.2).
"""

import os

import numpy as np
from jaxtyping import Float

from recraft_jax.data import draws, torch_file

GRID = 16


def load(
    train_path: str | os.PathLike,
    test_path: str | os.PathLike,
    *,
    num_train: int = 0,
    num_test: int = 0,
    seed: int = 0,
) -> dict[str, dict[str, Float[np.ndarray, "n h w c"]]]:
    """Read the two files and return `{"train": {"x", "y"}, "test": {"x", "y"}}`.

    `x` is the permeability, a two-phase medium given as 0 or 1 (which phase, not its
    physical value; half of the cells are 1). `y` is the pressure as stored, without
    unit: -0.43..2.06, mean 0.39 in train, not normalised here. All arrays are float32
    `[n 16 16 1]`, channels last; n is 1000 and 50 for the packaged files. Test inputs
    do not occur in train. `num_train`, `num_test` and `seed` as in `draws.subsets`.

    Source: files `darcy_train_16.pt` and `darcy_test_16.pt` of neuraloperator 0.3.0
    (asset `darcy16`). It is not the 85x85 set of NAS-Bench-360, only the same equation.

    Raises:
        ValueError: A file that cannot be read or has other keys or shapes, or more
            samples wanted than there are.
    """
    pools = {"train": _load_one(train_path), "test": _load_one(test_path)}
    return draws.subsets(
        "darcy16", pools, num_train=num_train, num_test=num_test, seed=seed
    )


def _load_one(path: str | os.PathLike) -> dict[str, Float[np.ndarray, "n h w c"]]:
    raw = torch_file.load(path)
    if not isinstance(raw, dict) or set(raw) != {"x", "y"}:
        got = sorted(map(str, raw)) if isinstance(raw, dict) else type(raw).__name__
        raise ValueError(f"{path}: expected a dict with keys x and y, got {got}")
    shapes = {key: getattr(value, "shape", ()) for key, value in raw.items()}
    want = (*shapes["x"][:1], GRID, GRID)
    if any(shape != want for shape in shapes.values()):
        raise ValueError(f"{path}: expected x and y [n {GRID} {GRID}], got {shapes}")
    return {key: value[..., None].astype(np.float32) for key, value in raw.items()}
