"""Baselines against scikit-learn and hand numbers."""

import numpy as np
import pytest
import sklearn.linear_model
import sklearn.neighbors

from recraft_jax import baselines
from recraft_jax.data import tasks


def dense(splits):
    return tasks.Task("t", "dense", "nrmse", splits)


def classification(splits, num_classes):
    return tasks.Task("t", "classification", "error", splits, num_classes)


def linear_splits(noise, slopes, num_train=20, seed=0):
    """A linear operator with an offset; `slopes` scales it by split."""
    rng = np.random.default_rng(seed)
    operator = rng.normal(size=(6, 10))
    splits = {}
    for split, num in (("train", num_train), ("val", 30), ("test", 40)):
        x = rng.normal(size=(num, 6)) + 1.0
        y = slopes[split] * (x - 1.0) @ operator + 2.0
        y += noise * rng.normal(size=y.shape)
        splits[split] = {
            "x": x.reshape(num, 3, 2).astype(np.float32),
            "y": y.reshape(num, 5, 2).astype(np.float32),
        }
    return splits


def nrmse(pred, y):
    pred, y = pred.reshape(len(y), -1), y.reshape(len(y), -1)
    return np.mean(np.linalg.norm(pred - y, axis=1) / np.linalg.norm(y, axis=1))


def sklearn_ridge(splits):
    """nRMSE by strength on validation and on test."""
    flat = {
        s: {k: v.reshape(len(v), -1).astype(np.float64) for k, v in a.items()}
        for s, a in splits.items()
    }
    found = {"val": [], "test": []}
    for alpha in baselines.RIDGE_ALPHAS:
        model = sklearn.linear_model.Ridge(alpha=alpha, solver="svd")
        model.fit(flat["train"]["x"], flat["train"]["y"])
        for split, values in found.items():
            values.append(nrmse(model.predict(flat[split]["x"]), flat[split]["y"]))
    return {split: np.array(values) for split, values in found.items()}


EQUAL = {"train": 1.0, "val": 1.0, "test": 1.0}


@pytest.mark.parametrize(
    "splits",
    [
        linear_splits(2.0, EQUAL),
        linear_splits(2.0, EQUAL, num_train=4),  # fewer samples than inputs
    ],
    ids=["tall", "wide"],
)
def test_linear_is_sklearns_ridge(splits):
    want = sklearn_ridge(splits)
    best = want["val"].argmin()
    assert 0 < best < len(baselines.RIDGE_ALPHAS) - 1
    got = baselines.scores(dense(splits))["linear"]
    np.testing.assert_allclose(got, want["test"][best], rtol=1e-5)


def test_linear_chooses_its_strength_on_validation():
    # Test samples lack the operator: there the strongest shrinkage wins.
    splits = linear_splits(0.5, {"train": 1.0, "val": 1.0, "test": 0.0})
    want = sklearn_ridge(splits)
    best, cheat = want["val"].argmin(), want["test"].argmin()
    assert want["test"][best] > 2 * want["test"][cheat]
    got = baselines.scores(dense(splits))["linear"]
    np.testing.assert_allclose(got, want["test"][best], rtol=1e-5)


def test_mean_predicts_the_training_mean_per_grid_point():
    x = np.zeros((2, 1, 1), np.float32)
    splits = {
        "train": {"x": x, "y": np.float32([[[1.0], [4.0]], [[5.0], [4.0]]])},
        "val": {"x": x, "y": np.float32([[[9.0], [9.0]]] * 2)},
        "test": {"x": x, "y": np.float32([[[3.0], [2.0]], [[0.0], [4.0]]])},
    }
    # The mean is (3, 4): errors 2 of sqrt(13) and 3 of 4.
    want = (2 / np.sqrt(13) + 3 / 4) / 2
    np.testing.assert_allclose(baselines.scores(dense(splits))["mean"], want, rtol=1e-6)


def test_persistence_predicts_the_input():
    rng = np.random.default_rng(0)
    splits = {
        s: {k: rng.normal(size=(6, 5, 1)).astype(np.float32) for k in "xy"}
        for s in tasks.SPLITS
    }
    got = baselines.scores(dense(splits))["persistence"]
    want = nrmse(splits["test"]["x"], splits["test"]["y"])
    np.testing.assert_allclose(got, want, rtol=1e-6)


