"""Closed forms that several losses share, at 1e-5.

Elsewhere, at 1e-5 or better: the table of label joints, the chain rule and the label
map head (test_distortion.py, test_bound.py), err_t - err_s = A + B and the order of the
bounds (test_bound.py), the translation of W1 (test_bound.py, exact) and of the Sinkhorn
divergence (test_ot.py).
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recraft_jax.losses import bound, distortion, label_ot, ot, otdd, task

SHIFT = np.array([1.0, -2.0, 0.0, 0.5], np.float32)
ONE = np.zeros(32, int)


def clouds(seed=0):
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(32, 4)), 1.3 * rng.normal(size=(32, 4)) + 0.5
    return jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.float32)


def random_joint(seed, ks=5, kt=4):
    """With information of order 1: as a difference of entropies it loses digits."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(kt, size=60)
    probs = rng.dirichlet(np.full(ks, 0.4), size=60) / 4 + 0.75 * np.eye(ks)[labels]
    return distortion.joint(jnp.asarray(probs), jnp.asarray(np.eye(kt)[labels]))


class TestTransport:
    def test_epsilon_to_infinity_is_half_the_squared_mean_difference(self):
        x, y = clouds()
        want = jnp.sum((x.mean(0) - y.mean(0)) ** 2) / 2
        value, grad = jax.value_and_grad(
            lambda x: ot.sinkhorn_divergence(x, y, epsilon=1e6)[0]
        )(x)
        np.testing.assert_allclose(value, want, rtol=1e-5)
        want = jnp.tile((x.mean(0) - y.mean(0)) / 32, (32, 1))
        np.testing.assert_allclose(grad, want, rtol=1e-4, atol=1e-6)

    @pytest.mark.parametrize("epsilon", [0.05, 0.5, 10.0])
    def test_translation_at_every_epsilon(self, epsilon):
        x, _ = clouds()
        value, grad = jax.value_and_grad(
            lambda v: ot.sinkhorn_divergence(x, x + v, epsilon=epsilon)[0]
        )(jnp.asarray(SHIFT))
        np.testing.assert_allclose(value, np.sum(SHIFT**2) / 2, rtol=1e-5)
        np.testing.assert_allclose(grad, SHIFT, rtol=1e-5, atol=1e-5)

    def test_translation_of_exact_wasserstein1(self):
        x, shift = np.random.default_rng(0).normal(size=(60, 5)), np.arange(5.0)
        value, _ = bound.exact_wasserstein1(x, x + shift)
        np.testing.assert_allclose(value, np.linalg.norm(shift), rtol=1e-12)

    @pytest.mark.parametrize("threshold", [None, 1e-5])
    def test_single_label_translation_is_twice_the_divergence(self, threshold):
        """Also with the released sweeps; the gradient is that of S, not of 2 S."""
        x, _ = clouds()
        value, grad = jax.value_and_grad(
            lambda v: otdd.otdd(x, ONE, x + v, ONE, threshold=threshold)[0]
        )(jnp.asarray(SHIFT))
        np.testing.assert_allclose(value, np.sum(SHIFT**2), rtol=1e-5)
        np.testing.assert_allclose(grad, SHIFT, rtol=1e-5, atol=1e-5)

    def test_single_label_is_the_divergence_plus_half_the_inner_one(self):
        x, y = clouds()
        limits = {"epsilon": 2.0, "threshold": 1e-6}
        plain, plain_grad = jax.value_and_grad(
            lambda x: ot.sinkhorn_divergence(x, y, **limits)[0]
        )(x)
        inner, _ = ot.sinkhorn_divergence(x, y, epsilon=1.0, threshold=1e-6)
        inner = 2 * inner  # |.|^2 at epsilon is twice 1/2 |.|^2 at epsilon / 2
        distances, _ = otdd.label_distances(x, ONE, y, ONE, **limits)
        np.testing.assert_allclose(distances["xy"], inner, rtol=1e-5)
        cost, _ = label_ot.class_cost(
            y, ONE, x, ONE, num_classes=1, num_source_classes=1, **limits
        )
        np.testing.assert_allclose(cost, inner, rtol=1e-5)
        value, grad = jax.value_and_grad(
            lambda x: otdd.otdd(x, ONE, y, ONE, **limits)[0]
        )(x)
        np.testing.assert_allclose(value, plain + inner / 2, rtol=1e-5)
        np.testing.assert_allclose(grad, plain_grad, rtol=1e-4, atol=1e-6)


