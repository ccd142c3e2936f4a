"""MoNA-style stage 1: gradients of both levels, the terms over pairs, switches."""

import types

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest

from recraft_jax import errors, tree
from recraft_jax.methods import mona

B, L, LS, C, D, E, K = 4, 3, 5, 2, 3, 4, 2


def embed(params, x):
    return jnp.tanh(x @ params["embedder/kernel"])


def forward_from_tokens(params, tokens, mask=None):
    hidden = jnp.tanh(tokens @ params["body/kernel"]) * params["body/norm/scale"]
    hidden = jnp.sin(hidden + params["body/norm/bias"])
    return hidden.mean(1) @ params["head/kernel"], {"hidden": hidden}


def apply(params, x):
    return forward_from_tokens(params, embed(params, x))


def cross_entropy(logits, labels):
    """That of `losses/task.py` is float32, too coarse for finite differences."""
    return -(jax.nn.log_softmax(logits) * jax.nn.one_hot(labels, K)).sum(1)


def encode(params, tokens, mask=None):
    return forward_from_tokens(params, tokens)[1]["hidden"]


MODEL = types.SimpleNamespace(
    apply=apply, encode=encode, apply_train=None, init_stats=None
)


def config(**changes):
    made = ml_collections.ConfigDict(
        {
            "mona": {"lam": 0.4, "inner_lr": 0.5, "inner": mona.INNER, "reset": False},
            "stage1": {"num_steps": 7, "batch_size": B, "optim": {}},
            "stage2": {
                "batch_size": B,
                "optim": {},
                "freeze_embedder": True,
                "trainable": "full",
                "accumulate": 1,
            },
        }
    )
    made.update_from_flattened_dict(changes)
    return made


def align(**changes):
    return mona.align_phase(config(**changes), MODEL, cross_entropy)


@pytest.fixture(scope="module")
def problem():
    """Parameters and a paired batch of numpy float64; one source label comes once."""
    rng = np.random.default_rng(0)
    params = {
        "embedder/kernel": rng.normal(size=(C, D)),
        "body/kernel": rng.normal(size=(D, E)),
        "body/norm/scale": rng.normal(size=E),
        "body/norm/bias": rng.normal(size=E),
        "head/kernel": rng.normal(size=(E, K)),
        "source/features": rng.normal(size=(4, D)),
    }
    batch = {
        "x": rng.normal(size=(B, L, C)),
        "y": np.asarray([0, 1, 1, 0]),
        "source_tokens": rng.normal(size=(B, LS, D)),
        "source_mask": np.arange(LS) < np.asarray([[5], [3], [1], [4]]),
        "source_label": np.asarray([2, 0, 2, 1]),
    }
    return params, batch


def test_gradients_of_both_levels(problem):
    params, batch = problem
    phase = align()
    with jax.enable_x64(True):
        trained, frozen = tree.split(params, phase.trainable)

        @jax.jit
        def grads(trained, batch):
            def loss(trained):
                return phase.loss_fn({**frozen, **trained}, {}, batch, None, 0)

            return jax.value_and_grad(loss, has_aux=True)(trained)

        @jax.jit
        def inner(trained, batch):
            def loss(trained):
                pred, _ = apply({**frozen, **trained}, batch["x"])
                return cross_entropy(pred, batch["y"]).mean()

            return jax.grad(loss)(trained)

        def value(path, index, change):
            moved = trained[path].copy()
            moved[index] += change
            return float(grads({**trained, path: moved}, batch)[0][0])

        (_, (_, metrics)), got = grads(trained, batch)
        of_inner = inner(trained, batch)
        path, h = "embedder/kernel", 1e-4
        for index in np.ndindex(C, D):
            slope = (value(path, index, h) - value(path, index, -h)) / (2 * h)
            np.testing.assert_allclose(got[path][index], slope, rtol=1e-6, atol=1e-8)
        # Outer loss and embedder meet only in the inner step: what is left of the
        # gradient beside that of L_inner is of second order, and it is there.
        second_order = np.abs(got[path] - of_inner[path])
        assert second_order.max() > 1e-3
        assert {"body/norm/scale", "body/norm/bias", "head/kernel"} < set(trained)
        for path in set(trained) - {"embedder/kernel"}:
            np.testing.assert_allclose(
                got[path], of_inner[path], rtol=1e-9, atol=1e-12, err_msg=path
            )
        assert set(metrics) == {"mona_align", "mona_uniform", "inner_loss"}


