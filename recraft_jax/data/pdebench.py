"""Pairs of fields from PDEBench's files: a frame at the start, one at the end.

Two protocols. `official` is what the loaders of ORCA and RECRAFT do, also where it
surprises: four tasks are trained on one frame and tested on another, 1-D and 2-D CFD
stay in normalised units, 2-D reaction-diffusion maps the activator alone to the
inhibitor alone, and there is no validation split. `corrected` is the default: see
`docs/benchmarks.md` for what it changes and why.
"""

import os
from typing import Any, NamedTuple

import numpy as np

from recraft_jax import errors
from recraft_jax.data import tasks
from recraft_jax.data.pdebench_file import File

TEST_FRAC = 0.1
NORM_EPS = 1e-5
CFD_2D_NORM_SAMPLES = 100


class Pairs(NamedTuple):
    """Which values of a file make up a pair.

    Attributes:
      frame: of the target, `corrected`; None where the target has no time.
      train_frame: of the training targets, `official`.
      test_frame: of the test targets, `official`.
      stride: between cells that are kept.
      test_is_last: whether the last tenth of the samples is the test split, or the
        first.
      norm: which samples the official normaliser is fitted on: `train`, `first` (100)
        or None.
    """

    frame: int | None
    train_frame: int | None
    test_frame: int | None
    stride: int = 1
    test_is_last: bool = False
    norm: str | None = None


PAIRS = {
    "advection": Pairs(200, 200, 200, stride=4),
    # Diffusion leaves little but the mean: at t = 0.02 fields still differ from it by
    # 39 % and 16 % of their size, at the published times by nothing.
    "burgers": Pairs(2, 200, 200),
    "diffusion_reaction": Pairs(2, 29, 99),
    "diffusion_sorption": Pairs(100, 100, 99, test_is_last=True),
    "cfd_1d": Pairs(100, 100, 100, norm="train"),
    "darcy": Pairs(None, None, None, stride=2),
    "shallow_water": Pairs(100, 100, 99, test_is_last=True),
    "diffusion_reaction_2d": Pairs(100, 100, 99, test_is_last=True),
    "cfd_2d": Pairs(20, 20, 20, stride=2, test_is_last=True, norm="first"),
}


def load(
    path: str | os.PathLike,
    task: str,
    split: str,
    protocol: str = "corrected",
    *,
    val_frac: float = 0.1,
    split_seed: int = 0,
    num_samples: int = 0,
    num_test: int = 0,
) -> dict[str, Any]:
    """Read one split of a file, published or generated.

    Only the frames of the pairs are read. The test split is the first tenth of the
    samples of merged files and the last tenth of grouped files and 2-D CFD.

    Args:
      path: of the file.
      task: a name in `PAIRS`.
      split: `train`, `val` or `test`.
      protocol: `official` or `corrected`; in `official` `val` is the test split.
      val_frac: share of the training samples that `corrected` holds out.
      split_seed: of that draw.
      num_samples: at most so many training samples, with those held out; 0 is all.
      num_test: at most so many test samples; 0 is all.

    Returns:
      `x` and `y` float32 `[n c ...space]`, channels first as the released loaders have
      them: 1-D CFD is one channel of density, pressure and velocity one after the
      other, Darcy `x` the coefficient. `coords`: kept cells of one axis. `frame`:
      time index of `y`, or None. With an official normaliser also `mean` and `std` of
      `x` and `y`, `[c ...space]`: `y` in physical units is `y * y_std + y_mean`.

    Raises:
      InputError: an unknown name, or a file that does not hold this task.
    """
    if task not in PAIRS:
        raise errors.InputError(f"task {task!r}; allowed: {', '.join(PAIRS)}")
    if split not in tasks.SPLITS:
        raise errors.InputError(f"split {split!r}; allowed: {', '.join(tasks.SPLITS)}")
    if protocol not in ("corrected", "official"):
        raise errors.InputError(f"protocol {protocol!r}; allowed: corrected, official")
    pairs, is_official = PAIRS[task], protocol == "official"
    is_test = split == "test" or (split == "val" and is_official)
    with File(path, task) as file:
        if file.nx % pairs.stride:
            raise errors.InputError(
                f"{path}: {file.nx} cells; allowed for task {task}: multiples of "
                f"{pairs.stride}, of which every {pairs.stride}th is kept"
            )
        train, test = split_rows(file.num, pairs, num_samples, num_test)
        rows = test if is_test else train
        if rows.start >= rows.stop:
            raise errors.InputError(
                f"{path}: {file.num} samples leave none for {split}; allowed: 2 or more"
            )
        frame = pairs.frame
        if is_official:
            frame = pairs.test_frame if is_test else pairs.train_frame
        found = {
            "x": _state(file, pairs, rows, is_target=False, frame=frame),
            "y": _state(file, pairs, rows, is_target=True, frame=frame),
        }
        if is_official and task == "diffusion_reaction_2d":
            found = {"x": found["x"][:, :1], "y": found["y"][:, 1:]}
        if is_official and pairs.norm:
            found |= _normalised(file, pairs, train, found)
        left, right = file.layout.domain
        coords = left + (np.arange(file.nx) + 0.5) * (right - left) / file.nx
    if not is_test and not is_official:
        keep = tasks.hold_out(len(found["x"]), val_frac, split_seed)[split]
        found = {key: value[keep] for key, value in found.items()}
    found["coords"] = coords[:: pairs.stride].astype(np.float32)
    found["frame"] = frame
    return found


