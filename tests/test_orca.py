"""Stage 1 of ORCA against the label-aware distance per class, and on a toy model."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest

from configs import common
from recraft_jax import defaults, errors, phase, tree
from recraft_jax.data import pipeline
from recraft_jax.losses import otdd, task
from recraft_jax.methods import orca

EPSILON = 0.5
PER_CLASS = 4
SOURCE_LABELS = np.arange(21) % 3
PI = np.array([0.5, 0.2, 0.3], np.float32)


class Toy(NamedTuple):
    """A linear embedder on two tokens, and a body and a head that stage 1 leaves."""

    apply_train = init_stats = None

    def apply(self, params, x):
        """Embed and predict."""
        tokens = x @ params["embedder/kernel"]
        hidden = tokens * params["body/scale"]
        return hidden.mean(1) @ params["head/kernel"], {
            "tokens": tokens,
            "hidden": hidden,
        }


def settings(**changes):
    made = {"epsilon": EPSILON, "max_source": 0, "threshold": 1e-4} | changes
    return ml_collections.ConfigDict({"orca": made})


def clouds(seed=0):
    """Draw target classes, one after the other, and a source with three classes."""
    rng = np.random.default_rng(seed)
    source = rng.normal(size=(21, 4)) + 2 * np.eye(4)[SOURCE_LABELS]
    labels = np.repeat(np.arange(3), PER_CLASS)
    target = 1.3 * rng.normal(size=(len(labels), 4)) - 2 * np.eye(4)[labels] + 0.5
    return jnp.asarray(target, jnp.float32), source.astype(np.float32)


def rows(labels):
    """Labels as rows that are not one-hot; a negative one is a row of zeros."""
    soft = 0.2 + 0.4 * np.eye(3, dtype=np.float32)[labels]
    return np.where(np.asarray(labels)[:, None] < 0, 0.0, soft)


@functools.cache
def source_leaves():
    _, source = clouds()
    return as_arrays(orca.leaves(settings(), source, rows(SOURCE_LABELS)))


def as_arrays(leaves):
    return {path: jnp.asarray(leaf) for path, leaf in leaves.items()}


@functools.partial(jax.jit, static_argnames="threshold")
def measure(params, u, pi, threshold=1e-4):
    def loss(u):
        return orca.term(params, u, PER_CLASS, pi, threshold=threshold)

    return jax.value_and_grad(loss, has_aux=True)(u)


@jax.jit
@functools.partial(jax.value_and_grad, has_aux=True)
def distance(points, threshold):
    """One `otdd`, nothing of it computed beforehand."""
    return otdd.otdd(
        jnp.asarray(clouds()[1]),
        SOURCE_LABELS,
        points,
        np.zeros(PER_CLASS, np.int32),
        epsilon=EPSILON,
        threshold=threshold,
    )


def by_hand(u, threshold):
    total, grads = 0.0, []
    for share, points in zip(PI, jnp.split(u, len(PI)), strict=True):
        (value, info), grad = distance(points, threshold)
        assert info["converged"]
        total += share * value
        grads.append(share * grad)
    return total, np.concatenate(grads)


def test_is_the_weighted_sum_over_classes():
    u, _ = clouds()
    want, want_grad = by_hand(u, 1e-4)
    (got, metrics), grad = measure(source_leaves(), u, PI)
    np.testing.assert_allclose(got, want, rtol=1e-5)
    np.testing.assert_allclose(grad, want_grad, atol=1e-3 * np.abs(want_grad).max())
    assert metrics["otdd"] == got
    assert metrics["sinkhorn_converged"] == 1 and metrics["sinkhorn_error"] <= 1e-4


def test_released_sweeps():
    """The value is a little off: its distances between labels have converged."""
    u, _ = clouds()
    want, want_grad = by_hand(u, jnp.inf)
    (got, metrics), grad = measure(source_leaves(), u, PI, threshold=0.0)
    np.testing.assert_allclose(got, want, rtol=1e-2)
    scale = np.abs(want_grad).max()
    np.testing.assert_allclose(grad, want_grad, atol=1e-4 * scale)
    assert metrics["sinkhorn_converged"] == 1 and metrics["sinkhorn_error"] > 1e-2
    _, converged_grad = measure(source_leaves(), u, PI)
    assert np.abs(converged_grad - grad).max() > 0.1 * scale


def test_source_labels_move_the_value_and_not_the_gradient():
    u, source = clouds()
    labels = np.sort(SOURCE_LABELS)
    other = as_arrays(orca.leaves(settings(), source, rows(labels)))
    (value, _), grad = measure(source_leaves(), u, PI)
    (other_value, _), other_grad = measure(other, u, PI)
    assert abs(value - other_value) > 0.05
    np.testing.assert_allclose(other_grad, grad, atol=1e-6)


def test_class_without_weight_adds_nothing():
    u, _ = clouds()
    pi = np.array([0.4, 0.0, 0.6], np.float32)
    moved = u.at[PER_CLASS : 2 * PER_CLASS].add(1.0)
    (value, _), grad = measure(source_leaves(), u, pi)
    (moved_value, _), _ = measure(source_leaves(), moved, pi)
    np.testing.assert_allclose(moved_value, value, rtol=1e-6)
    np.testing.assert_array_equal(grad[PER_CLASS : 2 * PER_CLASS], 0)
    assert jnp.all(grad[:PER_CLASS] != 0)


def test_leaves_leave_out_unlabelled_points_and_number_classes_that_have_points():
    _, source = clouds()
    source, labels = np.insert(source, 5, 9.0, 0), np.insert(SOURCE_LABELS, 5, -1)
    wide = np.insert(rows(labels), 1, 0.0, axis=1)  # a class of no point
    got = orca.leaves(settings(), source, wide)
    for path, want in source_leaves().items():
        np.testing.assert_array_equal(got[path], want, err_msg=path)
    np.testing.assert_array_equal(got["source/otdd/labels"], SOURCE_LABELS)
    assert got["source/otdd/class_self_terms"].shape == (3,)


def test_leaves_keep_evenly_spaced_points():
    _, source = clouds()
    twice = np.repeat(source, 2, axis=0), np.repeat(rows(SOURCE_LABELS), 2, axis=0)
    got = orca.leaves(settings(max_source=21), *twice)
    for path, want in source_leaves().items():
        np.testing.assert_array_equal(got[path], want, err_msg=path)


@pytest.mark.parametrize(
    ("changes", "labels", "message"),
    [
        ({"epsilon": 0.0}, SOURCE_LABELS, "orca.epsilon = 0.0"),
        ({"threshold": -1.0}, SOURCE_LABELS, "orca.threshold = -1.0"),
        ({"max_source": -1}, SOURCE_LABELS, "orca.max_source = -1"),
        ({}, 0 * SOURCE_LABELS - 1, "none of the 21 source samples has a label"),
    ],
)
def test_leaves_refuse(changes, labels, message):
    with pytest.raises(errors.InputError, match=message):
        orca.leaves(settings(**changes), clouds()[1], rows(labels))


def test_leaves_warn_of_a_solve_that_stopped(caplog):
    orca.leaves(settings(threshold=1e-12), clouds()[1], rows(SOURCE_LABELS))
    assert "within the source stopped at a marginal error" in caplog.text


@pytest.fixture(scope="module")
def toy():
    """Phases on classes 0, 2 and 5 of unequal size, parameters, and a stream."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.array([5, 0, 2], np.int32), [6, 10, 4])  # shares as in PI
    x = (rng.normal(size=(20, 2, 3)) + labels[:, None, None]).astype(np.float32)
    config = defaults.base(common.parse_arg("", ("toy",)))
    config.update(settings())
    config.stage1.batch_size = 3 * PER_CLASS + 1
    target = phase.Target(x, labels, 6, False)
    phases = orca.phases(config, Toy(), task.relative_l2, target=target, fit_steps=7)
    params = source_leaves() | {
        "embedder/kernel": jnp.asarray(rng.normal(size=(3, 4)), jnp.float32),
        "body/scale": jnp.ones(4),
        "head/kernel": jnp.ones((4, 1)),
    }
    stream = pipeline.balanced({"x": x}, labels, config.stage1.batch_size, seed=0)
    return phases, params, stream


