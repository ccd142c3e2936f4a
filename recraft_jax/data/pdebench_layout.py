"""The nine PDEBench files of the cross-modal papers: names, keys, shapes, attributes.

From DaRUS doi:10.18419/darus-2986. Two kinds: `merged` files hold one data set for each
field, samples first; `grouped` files hold one group for each sample, named by its seed.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np


class Layout(NamedTuple):
    """One file.

    Attributes:
      file: published name.
      md5: of the published file.
      fields: data sets with a value for each sample; of a grouped file `data`.
      axes: of one sample of each field: `t`, space (`x`, `y`) or `c` (channels) by
        letter; `1` is an axis of length one.
      num_frames: T; 0 for a field without time.
      channels: of a grouped file's last axis.
      attrs: of the file, float64.
      domain: ends of each spatial axis.
      spacing: time between frames.
      num: published samples.
      nx: published cells of each axis.
      key: of the published file's first run, or first seed.
      compression: of a grouped file's `data`.
    """

    file: str
    md5: str
    fields: Mapping[str, str]
    num_frames: int
    domain: tuple[float, float]
    spacing: float
    num: int
    nx: int
    key: int
    attrs: Mapping[str, float] = {}
    channels: int = 1
    is_grouped: bool = False
    compression: str | None = None

    @property
    def space(self) -> str:
        """Letters of the spatial axes, in the order of the coordinates' names."""
        letters = set("".join(self.fields.values()))
        return "".join(sorted(letters & set("xyz")))

    def sample_shape(self, field: str, nx: int) -> tuple[int, ...]:
        """Shape of one sample of a field."""
        size = {"t": self.num_frames, "c": self.channels, "1": 1}
        return tuple(size.get(axis, nx) for axis in self.fields[field])

    def sample_values(self, nx: int) -> int:
        """Count the values of one sample in all fields."""
        return sum(math.prod(self.sample_shape(name, nx)) for name in self.fields)

    def coordinates(self, nx: int) -> dict[str, np.ndarray]:
        """Coordinates by name, float32: cell centres, and the times if there are any.

        The time axis of merged files has one entry more than there are frames.
        """
        left, right = self.domain
        edges = np.linspace(left, right, nx + 1)
        centres = ((edges[:-1] + edges[1:]) / 2).astype(np.float32)
        if self.is_grouped:
            times = np.linspace(
                0, self.spacing * (self.num_frames - 1), self.num_frames
            )
            return dict.fromkeys(self.space, centres) | {"t": times.astype(np.float32)}
        found = {f"{axis}-coordinate": centres for axis in self.space}
        if self.num_frames:
            times = np.arange(self.num_frames + 1, dtype=np.float32)
            found["t-coordinate"] = times * np.float32(self.spacing)
        return found

    def data_sets(self, nx: int) -> Sequence[str]:
        """Names of all data sets of a merged file."""
        return (*self.fields, *self.coordinates(nx))


UNIT = (0.0, 1.0)

LAYOUTS = {
    "advection": Layout(
        file="1D_Advection_Sols_beta0.4.hdf5",
        md5="d595bbfd2c659df995a93cd40d6ea568",
        fields={"tensor": "tx"},
        num_frames=201,
        domain=UNIT,
        spacing=0.01,
        attrs={"beta": 0.4},
        num=10_000,
        nx=1024,
        key=2022,
    ),
    "burgers": Layout(
        file="1D_Burgers_Sols_Nu1.0.hdf5",
        md5="9021eba35332d127306f11ef84c1a60f",
        fields={"tensor": "tx"},
        num_frames=201,
        domain=UNIT,
        spacing=0.01,
        attrs={"Nu": 1.0},
        num=10_000,
        nx=1024,
        key=2022,
    ),
    "diffusion_reaction": Layout(
        file="ReacDiff_Nu0.5_Rho1.0.hdf5",
        md5="69a429239778d529cd419ed5888ea835",
        fields={"tensor": "tx"},
        num_frames=101,
        domain=UNIT,
        spacing=0.01,
        attrs={"Nu": 0.5, "rho": 1.0},
        num=10_000,
        nx=1024,
        key=2022,
    ),
    "diffusion_sorption": Layout(
        file="1D_diff-sorp_NA_NA.h5",
        md5="9d466d1213065619d087319e16d9a938",
        fields={"data": "txc"},
        num_frames=101,
        domain=UNIT,
        spacing=5.0,
        num=10_000,
        nx=1024,
        key=0,
        is_grouped=True,
        compression="lzf",
    ),
    "cfd_1d": Layout(
        file="1D_CFD_Rand_Eta0.1_Zeta0.1_periodic_Train.hdf5",
        md5="45655bd77d006ab539c52b7fbcf099b9",
        fields={"density": "tx", "pressure": "tx", "Vx": "tx"},
        num_frames=101,
        domain=(-1.0, 1.0),
        spacing=0.01,
        attrs={"eta": 0.1, "zeta": 0.1},
        num=10_000,
        nx=1024,
        key=2020,
    ),
    "darcy": Layout(
        file="2D_DarcyFlow_beta0.1_Train.hdf5",
        md5="294f9a03a4aa16b0e386469ca8b471be",
        fields={"nu": "xy", "tensor": "1xy"},
        num_frames=0,
        domain=UNIT,
        spacing=0.0,
        attrs={"beta": 0.1},
        num=10_000,
        nx=128,
        key=2020,
    ),
    "shallow_water": Layout(
        file="2D_rdb_NA_NA.h5",
        md5="75d838c47aa410694bdc912ea7f22282",
        fields={"data": "txyc"},
        num_frames=101,
        domain=(-2.5, 2.5),
        spacing=0.01,
        num=1_000,
        nx=128,
        key=0,
        is_grouped=True,
    ),
    "diffusion_reaction_2d": Layout(
        file="2D_diff-react_NA_NA.h5",
        md5="b8d0b86064193195ddc30c33be5dc949",
        fields={"data": "tyxc"},
        num_frames=101,
        domain=(-1.0, 1.0),
        spacing=0.05,
        num=1_000,
        nx=128,
        key=0,
        channels=2,
        is_grouped=True,
        compression="lzf",
    ),
    "cfd_2d": Layout(
        file="2D_CFD_Rand_M1.0_Eta0.1_Zeta0.1_periodic_128_Train.hdf5",
        md5="75a34f34a3dcd9bc8ae4b7adf8bf372c",
        fields={"density": "txy", "pressure": "txy", "Vx": "txy", "Vy": "txy"},
        num_frames=21,
        domain=UNIT,
        spacing=0.05,
        attrs={"eta": 0.1, "zeta": 0.1, "M": 1.0},
        num=10_000,
        nx=128,
        key=2031,
    ),
}
