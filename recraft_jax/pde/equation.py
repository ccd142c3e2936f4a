"""What every equation offers to those who generate data from it."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np

# compat: PDEBench's scheme, step by step, in its precision. accurate: the same equation
# in float64, to 1e-4 or better; a module says so where it is not.
MODES = ("compat", "accurate")

Sample = Mapping[str, jax.Array | np.ndarray]


class Equation(NamedTuple):
    """One equation on one domain, at any resolution.

    Attributes:
      draw: `(key, num, nx) -> sample`; all that is random about a run of `num` samples,
        arrays `[num ...]`. Draws depend on `num`, so a run is drawn as a whole.
      solve: `(sample, *, nx, mode) -> frames`; frames `[b t ...]` of each data set of
        the file, for any part of a run. Traceable under `jit`, with 64-bit types
        enabled by the caller in `wide_modes`; in `host_modes` NumPy in, NumPy out.
      times: at which frames are saved.
      domain: ends of every spatial axis.
      run_size: samples of one published run; a larger set joins runs of keys key,
        key + 1, ...
      cost: of each mode, how long a sample takes on two processor cores: seconds, at
        which `nx`, and the power of `nx` they grow with.
      is_seeded: whether sample i is drawn by seed key + i alone.
      host_modes: modes whose `solve` is not traceable.
      wide_modes: traceable modes that compute in float64.
    """

    draw: Callable[[int, int, int], dict[str, np.ndarray]]
    solve: Callable[..., dict[str, jax.Array | np.ndarray]]
    times: np.ndarray
    domain: tuple[float, float]
    run_size: int
    cost: Mapping[str, tuple[float, int, float]]
    is_seeded: bool = False
    host_modes: Sequence[str] = ()
    wide_modes: Sequence[str] = ("accurate",)


def centres(domain: tuple[float, float], nx: int) -> np.ndarray:
    """Cell centres `[nx]` in float64."""
    left, right = domain
    return left + (np.arange(nx) + 0.5) * (right - left) / nx