class TestDistortion:
    @pytest.mark.parametrize("seed", range(3))
    def test_kl_part_of_the_label_map_of_a_plan(self, seed):
        """I for C = 0 and for epsilon to infinity, 0 for C = -log q at epsilon 1."""
        q = random_joint(seed)
        a, b = q.sum(1), q.sum(0)
        information = distortion.mutual_information(q)
        forward = distortion.target_given_source(q)
        rng = np.random.default_rng(seed)
        cost = jnp.asarray(rng.uniform(size=q.shape), jnp.float32)
        for c, epsilon in ((0 * cost, 1.0), (cost, 1e6)):
            plan, _ = ot.transport_plan(c, a, b, epsilon=epsilon)
            loss = distortion.transport_distortion(q, plan)
            np.testing.assert_allclose(loss, distortion.entropy(b), rtol=1e-5)
            np.testing.assert_allclose(loss - forward, information, rtol=1e-5)
        plan, _ = ot.transport_plan(
            distortion.joint_cost(q), a, b, epsilon=1.0, threshold=1e-6
        )
        loss = distortion.transport_distortion(q, plan)
        np.testing.assert_allclose(loss, forward, rtol=1e-5)

    @pytest.mark.parametrize("seed", range(3))
    def test_both_forms_of_the_information_and_the_chain_rule(self, seed):
        q = random_joint(seed)
        h, information = distortion.entropy, distortion.mutual_information(q)
        a, b = q.sum(1), q.sum(0)
        exact = np.asarray(q, np.float64)
        exact /= exact.sum()
        outer = exact.sum(1, keepdims=True) * exact.sum(0)
        mask = exact > 0
        divergence = np.sum(exact[mask] * np.log(exact[mask] / outer[mask]))
        np.testing.assert_allclose(information, divergence, rtol=1e-5)
        np.testing.assert_allclose(h(a) + h(b) - h(q), divergence, rtol=1e-5)
        np.testing.assert_allclose(
            h(b) + distortion.source_given_target(q) - h(a),
            distortion.target_given_source(q),
            rtol=1e-5,
        )

    def test_negative_sets_vanish_for_any_balanced_binary_predictions(self):
        for seed in range(5):
            rng = np.random.default_rng(seed)
            probs = rng.dirichlet(np.full(6, 0.3), size=20)
            labels = np.eye(2)[np.arange(20) % 2]
            q = distortion.joint(jnp.asarray(probs), jnp.asarray(labels))
            np.testing.assert_allclose(distortion.negative_sets(q), 0, atol=1e-6)

    @pytest.mark.parametrize("seed", range(5))
    def test_cross_entropy_of_the_label_map_head(self, seed):
        """CE of P @ Lambda_bar <= H(Zt|Zs) <= H(Zt) for any predictions and labels."""
        rng = np.random.default_rng(seed)
        probs = jnp.asarray(rng.dirichlet(np.full(5, 0.2), size=40))
        labels = rng.integers(4, size=40)
        q = distortion.joint(probs, jnp.asarray(np.eye(4)[labels]))
        head = jnp.log(probs @ distortion.label_map(q))
        ce = jnp.mean(task.cross_entropy(head, labels))
        forward = distortion.target_given_source(q)
        assert ce <= forward * (1 + 1e-5) <= distortion.entropy(q.sum(0)) * (1 + 2e-5)


