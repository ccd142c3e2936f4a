"""Metrics: hand numbers, padding, sums over batches."""

import numpy as np
import pytest

from recraft_jax import metrics

NRMSE = metrics.METRICS["nrmse"]
ERROR = metrics.METRICS["error"]
RMSE = metrics.METRICS["rmse"]
LABEL_ERROR = metrics.METRICS["label_error"]


def whole(num):
    return np.ones(num, bool)


def example(name, num=7):
    rng = np.random.default_rng(0)
    if name == "error":
        return rng.normal(size=(num, 3)), rng.integers(3, size=num, dtype=np.int32)
    if name == "label_error":
        return rng.normal(size=(num, 3)), rng.integers(2, size=(num, 3)) * 1.0
    return rng.normal(size=(num, 4, 2)), rng.normal(size=(num, 4, 2))


def test_nrmse_is_the_mean_of_the_ratios():
    y = np.float32([[[3.0], [4.0]], [[0.0], [2.0]]])
    pred = y + np.float32([[[0.6], [-0.8]], [[3.0], [0.0]]])
    sums = metrics.update(NRMSE, pred, y, whole(2))
    np.testing.assert_allclose(sums["sum"], 0.2 + 1.5, rtol=1e-6)
    assert sums["count"] == 2
    # Not the ratio of the norms over all samples, sqrt(10 / 29).
    np.testing.assert_allclose(metrics.finish(NRMSE, sums), 0.85, rtol=1e-6)


def test_nrmse_flattens_channels_and_grid():
    pred, y = example("nrmse")
    want = np.mean(
        [
            np.linalg.norm(p - t) / np.linalg.norm(t)
            for p, t in zip(pred, y, strict=True)
        ]
    )
    np.testing.assert_allclose(metrics.score(NRMSE, pred, y), want, rtol=1e-6)


def test_nrmse_has_no_epsilon():
    pred, y = example("nrmse")
    small = metrics.score(NRMSE, pred * 1e-6, y * 1e-6)
    np.testing.assert_allclose(small, metrics.score(NRMSE, pred, y), rtol=1e-5)


def test_nrmse_of_zero_target_is_infinite():
    sums = metrics.update(
        NRMSE, np.ones((2, 3)), np.float32([[0, 0, 0], [1, 1, 1]]), whole(2)
    )
    assert metrics.finish(NRMSE, sums) == np.inf


def test_error_counts_wrong_argmax():
    logits = np.float32([[2, 1, 0], [0, 1, 2], [-3, -1, -2], [5, 5.5, 4]])
    sums = metrics.update(ERROR, logits, np.int32([0, 2, 0, 1]), whole(4))
    assert (sums["sum"], sums["count"]) == (1, 4)
    assert metrics.finish(ERROR, sums) == 0.25


def test_error_allows_logits_of_minus_infinity():
    logits = np.float32([[-np.inf, 0.0], [-1.0, -np.inf]])
    assert metrics.score(ERROR, logits, np.int32([1, 1])) == 0.5


def test_label_error_is_the_share_of_wrong_labels():
    logits = np.float32([[2, -1, 3, -4], [-np.inf, np.inf, 0, 0.1]])
    y = np.float32([[1, 1, 1, 0], [0, 0, 0, 0]])  # wrong: one, then two
    sums = metrics.update(LABEL_ERROR, logits, y, whole(2))
    assert metrics.finish(LABEL_ERROR, sums) == 3 / 8
    assert metrics.score(LABEL_ERROR, logits, 1 - y) == 5 / 8


@pytest.mark.parametrize("name", sorted(metrics.METRICS))
@pytest.mark.parametrize("fill", [0.0, 1e30, np.nan])
def test_padding_does_not_count(name, fill):
    metric = metrics.METRICS[name]
    pred, y = example(name)
    want = metrics.score(metric, pred, y)
    pads = [(0, 5)] + [(0, 0)] * (pred.ndim - 1)
    pred = np.pad(pred, pads, constant_values=fill)
    # Targets of zero; or class 1, which is wrong where all logits are equal.
    pads = [(0, 5)] + [(0, 0)] * (y.ndim - 1)
    y = np.pad(y, pads, constant_values=1 if name == "error" else 0)
    sums = metrics.update(metric, pred, y, np.arange(12) < 7)
    assert sums["count"] == 7
    np.testing.assert_allclose(metrics.finish(metric, sums), want, rtol=1e-6)


@pytest.mark.parametrize("name", sorted(metrics.METRICS))
def test_sums_of_unequal_batches_are_the_whole(name):
    metric = metrics.METRICS[name]
    pred, y = example(name)
    parts = [
        metrics.update(metric, pred[s], y[s], whole(len(y[s]))) for s in np.s_[:5, 5:]
    ]
    added = {key: parts[0][key] + parts[1][key] for key in parts[0]}
    joint = metrics.update(metric, pred, y, whole(7))
    assert set(added) == set(joint)
    np.testing.assert_allclose(
        metrics.finish(metric, added), metrics.finish(metric, joint), rtol=1e-6
    )
    # The mean of the two means is another number.
    means = np.mean([metrics.finish(metric, part) for part in parts])
    assert abs(means - metrics.finish(metric, joint)) > 1e-3


def test_rmse_is_the_root_of_the_mean_over_samples_and_values():
    y = np.float32([[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]])
    pred = y + np.float32([[1.0, 0.0], [0.0, 2.0], [3.0, 0.0]])
    want = np.sqrt((1 + 4 + 9) / 6)
    np.testing.assert_allclose(metrics.score(RMSE, pred, y), want, rtol=1e-6)
    np.testing.assert_allclose(RMSE.each(pred, y), [0.5, 2.0, 4.5], rtol=1e-6)


def test_finish_returns_a_plain_float():
    value = metrics.finish(ERROR, {"sum": np.float32(3), "count": np.int32(4)})
    assert type(value) is float
    assert value == 0.75


def test_better_follows_the_metric():
    accuracy = metrics.Metric(lambda pred, y: pred == y, better="higher")
    assert metrics.is_better(ERROR, 0.1, 0.2) and not metrics.is_better(ERROR, 0.2, 0.1)
    assert metrics.is_better(accuracy, 0.2, 0.1)
    assert not metrics.is_better(accuracy, 0.1, 0.2)
    assert not metrics.is_better(ERROR, 0.1, 0.1)
