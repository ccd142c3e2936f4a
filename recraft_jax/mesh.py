"""Devices: one data-parallel mesh axis, parameters replicated, batches split.

Everything runs as `jax.jit` over global arrays, so one device and a pod run the same
program. Axis types are `Auto`: under `Explicit`, the default of `jax.make_mesh`, ott's
cost matrices do not trace.
"""

from collections.abc import Mapping

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from recraft_jax import errors


def make() -> Mesh:
    """Lay all devices along one axis, `data`."""
    return jax.make_mesh((jax.device_count(),), ("data",), axis_types=(AxisType.Auto,))


def replicated(mesh: Mesh) -> NamedSharding:
    """Give every device the whole array."""
    return NamedSharding(mesh, PartitionSpec())


def split(mesh: Mesh) -> NamedSharding:
    """Split the first axis over the devices."""
    return NamedSharding(mesh, PartitionSpec("data"))


def put(mesh: Mesh, batch: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
    """Make global arrays of a host batch, split over the devices.

    Args:
      mesh: the mesh of `make`.
      batch: this process's share, arrays whose first axis is the batch.
    """
    sharding = split(mesh)
    return {
        name: jax.make_array_from_process_local_data(sharding, value)
        for name, value in batch.items()
    }


def check_batch_size(batch_size: int, what: str) -> None:
    """Refuse a batch that the devices cannot share equally."""
    devices = jax.device_count()
    if batch_size % devices:
        raise errors.InputError(
            f"{what} = {batch_size} does not divide over {devices} devices; "
            f"allowed: a multiple of {devices}"
        )