def test_align_phase_lowers_the_distance_with_the_embedder_alone(toy):
    (align, _), params, stream = toy

    @jax.jit
    def train_step(params, batch):
        train, frozen = tree.split(params, align.trainable)
        assert list(train) == ["embedder/kernel"]

        def loss(train):
            return align.loss_fn(train | frozen, {}, batch, None, 0)

        (value, (_, metrics)), grads = jax.value_and_grad(loss, has_aux=True)(train)
        train = {path: train[path] - 0.05 * grads[path] for path in train}
        return train | frozen, value, metrics

    values = []
    for index in range(30):
        batch = stream[index]
        if index == 0:
            u = Toy().apply(params, batch["x"])[1]["tokens"].mean(1)
            (want, _), _ = measure(params, u, PI)
        params, value, metrics = train_step(params, batch)
        values.append(float(value))
    np.testing.assert_allclose(values[0], want, rtol=1e-5)
    assert metrics["otdd"] == value and metrics["sinkhorn_converged"] == 1
    assert values[-1] < 0.5 * values[0]


def test_source_is_a_constant(toy):
    (align, _), params, stream = toy
    wanted = [path for path in params if path.startswith("source/")]
    wanted.remove("source/otdd/labels")  # integers

    def loss(source):
        return align.loss_fn(params | source, {}, stream[0], None, 0)[0]

    grads = jax.jit(jax.grad(loss))({path: params[path] for path in wanted})
    for path, grad in grads.items():
        np.testing.assert_array_equal(grad, 0, err_msg=path)


def test_phases_end_with_fitting_all(toy):
    (align, fit), _, _ = toy
    assert (align.name, align.stage, align.stream) == ("align", "align", "balanced")
    assert (fit.name, fit.num_steps) == ("fit", 7)
    assert fit.trainable == ("embedder/.*|body/.*|head/.*",)