def course(
    path: str | os.PathLike, task: str, protocol: str, num: int
) -> dict[str, np.ndarray]:
    """Read whole solutions of the first test samples of a 1-D task.

    Returns:
      `values` `[k t n c]` in physical units at the kept cells, `times` `[t]`, `coords`
      `[n]` and `frame`, the target's; empty for tasks on a plane.
    """
    pairs = PAIRS[task]
    with File(path, task) as file:
        if file.layout.space != "x":
            return {}
        _, test = split_rows(file.num, pairs, num_test=num)
        frames = range(file.layout.num_frames)
        fields = [
            np.stack([file.read(name, test, frame) for frame in frames], axis=1)
            for name in file.layout.fields
        ]
        values = fields[0] if file.layout.is_grouped else np.stack(fields, axis=-1)
        coordinates = file.layout.coordinates(file.nx)
    frame = pairs.test_frame if protocol == "official" else pairs.frame
    named = {name[0]: points for name, points in coordinates.items()}
    return {
        "values": values[:, :, :: pairs.stride],
        "times": named["t"][: len(frames)],
        "coords": named["x"][:: pairs.stride],
        "frame": np.asarray(frame),
    }


def split_rows(
    num: int, pairs: Pairs, num_samples: int = 0, num_test: int = 0
) -> tuple[slice, slice]:
    """Training and test samples of a file with `num` of them, at most so many of each.

    One sample at least is test, where the released loaders would leave an empty split.
    """
    size = (
        num - int(num * (1 - TEST_FRAC))
        if pairs.test_is_last
        else max(int(num * TEST_FRAC), 1)
    )
    train, test = (
        (slice(0, num - size), slice(num - size, num))
        if pairs.test_is_last
        else (slice(size, num), slice(0, size))
    )

    def cut(rows: slice, most: int) -> slice:
        return slice(rows.start, min(rows.stop, rows.start + most)) if most else rows

    return cut(train, num_samples), cut(test, num_test)


def official_floor(path: str | os.PathLike, task: str) -> float:
    """Compute the official test error of a model that is perfect on what it is taught.

    It predicts the frame of the training targets; the test targets are of another
    frame. In the units and the metric of the official protocol, nRMSE.
    """
    pairs = PAIRS[task]
    if pairs.train_frame == pairs.test_frame:
        return 0.0
    with File(path, task) as file:
        _, rows = split_rows(file.num, pairs)
        taught, asked = (
            _state(file, pairs, rows, is_target=True, frame=frame)
            for frame in (pairs.train_frame, pairs.test_frame)
        )
    if task == "diffusion_reaction_2d":
        taught, asked = taught[:, 1:], asked[:, 1:]
    taught, asked = (v.reshape(len(v), -1).astype(np.float64) for v in (taught, asked))
    ratio = np.linalg.norm(taught - asked, axis=1) / np.linalg.norm(asked, axis=1)
    return float(ratio.mean())


def _state(
    file: File, pairs: Pairs, rows: slice, *, is_target: bool, frame: int | None
) -> np.ndarray:
    """One side of the pairs, `[n c ...space]`."""
    if file.task == "darcy":
        name = "tensor" if is_target else "nu"
        values = file.read(name, rows, None).reshape(-1, 1, file.nx, file.nx)
    else:
        at = frame if is_target else 0
        parts = [file.read(name, rows, at) for name in file.layout.fields]
        if file.layout.is_grouped:
            values = np.moveaxis(parts[0], -1, 1)
        else:
            values = np.stack(parts, axis=1)
    space = (slice(None, None, pairs.stride),) * len(file.layout.space)
    values = np.ascontiguousarray(values[(slice(None), slice(None), *space)])
    if file.task == "cfd_1d":
        return values.reshape(len(values), 1, -1)
    return values


def _normalised(
    file: File, pairs: Pairs, train: slice, found: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Standardise point by point as the released loaders do (T5).

    1-D CFD: with the statistics of the training inputs, for inputs and targets. 2-D
    CFD: with those of each frame over the first hundred samples.
    """
    fitted_on = train
    if pairs.norm == "first":
        fitted_on = slice(train.start, min(train.stop, CFD_2D_NORM_SAMPLES))
    if fitted_on.stop - fitted_on.start < 2:
        raise errors.InputError(
            f"{file.path}: one training sample; allowed with the official protocol of "
            f"task {file.task}: two or more, for their deviation"
        )
    out = {}
    for side in "xy":
        # The released 1-D loader never looks at the targets' own statistics.
        is_target = side == "y" and pairs.norm == "first"
        values = _state(
            file, pairs, fitted_on, is_target=is_target, frame=pairs.train_frame
        )
        mean, std = values.mean(0), values.std(0, ddof=1)
        out[side] = (found[side] - mean) / (std + np.float32(NORM_EPS))
        out |= {f"{side}_mean": mean, f"{side}_std": std + np.float32(NORM_EPS)}
    return out
