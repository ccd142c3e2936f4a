import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recraft_jax import checkpoints


def tree_of(value):
    return {
        "state": {"w": jnp.full((64, 64), value), "n": jnp.asarray(3, jnp.int32)},
        "key": {"key": jax.random.key(7)},
    }


def abstract(step):
    del step
    place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), tree_of(0.0)
    )


@pytest.fixture
def folder(tmp_path):
    """Checkpoints of steps 10, 20 and 30, of which two are kept."""
    folder = tmp_path / "checkpoints"
    with checkpoints.open_dir(folder, keep=2) as opened:
        for step in (10, 20, 30):
            checkpoints.save(opened, step, tree_of(step + 0.1), {"step": step})
    return folder


def restore(folder):
    with checkpoints.open_dir(folder, keep=2) as opened:
        return checkpoints.restore_latest(opened, abstract)


def test_restore_gives_the_newest_bit_for_bit(folder):
    step, arrays, record = restore(folder)
    assert (step, record) == (30, {"step": 30})
    np.testing.assert_array_equal(arrays["state"]["w"], np.float32(30.1))
    assert arrays["key"]["key"] == jax.random.key(7)


def test_only_the_newest_two_stay(folder):
    assert sorted(p.name for p in folder.iterdir() if p.is_dir()) == ["20", "30"]


def test_empty_folder_has_nothing_to_restore(tmp_path):
    assert restore(tmp_path / "none") is None


def largest_file(folder):
    files = [p for p in folder.rglob("*") if p.is_file()]
    return max(files, key=lambda p: p.stat().st_size)


def flip(folder):
    path = largest_file(folder)
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle] ^= 0xFF
    path.write_bytes(data)


DAMAGE = {
    "truncated": lambda d: largest_file(d).write_bytes(b""),
    "overwritten": lambda d: largest_file(d).write_bytes(b"\x00" * 500),
    "one byte flipped": flip,
    "metadata gone": lambda d: (d / "_CHECKPOINT_METADATA").unlink(),
    "arrays gone": lambda d: largest_file(d).unlink(),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damaged_checkpoint_falls_back_and_says_so(folder, caplog, name):
    DAMAGE[name](folder / "30")
    with caplog.at_level(logging.WARNING):
        step, arrays, _ = restore(folder)
    assert step == 20
    np.testing.assert_array_equal(arrays["state"]["w"], np.float32(20.1))
    assert "30 is damaged" in caplog.text and "going back to step 20" in caplog.text
    assert (folder.parent / "damaged-30").is_dir()


def test_both_damaged_starts_anew(folder, caplog):
    for step in ("20", "30"):
        DAMAGE["truncated"](folder / step)
    with caplog.at_level(logging.WARNING):
        assert restore(folder) is None
    assert "starting anew" in caplog.text


def test_run_goes_on_saving_after_a_fallback(folder):
    DAMAGE["truncated"](folder / "30")
    with checkpoints.open_dir(folder, keep=2) as opened:
        checkpoints.restore_latest(opened, abstract)
        checkpoints.save(opened, 30, tree_of(30.5), {"step": 30})
    assert restore(folder)[0] == 30


@pytest.mark.parametrize("change", ["value", "place", "leaf"])
def test_fingerprint_sees_a_change_of(change):
    x = jnp.arange(1.0, 9.0)
    y = {
        "value": (x.at[3].add(1e-6), x + 1),
        "place": (x[::-1], x + 1),
        "leaf": (x + 1, x),
    }[change]
    assert checkpoints.fingerprint((x, x + 1)) != checkpoints.fingerprint(y)


def test_fingerprint_is_the_same_for_the_same_values():
    x = jnp.arange(5.0)
    assert checkpoints.fingerprint({"a": x}) == checkpoints.fingerprint({"a": x + 0})


def test_record_is_the_one_of_its_save_though_the_caller_changes_it(tmp_path):
    record = {"best": {"value": 1.0}}
    with checkpoints.open_dir(tmp_path / "c", keep=2) as opened:
        checkpoints.save(opened, 1, tree_of(1.0), record)
        record["best"]["value"] = 0.5
    assert restore(tmp_path / "c")[2] == {"best": {"value": 1.0}}
