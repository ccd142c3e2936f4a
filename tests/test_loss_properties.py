"""Properties of the losses on drawn problems; shapes are fixed to compile once each.

Of the drawn problems some weights are zero, some classes are empty and some predictions
are one-hot, so that every property is one of degenerate input too.
"""

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st

from recraft_jax.losses import bound, distortion, label_ot, ot, otdd

N, M, D, KS, KT = 10, 8, 3, 4, 3
few = hypothesis.settings(max_examples=8, deadline=None, derandomize=True)
many = hypothesis.settings(max_examples=25, deadline=None, derandomize=True)
seeds = st.integers(0, 2**32 - 1)


def draw_weights(rng, size):
    weights = rng.uniform(size=size) * (rng.random(size) < 0.7)
    weights[rng.integers(size)] = 1.0
    return weights


def draw_clouds(seed):
    """Two labelled, weighted clouds, sometimes with points in common."""
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(N, D)), rng.normal(size=(M, D)) + rng.normal(size=D)
    if rng.random() < 0.3:
        y[: M // 2] = x[: M // 2]
    return {
        "x": np.float32(x),
        "y": np.float32(y),
        "a": np.float32(draw_weights(rng, N)),
        "b": np.float32(draw_weights(rng, M)),
        "x_labels": rng.integers(KS, size=N),
        "y_labels": rng.integers(KT, size=M),
    }


def draw_samples(seed):
    """Predictions, some of them one-hot, labels, weights, and their joint."""
    rng = np.random.default_rng(seed)
    probs = rng.dirichlet(np.full(KS, rng.uniform(0.1, 2)), size=N)
    probs = np.where(
        rng.random((N, 1)) < 0.3, np.eye(KS)[rng.integers(KS, size=N)], probs
    )
    labels = rng.integers(KT, size=N)
    weights = draw_weights(rng, N)
    targets = np.eye(KT)[labels]
    arrays = (jnp.asarray(v, jnp.float32) for v in (probs, targets, weights))
    return tuple(arrays), rng


OT = {
    "wasserstein1": lambda c: ot.wasserstein1(
        c["x"], c["y"], weights_x=c["a"], weights_y=c["b"], threshold=1e-5, epsilon=0.1
    ),
    "sinkhorn_divergence": lambda c: ot.sinkhorn_divergence(
        c["x"], c["y"], weights_x=c["a"], weights_y=c["b"], threshold=1e-5, epsilon=0.2
    ),
    "otdd": lambda c: otdd.otdd(
        *(c[name] for name in ("x", "x_labels", "y", "y_labels")),
        num_classes_x=KS,
        num_classes_y=KT,
        epsilon=4.0,
        threshold=1e-4,
    ),
    "class_cost": lambda c: label_ot.class_cost(
        *(c[name] for name in ("y", "y_labels", "x", "x_labels")),
        num_classes=KT,
        num_source_classes=KS,
        epsilon=4.0,
        threshold=1e-4,
        max_iterations=2000,
    ),
}


def with_gradients(fn):
    """One program: value, diagnostics, and the gradient in points and weights."""

    def loss(floats, labels):
        value, info = fn(floats | labels)
        return jnp.sum(value), (value, info)

    compiled = jax.jit(jax.grad(loss, has_aux=True))

    def run(case):
        labels = {name: v for name, v in case.items() if "labels" in name}
        floats = {name: v for name, v in case.items() if name not in labels}
        grads, (value, info) = compiled(floats, labels)
        return value, info, grads

    return run


COMPILED = {name: with_gradients(fn) for name, fn in OT.items()}


@pytest.mark.parametrize("name", OT)
@few
@hypothesis.given(seeds)
def test_transport(name, seed):
    """Nonnegative, finite in all gradients, blind to the order of points and labels."""
    case = draw_clouds(seed)
    value, info, grads = COMPILED[name](case)
    assert info["converged"]
    assert jnp.all(value >= -1e-4)
    assert all(jnp.all(jnp.isfinite(grad)) for grad in grads.values())
    if name in ("wasserstein1", "sinkhorn_divergence"):  # no mass, no force
        np.testing.assert_array_equal(grads["x"][case["a"] == 0], 0)
        np.testing.assert_array_equal(grads["y"][case["b"] == 0], 0)

    rng = np.random.default_rng(seed)
    rows, columns = rng.permutation(N), rng.permutation(M)
    names_x, names_y = rng.permutation(KS), rng.permutation(KT)
    moved, _, moved_grads = COMPILED[name](
        {
            "x": case["x"][rows],
            "y": case["y"][columns],
            "a": case["a"][rows],
            "b": case["b"][columns],
            "x_labels": names_x[case["x_labels"]][rows],
            "y_labels": names_y[case["y_labels"]][columns],
        }
    )
    if name == "class_cost":
        moved = moved[names_x][:, names_y]
    np.testing.assert_allclose(moved, value, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(moved_grads["y"], grads["y"][columns], atol=2e-3)


@few
@hypothesis.given(seeds)
def test_plan(seed):
    """Marginals, zero rows, and finite gradients at zero mass."""
    rng = np.random.default_rng(seed)
    a, b = (draw_weights(rng, size) for size in (KS, KT))
    cost = jnp.asarray(rng.uniform(size=(KS, KT)), jnp.float32)
    a, b = (jnp.asarray(w / w.sum(), jnp.float32) for w in (a, b))
    grads, plan = PLAN(cost, a, b)
    assert jnp.all(plan >= 0)
    np.testing.assert_allclose(jnp.sum(plan), 1, rtol=1e-5)
    np.testing.assert_allclose(plan.sum(1), a, atol=1e-6)
    np.testing.assert_allclose(plan.sum(0), b, atol=1e-6)
    assert all(jnp.all(jnp.isfinite(grad)) for grad in grads)
    np.testing.assert_array_equal(grads[0][a == 0], 0)


def plan_loss(cost, a, b):
    plan, _ = ot.transport_plan(cost, a, b, epsilon=0.1)
    return distortion.transport_distortion(jnp.roll(plan, 1, 1), plan), plan


PLAN = jax.jit(jax.grad(plan_loss, (0, 1, 2), has_aux=True))


@many
@hypothesis.given(seeds)
def test_information(seed):
    """Signs, bounds and the chain rule of the label joint."""
    (probs, targets, weights), _ = draw_samples(seed)
    q = distortion.joint(probs, targets, weights)
    np.testing.assert_allclose(jnp.sum(q), 1, rtol=1e-5)
    rows = distortion.label_map(q).sum(1)
    np.testing.assert_allclose(rows, 1, rtol=1e-5)
    a, b = q.sum(1), q.sum(0)
    h = distortion.entropy
    forward, reverse = (
        distortion.target_given_source(q),
        distortion.source_given_target(q),
    )
    information = distortion.mutual_information(q)
    assert -1e-6 <= forward <= h(b) + 2e-6
    assert -1e-6 <= reverse <= h(a) + 2e-6
    assert -1e-6 <= information <= min(h(a), h(b)) + 2e-6
    for got in (h(b) - information, h(q) - h(a), h(b) + reverse - h(a)):
        np.testing.assert_allclose(got, forward, atol=2e-6)
    for plan in (jnp.outer(a, b), q, jnp.roll(q, 1, 0) / 2 + jnp.outer(a, b) / 2):
        kl = distortion.transport_distortion(q, plan) - forward
        assert kl >= -2e-6


@many
@hypothesis.given(seeds)
def test_order_and_names_do_not_matter(seed):
    (probs, targets, weights), rng = draw_samples(seed)
    q = distortion.joint(probs, targets, weights)
    order = rng.permutation(N)
    shuffled = distortion.joint(probs[order], targets[order], weights[order])
    np.testing.assert_allclose(shuffled, q, atol=1e-6)
    z, y = rng.permutation(KS), rng.permutation(KT)
    renamed = q[z][:, y]
    for loss in (
        distortion.target_given_source,
        distortion.source_given_target,
        distortion.mutual_information,
        distortion.negative_sets,
    ):
        np.testing.assert_allclose(loss(renamed), loss(q), atol=2e-6)
    np.testing.assert_allclose(
        distortion.label_map(renamed), distortion.label_map(q)[z][:, y], rtol=1e-5
    )


@many
@hypothesis.given(seeds)
def test_processing_labels_cannot_raise_information(seed):
    """Neither merging labels nor mixing them at random, on either side."""
    (probs, targets, weights), rng = draw_samples(seed)
    q = distortion.joint(probs, targets, weights)
    information = distortion.mutual_information(q)
    merge_z, merge_y = (np.eye(k)[rng.integers(2, size=k)] for k in (KS, KT))
    mix_z, mix_y = (rng.dirichlet(np.full(k, 0.5), size=k) for k in (KS, KT))
    for channel in (merge_z, mix_z):
        processed = jnp.asarray(channel.T, jnp.float32) @ q
        assert distortion.mutual_information(processed) <= information + 2e-6
        # Mixing predictions is mixing source labels.
        mixed = distortion.joint(
            jnp.asarray(probs @ channel, jnp.float32), targets, weights
        )
        np.testing.assert_allclose(mixed, processed, atol=1e-6)
        # Less is known of the target then: the distortion cannot fall.
        assert (
            distortion.target_given_source(processed)
            >= distortion.target_given_source(q) - 2e-6
        )
    for channel in (merge_y, mix_y):
        processed = q @ jnp.asarray(channel, jnp.float32)
        assert distortion.mutual_information(processed) <= information + 2e-6


def all_losses(probs, targets, weights, features, source):
    q = distortion.joint(probs, targets, weights)
    cost = distortion.prototype_cost(features, targets, source, probs)
    bug = distortion.misplaced_negatives(probs, targets)
    return (
        distortion.target_given_source(q)
        + distortion.source_given_target(q)
        + distortion.mutual_information(q)
        + distortion.negative_sets(q)
        + distortion.negative_sets(q, negatives=bug)
        + distortion.per_label(probs, targets, weights)
        + distortion.transport_distortion(q, jnp.roll(q, 1, 1))
        + jnp.sum(distortion.label_map(q) ** 2)
        + jnp.sum(cost)
        + distortion.miller_madow(distortion.moving_average(q, q), N)
    )


ALL_LOSSES = jax.jit(jax.value_and_grad(all_losses, (0, 1, 2, 3, 4)))


@many
@hypothesis.given(seeds)
def test_gradients_at_zero_mass_are_finite(seed):
    (probs, targets, weights), rng = draw_samples(seed)
    clouds = (jnp.asarray(rng.normal(size=(N, D)), jnp.float32) for _ in "xy")
    value, grads = ALL_LOSSES(probs, targets, weights, *clouds)
    assert jnp.isfinite(value)
    assert all(jnp.all(jnp.isfinite(grad)) for grad in grads)
    np.testing.assert_allclose(jnp.sum(weights * grads[2]), 0, atol=1e-4)


@many
@hypothesis.given(seeds)
def test_exact_wasserstein1(seed):
    case = draw_clouds(seed)
    x, y = case["x"], case["y"]
    options = {"weights_x": case["a"], "weights_y": case["b"]}
    value, _ = bound.exact_wasserstein1(x, y, **options)
    assert value >= 0
    rng = np.random.default_rng(seed)
    rows, columns = rng.permutation(N), rng.permutation(M)
    moved, _ = bound.exact_wasserstein1(
        x[rows], y[columns], weights_x=case["a"][rows], weights_y=case["b"][columns]
    )
    np.testing.assert_allclose(moved, value, rtol=1e-6, atol=1e-9)
    shift = rng.normal(size=D)
    translated, _ = bound.exact_wasserstein1(x + shift, y + shift, **options)
    np.testing.assert_allclose(translated, value, rtol=1e-6, atol=1e-6)
    far = np.where(case["a"][:, None] > 0, x, 100.0)  # no mass, no influence
    assert bound.exact_wasserstein1(far, y, **options)[0] == value
    assert bound.exact_wasserstein1(x, x)[0] == 0

    i, j, mass = bound.exact_coupling(x, y, **options)
    np.testing.assert_allclose(np.sum(mass), 1, rtol=1e-9)
    for index, weights in ((i, case["a"]), (j, case["b"])):
        want = np.float64(weights) / np.sum(np.float64(weights))
        np.testing.assert_allclose(
            np.bincount(index, mass, len(weights)), want, atol=1e-8
        )
    # The entropic estimate with the true marginals lies below, and near.
    estimate, info, _ = COMPILED["wasserstein1"](case)
    assert info["converged"] and estimate <= value + 1e-3
