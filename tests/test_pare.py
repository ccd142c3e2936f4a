"""PaRe: which tokens are replaced, the curriculum, the relaxed choice, the loss."""

import types

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest

from recraft_jax import errors, tree
from recraft_jax.losses import task as task_losses
from recraft_jax.methods import pare

B, L, LS, D, E, KT, KS = 3, 5, 4, 2, 3, 2, 3
TARGET = types.SimpleNamespace(
    num_source_classes=KS, num_tokens=L, hidden_width=E, width=D
)


def embed(params, x):
    return x @ params["embedder/kernel"]


def forward_from_tokens(params, tokens, mask=None):
    hidden = tokens @ params["body/kernel"]
    # Unlike a mean, a weighted sum sees where a token lies.
    place = jnp.arange(1.0, 1 + tokens.shape[1])[:, None]
    return (hidden * place).mean(1) @ params["head/kernel"], {"hidden": hidden}


MODEL = types.SimpleNamespace(embed=embed, forward_from_tokens=forward_from_tokens)


def config(**changes):
    made = ml_collections.ConfigDict(
        {
            "pare": {
                "begin_frac": 0.6,
                "end_frac": 0.2,
                "relaxed_frac": 0.5,
                "temperature": 0.9,
                "weight": 0.3,
            },
            "legacy": {"pare_replace_highest": False},
            "stage2": {"batch_size": B, "optim": {}, "trainable": "full"},
        }
    )
    made.update_from_flattened_dict(changes)
    return made


def fit(steps=10, **changes):
    (phase,) = pare.phases(
        config(**changes),
        MODEL,
        task_losses.cross_entropy,
        target=TARGET,
        fit_steps=steps,
    )
    return phase


@pytest.fixture(scope="module")
def problem():
    """Parameters with a gate that reads the first coordinate, and a paired batch."""
    rng = np.random.default_rng(0)

    def draw(*shape):
        return jnp.asarray(rng.normal(size=shape), jnp.float32)

    params = {
        **pare.init(TARGET, jax.random.key(0)),
        "embedder/kernel": jnp.eye(D),
        "body/kernel": draw(D, E),
        "head/kernel": draw(E, KT),
        "gate/kernel": jnp.asarray([[1.0], [0.0]]),
        "source/features": draw(4, D),
    }
    mask = jnp.asarray([[1, 1, 1, 1], [1, 1, 0, 0], [1, 1, 1, 0]], bool)
    batch = {
        "x": draw(B, L, D),
        "y": jnp.asarray([0, 1, 1]),
        "source_tokens": draw(B, LS, D),
        "source_mask": mask,
        "source_label": jnp.asarray([2, 0, 1]),
    }
    return params, batch


def test_tokens_are_put_in_order_at_the_dropped_positions():
    tokens = jnp.arange(10.0).reshape(2, 5, 1)
    source = 100 + jnp.arange(6.0).reshape(2, 3, 1)
    take = jnp.asarray([[1.0, 0, 1], [0, 0, 0]])
    drop = jnp.asarray([[0.0, 1, 0, 0, 1], [0, 0, 0, 0, 0]])
    mixed = pare.mix(tokens, source, take, drop)
    want = [[0, 100, 2, 3, 102], [5, 6, 7, 8, 9]]
    np.testing.assert_array_equal(mixed[..., 0], want)


def test_top_k_takes_the_highest_and_breaks_ties_to_the_left():
    scores = jnp.asarray([[0.1, 0.9, 0.5, 0.5], [3.0, 2.0, 1.0, 0.0]])
    chosen = pare.top_k(scores, jnp.asarray([2, 0]))
    np.testing.assert_array_equal(chosen, [[0, 1, 1, 0], [0, 0, 0, 0]])


def test_curriculum_falls_linearly_and_is_floored():
    counts = [int(pare.replaced_count(8, 3, jnp.int32(i), 11)) for i in range(11)]
    assert counts == [int(8 - 5 * i / 10) for i in range(11)]
    assert counts[0] == 8 and counts[5] == 5 and counts[10] == 3