def test_loss_is_the_outer_terms_after_one_inner_step(problem):
    params, batch = jax.tree.map(
        lambda x: x.astype(np.float32) if x.dtype == np.float64 else x, problem
    )

    @jax.jit
    @jax.value_and_grad
    def task_loss(params):
        return cross_entropy(apply(params, batch["x"])[0], batch["y"]).mean()

    of_inner, slope = task_loss(params)
    taught = {
        path: x - 0.5 * slope[path] * (path.startswith("head") or "norm" in path)
        for path, x in params.items()
    }
    hidden_of = jax.jit(lambda params, tokens: forward_from_tokens(params, tokens)[1])
    f = []
    for sample, length in zip(batch["source_tokens"], (5, 3, 1, 4), strict=True):
        mean = np.asarray(hidden_of(taught, sample[None])["hidden"])[0, :length].mean(0)
        f.append(mean / np.linalg.norm(mean))
    square = [np.sum((f[i] - f[j]) ** 2) for i in range(B) for j in range(i)]
    align_term = np.sum((f[0] - f[2]) ** 2)  # the only pair of one class
    uniform = np.log(np.mean(np.exp(-2 * np.asarray(square))))
    want = 0.4 * (align_term + uniform) + float(of_inner)
    loss_fn = jax.jit(align().loss_fn)
    got, (_, metrics) = loss_fn(params, {}, batch, jax.random.key(0), 0)
    np.testing.assert_allclose(got, want, rtol=1e-5)
    np.testing.assert_allclose(metrics["mona_align"], align_term, rtol=1e-4)
    np.testing.assert_allclose(metrics["mona_uniform"], uniform, rtol=1e-4)


def test_pair_terms_of_known_points():
    f = jnp.asarray([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    align_term, uniform = mona.pair_terms(f, jnp.asarray([0, 0, 0]))
    np.testing.assert_allclose(align_term, (2 + 4 + 2) / 3, rtol=1e-6)
    want = np.log((2 * np.exp(-4) + np.exp(-8)) / 3)
    np.testing.assert_allclose(uniform, want, rtol=1e-6)
    align_term, _ = mona.pair_terms(f, jnp.asarray([1, 0, 1]))
    np.testing.assert_allclose(align_term, 4, rtol=1e-6)
    align_term, _ = mona.pair_terms(f, jnp.arange(3))
    assert align_term == 0


def test_bodies_that_merge_tokens_are_averaged_without_mask():
    model = types.SimpleNamespace(encode=lambda params, tokens, mask: tokens[:, ::2])
    tokens = jnp.asarray([[[3.0, 0.0], [9.0, 9.0], [3.0, 8.0], [9.0, 9.0]]])
    f = mona.source_features(model, {}, tokens, jnp.ones((1, 4), bool))
    np.testing.assert_allclose(f, [[0.6, 0.8]], rtol=1e-6)


def test_inner_parameters_are_trained_unless_reset(problem):
    params, _ = problem
    trained, _ = tree.split(params, align().trainable)
    assert set(trained) == set(params) - {"body/kernel", "source/features"}
    trained, _ = tree.split(params, align(**{"mona.reset": True}).trainable)
    assert set(trained) == {"embedder/kernel"}


def test_default_names_head_and_norms_of_every_body():
    names = {
        "body/encoder/layers/attention_norm/scale": True,
        "body/encoder/layers/mlp_norm/bias": True,
        "body/encoder/stage_0/blocks/attention_norm/scale": True,
        "body/encoder/stage_0/merge/norm/bias": True,
        "body/encoder/norm/scale": True,
        "head/out/kernel": True,
        "body/encoder/layers/mlp/up/bias": False,
        "body/encoder/layers/attention_layer_scale": False,
        "embedder/norm/scale": False,
        "source/head/kernel": False,
        "source_head/kernel": False,
    }
    assert {name: tree.matches(name, (mona.INNER,)) for name in names} == names


def test_inner_parameters_outside_of_body_and_head_are_refused(problem):
    params, batch = problem
    phase = align(**{"mona.inner": ".*kernel"})
    with pytest.raises(errors.InputError, match="mona.inner .* embedder/kernel"):
        phase.loss_fn(params, {}, batch, None, 0)
    with pytest.raises(errors.InputError, match="stage1.batch_size = 1"):
        align(**{"stage1.batch_size": 1})


def test_stage_two_fits_the_target():
    first, second = mona.phases(
        config(), MODEL, cross_entropy, target=None, fit_steps=5
    )
    assert (first.stage, first.stream, first.num_steps) == ("align", "paired", 7)
    assert (second.stage, second.num_steps, second.select) == ("fit", 5, True)
    assert second.trainable == ("body/.*|head/.*",)