@pytest.mark.parametrize("shape", [(6, 5, 2), (6, 4, 3, 2)])
def test_input_mean_is_flat_in_each_channel(shape):
    rng = np.random.default_rng(0)
    splits = {
        s: {k: rng.normal(size=shape).astype(np.float32) for k in "xy"}
        for s in tasks.SPLITS
    }
    got = baselines.scores(dense(splits))["input_mean"]
    x = splits["test"]["x"]
    flat = np.empty_like(x)
    for sample in range(6):
        for channel in range(2):
            flat[sample, ..., channel] = x[sample, ..., channel].mean()
    want = nrmse(flat, splits["test"]["y"])
    np.testing.assert_allclose(got, want, rtol=1e-6)


@pytest.mark.parametrize("shape", [(5, 2), (4, 1), (5, 1, 1)])
def test_persistence_needs_equal_shapes(shape):
    rng = np.random.default_rng(0)
    splits = {
        s: {
            "x": rng.normal(size=(6, 5, 1)).astype(np.float32),
            "y": rng.normal(size=(6, *shape)).astype(np.float32),
        }
        for s in tasks.SPLITS
    }
    assert set(baselines.scores(dense(splits))) == {"mean", "nearest", "linear"}


def blobs(centers, counts, seed=0):
    """Points around the centre of their class; `counts` per class by split."""
    rng = np.random.default_rng(seed)
    splits = {}
    for split, numbers in counts.items():
        y = np.repeat(np.arange(len(numbers)), numbers).astype(np.int32)
        x = np.asarray(centers)[y] + 0.1 * rng.normal(size=(len(y), 2))
        splits[split] = {"x": x[..., None].astype(np.float32), "y": y}
    return splits


CENTERS = [(0.0, 5.0), (5.0, 0.0), (5.0, 5.0)]


def test_classification_scores_majority_and_separable_data():
    counts = {"train": (5, 12, 8), "val": (4, 4, 4), "test": (10, 4, 6)}
    found = baselines.scores(classification(blobs(CENTERS, counts), 3))
    assert set(found) == {"mean", "nearest", "linear"}
    # Class 1 leads in train, and 4 of 20 test samples are of it.
    assert found["mean"] == pytest.approx(0.8)
    assert found["linear"] == 0.0


def test_logistic_never_predicts_a_class_absent_in_train():
    counts = {"train": (9, 0, 12), "val": (4, 0, 4), "test": (4, 5, 6)}
    found = baselines.scores(classification(blobs(CENTERS, counts), 3))
    assert found["linear"] == pytest.approx(5 / 15)


def test_logistic_does_not_depend_on_the_units_of_the_input():
    counts = {"train": (10, 10, 10), "val": (5, 5, 5), "test": (5, 5, 5)}
    splits = blobs(CENTERS, counts)
    for arrays in splits.values():
        arrays["x"] = arrays["x"] * np.float32([[1e-4], [1e4]]) + np.float32(3e-4)
    assert baselines.scores(classification(splits, 3))["linear"] == 0.0


def test_logistic_ignores_inputs_constant_in_train():
    counts = {"train": (23, 23, 23), "val": (5, 5, 5), "test": (5, 5, 5)}
    splits = blobs(CENTERS, counts)
    # The float32 mean of 69 times 0.1 is not 0.1.
    for split, arrays in splits.items():
        x = arrays["x"]
        value = {"train": 0.1, "val": 0.1, "test": 0.3}[split]
        arrays["x"] = np.concatenate([x, np.full_like(x[:, :1], value)], axis=1)
    assert baselines.scores(classification(splits, 3))["linear"] == 0.0


