"""Metrics: hand numbers, brute force, scikit-learn; batches add up to the whole."""

import functools

import numpy as np
import pytest
import sklearn.metrics

from recraft_jax import metrics

NRMSE, ERROR, RMSE, LABEL_ERROR = (
    metrics.make(name) for name in ("nrmse", "error", "rmse", "label_error")
)
DENSE = ("nrmse", "rmse")
MAPS = ("mae8",)
LABELS = ("label_error", "1-auroc", "1-map", "fnr")
CLASSES = ("error", "1-f1", "1-f1_records")


def example(name, num=7, seed=0):
    """Predictions, targets and groups."""
    rng = np.random.default_rng(seed)
    group = np.arange(num, dtype=np.int32) // 2
    if name in CLASSES:
        y = rng.integers(3, size=num, dtype=np.int32)
        y = y[2 * group] if name == "1-f1_records" else y
        return rng.normal(size=(num, 3)).astype(np.float32), y, group
    if name in LABELS:
        y = rng.integers(2, size=(num, 3)).astype(np.float32)
        y = y[2 * group] if name == "1-map" else y
        return rng.normal(size=(num, 3)).astype(np.float32), y, group
    if name in MAPS:
        shape = (num, 30, 30, 1)
        y = rng.uniform(0, 16, shape).astype(np.float32)
        return rng.uniform(0, 16, shape).astype(np.float32), y, group
    shape = (num, 4, 2)
    return (*rng.normal(size=(2, *shape)).astype(np.float32), group)


# ----------------------------------------------------------------------------- all
def test_examples_are_of_every_metric():
    assert {*DENSE, *MAPS, *LABELS, *CLASSES} == set(metrics.METRICS)


@pytest.mark.parametrize("name", sorted(metrics.METRICS))
def test_streaming_is_the_whole(name):
    metric = metrics.make(name)
    pred, y, group = example(name, 41)
    whole = metrics.score(metric, pred, y, group)
    parts = [metric.each(pred[s], y[s]) for s in np.split(np.arange(41), [5, 17, 40])]
    streamed = metrics.finish(metric, np.concatenate(parts), y, group)
    assert streamed == pytest.approx(whole, abs=1e-7)
    assert type(streamed) is float and 0 < streamed
    # A mean of the scores of the parts is another number.
    scores = [
        metrics.score(metric, pred[s], y[s], group[s])
        for s in np.split(np.arange(41), [18])
    ]
    assert abs(np.mean(scores) - whole) > 1e-4


def test_chunks_count_equally():
    logits = np.eye(2, dtype=np.float32)[[0, 0, 0, 0, 1]]
    y = np.int32([0, 0, 1, 1, 0])
    assert metrics.score(metrics.make("error"), logits, y) == pytest.approx(3 / 5)
    chunked = metrics.make("error", {"chunk": 4})
    assert metrics.score(chunked, logits, y) == pytest.approx((1 / 2 + 1) / 2)


def test_better_follows_the_metric():
    accuracy = metrics.Metric(lambda pred, y: pred == y, better="higher")
    assert metrics.is_better(ERROR, 0.1, 0.2) and not metrics.is_better(ERROR, 0.2, 0.1)
    assert metrics.is_better(accuracy, 0.2, 0.1)
    assert not metrics.is_better(accuracy, 0.1, 0.2)
    assert not metrics.is_better(ERROR, 0.1, 0.1)


# --------------------------------------------------------------------------- means
def test_nrmse_is_the_mean_of_the_ratios():
    y = np.float32([[[3.0], [4.0]], [[0.0], [2.0]]])
    pred = y + np.float32([[[0.6], [-0.8]], [[3.0], [0.0]]])
    np.testing.assert_allclose(NRMSE.each(pred, y), [0.2, 1.5], rtol=1e-6)
    # Not the ratio of the norms over all samples, sqrt(10 / 29).
    np.testing.assert_allclose(metrics.score(NRMSE, pred, y), 0.85, rtol=1e-6)


