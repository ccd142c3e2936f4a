"""Darcy flow of NAS-Bench-360: the FNO's files of 421 x 421 nodes, every fifth of them.

From the coefficient predict the pressure; the equation is that of
`recraft_jax/pde/piecewise_darcy.py`, which makes such files. The first 1000 samples of
one file train, the first 100 of the other test.

The released loaders (NAS-Bench-360, ORCA) standardise x and y at every node by mean and
unbiased deviation of the training samples, to which 1e-5 is added. Here x comes that
way, since the coordinates beside it must stay; y comes in its own units, and
`point_scale` gives the caller what the released training applies to predictions.
"""

import os
import pathlib

import h5py
import numpy as np
import scipy.io
from jaxtyping import Float

from recraft_jax import errors

FILES = {
    "train": "piececonst_r421_N1024_smooth1.mat",
    "test": "piececonst_r421_N1024_smooth2.mat",
}
NUM_SAMPLES = {"train": 1000, "test": 100}
STRIDE = 5
EPSILON = 1e-5


def load(
    root: str | os.PathLike, *, boundary_eps: bool
) -> dict[str, dict[str, Float[np.ndarray, "n h w c"]]]:
    """Read both files.

    Args:
      root: folder with `FILES`, MATLAB 5 or 7.3 (HDF5), fields `coeff` and `sol`
        `[n 421 421]`. Of files with fewer samples all are taken; another square grid
        is thinned in the same way.
      boundary_eps: see `point_scale`, by which x is standardised.

    Returns:
      `train` and `test`, each with `x` `[n 85 85 3]` and `y` `[n 85 85 1]`, float32:
      the standardised coefficient, the coordinate along the last axis and that along
      the rows, both `linspace(0, 1, 85)`; and the pressure as stored.

    Raises:
      InputError: a file that is not there, cannot be read or holds something else, or
        fewer than two training samples.
    """
    root = pathlib.Path(root)
    raw = {
        split: {
            field: _read(root / FILES[split], field, NUM_SAMPLES[split])
            for field in ("coeff", "sol")
        }
        for split in FILES
    }
    _check(root, raw)
    mean, std = point_scale(raw["train"]["coeff"], boundary_eps=boundary_eps)
    line = np.linspace(0, 1, raw["train"]["coeff"].shape[1], dtype=np.float32)
    coords = np.stack(np.meshgrid(line, line), axis=-1)  # the last axis first
    return {
        split: {
            "x": np.concatenate(
                [
                    ((fields["coeff"] - mean) / std)[..., None],
                    np.broadcast_to(coords, (len(fields["sol"]), *coords.shape)),
                ],
                axis=-1,
            ),
            "y": fields["sol"][..., None],
        }
        for split, fields in raw.items()
    }


def point_scale(
    values: Float[np.ndarray, "n ..."], *, boundary_eps: bool
) -> tuple[Float[np.ndarray, "..."], Float[np.ndarray, "..."]]:
    """Mean and deviation (unbiased, plus 1e-5) over samples at every point.

    Args:
      values: training samples, two or more.
      boundary_eps: what holds where all of them are equal. True, as released: the
        deviation is 1e-5. A prediction there is the common value whatever the network
        says, which helps where u = 0 on the border; a test value that differs is blown
        up 1e5 times, as happens to coefficients when training samples are few. False:
        the deviation is 1, so x - mean stays as it is, zero in training, and border
        values of y must be learnt.

    Returns:
      Both float32, to be used as `(values - mean) / std` and `values * std + mean`.
    """
    mean = values.mean(axis=0, dtype=np.float64)
    std = values.std(axis=0, dtype=np.float64, ddof=1)
    # Not std == 0: the mean of equal values can be off by rounding.
    is_constant = values.max(axis=0) == values.min(axis=0)
    std = np.where(is_constant, 0, std) + EPSILON
    if not boundary_eps:
        std[is_constant] = 1
    return mean.astype(np.float32), std.astype(np.float32)


def _read(path: pathlib.Path, field: str, num: int) -> Float[np.ndarray, "n h w"]:
    """First samples of a field at every fifth node; the rest is not kept."""
    if not path.is_file():
        raise errors.InputError(
            f"{path}: there is no such file; allowed: {path.name} of NAS-Bench-360 or "
            "of the FNO, or one made by recraft_jax.pde.piecewise_darcy"
        )
    try:
        if h5py.is_hdf5(path):
            with h5py.File(path) as file:
                found = _thin_hdf5(file[field], num)
        else:
            stored = scipy.io.loadmat(path, variable_names=[field])[field]
            found = stored[:num, ::STRIDE, ::STRIDE]
        return np.ascontiguousarray(found, dtype=np.float32)
    except Exception as error:  # a damaged file can raise nearly anything
        reason = " ".join(str(error).split()) or type(error).__name__
        raise errors.InputError(
            f"{path}: field {field} cannot be read ({reason}); allowed: a MATLAB file "
            "with coeff and sol [n h w]"
        ) from None


def _thin_hdf5(stored: h5py.Dataset, num: int) -> Float[np.ndarray, "n h w"]:
    """MATLAB 7.3 writes the axes of `[n h w]` as `[w h n]`."""
    planes = [
        stored[place, :, :num][::STRIDE] for place in range(0, len(stored), STRIDE)
    ]
    return np.stack(planes).T


def _check(root: pathlib.Path, raw: dict) -> None:
    size = raw["train"]["coeff"].shape[-1:]
    for split, fields in raw.items():
        for field, values in fields.items():
            want = (*fields["coeff"].shape[:1], *size, *size)
            if values.shape != want or values.size == 0:
                raise errors.InputError(
                    f"{root / FILES[split]}: field {field}, thinned, is {values.shape} "
                    f"beside coeff {fields['coeff'].shape}; allowed: one square grid "
                    "in both fields of both files"
                )
            if not np.isfinite(values).all():
                sample = np.argwhere(~np.isfinite(values))[0][0]
                raise errors.InputError(
                    f"{root / FILES[split]}: field {field} is not finite in sample "
                    f"{sample}; allowed: finite numbers"
                )
    if len(raw["train"]["coeff"]) < 2:
        raise errors.InputError(
            f"{root / FILES['train']}: one sample; allowed: two or more, for a "
            "deviation"
        )