class TestHeads:
    @pytest.mark.parametrize(("k", "floor"), [(9, 1.371951), (10, 1.461150)])
    def test_floor_of_the_double_softmax(self, k, floor):
        np.testing.assert_allclose(math.log(1 + (k - 1) / math.e), floor, atol=1e-6)
        labels = np.arange(k)
        sure = 200 * jnp.eye(k)
        got, grad = jax.value_and_grad(
            lambda z: jnp.sum(task.double_softmax_cross_entropy(z, labels))
        )(sure)
        np.testing.assert_allclose(got / k, floor, rtol=1e-5)
        np.testing.assert_array_equal(grad, 0)
        wrong = task.double_softmax_cross_entropy(sure[::-1], labels)
        ceiling = np.where(labels == labels[::-1], floor, math.log(k - 1 + math.e))
        np.testing.assert_allclose(wrong, ceiling, rtol=1e-5)
        rng = np.random.default_rng(0)
        logits = jnp.asarray(5 * rng.normal(size=(200, k)), jnp.float32)
        values = task.double_softmax_cross_entropy(logits, np.arange(200) % k)
        assert values.shape == (200,) and jnp.all(values >= floor * (1 - 1e-6))
        even = task.double_softmax_cross_entropy(jnp.zeros((1, k)), np.int32([0]))
        np.testing.assert_allclose(even, math.log(k), rtol=1e-6)

    @pytest.mark.parametrize("seed", range(3))
    def test_gradient_of_a_linear_head(self, seed):
        """W^T (p - e_y), of norm at most sqrt(2) times the spectral norm of W."""
        rng = np.random.default_rng(seed)
        weight, bias = rng.normal(size=(5, 7)), rng.normal(size=5)
        u, labels = 3 * rng.normal(size=(20, 7)), rng.integers(5, size=20)
        w32, bias32, u32 = (jnp.asarray(v, jnp.float32) for v in (weight, bias, u))

        def loss(u):
            return jnp.sum(task.cross_entropy(u @ w32.T + bias32, labels))

        grad = jax.grad(loss)(u32)
        logits = u @ weight.T + bias
        p = np.exp(logits - logits.max(1, keepdims=True))
        p /= p.sum(1, keepdims=True)
        want = (p - np.eye(5)[labels]) @ weight
        np.testing.assert_allclose(grad, want, rtol=1e-5, atol=1e-5)
        norms = np.linalg.norm(grad, axis=1)
        assert np.all(norms <= math.sqrt(2) * np.linalg.norm(weight, 2) * (1 + 1e-6))

    def test_bound_on_the_gradient_of_a_linear_head_is_reached(self):
        """Sure of one of two classes, and wrong: p - e_y = (1, -1)."""
        weight = jnp.array([[1.0, 2.0, -1.0], [-1.0, -2.0, 1.0]])
        u = 20 * weight[0]
        grad = jax.grad(
            lambda u: task.cross_entropy((weight @ u)[None], np.int32([1]))[0]
        )(u)
        want = math.sqrt(2) * np.linalg.norm(weight, 2)
        np.testing.assert_allclose(jnp.linalg.norm(grad), want, rtol=1e-5)


class TestPooling:
    """Token means contract distances by up to the square root of their number."""

    def test_pooled_distance(self):
        rng = np.random.default_rng(0)
        u, v = rng.normal(size=(2, 50, 9, 4))
        pooled = np.linalg.norm(u.mean(1) - v.mean(1), axis=1)
        flat = np.linalg.norm((u - v).reshape(50, -1), axis=1)
        assert np.all(pooled <= flat / 3)
        v = u + rng.normal(size=(50, 1, 4))  # equality: one shift for all tokens
        pooled = np.linalg.norm(u.mean(1) - v.mean(1), axis=1)
        flat = np.linalg.norm((u - v).reshape(50, -1), axis=1)
        np.testing.assert_allclose(pooled, flat / 3, rtol=1e-12)

    def test_pooled_wasserstein(self):
        rng = np.random.default_rng(1)
        u, v = rng.normal(size=(2, 30, 9, 4))

        def distances(u, v):
            pooled, _ = bound.exact_wasserstein1(u.mean(1), v.mean(1))
            flat, _ = bound.exact_wasserstein1(u.reshape(30, -1), v.reshape(30, -1))
            return pooled, flat / 3

        pooled, contracted = distances(u, v + 0.3)
        assert pooled <= contracted
        np.testing.assert_allclose(*distances(u, u + SHIFT), rtol=1e-6)
