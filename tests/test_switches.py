"""Every fault of the released losses is one switch, and each shows its difference.

The numbers are those of the list in `docs/theory.md`. D11, D12 and D13 (the Lipschitz
penalty) are in `test_lipschitz.py`, at the functions they change.
"""

import functools
import math
import operator

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import common
from recraft_jax import build, defaults, phase, tree
from recraft_jax.losses import distortion, otdd, task
from recraft_jax.methods import alignment, heads, label_distortion, recraft, source
from recraft_jax.models import cross_modal, pretrained

KT, KS = 3, 4
LABELS = np.repeat(np.arange(KT, dtype=np.int32), 4)


@pytest.fixture(scope="module")
def model(backbone):
    body = pretrained.load(backbone)
    return cross_modal.make(
        body, x_shape=(16, 1), y_shape=(16, 1), num_classes=0, patch=4
    )


@pytest.fixture(scope="module")
def arrays(model):
    """Parameters with a source, and a batch."""
    params = model.init(jax.random.key(0))
    width = params["embedder/norm/scale"].shape[0]
    rng = np.random.default_rng(0)

    def draw(*shape):
        return jnp.asarray(rng.normal(size=shape), jnp.float32)

    params |= {
        "source/features": draw(20, width),
        "source/labels": jax.nn.one_hot(jnp.arange(20) % KS, KS),
        "source/head/kernel": draw(width, KS),
        "source/head/bias": draw(KS),
    }
    batch = {"x": draw(12, 16, 1), "label": LABELS, "weight": np.full(12, 1 / 12)}
    return params, {name: jnp.asarray(value) for name, value in batch.items()}


def config(**changes):
    made = defaults.base(common.parse_arg("", ("toy",)))
    made.stage1.batch_size = made.stage2.batch_size = 12
    made.update_from_flattened_dict(changes)
    return made


def phases(model, is_dense=True, x=None, labels=LABELS, **changes):
    x = np.zeros((len(labels), 16, 1), np.float32) if x is None else x
    target = phase.Target(x, labels, KT, is_dense)
    return recraft.phases(
        config(**changes), model, task.relative_l2, target=target, fit_steps=5
    )


def measure(model, arrays, first=0, **changes):
    """Loss, gradients by path and metrics of one step of a phase."""
    params, batch = arrays
    chosen = phases(model, **changes)[first]
    settings = {k: v for k, v in changes.items() if "." in k}
    params = params | {
        path: jnp.asarray(leaf)
        for path, leaf in alignment.leaves(
            config(**settings).fa, np.asarray(params["source/features"])
        ).items()
    }
    train, frozen = tree.split(params, chosen.trainable)
    stats = chosen.init_stats(params) if chosen.init_stats else {}

    def loss_fn(train):
        return chosen.loss_fn({**frozen, **train}, stats, batch, jax.random.key(0), 0)

    (loss, (_, metrics)), grads = jax.value_and_grad(loss_fn, has_aux=True)(train)
    assert np.isfinite(loss)
    return loss, grads, metrics


ONLY_FA = {"fld.weight": 0.0, "fa.omega": 1.0}
ONLY_FLD = {"fa.omega": 0.0}


def test_d1_sequential_trains_the_terms_one_after_the_other(model, arrays):
    joint = phases(model)
    assert [p.name for p in joint] == ["align", "fit"]
    parts = phases(model, **{"stage1.mode": "sequential"})
    assert [p.name for p in parts] == ["align_fa", "align_fld", "fit"]
    assert [p.stage for p in parts] == ["align", "align", "fit"]
    _, _, first = measure(model, arrays, **{"stage1.mode": "sequential"})
    _, _, second = measure(model, arrays, first=1, **{"stage1.mode": "sequential"})
    assert "fa" in first and "fld" not in first
    assert "fld" in second and "fa" not in second
    alone = phases(model, **{"stage1.mode": "sequential"}, **ONLY_FLD)
    assert [p.name for p in alone] == ["align", "fit"]


