"""The Python API: scikit-learn's own checks, kinds of targets, files, pipelines."""

import pickle
import subprocess
import sys

import numpy as np
import pytest
import sklearn.base
from sklearn import metrics, model_selection, pipeline, preprocessing
from sklearn.utils import estimator_checks

import recraft_jax
from recraft_jax import errors, export, predict, predictor

CLASSIFIER = "CrossModalClassifier"
LEARN = {"stage2.num_epochs": 30}
REGRESSOR = "CrossModalRegressor"
# scikit-learn's checks that are cheap and tell most; `slow` runs all of them.
CHEAP = (
    "check_no_attributes_set_in_init",
    "check_parameters_default_constructible",
    "check_get_params_invariance",
    "check_set_params",
    "check_estimators_unfitted",
    "check_estimator_cloneable",
    "check_estimators_empty_data_messages",
    "check_complex_data",
    "check_dict_unchanged",
    "check_requires_y_none",
)
# What is not installed, or not there by design: probabilities are.
SKIPPED = {
    "check_array_api_input",
    "check_classifier_data_not_an_array",
    "check_regressor_data_not_an_array",
    "check_classifiers_multilabel_output_format_decision_function",
}


@pytest.fixture(scope="module")
def make(backbone, source_table, compile_cache):
    """Estimators of seconds."""

    def made(name, settings=(), **options):
        fields = {
            "assets.cache": str(compile_cache),
            "source.name": "table",
            "source.path": str(source_table),
            "source.num_features": 64,
            "stage1.num_steps": 2,
            "stage2.num_epochs": 2,
            "stage2.optim.lr": 3e-3,
        } | dict(settings)
        options = {"method": "scratch", "backbone": f"{backbone}/"} | options
        return getattr(recraft_jax, name)(settings=fields, **options)

    return made


def classes(num=60, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(num, 4))
    return X, np.where(X[:, 0] > 0, "up", "down")


# ------------------------------------------------------------------- scikit-learn's own
@pytest.mark.parametrize("name", [CLASSIFIER, REGRESSOR])
def test_cheap_checks_of_scikit_learn_pass(make, name):
    ran = set()
    for estimator, check in estimator_checks.estimator_checks_generator(make(name)):
        called = getattr(check, "func", check).__name__
        if called in CHEAP:
            check(estimator)
            ran.add(called)
    assert ran == set(CHEAP)


@pytest.mark.slow
@pytest.mark.parametrize("name", [CLASSIFIER, REGRESSOR])
def test_all_checks_of_scikit_learn_pass(make, name):
    found = estimator_checks.check_estimator(
        make(name, LEARN), on_skip=None, on_fail=None
    )
    bad = {
        one["check_name"]: (one["status"], repr(one["exception"])[:200])
        for one in found
        if one["status"] != "passed" and one["check_name"] not in SKIPPED
    }
    assert len(found) > 40 and not bad


# --------------------------------------------------------------------------- classifier
@pytest.fixture(scope="module")
def fitted(make):
    return make(CLASSIFIER, LEARN).fit(*classes())


def test_classifier_learns_and_knows_its_classes(fitted):
    X, y = classes(seed=1)
    assert fitted.score(X, y) > 0.8
    assert fitted.classes_.tolist() == ["down", "up"]
    assert fitted.n_features_in_ == 4
    found = fitted.predict_proba(X)
    np.testing.assert_allclose(found.sum(1), 1, rtol=1e-6)
    np.testing.assert_array_equal(fitted.predict(X), fitted.classes_[found.argmax(1)])
    assert fitted.config_["data"]["kind"] == "classification"
    assert fitted.results_["metric"] == "error"


@pytest.mark.slow
def test_labels_of_any_type_come_back(make):
    X, y = classes(40)
    for labels in (np.array([10**12, -3]), np.array([True, False])):
        given = labels[(y == "up").astype(int)]
        found = make(CLASSIFIER).fit(X, given).predict(X[:5])
        assert found.dtype == labels.dtype and set(found) <= set(labels)


