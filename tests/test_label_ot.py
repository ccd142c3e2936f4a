"""The class-conditional cost against `otdd`, closed forms and differences."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recraft_jax.losses import distortion, label_ot, ot, otdd

SHIFT = np.array([1.0, -2.0, 0.0, 0.5], np.float32)
SOURCE_LABELS = np.arange(24) % 3
LABELS = np.arange(20) % 2
SIZES = {"num_classes": 2, "num_source_classes": 3}


def clouds(seed=0):
    """Draw target and source points whose classes lie apart."""
    rng = np.random.default_rng(seed)
    source = rng.normal(size=(24, 4)) + 2 * np.eye(4)[SOURCE_LABELS]
    target = 1.3 * rng.normal(size=(20, 4)) - 2 * np.eye(4)[LABELS] + 0.5
    return jnp.asarray(target, jnp.float32), jnp.asarray(source, jnp.float32)


def cost_of(target, source, labels=LABELS, source_labels=SOURCE_LABELS, **options):
    options = {"epsilon": 0.5, "threshold": 1e-5, "max_iterations": 2000} | options
    return label_ot.class_cost(target, labels, source, source_labels, **SIZES | options)


@pytest.mark.parametrize("epsilon", [0.5, 5.0])
def test_against_label_distances(epsilon):
    target, source = clouds()
    want, _ = otdd.label_distances(
        source, SOURCE_LABELS, target, LABELS, epsilon=epsilon, threshold=1e-4
    )
    got, info = cost_of(target, source, epsilon=epsilon)
    np.testing.assert_allclose(got, want["xy"], rtol=1e-5)
    assert info["converged"] and info["marginal_error"] <= 1e-5
    np.testing.assert_allclose(info["epsilon"], epsilon)


def test_against_plain_divergences():
    """|.|^2 at epsilon is twice 1/2 |.|^2 at epsilon / 2."""
    target, source = clouds(1)
    got, _ = cost_of(target, source)
    for z in range(3):
        for y in range(2):
            want, _ = ot.sinkhorn_divergence(
                source[SOURCE_LABELS == z],
                target[LABELS == y],
                epsilon=0.25,
                threshold=1e-5,
            )
            np.testing.assert_allclose(got[z, y], 2 * want, rtol=1e-5)


@pytest.mark.parametrize("epsilon", [0.1, 0.5, 50.0])
@pytest.mark.parametrize("offset", [0.0, 100.0])
def test_translation_of_a_class(epsilon, offset):
    """|v|^2 at every epsilon, with gradient 2 v."""
    _, source = clouds()
    source = source + offset

    def loss(v):
        moved = source + v
        options = {"epsilon": epsilon, "num_classes": 3}
        return jnp.diag(cost_of(moved, source, SOURCE_LABELS, **options)[0])

    # The origin costs digits: 100 +- 1 in float32 has errors of 4e-6 per coordinate.
    np.testing.assert_allclose(
        loss(jnp.array(SHIFT)), np.sum(SHIFT**2), rtol=1e-5 if offset == 0 else 3e-5
    )
    jacobian = jax.jacrev(loss)(jnp.array(SHIFT))
    np.testing.assert_allclose(jacobian, np.tile(2 * SHIFT, (3, 1)), atol=1e-3)


def test_large_epsilon_is_the_prototype_cost():
    target, source = clouds()
    got, _ = cost_of(target, source, epsilon=1e5)
    want = distortion.prototype_cost(
        target, jnp.eye(2)[LABELS], source, jnp.eye(3)[SOURCE_LABELS]
    )
    np.testing.assert_allclose(got, want, rtol=1e-3)


@pytest.mark.parametrize("argument", [0, 1])
def test_gradient_against_differences(argument):
    points = list(clouds(2))
    mix = jnp.asarray(np.random.default_rng(0).normal(size=(3, 2)), jnp.float32)

    @jax.jit
    def loss(z):
        points[argument] = z
        return jnp.sum(mix * cost_of(*points, threshold=1e-6)[0])

    z, size = points[argument], 1e-2
    grad = jax.grad(loss)(z)
    for seed in range(3):
        step = np.random.default_rng(seed).normal(size=z.shape)
        step = jnp.asarray(step / np.linalg.norm(step), jnp.float32)
        want = (loss(z + size * step) - loss(z - size * step)) / (2 * size)
        scale = float(jnp.linalg.norm(grad))
        np.testing.assert_allclose(
            jnp.sum(grad * step), want, rtol=1e-2, atol=1e-3 * scale
        )


def test_missing_classes_are_at_the_mean_cost_without_a_gradient():
    target, source = clouds()
    want, _ = cost_of(target, source)
    sizes = {"num_classes": 4, "num_source_classes": 4}
    labels = 2 * LABELS + 1  # of 0..3

    def costs(target):
        return cost_of(target, source, labels, **sizes)

    got, info = costs(target)
    np.testing.assert_allclose(got[:3, 1::2], want, rtol=1e-5)
    np.testing.assert_allclose(got[:, ::2], want.mean(), rtol=1e-5)
    np.testing.assert_allclose(got[3], want.mean(), rtol=1e-5)
    assert info["converged"]
    missing = jax.grad(lambda u: jnp.sum(costs(u)[0][:, ::2]))(target)
    np.testing.assert_array_equal(missing, 0)
    present = jax.grad(lambda u: jnp.sum(costs(u)[0][:3, 1::2]))(target)
    plain = jax.grad(lambda u: jnp.sum(cost_of(u, source)[0]))(target)
    np.testing.assert_allclose(present, plain, atol=1e-4)


def test_traced_labels_and_points_of_no_class():
    target, source = clouds()
    want, _ = cost_of(target, source)
    traced = jax.jit(functools.partial(cost_of, epsilon=0.5))
    got, _ = traced(target, source, LABELS, SOURCE_LABELS)
    np.testing.assert_allclose(got, want, rtol=1e-6)
    padded = jnp.concatenate([target, jnp.full((4, 4), 9.0)])
    labels = np.concatenate([LABELS, [-1, -1, 2, 7]])
    got, info = traced(padded, source, labels, SOURCE_LABELS)
    np.testing.assert_allclose(got, want, rtol=1e-5)
    assert info["converged"]
    grad = jax.grad(lambda u: jnp.sum(traced(u, source, labels, SOURCE_LABELS)[0]))
    np.testing.assert_array_equal(grad(padded)[20:], 0)


def test_source_self_terms_computed_once():
    """The same cost, and the same gradient in the target."""
    target, source = clouds()
    terms, info = label_ot.self_terms(
        source, SOURCE_LABELS, epsilon=0.5, num_classes=3, threshold=1e-5
    )
    assert info["converged"] and info["marginal_error"] <= 1e-5

    def total(target, **options):
        return jnp.sum(cost_of(target, source, **options)[0])

    want = jax.value_and_grad(total)(target)
    got = jax.value_and_grad(functools.partial(total, source_self=terms))(target)
    np.testing.assert_allclose(got[0], want[0], rtol=1e-5)
    np.testing.assert_allclose(got[1], want[1], atol=1e-5)
    with pytest.raises(ValueError, match=r"source_self must be \[3\]"):
        cost_of(target, source, source_self=terms[:2])


def test_self_terms_with_constants_on_the_cost():
    """Two points at distance r: mean and soft minimum by hand; r^2 plus a constant."""
    points, extra = jnp.array([[0.0], [1.0]]), jnp.array([[0.0, 0.7], [0.7, 0.0]])
    got, _ = label_ot.self_terms(
        points,
        np.zeros(2, int),
        epsilon=0.5,
        num_classes=2,
        extra=extra,
        threshold=1e-6,
    )
    # By symmetry g is one constant: g = -eps log((1 + exp(-1.7 / eps)) / 2) - g.
    want = -0.5 * np.log((1 + np.exp(-1.7 / 0.5)) / 2)
    np.testing.assert_allclose(got, [want, 0.0], rtol=1e-5)


def test_not_converged_is_reported():
    target, source = clouds()
    got, info = cost_of(target, source, epsilon=1e-3, max_iterations=1)
    assert not info["converged"] and info["marginal_error"] > 1e-5
    assert jnp.all(jnp.isfinite(got))


def test_it_is_a_cost_of_the_label_plan():
    """The plan from it matches the classes that lie together, and has a gradient."""
    rng = np.random.default_rng(0)
    labels = np.arange(24) % 3
    source = jnp.asarray(rng.normal(size=(24, 4)) + 4 * np.eye(4)[labels], jnp.float32)
    target = jnp.asarray(rng.normal(size=(24, 4)) + 4 * np.eye(4)[2 - labels])
    third = jnp.full(3, 1 / 3)

    def plan_of(target):
        cost, _ = cost_of(target, source, labels, labels, num_classes=3)
        return ot.transport_plan(cost, third, third, epsilon=1.0)[0]

    np.testing.assert_allclose(plan_of(target), np.eye(3)[::-1] / 3, atol=1e-3)
    grad = jax.grad(lambda u: jnp.sum(plan_of(u)[0] * jnp.arange(3.0)))(target)
    assert jnp.all(jnp.isfinite(grad)) and jnp.any(grad != 0)