def test_d4_constant_predictions_satisfy_entropy_and_not_mi(model, arrays):
    params, batch = arrays
    kernel = params["source/head/kernel"]
    constant = params | {
        "source/head/kernel": jnp.zeros_like(kernel),
        "source/head/bias": jnp.array([50.0, 0, 0, 0]),
    }
    for kind, want in (("entropy", 0.0), ("mi", math.log(KT))):
        changes = {"fld.kind": kind} | ONLY_FLD
        loss, _, metrics = measure(model, (constant, batch), **changes)
        np.testing.assert_allclose(loss, want, atol=1e-6)
        assert metrics["source_collapsed"] == 1.0


def test_d5_negative_sets_say_nothing_of_two_balanced_classes(model, arrays):
    params, batch = arrays
    two = batch | {"label": jnp.repeat(jnp.arange(2), 6)}
    changes = {"fld.kind": "negative_sets"} | ONLY_FLD
    loss, grads, _ = measure(model, (params, two), **changes)
    np.testing.assert_allclose(loss, 0, atol=1e-6)
    assert max(float(jnp.abs(g).max()) for g in grads.values()) < 1e-6
    other, _, _ = measure(model, (params, two), **ONLY_FLD)
    assert other > 0.1


def test_d6_released_code_trains_the_source_head(model, arrays):
    params, _ = arrays
    for flag, parts in ((False, {"embedder"}), (True, {"embedder", "source"})):
        first, *_ = phases(model, **{"fld.train_source_head": flag})
        trained, _ = tree.split(params, first.trainable)
        assert {path.split("/")[0] for path in trained} == parts
    _, grads, _ = measure(model, arrays, **{"fld.train_source_head": True}, **ONLY_FLD)
    assert jnp.abs(grads["source/head/kernel"]).max() > 0
    alignment_only, *_ = phases(model, **{"fld.train_source_head": True}, **ONLY_FA)
    assert alignment_only.trainable == ("embedder/.*",)


def test_d7_single_label_adds_a_constant_and_no_gradient(model, arrays):
    """Value S + d / 2, about twice S; the gradient is that of S (D8)."""
    plain, plain_grads, _ = measure(
        model, arrays, **{"fa.kind": "w2sq_half"}, **ONLY_FA
    )
    value, grads, _ = measure(
        model, arrays, **{"fa.kind": "otdd_single_label"}, **ONLY_FA
    )
    assert 1.8 < value / plain < 2.2
    for path, grad in grads.items():
        np.testing.assert_allclose(grad, plain_grads[path], atol=1e-5)
    params, batch = arrays
    u, _ = recraft.features(params, model.apply, batch["x"])
    zeros = np.zeros(20, np.int32), np.zeros(12, np.int32)
    want, _ = otdd.otdd(
        params["source/features"], zeros[0], u, zeros[1], threshold=1e-3
    )
    np.testing.assert_allclose(value, want, rtol=5e-3)


def test_d8_half_squared_is_not_the_distance(model, arrays):
    """For clouds that are translates by v: |v| against 1/2 |v|^2."""
    params, _ = arrays
    features, shift = params["source/features"], jnp.zeros(16).at[0].set(3.0)
    weights = jnp.full(20, 1 / 20)
    for kind, want, slack in (("w1", 3.0, 3e-3), ("w2sq_half", 4.5, 1e-4)):
        section = config(**{"fa.kind": kind}).fa
        leaves = alignment.leaves(section, np.asarray(features))
        value, metrics = alignment.term(
            kind, params | leaves, features + shift, weights
        )
        np.testing.assert_allclose(value, want, rtol=slack)
        assert metrics["sinkhorn_converged"] == 1.0