def test_several_labels_are_predicted_each_by_itself(make):
    X, _ = classes()
    Y = np.column_stack([X[:, 0] > 0, X[:, 1] > 0, X[:, 0] > -9]).astype(int)
    Y[0, 2] = 0
    model = make(CLASSIFIER, LEARN).fit(X, Y)
    assert model.predict(X).shape == model.predict_proba(X).shape == (60, 3)
    assert (model.predict(X) == Y).mean() > 0.8
    assert not np.allclose(model.predict_proba(X).sum(1), 1, atol=0.1)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["recraft", "fno"])
def test_other_methods_run(make, method):
    settings = {"fno.modes": 2, "fno.width": 4}
    options = {"backbone": "minilm"} if method == "fno" else {}
    model = make(CLASSIFIER, settings, method=method, **options).fit(*classes())
    assert model.results_["method"] == method
    assert model.predict(classes()[0]).shape == (60,)


def test_groups_stay_together(make):
    X, y = classes(40)
    groups = np.repeat(np.arange(8), 5)
    model = make(CLASSIFIER, {"stage2.num_epochs": 1}).fit(X, y, groups=groups)
    assert model.results_["data"]["val"] % 5 == 0
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        model.fit(X, y, groups=groups[:-1])


# ---------------------------------------------------------------------------- regressor
def test_regressor_gives_the_shape_and_units_of_its_targets(make):
    X, _ = classes()
    y = 1000 + 50 * X[:, 0]
    model = make(REGRESSOR, LEARN).fit(X, y)
    assert model.predict(X).shape == (60,) and model.score(X, y) > 0.5
    two = make(REGRESSOR).fit(X, np.column_stack([y, X[:, 1]]))
    assert two.predict(X).shape == (60, 2)


def test_fields_keep_their_layout(make, tmp_path):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(40, 2, 12))  # channels first
    y = np.stack([np.full((40, 12), 100.0), np.full((40, 12), -100.0)], axis=1)
    y += rng.normal(size=y.shape)
    model = make(REGRESSOR).fit(X, y)
    assert model.config_["data"]["kind"] == "dense"
    model.save(tmp_path / "model")
    for one in (model, recraft_jax.CrossModalRegressor.load(tmp_path / "model")):
        found = one.predict(X)
        assert found.shape == y.shape
        assert (found[:, 0] > 50).all() and (found[:, 1] < -50).all()


# -------------------------------------------------------------------------------- files
def test_saved_and_pickled_estimators_predict_the_same(fitted, tmp_path):
    X, _ = classes(seed=2)
    want = fitted.predict_proba(X)
    fitted.save(tmp_path / "model")
    again = recraft_jax.CrossModalClassifier.load(tmp_path / "model")
    for other in (again, pickle.loads(pickle.dumps(fitted))):
        np.testing.assert_array_equal(other.predict_proba(X), want)
        assert other.get_params() == fitted.get_params()
        assert other.config_ == fitted.config_
        np.testing.assert_array_equal(other.classes_, fitted.classes_)
    with pytest.raises(errors.InputError, match="holds a CrossModalClassifier"):
        recraft_jax.CrossModalRegressor.load(tmp_path / "model")
    with pytest.raises(errors.InputError, match="allowed: a new folder"):
        fitted.save(tmp_path / "model")


def test_saved_estimator_is_a_folder_for_the_commands(fitted, tmp_path):
    X, _ = classes(seed=2)
    fitted.save(tmp_path / "model")
    np.save(tmp_path / "x.npy", X)
    given = [f"--workdir={tmp_path / 'model'}", f"--input={tmp_path / 'x.npy'}"]
    assert predict.main([*given, f"--output={tmp_path / 'out.npz'}"]) == 0
    with np.load(tmp_path / "out.npz") as file:
        np.testing.assert_array_equal(file["prediction"], fitted.predict(X))
    assert export.main([given[0], f"--out={tmp_path / 'artifact'}"]) == 0


@pytest.mark.slow
def test_parameters_of_numpy_and_paths_are_saved(fitted, tmp_path):
    model = sklearn.base.clone(fitted).set_params(random_state=np.int64(0))
    model.set_params(workdir=tmp_path / "run").fit(*classes(20)).save(
        tmp_path / "model"
    )
    again = recraft_jax.CrossModalClassifier.load(tmp_path / "model")
    assert again.random_state == 0 and again.workdir == str(tmp_path / "run")


