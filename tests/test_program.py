"""What compiled programs compute and send, on two devices, against hand counts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from recraft_jax import mesh as meshes
from recraft_jax import program


def compiled(fn, *args, out=None):
    mesh = meshes.make()
    given = [
        jax.ShapeDtypeStruct(shape, jnp.float32, sharding=NamedSharding(mesh, spec))
        for shape, spec in args
    ]
    out = NamedSharding(mesh, PartitionSpec() if out is None else out)
    return jax.jit(fn, out_shardings=out).lower(*given).compile()


ROWS, WHOLE = PartitionSpec("data"), PartitionSpec()


def test_sum_over_devices_is_one_all_reduce():
    # On each device a product of [5, 8] and [8, 7], whose [5, 7] are added up.
    found = program.work(
        compiled(lambda x, y: x.T @ y, ((16, 5), ROWS), ((16, 7), ROWS))
    )
    assert found.count == {"all-reduce": 1}
    assert found.size == {"all-reduce": 4 * 5 * 7}
    assert found.flops == 2 * 5 * 8 * 7


def test_gathering_is_one_all_gather():
    found = program.work(compiled(lambda x: x, ((16, 5), ROWS)))
    assert found == program.Work(0, {"all-gather": 1}, {"all-gather": 4 * 16 * 5})


def test_loops_count_as_often_as_they_run():
    def loop(x, w):
        def body(x, _):
            # Outside this sum is needed whole, so it cannot be taken at the end.
            return jnp.tanh(x @ w) + (x * x).sum(), None

        return jax.lax.scan(body, x, None, length=9)[0]

    found = program.work(compiled(loop, ((4, 6), ROWS), ((6, 6), WHOLE), out=ROWS))
    assert found.count == {"all-reduce": 9}
    assert found.size == {"all-reduce": 9 * 4}
    assert found.flops == 9 * 2 * 2 * 6 * 6


def test_a_collective_in_a_loop_of_unknown_length_is_refused():
    def loop(x):
        return jax.lax.while_loop(lambda x: (x * x).sum() > 1, lambda x: x / 2, x)

    with pytest.raises(ValueError, match="all-reduce in a loop of unknown length"):
        program.work(compiled(loop, ((4, 6), ROWS), out=ROWS))


def test_one_device_sends_nothing():
    x = jnp.ones((8, 8))
    found = program.work(jax.jit(lambda x: x @ x).lower(x).compile())
    assert found == program.Work(2 * 8**3, {}, {})


def test_callbacks_are_found():
    def noisy(x):
        jax.debug.callback(lambda v: None, x.sum())
        return x + 1

    shape = ((4, 6), ROWS)
    assert program.host_instructions(compiled(noisy, shape, out=ROWS))
    assert not program.host_instructions(compiled(lambda x: x + 1, shape, out=ROWS))


def test_types_have_their_sizes():
    assert program._bytes("(f32[2,3]{1,0}, bf16[4]{0}, pred[5]{0}, s32[])") == 41
    assert program._bytes("f64[2]{0}") == 16
    np.testing.assert_equal(program._flops("f32[]", "f32[7]{0}", "0"), 14)
