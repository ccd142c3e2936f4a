"""Closed forms of the label distortion, golden values, gradients."""

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


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_moving_average_value_and_gradient(momentum):
    old = distortion.joint(*random_problem(1)[:2])
    probs, targets, _ = random_problem(2)
    batch = distortion.joint(probs, targets)
    want = momentum * old + (1 - momentum) * batch
    average = distortion.moving_average(old, batch, momentum)
    np.testing.assert_allclose(average, want, rtol=1e-6)
    np.testing.assert_allclose(average.sum(), 1, rtol=1e-6)

    def loss(old, batch):
        return distortion.target_given_source(
            distortion.moving_average(old, batch, momentum)
        )

    through_old, grad = jax.grad(loss, (0, 1))(old, batch)
    np.testing.assert_array_equal(through_old, 0)
    np.testing.assert_allclose(
        grad, jax.grad(distortion.target_given_source)(want), rtol=1e-4, atol=1e-6
    )
    for bad in ((old[:2], batch, 0.9), (old, batch, 1.0), (old, batch, -0.1)):
        with pytest.raises((ValueError, TypeError)):
            distortion.moving_average(*bad)


def test_moving_average_default_converges_to_a_repeated_joint():
    old, new = (distortion.joint(*random_problem(seed)[:2]) for seed in (1, 2))
    q = distortion.moving_average(old, new)
    np.testing.assert_allclose(q, 0.9 * old + 0.1 * new, rtol=1e-5)
    for _ in range(200):
        q = distortion.moving_average(q, new)
    np.testing.assert_allclose(q, new, atol=1e-6)


def test_per_label_closed_forms():
    labels = one_hot([0, 0, 1, 1], 2)
    targets = jnp.asarray(np.c_[labels, [1, 0, 1, 0], np.ones(4), np.zeros(4)])
    informed = distortion.per_label(jnp.asarray(labels), targets)
    # The first two labels are known from Zs, the third is independent, two constant.
    np.testing.assert_allclose(informed, LOG2 / 5, rtol=1e-5)
    blind = distortion.per_label(jnp.full((4, 3), 1 / 3), targets)
    np.testing.assert_allclose(blind, 3 * LOG2 / 5, rtol=1e-5)


def test_per_label_is_the_mean_of_binary_problems():
    probs, _, _ = random_problem(0)
    rng = np.random.default_rng(0)
    targets = rng.random((60, 3)) < [0.1, 0.5, 0.8]
    weights = jnp.asarray(rng.uniform(0.2, 1, 60))
    want = [
        distortion.target_given_source(
            distortion.joint(probs, jnp.asarray(one_hot(column, 2)), weights)
        )
        for column in targets.T.astype(int)
    ]
    got = distortion.per_label(probs, jnp.asarray(targets, jnp.float32), weights)
    np.testing.assert_allclose(got, np.mean(want), rtol=1e-5)


def negative_sets_by_hand(probs, labels):
    probs, total = np.asarray(probs, float), 0.0

    def h(rows):
        p = rows.mean(axis=0)
        return -np.sum(p[p > 0] * np.log(p[p > 0]))

    for y in np.unique(labels):
        share = np.mean(labels == y)
        total += share * (h(probs[labels == y]) - h(probs[labels != y]))
    return total


def test_negative_sets_by_hand():
    probs, targets, labels = random_problem(4)
    got = distortion.negative_sets(distortion.joint(probs, targets))
    want = negative_sets_by_hand(probs, labels)
    np.testing.assert_allclose(got, want, rtol=1e-4)
    # With an empty class beside the others nothing changes.
    padded = jnp.concatenate([targets, jnp.zeros((60, 1))], axis=1)
    got = distortion.negative_sets(distortion.joint(probs, padded))
    np.testing.assert_allclose(got, want, rtol=1e-4)


def test_negative_sets_of_given_negatives():
    probs, targets, labels = random_problem(4)
    q = distortion.joint(probs, targets)
    rest = q.sum(1, keepdims=True) - q
    want = distortion.negative_sets(q)
    for scale in (1.0, 7.0):  # columns of any sum
        got = distortion.negative_sets(q, negatives=scale * rest)
        np.testing.assert_allclose(got, want, rtol=1e-4)
    # The whole sample as its negatives: exactly H(Zs|Zt) - H(Zs).
    got = distortion.negative_sets(q, negatives=jnp.tile(q.sum(1)[:, None], 4))
    np.testing.assert_allclose(got, -distortion.mutual_information(q), rtol=1e-4)
    # Without negatives the entropy of the classes is left.
    got = distortion.negative_sets(q, negatives=0 * q)
    np.testing.assert_allclose(got, distortion.source_given_target(q), rtol=1e-5)