def test_nrmse_flattens_channels_and_grid():
    pred, y, _ = example("nrmse")
    want = np.mean(
        [
            np.linalg.norm(p - t) / np.linalg.norm(t)
            for p, t in zip(pred, y, strict=True)
        ]
    )
    np.testing.assert_allclose(metrics.score(NRMSE, pred, y), want, rtol=1e-6)


def test_nrmse_has_no_epsilon():
    pred, y, _ = example("nrmse")
    small = metrics.score(NRMSE, pred * 1e-6, y * 1e-6)
    np.testing.assert_allclose(small, metrics.score(NRMSE, pred, y), rtol=1e-5)


def test_nrmse_of_zero_target_is_infinite():
    y = np.float32([[0, 0, 0], [1, 1, 1]])
    assert metrics.score(NRMSE, np.ones((2, 3), np.float32), y) == np.inf


def test_error_counts_wrong_argmax():
    logits = np.float32([[2, 1, 0], [0, 1, 2], [-3, -1, -2], [5, 5.5, 4]])
    np.testing.assert_array_equal(
        ERROR.each(logits, np.int32([0, 2, 0, 1])), [0, 0, 1, 0]
    )
    assert metrics.score(ERROR, logits, np.int32([0, 2, 0, 1])) == 0.25


def test_error_allows_logits_of_minus_infinity():
    logits = np.float32([[-np.inf, 0.0], [-1.0, -np.inf]])
    assert metrics.score(ERROR, logits, np.int32([1, 1])) == 0.5


def test_label_error_is_the_share_of_wrong_labels():
    logits = np.float32([[2, -1, 3, -4], [-np.inf, np.inf, 0, 0.1]])
    y = np.float32([[1, 1, 1, 0], [0, 0, 0, 0]])  # wrong: one, then two
    assert metrics.score(LABEL_ERROR, logits, y) == 3 / 8
    assert metrics.score(LABEL_ERROR, logits, 1 - y) == 5 / 8


def test_rmse_is_the_root_of_the_mean_over_samples_and_values():
    y = np.float32([[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]])
    pred = y + np.float32([[1.0, 0.0], [0.0, 2.0], [3.0, 0.0]])
    want = np.sqrt((1 + 4 + 9) / 6)
    np.testing.assert_allclose(metrics.score(RMSE, pred, y), want, rtol=1e-6)
    np.testing.assert_allclose(RMSE.each(pred, y), [0.5, 2.0, 4.5], rtol=1e-6)


# ------------------------------------------------------------------------ rankings
def brute_auroc(score, y):
    """Share of pairs of a positive and a negative in the right order, ties half."""
    gaps = score[y > 0][:, None] - score[y == 0][None, :]
    return np.mean((gaps > 0) + 0.5 * (gaps == 0))


def brute_ap(score, y):
    """Sum of precision times the step of recall, over distinct scores from the top."""
    total, before = 0.0, 0.0
    for level in np.unique(score)[::-1]:
        on = score >= level
        recall = (y[on] > 0).sum() / (y > 0).sum()
        total += (recall - before) * (y[on] > 0).mean()
        before = recall
    return total