def test_soft_top_k_sums_to_the_count_and_sharpens():
    keys = jnp.asarray(np.random.default_rng(1).normal(size=(3, 7)), jnp.float32)
    keys = keys.at[1, 4:].set(-1e9)  # padding
    count = jnp.asarray([4, 3, 0])
    soft = pare.soft_top_k(keys, count, 5, 0.9)
    np.testing.assert_allclose(soft.sum(1), count, rtol=1e-5)
    assert np.all(np.asarray(soft) >= 0) and np.all(np.asarray(soft[1, 4:]) == 0)
    sharp = pare.soft_top_k(keys, count, 5, 1e-3)
    np.testing.assert_allclose(sharp, pare.top_k(keys, count), atol=1e-5)
    # By hand: two soft-maxes of two keys, the first share taken out of the second.
    p = 1 / (1 + np.exp(-1.0 / 0.5))
    odds = (p / (1 - p)) * ((1 - p) / p) ** 2  # of shares (1 - p, p) at 0.5
    want = p + odds / (1 + odds)
    got = pare.soft_top_k(jnp.asarray([[1.0, 0.0]]), jnp.asarray([2]), 2, 0.5)
    np.testing.assert_allclose(got, [[want, 2 - want]], rtol=1e-5)


def test_relaxed_choice_is_hard_forward_and_soft_backward():
    keys = jnp.asarray([[0.3, -0.2, 1.0, 0.1]])
    count, weight = jnp.asarray([2]), jnp.asarray([[1.0, -2.0, 0.5, 3.0]])
    hard = pare.relaxed_top_k(keys, count, 3, 0.9)
    np.testing.assert_array_equal(hard, [[1, 0, 1, 0]])
    got, want = (
        jax.grad(lambda k, f=f: (f(k, count, 3, 0.9) * weight).sum())(keys)
        for f in (pare.relaxed_top_k, pare.soft_top_k)
    )
    np.testing.assert_allclose(got, want, rtol=1e-6)
    assert float(jnp.abs(got).max()) > 0.1


def by_hand(params, batch, step, *, highest=False, weight=0.3):
    """The loss of the deterministic part, in loops."""
    p = {path: np.asarray(x, np.float64) for path, x in params.items()}
    x, source = np.asarray(batch["x"]), np.asarray(batch["source_tokens"])
    total, counts = 0.0, []
    for i in range(B):
        valid = int(np.sum(batch["source_mask"][i]))
        k = min(int(3 - (3 - 1) * step / 9), valid)
        best = sorted(np.argsort(-source[i, :valid, 0])[:k])
        order = np.argsort(-x[i, :, 0] if highest else x[i, :, 0])
        mixed = x[i].copy()
        for position, index in zip(sorted(order[:k]), best, strict=True):
            mixed[position] = source[i, index]
        losses = []
        for tokens in (x[i], mixed):
            hidden = tokens @ p["body/kernel"]
            logits = (hidden.T @ np.arange(1, L + 1) / L) @ p["head/kernel"]
            losses.append(np.log(np.exp(logits).sum()) - logits[batch["y"][i]])
        logits = hidden.mean(0) @ p["source_head/kernel"] + p["source_head/bias"]
        of_source = np.log(np.exp(logits).sum()) - logits[batch["source_label"][i]]
        lam = k / L
        both = (1 - lam) * losses[1] + lam * of_source
        total += (losses[0] + weight * both) / B
        counts.append(k)
    return total, np.mean(counts)


@pytest.mark.parametrize(("step", "highest"), [(5, False), (9, False), (5, True)])
def test_loss_of_the_deterministic_part_equals_loops(problem, step, highest):
    params, batch = problem
    phase = fit(**{"legacy.pare_replace_highest": highest, "pare.relaxed_frac": 0.0})
    got, (_, metrics) = phase.loss_fn(params, {}, batch, jax.random.key(0), step)
    want, count = by_hand(params, batch, step, highest=highest)
    np.testing.assert_allclose(got, want, rtol=1e-5)
    np.testing.assert_allclose(metrics["num_replaced"], count, rtol=1e-6)
    other, _ = by_hand(params, batch, step, highest=not highest)
    assert abs(want - other) > 1e-3