def test_d9_terms_are_scaled_by_samples_over_batches(model, arrays):
    """40 samples of classes of 24, 12, 4 in loader batches of 5: 8, 5, 3 and 1."""
    labels = np.repeat(np.arange(KT), [24, 12, 4])
    flag = {"legacy.batch_count_scale": True, "stage2.batch_size": 5}
    plain, _, _ = measure(model, arrays, labels=labels, **ONLY_FA)
    scaled, _, _ = measure(model, arrays, labels=labels, **flag, **ONLY_FA)
    np.testing.assert_allclose(scaled, plain * 12 / 8, rtol=1e-5)
    kind = {"fld.kind": "entropy"}
    scaled, _, _ = measure(model, arrays, labels=labels, **flag, **kind, **ONLY_FLD)
    params, batch = arrays
    _, log_probs = recraft.features(params, model.apply, batch["x"])
    means = np.asarray(jnp.exp(log_probs)).reshape(KT, 4, KS).mean(1)
    entropies = -(means * np.log(means)).sum(1)
    want = (entropies / 3 * 4 / np.array([5, 3, 1])).sum()
    np.testing.assert_allclose(scaled, want, rtol=1e-5)


def test_d14_double_softmax_has_a_floor_and_a_flatter_head():
    rng = np.random.default_rng(0)
    labels = rng.integers(KS, size=300)
    states = (3 * np.eye(KS)[labels] + rng.normal(size=(300, KS))).astype(np.float32)
    fitted = {
        name: heads.log_probs(getattr(heads, name)(states, labels, KS, 1.0), states)
        for name in ("logistic", "double_softmax")
    }
    picked = {name: -v[np.arange(300), labels].mean() for name, v in fitted.items()}
    assert picked["logistic"] < picked["double_softmax"]
    twice = task.double_softmax_cross_entropy(
        jnp.asarray(fitted["double_softmax"]), jnp.asarray(labels)
    )
    assert twice.mean() >= math.log(1 + (KS - 1) / math.e)


def test_d15_text_goes_without_recalibration(backbone):
    body = pretrained.load(backbone)
    for flag, modality, method in (
        (True, "text", "penalty"),
        (False, "text", "none"),
        (False, "image", "penalty"),
    ):
        changed = config(**{"lipschitz.one_d": flag})
        settings = build.recalibration(changed, body._replace(modality=modality))
        assert settings.method == method and settings.tau == changed.fa.omega


def test_d16_dense_targets_see_the_head_per_token(model, arrays):
    """A sum over the tokens of entropies of a head that was fitted on their mean."""
    kind = {"fld.kind": "entropy", "fld.dense_1d_per_token": True}
    got, _, _ = measure(model, arrays, **kind, **ONLY_FLD)
    params, batch = arrays
    _, out = model.apply(params, batch["x"])
    log_probs = source.predict(params, out["hidden"])
    want = sum(
        distortion.source_given_target(
            distortion.joint(jnp.exp(log_probs[:, token]), jax.nn.one_hot(LABELS, KT))
        )
        for token in range(log_probs.shape[1])
    )
    np.testing.assert_allclose(got, want, rtol=1e-5)
    pooled, _, _ = measure(model, arrays, **{"fld.kind": "entropy"}, **ONLY_FLD)
    classes, _, _ = measure(model, arrays, is_dense=False, **kind, **ONLY_FLD)
    np.testing.assert_allclose(classes, pooled, rtol=1e-6)  # dense targets only
    assert got > 2 * pooled


