"""Closed forms of the label distortion (methods 1.11), golden values, gradients."""

import json
import math
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recraft_jax.losses import distortion, ot

GOLDEN = pathlib.Path(__file__).parent / "golden"
LOG2, LOG4, LOG5 = math.log(2), math.log(4), math.log(5)


def one_hot(labels, num_classes):
    return np.eye(num_classes)[np.asarray(labels)]


def noisy(eta, k):
    """Each class keeps its label with 1 - eta, the rest is spread evenly."""
    return np.full((k, k), eta / (k - 1)) + np.eye(k) * (1 - eta - eta / (k - 1))


def random_problem(seed, num_samples=60, ks=5, kt=4):
    rng = np.random.default_rng(seed)
    probs = rng.dirichlet(np.full(ks, 0.4), size=num_samples)
    labels = rng.integers(kt, size=num_samples)
    return jnp.asarray(probs), jnp.asarray(one_hot(labels, kt)), labels


NOISE = -(0.7 * math.log(0.7) + 0.3 * math.log(0.3)) + 0.3 * math.log(3)
SPLIT = one_hot(range(8), 8).reshape(4, 2, 8)
CLOSED_FORMS = {
    # name: probs, labels, H(Zs|Zt), H(Zt|Zs), I
    "one_to_one": (np.eye(4), range(4), 0.0, 0.0, LOG4),
    "uniform": (np.full((4, 5), 0.2), range(4), LOG5, LOG4, 0.0),
    "constant": (one_hot([1] * 4, 5), range(4), 0.0, LOG4, 0.0),
    "many_to_one_soft": (SPLIT.mean(1), range(4), LOG2, 0.0, LOG4),
    "many_to_one_hard": (np.eye(8), [0, 0, 1, 1, 2, 2, 3, 3], LOG2, 0.0, LOG4),
    "merge": (np.repeat(np.eye(4), 2, axis=0), range(8), 0.0, LOG2, LOG4),
    "noise": (noisy(0.3, 4), range(4), NOISE, NOISE, LOG4 - NOISE),
}


@pytest.mark.parametrize("name", CLOSED_FORMS)
def test_closed_forms(name):
    probs, labels, reverse, forward, information = CLOSED_FORMS[name]
    q = distortion.joint(
        jnp.asarray(probs), jnp.asarray(one_hot(labels, max(labels) + 1))
    )
    np.testing.assert_allclose(jnp.sum(q), 1, rtol=1e-6)
    for got, want in (
        (distortion.source_given_target(q), reverse),
        (distortion.target_given_source(q), forward),
        (distortion.mutual_information(q), information),
    ):
        np.testing.assert_allclose(got, want, rtol=5e-6, atol=5e-7)


def test_noise_row_as_printed():
    np.testing.assert_allclose([NOISE, LOG4 - NOISE], [0.940448, 0.445846], atol=1e-6)


def test_golden_values():
    data = np.load(GOLDEN / "losses.npz")
    want = json.loads((GOLDEN / "losses.json").read_text())
    labels = data["target_labels"]
    q = distortion.joint(
        jnp.asarray(data["probs"]), jnp.asarray(one_hot(labels, labels.max() + 1))
    )
    for got, name in (
        (distortion.source_given_target(q), "fld_entropy"),
        (distortion.target_given_source(q), "fld_mi"),
        (distortion.mutual_information(q), "mutual_information"),
    ):
        np.testing.assert_allclose(got, want[name], rtol=1e-5)


