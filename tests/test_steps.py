"""One optimiser step on the real model of every method, at the size of a toy."""

import types

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest

from configs import common
from recraft_jax import defaults, optim, steps, tree
from recraft_jax import mesh as meshes
from recraft_jax import phase as phases
from recraft_jax import state as states
from recraft_jax.losses import task as task_losses
from recraft_jax.methods import alignment, fit, recraft
from recraft_jax.models import cross_modal, pretrained

NUM_CLASSES = 3


@pytest.fixture(scope="module")
def parts(backbone):
    """Model, parameters with a source, and one batch of both streams."""
    body = pretrained.load(backbone)
    model = cross_modal.make(
        body, x_shape=(16, 1), y_shape=(16, 1), num_classes=0, patch=4
    )
    params = model.init(jax.random.key(0))
    rng = np.random.default_rng(0)

    def draw(*shape):
        return jnp.asarray(rng.normal(size=shape), jnp.float32)

    features = draw(20, body.width)
    params |= {
        "source/features": features,
        "source/labels": jax.nn.one_hot(jnp.arange(20) % 4, 4),
        "source/head/kernel": draw(body.width, 4),
        "source/head/bias": draw(4),
        **alignment.leaves(config().fa, features),
    }
    batch = {
        "x": np.asarray(draw(12, 16, 1)),
        "y": np.asarray(draw(12, 16, 1)),
        "label": np.repeat(np.arange(NUM_CLASSES, dtype=np.int32), 4),
        "weight": np.full(12, 1 / 12, np.float32),
    }
    return model, params, batch


def config(**changes):
    made = defaults.base(common.parse_arg("", ("toy",)))
    section = {
        "name": "adamw",
        "lr": 3e-3,
        "new_lr_factor": 1.0,
        "weight_decay": 1e-2,
        "b1": 0.9,
        "b2": 0.98,
        "clip": 1.0,
        "warmup_frac": 0.0,
        "decay": "constant",
    }
    made.stage1.optim = made.stage2.optim = ml_collections.ConfigDict(section)
    made.stage1.num_steps = 50
    made.stage1.batch_size = made.stage2.batch_size = 12
    made.update_from_flattened_dict(changes)
    return made


def align(model, **changes):
    settings = config(**changes)
    labels = np.repeat(np.arange(NUM_CLASSES), 4)
    target = phases.Target(np.zeros((12, 16, 1)), labels, NUM_CLASSES, is_dense_1d=True)
    (first, *_) = recraft.phases(
        settings, model, task_losses.relative_l2, target=target, fit_steps=1
    )
    return first


def fitting(model, freeze_embedder=False):
    return fit.fit_phase(
        config(),
        model,
        task_losses.relative_l2,
        num_steps=50,
        freeze_embedder=freeze_embedder,
    )


def run(phase, params, batch, num):
    mesh = meshes.make()
    tx = optim.make(phase.optim, phase.num_steps)
    state = states.start_phase(params, {}, tx, phase.trainable, step=0, seed=0)
    # The step donates its state, and tests go on using the parameters.
    state = jax.tree.map(jnp.copy, jax.device_put(state, meshes.replicated(mesh)))
    step = steps.make_train_step(phase, tx, start=0, mesh=mesh)
    losses = []
    for _ in range(num):
        state, measured = step(state, meshes.put(mesh, batch, 12))
        losses.append(float(measured["loss"]))
    return state, losses, measured


PHASES = {
    "recraft": lambda m: align(m),
    "fa": lambda m: align(m, **{"fld.weight": 0.0}),
    "fld": lambda m: align(m, **{"fa.omega": 0.0}),
    "fit": lambda m: fitting(m),
    "fit, frozen": lambda m: fitting(m, freeze_embedder=True),
}


@pytest.mark.parametrize("name", PHASES)
def test_loss_falls_and_frozen_leaves_stay_bit_for_bit(parts, name):
    model, params, batch = parts
    phase = PHASES[name](model)
    before = jax.device_get(params)
    state, losses, _ = run(phase, params, batch, 20)
    after = jax.device_get(state.params)
    assert np.mean(losses[-4:]) < np.mean(losses[:4])
    trained, frozen = tree.split(before, phase.trainable)
    for path in frozen:
        np.testing.assert_array_equal(after[path], before[path], err_msg=path)
    moved = [p for p in trained if not np.array_equal(after[p], before[p])]
    assert moved == list(trained)


def test_stage_one_trains_the_embedder_alone(parts):
    model, params, _ = parts
    trained, frozen = tree.split(params, align(model).trainable)
    assert {path.split("/")[0] for path in trained} == {"embedder"}
    assert {path.split("/")[0] for path in frozen} == {"body", "head", "source"}


def test_frozen_embedder_leaves_only_body_and_head(parts):
    model, params, _ = parts
    trained, _ = tree.split(params, fitting(model, freeze_embedder=True).trainable)
    assert {path.split("/")[0] for path in trained} == {"body", "head"}


def test_loss_of_stage_one_is_the_weighted_sum_of_its_terms(parts):
    model, params, batch = parts
    _, _, measured = run(
        align(model, **{"fa.omega": 0.7, "fld.weight": 2.0}), params, batch, 1
    )
    np.testing.assert_allclose(
        measured["loss"], 0.7 * measured["fa"] + 2.0 * measured["fld"], rtol=1e-6
    )