def test_d18_negatives_come_from_the_start_of_the_data_set(model, arrays):
    """They stay when other samples of the batch change, and move with the data set."""
    params, batch = arrays
    rng = np.random.default_rng(1)
    x = rng.normal(size=(12, 16, 1)).astype(np.float32)
    changes = {"fld.kind": "negative_sets"} | ONLY_FLD
    bug = {"legacy.negative_index_bug": True}
    right, _, _ = measure(model, arrays, x=x, **changes)
    wrong, _, _ = measure(model, arrays, x=x, **changes, **bug)
    other, _, _ = measure(model, arrays, x=x[::-1] + 1, **changes, **bug)
    same, _, _ = measure(model, arrays, x=x[::-1] + 1, **changes)
    assert same == right and abs(wrong - right) > 1e-4 and abs(other - wrong) > 1e-4
    _, log_probs = recraft.features(params, model.apply, batch["x"])
    _, log_first = recraft.features(params, model.apply, jnp.asarray(x))
    q = distortion.joint(jnp.exp(log_probs), jax.nn.one_hot(LABELS, KT))
    first = np.exp(log_first)
    negatives = np.stack([first[LABELS != y].mean(0) for y in range(KT)], axis=1)
    entropies = -(negatives * np.log(negatives)).sum(0)
    want = distortion.source_given_target(q) - entropies.mean()
    np.testing.assert_allclose(wrong, want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("cost", ["prototype", "class", "joint"])
def test_transport_kind_lies_between_its_limits(model, arrays, cost):
    """At least H(Zt|Zs), and equal to it for the cost -log q."""
    best, _, _ = measure(model, arrays, **ONLY_FLD)
    changes = {"fld.kind": "transport", "fld.transport_cost": cost} | ONLY_FLD
    value, grads, _ = measure(model, arrays, **changes)
    assert value >= best - 1e-5
    if cost == "joint":
        np.testing.assert_allclose(value, best, rtol=1e-4)
    assert max(float(jnp.abs(g).max()) for g in grads.values()) > 0


def test_moving_average_starts_at_the_first_batch_and_then_lags(model, arrays):
    params, batch = arrays
    chosen, *_ = phases(model, **{"fld.momentum": 0.9}, **ONLY_FLD)
    stats = chosen.init_stats(params)
    plain, _, _ = measure(model, arrays, **ONLY_FLD)
    loss, (stats, _) = chosen.loss_fn(params, stats, batch, None, 0)
    np.testing.assert_allclose(loss, plain, rtol=1e-6)
    moved = batch | {"label": jnp.roll(batch["label"], 5)}
    later, (after, _) = chosen.loss_fn(params, stats, moved, None, 1)
    q = label_distortion.joint_of(
        recraft.features(params, model.apply, batch["x"])[1],
        jax.nn.one_hot(moved["label"], KT),
        batch["weight"],
    )
    np.testing.assert_allclose(
        after["joint"], 0.9 * stats["joint"] + 0.1 * q, rtol=1e-5
    )
    want = distortion.target_given_source(after["joint"])
    np.testing.assert_allclose(later, want, rtol=1e-5)


def test_official_preset_turns_every_switch_on():
    chosen = defaults.base(common.parse_arg("preset=official", ("toy",)))
    plain = defaults.base(common.parse_arg("", ("toy",)))
    for path, value in defaults.OFFICIAL.items():
        was, now = (
            functools.reduce(operator.getitem, path.split("."), made)
            for made in (plain, chosen)
        )
        assert now == value != was, path
    paper = defaults.base(common.parse_arg("preset=paper", ("toy",)))
    assert paper.stage2.freeze_embedder and not chosen.stage2.freeze_embedder
    assert paper.fld.kind == "mi" and paper.fa.kind == "w1"


def test_every_released_form_works_with_every_other(model, arrays):
    """Negative sets with D9, D16 and D18 at once: finite, and all leaves get slopes."""
    changes = dict(defaults.OFFICIAL) | {"fld.kind": "negative_sets"} | ONLY_FLD
    changes |= {"stage1.batch_size": 12}
    x = np.random.default_rng(2).normal(size=(12, 16, 1)).astype(np.float32)
    loss, grads, _ = measure(model, arrays, x=x, **changes)
    assert np.isfinite(loss)
    assert "source/head/kernel" in grads
    assert all(jnp.all(jnp.isfinite(g)) and jnp.any(g != 0) for g in grads.values())