def test_misplaced_negatives_by_hand():
    first = np.array([[0.9, 0.1], [0.5, 0.5], [0.2, 0.8], [0.0, 1.0]])
    labels = np.array([1, 0, 1, 1])
    got = distortion.misplaced_negatives(
        jnp.asarray(first), jnp.asarray(one_hot(labels, 3))
    )
    want = [first[labels != y].sum(0) / 4 for y in range(3)]
    np.testing.assert_allclose(got, np.transpose(want), rtol=1e-6)


def test_misplaced_negatives_do_not_see_the_other_classes():
    """The negative term of the released code stands for other classes in name only."""
    probs, targets, labels = random_problem(6)
    first = random_problem(7)[0]
    other = jnp.where((labels == 0)[:, None], probs, random_problem(8)[0])
    class_0 = jnp.array([1.0, 0.0, 0.0, 0.0])

    def loss(probs, negatives):
        q = distortion.joint(probs, targets)
        return distortion.negative_sets(q, negatives=negatives, class_scale=class_0)

    bug = distortion.misplaced_negatives(first, targets)
    np.testing.assert_allclose(loss(other, bug), loss(probs, bug), rtol=1e-6)
    assert abs(loss(other, None) - loss(probs, None)) > 1e-3
    # Along changes that leave the predictions on the simplex.
    along, along_rest = (
        grad[labels != 0] - grad[labels != 0][:, :1]
        for grad in (jax.grad(loss)(probs, bug), jax.grad(loss)(probs, None))
    )
    np.testing.assert_allclose(along, 0, atol=1e-7)
    assert jnp.max(jnp.abs(along_rest)) > 1e-4


def test_class_scale_by_hand():
    q = jnp.array([[0.3, 0.1, 0.0], [0.1, 0.2, 0.0], [0.0, 0.3, 0.0]])
    scale = jnp.array([2.0, 0.5, 3.0])

    def h(*p):
        return -sum(v * math.log(v) for v in p)

    terms = np.array([0.4 * h(3 / 4, 1 / 4), 0.6 * h(1 / 6, 1 / 3, 1 / 2)])
    got = distortion.source_given_target(q, class_scale=scale)
    np.testing.assert_allclose(got, 2 * terms[0] + terms[1] / 2, rtol=1e-6)
    # The rest of class 0 is class 1, and that of class 1 is class 0.
    terms = terms - np.array([0.4 * terms[1] / 0.6, 0.6 * terms[0] / 0.4])
    got = distortion.negative_sets(q, class_scale=scale)
    np.testing.assert_allclose(got, 2 * terms[0] + terms[1] / 2, rtol=1e-5)
    for loss in (distortion.source_given_target, distortion.negative_sets):
        same = loss(q, class_scale=jnp.ones(3))
        np.testing.assert_allclose(same, loss(q), rtol=1e-6)
        grad = jax.grad(lambda s, loss=loss: loss(q, class_scale=s))(scale)
        np.testing.assert_array_equal(grad, 0)


def test_negative_sets_closed_forms():
    one_to_one = jnp.eye(8) / 8
    np.testing.assert_allclose(
        distortion.negative_sets(one_to_one), -math.log(7), rtol=1e-5
    )
    binary = jnp.asarray(one_hot([0, 1] * 30, 2))
    q = distortion.joint(random_problem(5)[0], binary)
    value, grad = jax.value_and_grad(distortion.negative_sets)(q)
    np.testing.assert_allclose(value, 0, atol=1e-6)
    # Along changes of the predictions, which keep the classes balanced, it is flat.
    np.testing.assert_allclose(grad - grad[:1], 0, atol=1e-5)
    uneven = q * jnp.array([1.6, 0.4])
    h = [distortion.entropy(q[:, y] / 0.5) for y in (0, 1)]
    np.testing.assert_allclose(
        distortion.negative_sets(uneven), 0.6 * (h[0] - h[1]), rtol=1e-4
    )


