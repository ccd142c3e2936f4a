import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recraft_jax import errors
from recraft_jax.data import text
from recraft_jax.methods import lipschitz, source, text_tower
from recraft_jax.models import pretrained

UNCHANGED = lipschitz.Settings(
    method="none",
    tau=0.4,
    delta=0.05,
    rho=100.0,
    u_space="pooled",
    norm_axis="sample",
    grad_divisor=1.0,
    num_samples=64,
)


@pytest.fixture(scope="module")
def body(backbone):
    return pretrained.load(backbone)


@pytest.fixture(scope="module")
def sentences(backbone, source_table):
    return text.encode_sentences(backbone, *text.read_table(source_table), 16)


def prepare(encoded, body, **changes):
    settings = {"num_features": 40, "test_frac": 0.3, "seed": 0} | changes
    settings = {"recalibration": UNCHANGED} | settings
    tower = text_tower.make(encoded, body.params, body.embed, body.encode)
    return source.prepare(tower, **settings)


def test_features_are_masked_means_of_the_embeddings(sentences, body):
    found = prepare(sentences, body, num_features=len(sentences.ids))
    for row in (0, 7, 31):
        length = sentences.mask[row].sum()
        tokens = body.embed(body.params, sentences.ids[row : row + 1, :length])
        np.testing.assert_allclose(found.features[row], tokens[0].mean(0), atol=1e-5)


def test_number_of_features_is_capped(sentences, body):
    assert prepare(sentences, body).features.shape == (40, body.width)


def test_head_reproduces_the_reported_figures_on_held_out_text(sentences, body):
    """Recompute accuracy, log-loss and information from the stored arrays."""
    found = prepare(sentences, body)
    hidden = body.encode(
        body.params, body.embed(body.params, sentences.ids), jnp.array(sentences.mask)
    )
    weight = sentences.mask / sentences.mask.sum(1, keepdims=True)
    pooled = (np.asarray(hidden) * weight[..., None]).sum(1)
    params = source.leaves(found)
    probs = np.exp(source.predict(params, jnp.asarray(pooled)))
    order = np.random.default_rng(0).permutation(len(pooled))
    test = order[: found.report["units"]["test"]]
    labels = sentences.labels[test]
    assert found.report["accuracy"] == pytest.approx(
        (probs[test].argmax(1) == labels).mean()
    )
    log_loss = -np.log(probs[test, labels]).mean()
    assert found.report["log_loss"] == pytest.approx(log_loss, rel=1e-4)
    joint = probs[test].T @ np.eye(3)[labels] / len(test)
    outer = joint.sum(1, keepdims=True) * joint.sum(0)
    information = (joint * np.log(joint / outer)).sum()
    assert found.report["information"] == pytest.approx(information, rel=1e-3)


def test_head_is_above_majority_on_separable_text(sentences, body, caplog):
    with caplog.at_level(logging.WARNING):
        report = prepare(sentences, body).report
    assert report["accuracy"] > report["majority"] + 0.2
    assert "majority" not in caplog.text


def test_head_at_majority_is_warned_about(sentences, body, caplog):
    rng = np.random.default_rng(1)
    labels = (rng.random(len(sentences.ids)) < 0.1).astype(np.int32)
    shuffled = sentences._replace(labels=labels, names=("a", "b"))
    with caplog.at_level(logging.WARNING):
        report = prepare(shuffled, body).report
    assert report["accuracy"] <= report["majority"]
    assert "not above its majority class" in caplog.text


def test_two_classes_give_a_head_of_two_columns(sentences, body):
    """scikit-learn stores one row for two classes; the soft-max must be the same."""
    binary = sentences._replace(
        labels=np.minimum(sentences.labels, 1), names=("a", "b")
    )
    found = prepare(binary, body)
    assert found.kernel.shape == (body.width, 2)
    assert found.report["accuracy"] > found.report["majority"]