def test_logistic_chooses_its_strength_on_validation():
    rng = np.random.default_rng(1)
    splits = {}
    for split, num in (("train", 30), ("val", 60), ("test", 60)):
        x = rng.normal(size=(num, 20)).astype(np.float32)
        y = (x[:, 0] + 0.5 * rng.normal(size=num) > 0).astype(np.int32)
        splits[split] = {"x": x, "y": 1 - y if split == "test" else y}
    x = splits["train"]["x"].astype(np.float64)
    mean, std = x.mean(0), x.std(0)
    want = {"val": [], "test": []}
    for strength in baselines.LOGISTIC_CS:
        model = sklearn.linear_model.LogisticRegression(C=strength, max_iter=500)
        model.fit((x - mean) / std, splits["train"]["y"])
        for split, values in want.items():
            pred = model.predict((splits[split]["x"] - mean) / std)
            values.append(np.mean(pred != splits[split]["y"]))
    chosen = want["test"][np.argmin(want["val"])]
    assert chosen > min(want["test"])  # a choice on test would differ
    got = baselines.scores(classification(splits, 2))["linear"]
    assert got == pytest.approx(chosen)


def test_linear_with_one_class_in_train_is_the_majority():
    counts = {"train": (0, 6), "val": (2, 2), "test": (3, 1)}
    found = baselines.scores(classification(blobs(CENTERS[:2], counts), 2))
    assert found == {"mean": 0.75, "nearest": 0.75, "linear": 0.75}


def multilabel(splits):
    return tasks.Task("t", "multilabel", "label_error", splits, 3)


def label_splits(flip=0.0, seed=0):
    """Labels by the signs of two inputs; the third is constant in training."""
    rng = np.random.default_rng(seed)
    splits = {}
    for split, num in (("train", 40), ("val", 60), ("test", 50)):
        x = rng.normal(size=(num, 12)).astype(np.float32)
        y = np.zeros((num, 3), np.float32)
        y[:, :2] = (x[:, :2] > 0) != (rng.random((num, 2)) < flip)
        y[:, 2] = 1.0 if split == "train" else rng.random(num) < 0.5
        splits[split] = {"x": x[..., None], "y": y}
    return splits


def test_mean_of_labels_is_how_often_they_are_on():
    splits = label_splits()
    train, test = splits["train"]["y"], splits["test"]["y"]
    found = baselines.scores(multilabel(splits))
    assert set(found) == {"mean", "nearest", "linear"}
    want = np.mean((train.mean(0) > 0.5) != test)
    assert found["mean"] == pytest.approx(want)
    logits = baselines._mean(multilabel(splits), 1)[0]
    share = train.mean(0, dtype=np.float64)[:2]
    np.testing.assert_allclose(logits[:2], np.log(share / (1 - share)), rtol=1e-5)
    assert logits[2] == np.inf


def test_linear_of_labels_is_sklearns_with_one_strength_for_all():
    splits = label_splits(flip=0.25)
    x = splits["train"]["x"][..., 0].astype(np.float64)
    mean, std = x.mean(0), x.std(0)
    want = {"val": [], "test": []}
    for strength in baselines.LOGISTIC_CS:
        models = [
            sklearn.linear_model.LogisticRegression(C=strength, max_iter=500).fit(
                (x - mean) / std, splits["train"]["y"][:, label]
            )
            for label in range(2)
        ]
        for split, values in want.items():
            arrays = splits[split]
            inputs = (arrays["x"][..., 0] - mean) / std
            pred = [model.predict(inputs) for model in models]
            pred = np.stack([*pred, np.ones(len(inputs))], axis=1)
            values.append(np.mean(pred != arrays["y"]))
    chosen = want["test"][np.argmin(want["val"])]
    assert len(set(want["test"])) > 1 and chosen < 0.5
    assert baselines.scores(multilabel(splits))["linear"] == pytest.approx(chosen)


def test_labels_all_constant_in_training_stay_so():
    splits = label_splits()
    splits["train"]["y"][:] = [1.0, 0.0, 1.0]
    found = baselines.scores(multilabel(splits))
    want = np.mean(splits["test"]["y"] != [1, 0, 1])
    assert found == dict.fromkeys(("mean", "nearest", "linear"), pytest.approx(want))


