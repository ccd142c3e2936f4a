"""Linear heads on frozen states: what they reach, and classes that are missing."""

import numpy as np
import pytest

from recraft_jax.methods import heads


def problem(num_classes=3, num=120):
    rng = np.random.default_rng(0)
    labels = rng.integers(num_classes, size=num)
    states = 2 * np.eye(num_classes)[labels] + rng.normal(size=(num, num_classes))
    return states.astype(np.float32), labels


def loss(head, states, labels):
    return -heads.log_probs(head, states)[np.arange(len(labels)), labels].mean()


@pytest.mark.parametrize("fit", [heads.logistic, heads.double_softmax])
def test_rows_are_log_probabilities_and_better_than_guessing(fit):
    states, labels = problem()
    head = fit(states, labels, 3, 1.0)
    np.testing.assert_allclose(np.exp(heads.log_probs(head, states)).sum(1), 1)
    assert loss(head, states, labels) < np.log(3) - 0.1


@pytest.mark.parametrize(("kept", "count"), [((0, 2), 2), ((1,), 1)])
def test_class_without_a_sample_is_hopeless(kept, count):
    states, labels = problem()
    rows = np.isin(labels, kept)
    head = heads.logistic(states[rows], labels[rows], 3, 1.0)
    probs = np.exp(heads.log_probs(head, states[rows]))
    assert np.all(np.isfinite(probs))
    missing = [k for k in range(3) if k not in kept]
    assert probs[:, missing].max() < 1e-8
    if count == 1:
        np.testing.assert_allclose(probs[:, kept[0]], 1)


def test_strength_is_chosen_on_the_other_samples():
    states, labels = problem(num=400)
    train, val = (states[:30], labels[:30]), (states[30:], labels[30:])
    head, strength = heads.choose(heads.logistic, train, val, 3)
    losses = {
        s: loss(heads.logistic(*train, 3, s), *val) for s in heads.STRENGTHS.tolist()
    }
    assert strength == min(losses, key=losses.get)
    np.testing.assert_allclose(loss(head, *val), min(losses.values()), rtol=1e-5)