def test_damaged_folder_is_refused(fitted, tmp_path):
    fitted.save(tmp_path / "model")
    path = tmp_path / "model" / predictor.WEIGHTS
    data = bytearray(path.read_bytes())
    data[-2] ^= 4
    path.write_bytes(data)
    with pytest.raises(errors.InputError, match="damaged"):
        recraft_jax.CrossModalClassifier.load(tmp_path / "model")
    with pytest.raises(errors.InputError, match="holds no estimator"):
        recraft_jax.CrossModalClassifier.load(tmp_path)


# --------------------------------------------------------------------- within a program
def test_it_works_in_a_pipeline_and_a_grid_search(make):
    X, y = classes(40)
    steps = pipeline.make_pipeline(preprocessing.StandardScaler(), make(CLASSIFIER))
    search = model_selection.GridSearchCV(
        steps, {"crossmodalclassifier__random_state": [0, 1]}, cv=2
    ).fit(X, y)
    assert search.best_params_["crossmodalclassifier__random_state"] in (0, 1)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    assert metrics.accuracy_score(y, search.predict(X)) == search.score(X, y)


def test_it_is_silent_unless_asked(make, capfd):
    X, y = classes(20)
    make(CLASSIFIER, {"stage2.num_epochs": 1}).fit(X, y)
    assert capfd.readouterr().out == ""
    make(CLASSIFIER, {"stage2.num_epochs": 1}, verbose=1).fit(X, y)
    out = capfd.readouterr().out
    assert "(data.kind)" in out and "val_error" in out


def test_workdir_is_kept_and_holds_the_run(make, tmp_path):
    X, y = classes(20)
    options = {"settings": {"stage2.num_epochs": 1}, "workdir": tmp_path / "run"}
    model = make(CLASSIFIER, **options).fit(X, y)
    seconds = model.results_["seconds"]["total"]
    again = make(CLASSIFIER, **options).fit(X, y)
    assert again.results_["seconds"]["total"] == seconds  # read, not run
    with pytest.raises(errors.InputError, match="holds a run of another config"):
        make(CLASSIFIER, **options).fit(-X, y)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "nfd"}, "method = 'nfd'; allowed: recraft"),
        ({"scale": "huge"}, "scale = 'huge'; allowed: demo, quick, paper"),
        ({"random_state": -1}, "random_state = -1; allowed: a whole number"),
        ({"settings": {"stage3.lr": 1}}, "settings: .*allowed: fields of the config"),
        ({"settings": {"stage2.num_epochs": "many"}}, "settings: .*allowed: fields"),
        ({"val_frac": 1.5}, "data.val_frac = 1.5; allowed: above 0 and below 1"),
    ],
)
def test_wrong_parameters_are_refused_at_fit(make, options, message):
    with pytest.raises(errors.InputError, match=message):
        make(CLASSIFIER, **options).fit(*classes(20))


@pytest.mark.parametrize(
    ("X", "y", "message"),
    [
        (np.ones((6, 2)), ["a"] * 6, "class"),
        (np.ones((6, 2)), list("abcdef"), "class"),
        (np.ones((1, 2)), ["a"], "minimum of 2"),
        (np.zeros((0, 2)), [], "0 sample"),
        ([[1.0, 2.0], [1.0]], ["a", "b"], "inhomogeneous"),
        (np.ones((4, 2)), ["a", "b"], "inconsistent"),
        (np.full((4, 2), np.nan), ["a", "b"] * 2, "NaN"),
    ],
)
def test_bad_data_is_refused(make, X, y, message):
    with pytest.raises(ValueError, match=message):
        make(CLASSIFIER).fit(X, y)


def test_unseen_features_are_refused(fitted):
    with pytest.raises(ValueError, match="X has 5 features"):
        fitted.predict(np.zeros((3, 5)))


def test_import_of_the_package_is_light():
    code = (
        "import sys, recraft_jax; assert 'jax' not in sys.modules; "
        "recraft_jax.CrossModalRegressor; assert 'jax' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(AttributeError, match="has no attribute 'Model'"):
        recraft_jax.Model  # noqa: B018
