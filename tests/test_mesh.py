"""Shardings of batches and weights on two devices."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from recraft_jax import mesh as meshes


def test_batches_are_split_or_whole():
    mesh = meshes.make()
    assert mesh.size == 2
    for rows, size in ((6, 3), (7, 7)):
        batch = {"x": np.arange(2.0 * rows).reshape(rows, 2)}
        found = meshes.put(mesh, batch, rows)["x"]
        np.testing.assert_array_equal(found, batch["x"])
        assert [s.data.shape for s in found.addressable_shards] == [(size, 2)] * 2
        np.testing.assert_array_equal(meshes.share(mesh, rows), np.arange(rows))


def test_uneven_batches_are_said(caplog):
    meshes.warn_if_uneven(meshes.make(), 8, "batches")
    assert not caplog.records
    meshes.warn_if_uneven(meshes.make(), 7, "batches of phase fit")
    assert "batches of phase fit of 7 samples do not divide over 2" in caplog.text


def test_weights_are_split_along_the_largest_axis_that_divides():
    mesh = meshes.make()
    tree = {
        "even": jnp.zeros((3, 400, 512)),
        "odd": jnp.zeros((3, 401, 512)),
        "first": jnp.zeros((512, 601)),
        "none": jnp.zeros((1025, 1025)),
        "small": jnp.zeros((512, 511)),  # 4 KiB below a MiB
        "key": jax.random.split(jax.random.key(0), 2**20),
    }
    found = meshes.of_weights(mesh, tree, fsdp=True)
    assert {name: s.spec for name, s in found.items()} == {
        "even": PartitionSpec(None, None, "data"),
        "odd": PartitionSpec(None, None, "data"),
        "first": PartitionSpec("data", None),
        "none": PartitionSpec(None, None),
        "small": PartitionSpec(None, None),
        "key": PartitionSpec(None),
    }
    whole = meshes.of_weights(mesh, tree, fsdp=False)
    assert all(s.is_fully_replicated for s in whole.values())
    shapes = jax.eval_shape(lambda: tree)
    assert meshes.of_weights(mesh, shapes, fsdp=True) == found


def test_place_keeps_values_and_keys():
    mesh = meshes.make()
    tree = {
        "w": np.arange(2**19, dtype=np.float32).reshape(512, 1024),
        "key": jax.random.key(3),
        "step": jnp.int32(4),
    }
    shardings = meshes.of_weights(mesh, tree, fsdp=True)
    found = meshes.place(tree, shardings)
    np.testing.assert_array_equal(found["w"], tree["w"])
    assert [s.data.shape for s in found["w"].addressable_shards] == [(512, 512)] * 2
    assert jax.random.normal(found["key"]) == jax.random.normal(tree["key"])
    assert found["step"] == 4
