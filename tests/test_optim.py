"""Schedules and update rules against plain NumPy."""

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
import pytest

from recraft_jax import errors, optim
from recraft_jax import state as states


def section(**changes):
    made = {
        "name": "adamw",
        "lr": 0.5,
        "new_lr_factor": 1.0,
        "weight_decay": 0.0,
        "b1": 0.9,
        "b2": 0.98,
        "clip": 0.0,
        "warmup_frac": 0.0,
        "decay": "constant",
        "end_factor": 0.0,
    }
    return ml_collections.ConfigDict(made | changes)


def run(config, params, grads, num_steps=10):
    """Parameters after each of the given gradients."""
    optimiser = optim.make(config, num_steps)
    params = jax.tree.map(jnp.asarray, params)
    state = optimiser.init(params)
    seen = []
    for grad in grads:
        updates, state = optimiser.update(
            jax.tree.map(jnp.asarray, grad), state, params
        )
        params = optax.apply_updates(params, updates)
        seen.append(params)
    return seen


PARAMS = {
    "a/kernel": np.float32([[1.0, -2.0], [0.5, 4.0]]),
    "a/bias": np.float32([3.0, -1.0]),
}


def gradients(num):
    rng = np.random.default_rng(0)
    made = [
        {k: rng.normal(size=v.shape).astype(np.float32) for k, v in PARAMS.items()}
        for _ in range(num)
    ]
    for grad in made:
        grad["a/bias"][0] *= 1e-8  # as small as Adam's epsilon
    return made


def reference(name, params, grads, *, lr, weight_decay, b1, b2):
    """The rules as published, in float64; only the kernel decays."""
    params = {k: v.astype(np.float64) for k, v in params.items()}
    first = {k: np.zeros_like(v) for k, v in params.items()}
    second = {k: np.zeros_like(v) for k, v in params.items()}
    for t, grad in enumerate(grads, 1):
        for k, value in params.items():
            decay = weight_decay * value if k.endswith("kernel") else 0.0
            g = grad[k] + (decay if name != "adamw" else 0.0)
            if name == "sgd":
                first[k] = b1 * first[k] + g
                step = first[k]
            else:
                first[k] = b1 * first[k] + (1 - b1) * g
                second[k] = b2 * second[k] + (1 - b2) * g**2
                root = np.sqrt(second[k] / (1 - b2**t))
                step = first[k] / (1 - b1**t) / (root + 1e-8)
            if name == "adamw":
                step = step + decay
            params[k] = value - lr * step
    return params


@pytest.mark.parametrize("name", ["adamw", "adam", "sgd"])
def test_update_follows_the_published_rule(name):
    numbers = {"lr": 0.05, "weight_decay": 0.3, "b1": 0.8, "b2": 0.95}
    grads = gradients(4)
    last = run(section(name=name, **numbers), PARAMS, grads)[-1]
    want = reference(name, PARAMS, grads, **numbers)
    for path in PARAMS:
        np.testing.assert_allclose(last[path], want[path], rtol=1e-4, atol=1e-6)


def test_decay_is_apart_from_the_gradient_in_adamw_and_within_it_in_adam():
    zero = [{k: np.zeros_like(v) for k, v in PARAMS.items()}]
    kernel = PARAMS["a/kernel"]
    adamw = run(section(name="adamw", weight_decay=0.1), PARAMS, zero)[0]
    np.testing.assert_allclose(adamw["a/kernel"], kernel * (1 - 0.5 * 0.1), rtol=1e-6)
    # Normalised like any gradient, the decay moves every weight by the same lr.
    adam = run(section(name="adam", weight_decay=0.1), PARAMS, zero)[0]
    np.testing.assert_allclose(
        adam["a/kernel"], kernel - 0.5 * np.sign(kernel), rtol=1e-5, atol=1e-6
    )
    sgd = run(section(name="sgd", weight_decay=0.1), PARAMS, zero)[0]
    np.testing.assert_allclose(sgd["a/kernel"], kernel * (1 - 0.5 * 0.1), rtol=1e-6)


@pytest.mark.parametrize("name", ["adamw", "adam", "sgd"])
def test_decay_spares_all_but_kernels(name):
    params = {
        "l/kernel": np.ones(2, np.float32),
        "l/bias": np.ones(2, np.float32),
        "norm/scale": np.ones(2, np.float32),
        "positions": np.ones(2, np.float32),
        "kernel/positions": np.ones(2, np.float32),
    }
    zero = [{k: np.zeros_like(v) for k, v in params.items()}]
    after = run(section(name=name, weight_decay=0.1), params, zero)[0]
    moved = {k for k in params if not np.array_equal(after[k], params[k])}
    assert moved == {"l/kernel"}


def test_clip_scales_by_the_norm_over_all_leaves():
    params = {"a/kernel": np.zeros(1, np.float32), "b/bias": np.zeros(1, np.float32)}
    grad = {"a/kernel": np.float32([3.0]), "b/bias": np.float32([-4.0])}
    after = run(section(name="sgd", lr=0.1, clip=2.0), params, [grad])[0]
    np.testing.assert_allclose(after["a/kernel"], [-0.1 * 3 * 2 / 5], rtol=1e-6)
    np.testing.assert_allclose(after["b/bias"], [0.1 * 4 * 2 / 5], rtol=1e-6)


@pytest.mark.parametrize("clip", [0.0, 6.0])
def test_clip_leaves_small_gradients_and_zero_is_off(clip):
    params = {"a/kernel": np.zeros(2, np.float32)}
    grad = {"a/kernel": np.float32([3.0, -4.0])}
    after = run(section(name="sgd", lr=0.1, clip=clip), params, [grad])[0]
    np.testing.assert_allclose(after["a/kernel"], [-0.3, 0.4], rtol=1e-6)