def test_joint_axes_and_weights():
    probs = jnp.array([[0.9, 0.1, 0.0], [0.2, 0.3, 0.5], [0.0, 0.0, 1.0]])
    targets = jnp.array([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    q = distortion.joint(probs, targets, jnp.array([2.0, 2.0, 0.0]))
    np.testing.assert_allclose(q, [[0.45, 0.1], [0.05, 0.15], [0, 0.25]], atol=1e-7)
    uniform = distortion.joint(probs, targets)
    np.testing.assert_allclose(uniform.sum(0), [1 / 3, 2 / 3], rtol=1e-6)
    for bad in ((probs[:2], targets, None), (probs, targets, jnp.ones(2))):
        with pytest.raises((ValueError, TypeError)):  # TypeError: from jaxtyping
            distortion.joint(*bad)


@pytest.mark.parametrize("seed", range(5))
def test_identities(seed):
    probs, targets, labels = random_problem(seed)
    weights = jnp.asarray(np.random.default_rng(seed).uniform(0.2, 1, len(labels)))
    q = distortion.joint(probs, targets, weights)
    h = distortion.entropy
    a, b = q.sum(1), q.sum(0)
    forward = distortion.target_given_source(q)
    reverse = distortion.source_given_target(q)
    information = distortion.mutual_information(q)
    np.testing.assert_allclose(h(b) + reverse - h(a), forward, rtol=1e-5)
    np.testing.assert_allclose(information, h(a) + h(b) - h(q), rtol=1e-4)
    np.testing.assert_allclose(h(b) - information, forward, rtol=1e-5)
    assert forward >= max(0.0, float(h(b)) - math.log(q.shape[0])) - 1e-6
    # The label-map head needs no assumption: an inequality on every sample.
    head = probs @ distortion.label_map(q)
    picked = jnp.take_along_axis(head, labels[:, None], axis=1)[:, 0]
    cross_entropy = -jnp.sum(weights / weights.sum() * jnp.log(picked))
    assert cross_entropy <= forward + 1e-6 <= h(b) + 2e-6


def test_label_map_rows():
    q = jnp.array([[0.3, 0.1], [0.0, 0.0], [0.0, 0.6]])
    np.testing.assert_allclose(
        distortion.label_map(q), [[0.75, 0.25], [0.5, 0.5], [0.0, 1.0]], rtol=1e-6
    )


def test_miller_madow():
    q = jnp.array([[0.3, 0.1, 0.1], [0.0, 0.0, 0.0], [0.0, 0.2, 0.3]])
    got = distortion.miller_madow(q, 50) - distortion.target_given_source(q)
    np.testing.assert_allclose(got, (5 - 2) / 100, rtol=1e-4)


def test_miller_madow_reduces_the_bias_of_hard_labels():
    rng = np.random.default_rng(0)
    truth = noisy(0.3, 4) / 4
    raw, corrected = [], []
    for _ in range(200):
        q = jnp.asarray(rng.multinomial(100, truth.ravel()).reshape(4, 4) / 100)
        raw.append(distortion.target_given_source(q))
        corrected.append(distortion.miller_madow(q, 100))
    assert np.mean(raw) < NOISE - 0.04
    assert abs(np.mean(corrected) - NOISE) < 0.02


def test_transport_distortion_limits():
    q = distortion.joint(*random_problem(3)[:2])
    a, b = q.sum(1), q.sum(0)
    forward = distortion.target_given_source(q)
    np.testing.assert_allclose(
        distortion.transport_distortion(q, q), forward, rtol=1e-5
    )
    for plan in (
        jnp.outer(a, b),
        ot.transport_plan(jnp.zeros_like(q), a, b, epsilon=1.0)[0],
        ot.transport_plan(jnp.abs(q - 0.1), a, b, epsilon=1e4)[0],
    ):
        np.testing.assert_allclose(
            distortion.transport_distortion(q, plan), distortion.entropy(b), rtol=1e-5
        )
    plan, _ = ot.transport_plan(-jnp.log(q), a, b, epsilon=1.0)
    np.testing.assert_allclose(
        distortion.transport_distortion(q, plan), forward, rtol=1e-5
    )
    plan, _ = ot.transport_plan(jnp.abs(q - 0.1), a, b, epsilon=0.02)
    assert distortion.transport_distortion(q, plan) > forward


def test_transport_distortion_edges():
    q = jnp.array([[0.5, 0.0], [0.0, 0.0], [0.0, 0.5]])
    plan = jnp.array([[0.5, 0.0], [0.0, 0.0], [0.5, 0.0]])
    loss, grad = jax.value_and_grad(distortion.transport_distortion, 1)(q, plan)
    np.testing.assert_allclose(loss, -0.5 * math.log(1e-30), rtol=1e-5)
    assert jnp.all(jnp.isfinite(grad))


LOSSES = {
    "forward": distortion.target_given_source,
    "reverse": distortion.source_given_target,
    "information": distortion.mutual_information,
    "transport": lambda q: distortion.transport_distortion(q, jnp.roll(q, 1, 1)),
}


@pytest.mark.parametrize("name", LOSSES)
def test_gradient_against_finite_differences(name):
    """Float32 values of order 1: step 1e-2 leaves an error of about 1e-4."""
    _, targets, _ = random_problem(1)
    rng = np.random.default_rng(2)
    logits, step = (jnp.asarray(rng.normal(size=(60, 5)), jnp.float32) for _ in "ab")

    def loss(logits):
        return LOSSES[name](distortion.joint(jax.nn.softmax(logits), targets))

    slope = jnp.sum(jax.grad(loss)(logits) * step)
    size = 1e-2
    want = (loss(logits + size * step) - loss(logits - size * step)) / (2 * size)
    np.testing.assert_allclose(slope, want, rtol=5e-3, atol=2e-4)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("case", ["one_target", "empty_class", "hard", "one_sample"])
def test_degenerate_inputs_are_finite(name, case):
    probs, labels, kt = {
        "one_target": (np.full((4, 3), 1 / 3), [0] * 4, 1),
        "empty_class": (np.full((4, 3), 1 / 3), [0, 2, 2, 0], 3),
        "hard": (one_hot([0, 0, 1, 1], 4), [0, 1, 1, 1], 2),
        "one_sample": (one_hot([0], 3), [1], 2),
    }[case]
    targets = jnp.asarray(one_hot(labels, kt), jnp.float32)
    value, grad = jax.value_and_grad(
        lambda probs: LOSSES[name](distortion.joint(probs, targets))
    )(jnp.asarray(probs, jnp.float32))
    assert jnp.isfinite(value) and jnp.all(jnp.isfinite(grad))
    if case == "one_target" and name != "reverse":
        np.testing.assert_allclose(value, 0, atol=1e-6)