@pytest.mark.parametrize("seed", range(3))
def test_auroc_is_that_of_pairs_and_of_scikit_learn(seed):
    pred, y, _ = example("1-auroc", 60, seed)
    pred = pred.round(1)  # ties
    brute = np.mean([brute_auroc(pred[:, k], y[:, k]) for k in range(3)])
    library = sklearn.metrics.roc_auc_score(y, pred, average="macro")
    found = metrics.score(metrics.make("1-auroc"), pred, y)
    assert found == pytest.approx(1 - brute, abs=1e-6)
    assert found == pytest.approx(1 - library, abs=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_average_precision_is_by_definition_and_of_scikit_learn(seed):
    pred, y, _ = example("label_error", 60, seed)
    pred = pred.round(1)
    brute = np.mean([brute_ap(pred[:, k], y[:, k]) for k in range(3)])
    library = sklearn.metrics.average_precision_score(y, pred, average="macro")
    found = metrics.score(metrics.make("1-map"), pred, y)
    assert found == pytest.approx(1 - brute, abs=1e-6)
    assert found == pytest.approx(1 - library, abs=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_f1_is_the_mean_over_classes(seed):
    pred, y, _ = example("1-f1", 60, seed)
    guess = pred.argmax(1)
    each = []
    for k in range(3):
        hit = ((guess == k) & (y == k)).sum()
        each.append(2 * hit / ((guess == k).sum() + (y == k).sum()))
    found = metrics.score(metrics.make("1-f1"), pred, y)
    assert found == pytest.approx(1 - np.mean(each), abs=1e-6)
    library = sklearn.metrics.f1_score(y, guess, average="macro")
    assert found == pytest.approx(1 - library, abs=1e-6)


def test_label_that_never_or_always_occurs_is_left_out():
    pred, y, _ = example("1-auroc", 20)
    for name in ("1-auroc", "1-map"):
        want = metrics.score(metrics.make(name), pred[:, :1], y[:, :1])
        y[:, 1], y[:, 2] = 0, 1
        assert metrics.score(metrics.make(name), pred, y) == pytest.approx(want)
        assert np.isnan(metrics.score(metrics.make(name), pred[:, 1:], y[:, 1:]))


def test_infinite_logits_are_the_largest():
    y = np.float32([[1], [0], [1], [0]])
    pred = np.float32([[np.inf], [-np.inf], [2.0], [3.0]])
    finite = np.float32([[9.0], [-9.0], [2.0], [3.0]])
    for name in ("1-auroc", "1-map"):
        metric = metrics.make(name)
        assert metrics.score(metric, pred, y) == metrics.score(metric, finite, y)


def test_clip_has_the_mean_logit_of_its_chunks():
    pred = np.float32([[3.0], [-1.0], [0.0], [2.0], [0.5]])
    y = np.float32([[1], [1], [0], [0], [1]])
    group = np.int32([7, 7, 3, 3, 5])  # clips: 1.0 and on, 1.0 and off, 0.5 and on
    # At 1.0: precision 1/2, recall 1/2; at 0.5: 2/3 and 1.
    want = 1 - (0.5 * 0.5 + 0.5 * 2 / 3)
    found = metrics.score(metrics.make("1-map"), pred, y, group)
    assert found == pytest.approx(want, abs=1e-7)
    assert found != pytest.approx(metrics.score(metrics.make("1-map"), pred, y))


def test_record_is_the_class_most_windows_say():
    guess = np.array([1, 1, 0, 2, 2, 0, 1, 0])
    pred = np.eye(3, dtype=np.float32)[guess]
    group = np.int32([4, 4, 4, 9, 9, 9, 2, 2])  # 1; 2; a tie of 0 and 1, so 0
    y = np.int32([1, 1, 1, 0, 0, 0, 0, 0])
    # F1: class 0: 2 * 1 / (1 + 2), class 1: 1, class 2: 0
    found = metrics.score(metrics.make("1-f1_records"), pred, y, group)
    assert found == pytest.approx(1 - (2 / 3 + 1 + 0) / 3)
    with pytest.raises(ValueError, match="records"):
        metrics.score(metrics.make("1-f1_records"), pred, y)


# ------------------------------------------------------------- fields judged in places
def cosmic():
    logits = np.float32([[[2, -1], [0.5, -3]], [[-2, 1], [4, 0.1]]])[..., None]
    y = np.float32([[[1, 0], [0, 1]], [[0, 1], [-1, -1]]])[..., None]
    return logits, y


def test_pixels_are_pooled_and_ignored_ones_left_out():
    logits, y = cosmic()
    judged = y.ravel() >= 0
    want = brute_auroc(logits.ravel()[judged], y.ravel()[judged])
    found = metrics.score(metrics.make("1-auroc"), logits, y)
    assert found == pytest.approx(1 - want)
    assert found == pytest.approx(3 / 9)  # the logit -3 is below all negatives


def test_hard_auroc_is_the_mean_of_two_rates():
    logits, y = cosmic()
    found = metrics.score(metrics.make("1-auroc", {"is_hard": True}), logits, y)
    # TPR 2 of 3, TNR 2 of 3.
    assert found == pytest.approx(1 - (2 / 3 + 2 / 3) / 2)


def test_ignored_pixels_may_count_as_true_negatives():
    logits, y = cosmic()
    options = {"is_hard": True, "counts_ignored": True}
    found = metrics.score(metrics.make("1-auroc", options), logits, y)
    # TNR 4 of 5 now.
    assert found == pytest.approx(1 - (2 / 3 + 4 / 5) / 2)
    options = {"counts_ignored": True}
    filled = np.where(y < 0, 0, logits)
    want = brute_auroc(filled.ravel(), np.maximum(y, 0).ravel())
    found = metrics.score(metrics.make("1-auroc", options), logits, y)
    assert found == pytest.approx(1 - want)


def test_miss_rate_is_of_positives():
    logits, y = cosmic()
    assert metrics.score(metrics.make("fnr"), logits, y) == pytest.approx(1 / 3)
    assert np.isnan(metrics.score(metrics.make("fnr"), logits, np.minimum(y, 0)))


# ---------------------------------------------------------------------- distance maps
def brute_mae8(pred, y, official=False, length=0):
    pred, y = pred[..., 0].astype(float), y[..., 0]
    n = len(y)
    if official:
        for p in range(n):
            for q in range(p + 1, n):
                pred[p, q] = (pred[p, q] + pred[q, p]) / 2  # the lower one stays
        pred = np.maximum(pred, 0.01)
    pred = (pred + pred.T) / 2
    errors = []
    for p in range(n):
        for q in range(p + 24, n):
            inside = not length or 5 <= p and q < 5 + length
            if 0 <= y[p, q] <= 8 and inside:
                errors.append(abs(pred[p, q] - y[p, q]))
    return np.mean(errors) if errors else np.nan


@pytest.mark.parametrize("options", [{}, {"is_official": True}, {"length": 22}])
def test_contact_error_is_that_of_the_pairs(options):
    pred, y, _ = example("mae8", 3)
    pred = pred - 4  # some are negative
    named = {"official": "is_official" in options, "length": options.get("length", 0)}
    if named["length"]:  # a map as large as the pairs that lie inside
        pred, y = (np.tile(v, (1, 2, 2, 1))[:, :40, :40] for v in (pred, y))
        options = named["length"] and {"length": 30}
        named["length"] = 30
    want = [brute_mae8(p, t, **named) for p, t in zip(pred, y, strict=True)]
    metric = metrics.make("mae8", options)
    np.testing.assert_allclose(metric.each(pred, y), want, rtol=1e-5)
    assert metrics.score(metric, pred, y) == pytest.approx(np.mean(want), rel=1e-5)


def test_forms_of_the_contact_error_differ():
    pred, y, _ = example("mae8", 3)
    make = functools.partial(metrics.make, "mae8")
    found = {
        metrics.score(make(options), pred - 4, y)
        for options in ({}, {"is_official": True}, {"length": 25})
    }
    assert len(found) == 3


def test_protein_without_a_contact_is_left_out():
    pred, y, _ = example("mae8", 2)
    one = metrics.score(metrics.make("mae8"), pred[:1], y[:1])
    y[1] = 9
    y[1, 0, 29] = -1  # padding is no contact
    each = metrics.make("mae8").each(pred, y)
    assert np.isnan(each[1]) and not np.isnan(each[0])
    assert metrics.score(metrics.make("mae8"), pred, y) == pytest.approx(one)
    assert np.isnan(metrics.score(metrics.make("mae8"), pred[1:], y[1:]))