def test_clip_does_not_count_the_decay():
    params = {"a/kernel": np.float32([100.0])}
    grad = {"a/kernel": np.float32([4.0])}
    config = section(name="sgd", lr=0.1, clip=1.0, weight_decay=0.5)
    after = run(config, params, [grad])[0]
    np.testing.assert_allclose(after["a/kernel"], [100 - 0.1 * (1 + 50)], rtol=1e-6)


@pytest.mark.parametrize(
    ("decay", "step", "expected"),
    [
        # 20 steps, 5 of warm-up from lr / 5 to lr.
        ("cosine", 0, 0.2),
        ("cosine", 1, 0.36),
        ("cosine", 4, 0.84),
        ("cosine", 5, 1.0),
        ("cosine", 10, 0.75),  # (1 + cos(pi / 3)) / 2
        ("cosine", 15, 0.25),
        ("cosine", 20, 0.0),
        ("linear", 3, 0.68),
        ("linear", 5, 1.0),
        ("linear", 8, 0.8),
        ("linear", 17, 0.2),
        ("constant", 0, 0.2),
        ("constant", 5, 1.0),
        ("constant", 19, 1.0),
    ],
)
def test_schedule_warms_up_then_decays(decay, step, expected):
    rate = optim.schedule(section(lr=3.0, warmup_frac=0.25, decay=decay), 20)
    np.testing.assert_allclose(rate(step), 3.0 * expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("decay", ["cosine", "linear"])
def test_schedule_ends_where_it_is_told_to(decay):
    config = section(lr=3.0, warmup_frac=0.5, decay=decay, end_factor=0.25)
    rate = optim.schedule(config, 20)
    np.testing.assert_allclose(rate(15), 3.0 * 0.625, rtol=1e-6)  # halfway
    np.testing.assert_allclose(rate(20), 0.75, rtol=1e-6)


@pytest.mark.parametrize("decay", ["cosine", "linear", "constant"])
def test_schedule_without_warm_up_starts_at_the_full_rate(decay):
    rate = optim.schedule(section(lr=3.0, decay=decay), 20)
    np.testing.assert_allclose(rate(0), 3.0, rtol=1e-6)
    assert rate(1) == rate(0) if decay == "constant" else rate(1) < rate(0)


def test_schedule_moves_at_every_step_of_a_phase():
    rate = optim.schedule(section(warmup_frac=0.1, decay="cosine"), 30)
    assert min(float(rate(step)) for step in range(30)) > 0


def test_make_applies_the_rate_of_each_step():
    params = {"a/kernel": np.zeros(1, np.float32)}
    grads = [{"a/kernel": np.ones(1, np.float32)}] * 4
    config = section(name="sgd", lr=1.0, b1=0.0, decay="linear")
    seen = [float(p["a/kernel"][0]) for p in run(config, params, grads, num_steps=4)]
    np.testing.assert_allclose(seen, [-1.0, -1.75, -2.25, -2.5], rtol=1e-6)


def test_runs_that_differ_in_the_rate_share_a_program():
    def program(**changes):
        tx = optim.make(section(**changes), 10)
        update = jax.jit(lambda grads, state: tx.update(grads, state, grads))
        params = {k: jnp.asarray(v) for k, v in PARAMS.items()}
        return update.lower(params, tx.init(params)).as_text()

    assert program(lr=0.1) == program(lr=0.3, decay="cosine")
    assert program(lr=0.1) != program(lr=0.1, weight_decay=0.1)


def test_frozen_leaves_have_no_optimiser_state():
    params = {k: jnp.asarray(v) for k, v in PARAMS.items()}
    optimiser = optim.make(section(weight_decay=0.1, clip=1.0), 10)
    state = states.start_phase(params, {}, optimiser, (r"a/bias",), step=0, seed=0)
    leaves = jax.tree.leaves_with_path(state.opt_state)
    paths = [jax.tree_util.keystr(path) for path, _ in leaves]
    assert any("a/bias" in path for path in paths)
    assert not any("a/kernel" in path for path in paths)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"name": "lion"}, r"optim\.name = 'lion'; allowed: adamw, adam, sgd"),
        ({"decay": "steps"}, r"optim\.decay = 'steps'; allowed: cosine, linear"),
    ],
)
def test_make_refuses_unknown_names(changes, said):
    with pytest.raises(errors.InputError, match=said):
        optim.make(section(**changes), 10)


def test_new_parts_move_faster_by_their_factor():
    params = {"body/kernel": np.zeros(2), "head/kernel": np.zeros(2)}
    grads = [{path: np.array([1.0, -2.0]) for path in params}]
    config = section(name="sgd", b1=0.0, new_lr_factor=10.0)
    after = run(config, params, grads)[-1]
    np.testing.assert_allclose(after["body/kernel"], [-0.5, 1.0])
    np.testing.assert_allclose(after["head/kernel"], [-5.0, 10.0])


def test_step_decay_is_the_released_one():
    """Factor 0.2^k, k thresholds of {20, 40, 60} strictly exceeded; epochs from 0."""
    rate = optim.schedule(section(lr=1.0, decay="step"), 60)
    want = [0.2 ** sum(epoch > at for at in (20, 40, 60)) for epoch in range(60)]
    got = [float(rate(step)) for step in range(60)]
    np.testing.assert_allclose(got, want, rtol=1e-6)
