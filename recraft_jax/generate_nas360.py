"""Make the two tasks of NAS-Bench-360 that can be made: Darcy Flow and Spherical.

    python -m recraft_jax.generate --task=darcy_flow --out=DIR [--num=1000] [--nx=421]
        [--key=0] [--low=4]
    python -m recraft_jax.generate --task=spherical --out=DIR [--num=50000] [--key=0]

Both write the benchmark's files into DIR. darcy_flow: a tenth as many test samples,
from other draws; --low=3 makes the materials of the paper. spherical: from
DIR/cifar-100-python, a fifth as many test images; --nx is twice the bandwidth (60).
What is finished of darcy_flow stays in FILE.parts: the same command goes on after a
kill and ends with the same file.
"""

import pathlib
import shutil
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import rich.progress

from recraft_jax import errors, provenance, writer
from recraft_jax.data.nas360 import spherical
from recraft_jax.pde import piecewise_darcy

CHUNK = 25  # samples of a part: half a minute


class Asked(NamedTuple):
    """What to make.

    Attributes:
      out: the folder.
      num: training samples.
      nx: nodes or pixels of an axis.
      key: of the draws.
      low: the smaller permeability of darcy_flow.
    """

    out: pathlib.Path
    num: int
    nx: int
    key: int
    low: float


class Maker(NamedTuple):
    """How to make a task, and what is made by default."""

    make: Callable[[Asked], None]
    num: int
    nx: int
    key: int = 0


def darcy_flow(asked: Asked) -> None:
    """Write the training and the test file, or go on with what was begun.

    Raises:
      InputError: values that make no problem, or files at `out` that are made
        otherwise.
    """
    if asked.nx < 3 or not 0 < asked.low <= 12:
        raise errors.InputError(
            f"--nx={asked.nx} --low={asked.low}; allowed: 3 nodes or more, a "
            "permeability above 0 and up to 12"
        )
    for split, num in (("train", asked.num), ("test", max(asked.num // 10, 1))):
        path = asked.out / piecewise_darcy.FILES[split]
        facts = {"task": "darcy_flow", "split": split, "num": num, "nx": asked.nx}
        facts |= {"key": asked.key, "low": asked.low}
        _darcy_file(path, facts)


def _darcy_file(path: pathlib.Path, facts: dict[str, Any]) -> None:
    card, parts = (path.with_name(f"{path.name}.{s}") for s in ("json", "parts"))
    if path.exists():
        provenance.check_same(path, card, facts)
        print(f"{path}: there already")
        return
    begun = parts / "asked.json"
    if parts.exists():
        provenance.check_same(parts, begun, facts)
    parts.mkdir(exist_ok=True)
    writer.write_json(begun, facts)
    starts = range(0, facts["num"], CHUNK)
    for start in rich.progress.track(starts, f"{path.name}", transient=True):
        part = parts / f"{start:08d}.npz"
        if part.exists():
            continue
        made = [
            piecewise_darcy.sample(
                facts["split"],
                index,
                nodes=facts["nx"],
                seed=facts["key"],
                low=facts["low"],
            )
            for index in range(start, min(start + CHUNK, facts["num"]))
        ]
        coeff, sol = (np.stack(values) for values in zip(*made, strict=True))
        writer.write_npz(part, coeff=coeff, sol=sol)
    shape = (facts["num"], facts["nx"], facts["nx"])
    fields = {name: np.empty(shape) for name in ("coeff", "sol")}
    for start in starts:
        with np.load(parts / f"{start:08d}.npz", allow_pickle=False) as part:
            for name, values in fields.items():
                values[start : start + CHUNK] = part[name]
    writer.write_json(card, facts)
    piecewise_darcy.write(path, **fields)
    shutil.rmtree(parts)
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB")


def make_spherical(asked: Asked) -> None:
    """Project the photographs of DIR/cifar-100-python; seconds, so never half done.

    Raises:
      InputError: no photographs, an odd size, or a file that is made otherwise.
    """
    if asked.nx % 2:
        raise errors.InputError(f"--nx={asked.nx}; allowed: even numbers")
    path = asked.out / "s2_cifar100.gz"
    card = path.with_name(f"{path.name}.json")
    facts = {"task": "spherical", "num": asked.num, "nx": asked.nx, "key": asked.key}
    if path.exists():
        provenance.check_same(path, card, facts)
        print(f"{path}: there already")
        return
    spherical.make(
        asked.out / "cifar-100-python",
        path,
        seed=asked.key,
        bandwidth=asked.nx // 2,
        num_train=asked.num,
        num_test=max(asked.num // 5, 1),
    )
    writer.write_json(card, facts)
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB")


MAKERS = {
    "darcy_flow": Maker(darcy_flow, num=1000, nx=421),
    "spherical": Maker(make_spherical, num=50_000, nx=60),
}


def make(
    task: str, out: pathlib.Path, num: int | None, nx: int | None, key: int | None, low
) -> None:
    """Make a task of `MAKERS` in a folder; None stands for what is published.

    Raises:
      InputError: no such folder, numbers out of range.
    """
    maker = MAKERS[task]
    num, nx, key = (
        default if given is None else given
        for given, default in ((num, maker.num), (nx, maker.nx), (key, maker.key))
    )
    for name, value, least in (("num", num, 1), ("nx", nx, 2), ("key", key, 0)):
        if value < least:
            raise errors.InputError(f"--{name}={value}; allowed: {least} or more")
    if not out.is_dir():
        raise errors.InputError(f"--out={out}; allowed: a folder that exists")
    maker.make(Asked(out, num, nx, key, low))