def test_no_more_tokens_are_replaced_than_a_source_sample_has(problem):
    params, batch = problem
    phase = fit(**{"pare.begin_frac": 1.0, "pare.relaxed_frac": 0.0})
    _, (_, metrics) = phase.loss_fn(params, {}, batch, jax.random.key(0), 0)
    np.testing.assert_allclose(metrics["num_replaced"], (4 + 2 + 3) / 3, rtol=1e-6)


@pytest.mark.parametrize("relaxed_frac", [0.0, 1.0])
def test_without_replacement_the_mixture_is_the_target(problem, relaxed_frac):
    params, batch = problem
    changes = {"pare.begin_frac": 0.0, "pare.end_frac": 0.0}
    phase = fit(**changes, **{"pare.relaxed_frac": relaxed_frac})
    loss, (_, metrics) = phase.loss_fn(params, {}, batch, jax.random.key(0), 0)
    assert metrics["num_replaced"] == 0
    assert metrics["mixed_loss"] == metrics["task_loss"]
    np.testing.assert_allclose(loss, 1.3 * metrics["task_loss"], rtol=1e-6)


def test_gate_learns_while_the_choice_is_relaxed_and_only_then(problem):
    params, batch = problem
    phase = fit()
    trained, frozen = tree.split(params, phase.trainable)
    assert set(frozen) == {"source/features"}

    @jax.jit
    def grads(key, step):
        return jax.grad(
            lambda p: phase.loss_fn({**frozen, **p}, {}, batch, key, step)[0]
        )(trained)

    first, last = grads(jax.random.key(0), 4), grads(jax.random.key(0), 5)
    assert float(jnp.abs(first["gate/kernel"]).max()) > 1e-4
    np.testing.assert_array_equal(last["gate/kernel"], 0)
    for path in trained:
        assert np.all(np.isfinite(first[path])), path
        if not path.startswith("gate/"):
            assert float(jnp.abs(last[path]).max()) > 1e-4, path


def test_relaxed_choice_is_random_but_leaves_sure_gates_alone(problem):
    params, batch = problem
    one = {"pare.begin_frac": 0.2, "pare.end_frac": 0.2}
    relaxed, fixed = (
        jax.jit(fit(**one, **{"pare.relaxed_frac": share}).loss_fn) for share in (1, 0)
    )

    def losses(params, batch, loss_fn=relaxed):
        keys = jax.random.split(jax.random.key(1), 4)
        return [float(loss_fn(params, {}, batch, key, 5)[0]) for key in keys]

    assert np.ptp(losses(params, batch)) > 1e-3
    # One open gate in the source sample, but for padding; one shut gate in the target.
    is_open = ~batch["source_mask"] | (jnp.arange(LS) == 1)
    sure = {
        "x": batch["x"].at[..., 0].set(1).at[:, 3, 0].set(-1),
        "source_tokens": batch["source_tokens"].at[..., 0].set(2 * is_open - 1),
    }
    params = params | {"gate/kernel": jnp.asarray([[1e4], [0.0]])}
    want = losses(params, batch | sure, fixed)
    np.testing.assert_allclose(losses(params, batch | sure), want, rtol=1e-6)


def test_init_has_the_shapes_of_gate_and_source_head(key):
    params = pare.init(TARGET, key)
    assert {path: x.shape for path, x in params.items()} == {
        "gate/kernel": (D, 1),
        "gate/bias": (1,),
        "source_head/kernel": (E, KS),
        "source_head/bias": (KS,),
    }


@pytest.mark.parametrize(
    ("name", "value"),
    [("begin_frac", 1.2), ("end_frac", -0.1), ("relaxed_frac", 2.0)]
    + [("temperature", 0.0)],
)
def test_impossible_settings_are_refused(name, value):
    with pytest.raises(errors.InputError, match=f"pare.{name}"):
        fit(**{f"pare.{name}": value})
