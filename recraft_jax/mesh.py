"""Devices: one mesh axis, `data`, along which batches and, if asked, weights are split.

Everything runs as `jax.jit` over global arrays, so one device and a pod run the same
program. Axis types are `Auto`: under `Explicit`, the default of `jax.make_mesh`, ott's
cost matrices do not trace.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from absl import logging
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

MIN_SPLIT_BYTES = 1 << 20  # of a weight; less is not worth a collective


def make(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Lay devices, by default those of all processes, along one axis, `data`."""
    devices = jax.devices() if devices is None else devices
    return jax.make_mesh(
        (len(devices),), ("data",), axis_types=(AxisType.Auto,), devices=devices
    )


def replicated(mesh: Mesh) -> NamedSharding:
    """Give every device the whole array."""
    return NamedSharding(mesh, PartitionSpec())


def split(mesh: Mesh) -> NamedSharding:
    """Split the first axis over the devices."""
    return NamedSharding(mesh, PartitionSpec("data"))


def of_batch(mesh: Mesh, rows: int) -> NamedSharding:
    """Split a batch over the devices, or give all of it to each where it is uneven.

    The batch is the method's; how many devices there are must not change it.
    """
    return replicated(mesh) if rows % mesh.size else split(mesh)


def warn_if_uneven(mesh: Mesh, rows: int, what: str) -> None:
    """Say that devices are not used, and what would use them."""
    if rows % mesh.size:
        logging.warning(
            "%s of %d samples do not divide over %d devices: each computes all of "
            "them. A multiple of %d would be split",
            *(what, rows, mesh.size, mesh.size),
        )


def of_weights(mesh: Mesh, tree: Any, *, fsdp: bool) -> Any:
    """Shardings of a tree of weights or of their optimiser's state.

    Args:
      mesh: the mesh of `make`.
      tree: arrays, or their shapes and types.
      fsdp: split each leaf of a MiB or more along the largest axis that the devices
        divide ("fully sharded data parallel"); otherwise every device has every leaf.
    """

    def choose(leaf) -> NamedSharding:
        spec = [None] * len(leaf.shape)
        even = [axis for axis, n in enumerate(leaf.shape) if n % mesh.size == 0]
        is_key = jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        if fsdp and even and not is_key:
            if math.prod(leaf.shape) * leaf.dtype.itemsize >= MIN_SPLIT_BYTES:
                spec[max(even, key=lambda axis: leaf.shape[axis])] = "data"
        return NamedSharding(mesh, PartitionSpec(*spec))

    return jax.tree.map(choose, tree)


def place(tree: Any, shardings: Any) -> Any:
    """Put arrays where `shardings` says.

    Args:
      tree: arrays; those of this process alone have the same values in each process.
      shardings: a tree of the same structure.
    """

    def put(leaf, sharding):
        is_ours = not isinstance(leaf, jax.Array) or leaf.is_fully_addressable
        if jax.process_count() == 1 or not is_ours:
            return jax.device_put(leaf, sharding)
        if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            data = put(jax.random.key_data(leaf), replicated(sharding.mesh))
            return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))
        value = np.asarray(leaf)
        return jax.make_array_from_callback(value.shape, sharding, value.__getitem__)

    return jax.tree.map(put, tree, shardings)


def gathered(tree: Any) -> Any:
    """Give every device all of some values within a step.

    For what follows, small and iterative, as Sinkhorn is: split over the devices, it
    would wait for them in every iteration.
    """
    if jax.sharding.get_abstract_mesh().empty:  # not within a step
        return tree
    return jax.lax.with_sharding_constraint(tree, PartitionSpec())


def share(mesh: Mesh, rows: int) -> np.ndarray:
    """Rows of a global batch of `rows` that this process holds, in order."""
    places = of_batch(mesh, rows).addressable_devices_indices_map((rows,))
    return np.unique([np.arange(rows)[place] for place in places.values()])


def put(mesh: Mesh, batch: Mapping[str, np.ndarray], rows: int) -> dict[str, jax.Array]:
    """Make global arrays of a host batch, as `of_batch` says.

    Args:
      mesh: the mesh of `make`.
      batch: this process's `share`, arrays whose first axis is the batch.
      rows: of the global batch.
    """
    sharding = of_batch(mesh, rows)
    # With several processes JAX does not count this as the explicit transfer it is.
    with jax.transfer_guard_host_to_device("allow"):
        return {
            name: jax.make_array_from_process_local_data(
                sharding, value, (rows, *value.shape[1:])
            )
            for name, value in batch.items()
        }