def test_nearest_measures_in_deviations_of_training():
    # The second input varies a hundred times more, so that without standardisation it
    # alone decides; the third is constant in training and 0 of deviation is not nan.
    train = np.float32([[0, 0, 5], [1, 100, 5], [0, 100, 5], [1, 0, 5]])
    x = {"train": train, "val": train, "test": np.float32([[0.1, 60, 5], [0.9, 40, 5]])}
    y = np.float32([[10.0], [20.0], [30.0], [40.0]])
    truth = {"train": y, "val": y, "test": np.float32([[33.0], [36.0]])}
    splits = {s: {"x": x[s][..., None], "y": truth[s]} for s in tasks.SPLITS}
    task = tasks.Task("t", "regression", "rmse", splits)
    np.testing.assert_array_equal(baselines._nearest(task), [[30.0], [40.0]])
    assert baselines.scores(task)["nearest"] == pytest.approx(np.sqrt((9 + 16) / 2))


def test_nearest_of_many_is_scikit_learns():
    rng = np.random.default_rng(0)
    splits = {
        split: {
            "x": rng.normal(size=(num, 4, 3)).astype(np.float32) * [1.0, 5.0, 0.2],
            "y": rng.normal(size=(num, 2, 1)).astype(np.float32),
        }
        for split, num in (("train", 90), ("val", 5), ("test", 300))  # two blocks
    }
    x = {s: a["x"].reshape(len(a["x"]), -1) for s, a in splits.items()}
    mean, std = x["train"].mean(0), x["train"].std(0)
    model = sklearn.neighbors.KNeighborsRegressor(1)
    model.fit((x["train"] - mean) / std, splits["train"]["y"].reshape(90, -1))
    want = model.predict((x["test"] - mean) / std).reshape(300, 2, 1)
    np.testing.assert_array_equal(baselines._nearest(dense(splits)), want)


def test_nearest_has_a_class_or_labels():
    counts = {"train": (5, 12, 8), "val": (4, 4, 4), "test": (10, 4, 6)}
    found = baselines._nearest(classification(blobs(CENTERS, counts), 3))
    np.testing.assert_array_equal(found, np.eye(3)[np.repeat([0, 1, 2], (10, 4, 6))])
    splits = label_splits()
    splits["test"] = {k: v[:7] for k, v in splits["train"].items()}
    found = baselines._nearest(multilabel(splits))
    np.testing.assert_array_equal(found > 0, splits["test"]["y"] > 0)
    assert set(np.unique(found)) == {-1.0, 1.0}


def test_regression_has_ridge_and_the_training_mean_in_the_units_of_y():
    splits = linear_splits(2.0, EQUAL)
    for arrays in splits.values():
        arrays["y"] = arrays["y"].reshape(len(arrays["y"]), -1)[:, :2]
    found = baselines.scores(tasks.Task("t", "regression", "rmse", splits))
    assert set(found) == {"mean", "nearest", "linear"}
    flat = {s: a["x"].reshape(len(a["x"]), -1) for s, a in splits.items()}
    want = {"val": [], "test": []}
    for alpha in baselines.RIDGE_ALPHAS:
        model = sklearn.linear_model.Ridge(alpha=alpha, solver="svd")
        model.fit(flat["train"].astype(np.float64), splits["train"]["y"])
        for split, values in want.items():
            errors = model.predict(flat[split]) - splits[split]["y"]
            values.append(np.sqrt(np.mean(errors**2)))
    best = np.argmin(want["val"])
    assert 0 < best < len(baselines.RIDGE_ALPHAS) - 1
    assert found["linear"] == pytest.approx(want["test"][best], rel=1e-5)
    errors = splits["train"]["y"].mean(0) - splits["test"]["y"]
    assert found["mean"] == pytest.approx(np.sqrt(np.mean(errors**2)), rel=1e-5)


def test_scores_of_the_same_arrays_are_computed_once(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    splits = {
        s: {k: rng.normal(size=(6, 5, 1)).astype(np.float32) for k in "xy"}
        for s in tasks.SPLITS
    }
    task, folder = dense(splits), tmp_path / "baselines"
    want = baselines.scores(task)
    assert baselines.stored_scores(task, "abc", folder) == want
    (path,) = folder.iterdir()
    path.write_text("half a fi")  # damaged: computed again
    assert baselines.stored_scores(task, "abc", folder) == want
    monkeypatch.setattr(baselines, "scores", None)
    assert baselines.stored_scores(task, "abc", folder) == want