def test_token_level_balances_outside_and_splits_by_sentence(backbone, body):
    words = [["who", "is", "man", "the", "city"]] * 30 + [["the", "a", "of"]] * 30
    tags = [["O", "O", "per", "O", "loc"]] * 30 + [["O", "O", "O"]] * 30
    encoded = text.encode_words(backbone, words, tags, 16)
    report = prepare(encoded, body).report
    assert report["level"] == "token"
    total = sum(report["units"].values())
    assert total == 30 + 30 + 30  # per, loc, and as many O as the larger of them
    assert report["accuracy"] > 0.9


def test_stage_zero_is_deterministic(sentences, body):
    one, two = prepare(sentences, body), prepare(sentences, body)
    np.testing.assert_array_equal(one.kernel, two.kernel)
    np.testing.assert_array_equal(one.features, two.features)


def test_one_class_is_refused(sentences, body):
    one = sentences._replace(labels=np.zeros_like(sentences.labels), names=("a",))
    with pytest.raises(errors.InputError, match="at least two classes"):
        prepare(one, body)


def test_predict_is_a_log_softmax(body):
    params = {
        "source/head/kernel": jnp.eye(body.width)[:, :3],
        "source/head/bias": jnp.array([0.0, 1.0, -1.0]),
    }
    hidden = jax.random.normal(jax.random.key(0), (5, body.width))
    log_probs = source.predict(params, hidden)
    logits = np.asarray(hidden[:, :3]) + np.array([0.0, 1.0, -1.0])
    by_hand = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    np.testing.assert_allclose(log_probs, by_hand, atol=1e-5)


def test_recalibrated_head_is_flat_on_text_nobody_has_fitted(sentences, body):
    settings = UNCHANGED._replace(method="penalty", tau=1.0)
    found = prepare(sentences, body, recalibration=settings)
    report = found.report["lipschitz"]
    assert report["before"]["slope"]["0.95"] > 2.0
    assert report["after"]["slope"]["0.95"] < 1.3
    assert report["quantile"] <= 1.0 + 1e-3  # on the text it was recalibrated on
    assert report["units"] == {"fit": 21, "test": 45}
    plain = prepare(sentences, body)
    assert "lipschitz" not in plain.report
    assert np.linalg.norm(found.kernel) < np.linalg.norm(plain.kernel)
    np.testing.assert_array_equal(found.features, plain.features)


def test_held_out_units_carry_the_final_head(sentences, body):
    settings = UNCHANGED._replace(method="rescale", tau=0.5)
    found = prepare(sentences, body, recalibration=settings)
    order = np.random.default_rng(0).permutation(len(sentences.ids))
    rows = np.sort(order[: len(found.held_labels)])
    np.testing.assert_array_equal(found.held_labels, sentences.labels[rows])
    mask = sentences.mask[rows]
    tokens = body.embed(body.params, sentences.ids[rows])
    weight = (mask / mask.sum(1, keepdims=True))[..., None]
    pooled = (np.asarray(tokens) * weight).sum(1)
    np.testing.assert_allclose(found.held_features, pooled, atol=1e-5)
    hidden = body.encode(body.params, tokens, jnp.asarray(mask))
    want = source.predict(source.leaves(found), (hidden * weight).sum(1))
    np.testing.assert_allclose(found.held_log_probs, want, atol=1e-4)
    accuracy = (found.held_log_probs.argmax(1) == found.held_labels).mean()
    assert found.report["accuracy"] == pytest.approx(accuracy)


def test_token_level_head_is_recalibrated_too(backbone, body):
    words = [["who", "is", "man", "the", "city"]] * 30 + [["the", "a", "of"]] * 30
    tags = [["O", "O", "per", "O", "loc"]] * 30 + [["O", "O", "O"]] * 30
    encoded = text.encode_words(backbone, words, tags, 16)
    settings = UNCHANGED._replace(method="rescale", tau=0.2)
    found = prepare(encoded, body, recalibration=settings)
    assert found.report["lipschitz"]["after"]["slope"]["1.0"] <= 0.2 + 1e-4
    names = found.report["classes"]
    # The shares of the labelled tokens of a sentence, or nothing.
    sums = found.labels.sum(1)
    assert set(np.round(sums, 5)) <= {0.0, 1.0}
    assert found.labels.shape[1] == len(names)