def test_prototype_cost_by_hand_and_empty_classes():
    source = jnp.array([[0.0, 0.0], [2.0, 0.0], [0.0, 4.0]])
    source_labels = jnp.asarray(one_hot([0, 0, 2], 3))
    features = jnp.array([[1.0, 3.0], [1.0, 5.0], [0.0, 0.0]])
    targets = jnp.asarray(one_hot([1, 1, 0], 3))
    cost = distortion.prototype_cost(features, targets, source, source_labels)
    want = np.array([[1.0, 16.0], [16.0, 1.0]])
    np.testing.assert_allclose(cost[np.ix_([0, 2], [0, 1])], want, atol=1e-6)
    np.testing.assert_allclose(cost[1], want.mean(), rtol=1e-6)
    np.testing.assert_allclose(cost[:, 2], want.mean(), rtol=1e-6)
    grad = jax.grad(
        lambda u: jnp.sum(
            distortion.prototype_cost(u, targets, source, source_labels)[:, 2]
        )
    )(features)
    np.testing.assert_array_equal(grad, 0)
    none = distortion.prototype_cost(features, 0 * targets, source, source_labels)
    np.testing.assert_array_equal(none, 0)
    with pytest.raises((ValueError, TypeError)):
        distortion.prototype_cost(features, targets[:2], source, source_labels)


def test_joint_cost_gives_back_the_joint():
    q = jnp.array([[0.3, 0.1, 0.0], [0.0, 0.0, 0.0], [0.05, 0.25, 0.3]])
    cost = distortion.joint_cost(q)
    np.testing.assert_allclose(cost[0, :2], [-math.log(0.3), -math.log(0.1)], rtol=1e-6)
    assert jnp.all(jnp.isposinf(cost[1])) and jnp.isposinf(cost[0, 2])
    plan, _ = ot.transport_plan(cost, q.sum(1), q.sum(0), epsilon=1.0)
    np.testing.assert_allclose(plan, q, atol=1e-6)
    grad = jax.grad(lambda q: jnp.sum(jnp.where(q > 0, distortion.joint_cost(q), 0)))(q)
    np.testing.assert_allclose(grad, np.where(q > 0, -1 / np.maximum(q, 0.01), 0))


def test_gradients_of_the_later_losses():
    """As `test_gradient_against_finite_differences`, with what is not a loss of q."""
    probs, targets, _ = random_problem(1)
    rng = np.random.default_rng(3)
    logits, step = (jnp.asarray(rng.normal(size=(60, 5)), jnp.float32) for _ in "ab")
    multi_hot = jnp.asarray(rng.random((60, 3)) < 0.4, jnp.float32)
    source = jnp.asarray(rng.normal(size=(60, 5)), jnp.float32)

    def transported(features):
        cost = distortion.prototype_cost(features, targets, source, probs)
        q = distortion.joint(jax.nn.softmax(features), targets)
        plan, _ = ot.transport_plan(
            cost, q.sum(1), q.sum(0), epsilon=0.5, threshold=1e-6
        )
        return distortion.transport_distortion(q, plan)

    losses = {
        "per_label": lambda u: distortion.per_label(jax.nn.softmax(u), multi_hot),
        "negative": lambda u: distortion.negative_sets(
            distortion.joint(jax.nn.softmax(u), targets)
        ),
        "prototype": transported,
    }
    size = 1e-2
    for name, loss in losses.items():
        slope = jnp.sum(jax.grad(loss)(logits) * step)
        want = (loss(logits + size * step) - loss(logits - size * step)) / (2 * size)
        np.testing.assert_allclose(
            slope, want, rtol=5e-3, atol=2e-4, err_msg=f"gradient of {name}"
        )


@pytest.mark.parametrize("case", ["one_target", "hard", "one_sample"])
def test_later_losses_are_finite_at_the_edges(case):
    probs, labels, kt = {
        "one_target": (np.full((4, 3), 1 / 3), [0] * 4, 1),
        "hard": (one_hot([0, 0, 1, 1], 4), [0, 1, 1, 1], 3),
        "one_sample": (one_hot([0], 3), [1], 2),
    }[case]
    probs = jnp.asarray(probs, jnp.float32)
    targets = jnp.asarray(one_hot(labels, kt), jnp.float32)
    for loss in (
        lambda p: distortion.negative_sets(distortion.joint(p, targets)),
        lambda p: distortion.per_label(p, targets),
        lambda p: jnp.sum(distortion.prototype_cost(p, targets, p, p)),
    ):
        value, grad = jax.value_and_grad(loss)(probs)
        assert jnp.isfinite(value) and jnp.all(jnp.isfinite(grad))