def test_fld_of_stage_one_is_the_conditional_entropy_of_its_batch(parts):
    model, params, batch = parts
    _, _, measured = run(align(model), params, batch, 1)
    _, out = model.apply(params, batch["x"])
    pooled = np.asarray(out["hidden"]).mean(1)
    logits = pooled @ params["source/head/kernel"] + params["source/head/bias"]
    probs = np.asarray(jax.nn.softmax(logits))
    joint = np.stack([probs[batch["label"] == k].sum(0) / 12 for k in range(3)], axis=1)
    conditional = joint / joint.sum(1, keepdims=True)
    np.testing.assert_allclose(
        measured["fld"], -(joint * np.log(conditional)).sum(), rtol=1e-4
    )


def test_optimiser_state_holds_trained_leaves_only(parts):
    model, params, _ = parts
    phase = align(model)
    tx = optim.make(phase.optim, phase.num_steps)
    state = states.start_phase(params, {}, tx, phase.trainable, step=0, seed=0)
    trained, _ = tree.split(params, phase.trainable)
    moments = sum(leaf.size for leaf in jax.tree.leaves(state.opt_state))
    assert moments < 2 * tree.count(trained) + phase.num_steps + 10


def test_two_devices_give_the_step_of_one(parts):
    model, params, batch = parts
    phase = fitting(model)
    _, two, _ = run(phase, params, batch, 3)

    def loss(p):
        return phase.loss_fn(p, {}, batch, None, 0)[0]

    np.testing.assert_allclose(two[0], loss(params), rtol=1e-5)


@pytest.mark.parametrize("parts_of_batch", [2, 6])
def test_accumulated_gradients_are_those_of_the_whole_batch(parts, parts_of_batch):
    model, params, batch = parts
    phase = fitting(model)
    whole, losses, measured = run(phase, params, batch, 3)
    split = phase._replace(accumulate=parts_of_batch)
    found, found_losses, found_measured = run(split, params, batch, 3)
    np.testing.assert_allclose(found_losses, losses, rtol=1e-5)
    np.testing.assert_allclose(
        found_measured["grad_norm"], measured["grad_norm"], rtol=1e-4
    )
    for path, leaf in whole.params.items():
        if path.endswith("key/bias"):  # its gradient is nothing but rounding
            continue
        moved = np.linalg.norm(leaf - params[path])
        apart = np.linalg.norm(leaf - found.params[path])
        assert apart <= 1e-2 * moved, path


def test_stage_two_after_no_stage_one_is_plain_fine_tuning(parts):
    """RECRAFT with both weights zero leaves phi; its first fitting step is NFT's."""
    model, params, batch = parts
    settings = config(**{"fa.omega": 0.0, "fld.weight": 0.0})
    labels = np.repeat(np.arange(NUM_CLASSES), 4)
    target = phases.Target(np.zeros((12, 16, 1)), labels, NUM_CLASSES, is_dense_1d=True)
    given = settings, model, task_losses.relative_l2
    align_phase, fit_phase = recraft.phases(*given, target=target, fit_steps=50)
    assert align_phase.loss_fn(params, {}, batch, None, 0) == (0.0, ({}, {}))
    (only,) = fit.phases(*given, target=target, fit_steps=50)
    ours, losses, _ = run(fit_phase, params, batch, 1)
    plain, plain_losses, _ = run(only, params, batch, 1)
    assert losses == plain_losses
    for path, leaf in ours.params.items():
        np.testing.assert_array_equal(leaf, plain.params[path], err_msg=path)


@pytest.mark.parametrize(
    ("kind", "freeze", "parts_trained"),
    [
        ("full", False, {"embedder", "body", "head"}),
        ("norms", False, {"embedder", "body", "head"}),
        ("norms", True, {"body", "head"}),
        ("head", False, {"embedder", "head"}),
        ("head", True, {"head"}),
    ],
)
def test_trainable_says_what_of_the_body_moves(parts, kind, freeze, parts_trained):
    _, params, _ = parts
    trained, _ = tree.split(params, (fit.trainable(kind, freeze),))
    assert {path.split("/")[0] for path in trained} == parts_trained
    body = {path for path in trained if path.startswith("body/")}
    if kind == "norms":
        names = {path.split("/")[-2] for path in body}
        assert names == {"attention_norm", "mlp_norm"}
        assert {path.split("/")[-1] for path in body} == {"scale", "bias"}


def test_statistics_of_a_model_follow_its_batches(parts):
    """What trains with statistics gets them from the state and leaves them there."""
    _, _, batch = parts
    model = types.SimpleNamespace(
        apply=None,
        apply_train=lambda p, stats, x: (
            x * p["body/w"],
            {"mean": stats["mean"] + x.mean()},
        ),
        init_stats=lambda params: {"mean": jnp.zeros(())},
    )
    phase = fitting(model)
    batch = {"x": batch["x"], "y": batch["y"]}
    loss, (stats, _) = phase.loss_fn(
        {"body/w": jnp.float32(1)}, phase.init_stats({}), batch, None, 0
    )
    np.testing.assert_allclose(stats["mean"], batch["x"].mean(), rtol=1e-5)
    want = task_losses.relative_l2(batch["x"], batch["y"]).mean()
    np.testing.assert_allclose(loss, want, rtol=1e-6)
