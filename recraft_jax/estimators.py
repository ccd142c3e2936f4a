"""RECRAFT in the manner of scikit-learn: `CrossModalClassifier`, `CrossModalRegressor`.

    from recraft_jax import CrossModalClassifier
    model = CrossModalClassifier(method="nft").fit(X_train, y_train)
    model.score(X_test, y_test)

X is `[n ...]`: tables, spectra and series, images, fields, of which the layout is
inferred as `configs/custom.py` does. The training loop is that of the command line; the
validation split it needs is held out of what `fit` is given, by group and stratified.
"""

import contextlib
import io
import json
import os
import pathlib
import tempfile
from collections.abc import Mapping
from typing import Any

import numpy as np
from sklearn import base
from sklearn.utils import multiclass, validation

from recraft_jax import defaults, errors, main, predictor, targets_custom, writer
from recraft_jax.data import custom, custom_rules

CARD = "estimator.json"
_FILES = ("config.json", predictor.CARD, predictor.WEIGHTS)


class CrossModalEstimator(base.BaseEstimator):
    """What classifier and regressor share.

    Args:
      method: `recraft`, `nft` (fine-tuning without stage 1) or another one of
        `defaults.METHODS`.
      backbone: `minilm`, `vit-s`, a hub id or a folder, see the README.
      scale: `demo`, `quick` or `paper`: how long to train, one epoch at least; all
        samples are used.
      settings: fields of the config, `{"stage2.num_epochs": 5}`.
      val_frac: share of the samples that choose the best epoch.
      random_state: seed of the run and of the validation split; None is 0.
      workdir: folder of the run, which then resumes; None is a temporary one.
      verbose: 0 is silent, 1 shows what the command line shows, on a terminal or in a
        notebook with a progress bar.

    Attributes:
      classes_: labels in the order of the columns of `predict_proba` (classifier).
      n_features_in_: length of the last axis of X.
      results_: what `results.json` of the run holds; its `test` is the validation
        split, since there is no other.
      config_: of the run, with all that was inferred.
    """

    def __init__(
        self,
        method: str = "recraft",
        backbone: str = "minilm",
        scale: str = "demo",
        settings: Mapping[str, Any] | None = None,
        val_frac: float = 0.15,
        random_state: int | None = 0,
        workdir: str | os.PathLike | None = None,
        verbose: int = 0,
    ):
        self.method = method
        self.backbone = backbone
        self.scale = scale
        self.settings = settings
        self.val_frac = val_frac
        self.random_state = random_state
        self.workdir = workdir
        self.verbose = verbose

    def _fit(self, X, y, groups, kind: str, labels: tuple[str, ...] = ()):
        validation.check_consistent_length(X, y, groups)
        facts, source = custom.from_arrays(X, y, group=groups, kind=kind)
        config = self._config()
        targets_custom.fill(config, facts)
        main.check(config)
        arrays, report = targets_custom.read(config, source, facts)
        task = targets_custom.make(config, facts, arrays, report)
        if labels:
            task = task._replace(labels=labels)
        self._kind = facts.kind
        self._y_shape, self._y_axis = np.shape(y)[1:], facts.y_axis
        self.results_, self._parts = self._run(config, task)
        self._predictor = self._unpack()
        self.config_ = json.loads(config.to_json_best_effort())
        return self

    def save(self, path: str | os.PathLike) -> None:
        """Write the fitted estimator into a folder, new or empty.

        `python -m recraft_jax.predict` and `.export` take the folder as well.
        """
        validation.check_is_fitted(self)
        folder = pathlib.Path(path)
        if folder.exists() and any(folder.iterdir()):
            raise errors.InputError(f"{folder} holds something; allowed: a new folder")
        folder.mkdir(parents=True, exist_ok=True)
        for name, data in self._parts.items():
            writer.write_atomically(folder / name, data)
        writer.write_json(folder / "results.json", self.results_)
        params = json.loads(json.dumps(self.get_params(), default=_plain))
        card = {"class": type(self).__name__, "params": params}
        card |= {"fitted": self._facts(), "n_features_in": self.n_features_in_}
        writer.write_json(folder / CARD, card)

    @classmethod
    def load(cls, path: str | os.PathLike) -> "CrossModalEstimator":
        """Read an estimator that `save` has written.

        Raises:
          InputError: a file is missing or damaged, or is of the other class.
        """
        folder = pathlib.Path(path)
        try:
            card = json.loads((folder / CARD).read_text())
            results = json.loads((folder / "results.json").read_text())
            parts = {name: (folder / name).read_bytes() for name in _FILES}
        except (OSError, ValueError) as error:
            raise errors.InputError(f"{folder} holds no estimator: {error}") from None
        if card["class"] != cls.__name__:
            raise errors.InputError(
                f"{folder} holds a {card['class']}; allowed: {card['class']}.load"
            )
        made = cls(**card["params"])
        made.results_, made._parts = results, parts
        made._predictor = made._unpack()
        made.config_ = json.loads(parts["config.json"])
        made.n_features_in_ = card["n_features_in"]
        made._restore(card["fitted"])
        return made

    # ----------------------------------------------------------------- parts of the two
    def _config(self):
        seed = 0 if self.random_state is None else self.random_state
        if not isinstance(seed, int | np.integer) or seed < 0:
            raise errors.InputError(
                f"random_state = {seed!r}; allowed: a whole number from 0 up, or None"
            )
        choice = {
            "task": "custom",
            "method": self.method,
            "backbone": os.fspath(self.backbone),
            "scale": self.scale,
            "protocol": "corrected",
            "preset": "default",
            "seed": int(seed),
        }
        for name in ("method", "scale"):
            allowed = {"method": defaults.METHODS, "scale": defaults.SCALES}[name]
            if choice[name] not in allowed:
                raise errors.InputError(
                    f"{name} = {choice[name]!r}; allowed: {', '.join(allowed)}"
                )
        if self.method in defaults.NO_BACKBONE:
            choice["backbone"] = "none"
        config = defaults.custom(choice)
        config.data.num_samples, config.data.test_frac = 0, 0.0
        config.data.val_frac = float(self.val_frac)
        config.data.split_seed = int(seed)
        try:
            config.update_from_flattened_dict(dict(self.settings or {}))
        except (KeyError, TypeError, ValueError) as error:
            raise errors.InputError(
                f"settings: {' '.join(str(error).split())}; allowed: fields of the "
                "config, such as stage2.num_epochs"
            ) from None
        return config.lock()

    def _run(self, config, task) -> tuple[dict[str, Any], dict[str, bytes]]:
        """Train, and keep the predictor as bytes: they pickle, functions do not."""
        with contextlib.ExitStack() as stack:
            if not self.verbose:
                stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
            folder = self.workdir
            if folder is None:
                folder = stack.enter_context(tempfile.TemporaryDirectory())
            workdir = pathlib.Path(folder)
            results = main.run(config, workdir, task)
            return results, {name: (workdir / name).read_bytes() for name in _FILES}

    def _checked_x(self, X, **options) -> np.ndarray:
        return validation.validate_data(
            self, X, allow_nd=True, dtype="numeric", **options
        )

    def _outputs(self, X) -> np.ndarray:
        """Values, or probabilities, of samples."""
        validation.check_is_fitted(self)
        X = self._checked_x(X, reset=False)
        found = self._predictor
        data, stage2 = self.config_["data"], self.config_["stage2"]
        x = custom_rules.inputs(X, found.signature.x_shape, data["channels"])
        out = predictor.together([predictor.run(found, x, stage2["eval_batch_size"])])
        (one,) = out.values()
        return one

    def _unpack(self) -> predictor.Predictor:
        parts = (self._parts[name] for name in _FILES)
        return predictor.unpack(*parts, type(self).__name__)

    def __getstate__(self):
        """Leave out what does not pickle and can be made again."""
        state = dict(super().__getstate__())
        state.pop("_predictor", None)
        return state

    def __setstate__(self, state):
        """Make it again."""
        super().__setstate__(state)
        if hasattr(self, "_parts"):
            self._predictor = self._unpack()


def _plain(value: Any) -> Any:
    """Numbers of NumPy, as a search sets them, and paths."""
    return value.item() if isinstance(value, np.generic) else os.fspath(value)


class CrossModalClassifier(base.ClassifierMixin, CrossModalEstimator):
    """Classify samples, into one class or by several labels.

    Parameters and attributes are those of `CrossModalEstimator`.
    """

    def fit(self, X: Any, y: Any, groups: Any = None) -> "CrossModalClassifier":
        """Adapt the backbone to samples `X` `[n ...]` with classes or labels `y`.

        Args:
          X: finite numbers: tables, series, images, fields.
          y: classes `[n]`: text, whole numbers, bool; or 0 and 1 `[n k]` of k labels.
          groups: of each sample; validation takes whole ones.

        Raises:
          ValueError: what cannot be used, in one line.
        """
        X = self._checked_x(X, ensure_min_samples=2)
        kind = multiclass.type_of_target(y, input_name="y", raise_unknown=True)
        if kind == "multilabel-indicator":
            y = validation.check_array(y, dtype=np.float32, input_name="y")
            self.classes_ = np.arange(y.shape[1])
            return self._fit(X, y, groups, "multilabel")
        y = validation.column_or_1d(y, warn=True)
        multiclass.check_classification_targets(y)
        self.classes_, codes = np.unique(y, return_inverse=True)
        labels = tuple(str(label) for label in self.classes_)
        return self._fit(X, codes, groups, "classification", labels)

    def predict(self, X: Any) -> np.ndarray:
        """Predict classes `[n]`, or 0 and 1 `[n k]` of k labels."""
        found = self.predict_proba(X)
        if self._kind == "multilabel":
            return (found > 0.5).astype(int)
        return self.classes_[found.argmax(1)]

    def predict_proba(self, X: Any) -> np.ndarray:
        """Predict probabilities `[n k]`, of classes in the order of `classes_`."""
        return self._outputs(X).astype(np.float64)

    def _facts(self) -> dict[str, Any]:
        return {
            "classes": self.classes_.tolist(),
            "dtype": self.classes_.dtype.str,
            "is_multilabel": self._kind == "multilabel",
        }

    def _restore(self, facts: Mapping[str, Any]) -> None:
        self.classes_ = np.array(facts["classes"], np.dtype(facts["dtype"]))
        self._kind = "multilabel" if facts["is_multilabel"] else "classification"

    def __sklearn_tags__(self):
        """Say what it takes."""
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags


class CrossModalRegressor(base.RegressorMixin, CrossModalEstimator):
    """Predict numbers, one or several for each sample, or a field on its grid.

    Parameters and attributes are those of `CrossModalEstimator`.
    """

    def fit(self, X: Any, y: Any, groups: Any = None) -> "CrossModalRegressor":
        """Adapt the backbone to samples `X` `[n ...]` with numbers `y`.

        Args:
          X: finite numbers: tables, series, images, fields.
          y: `[n]`, `[n k]`, or with three axes or more a field on the grid of X;
            `settings={"data.kind": "dense"}` says that `[n m]` is one, too.
          groups: of each sample; validation takes whole ones.

        Raises:
          ValueError: what cannot be used, in one line.
        """
        X = self._checked_x(X, ensure_min_samples=2)
        if y is None:
            raise errors.InputError(
                "the regressor requires y to be passed, but the target y is None"
            )
        y = validation.check_array(
            y, ensure_2d=False, allow_nd=True, dtype="numeric", input_name="y"
        )
        kind = (self.settings or {}).get("data.kind", "auto")
        if kind == "auto":
            kind = "dense" if y.ndim > 2 else "regression"
        return self._fit(X, y, groups, kind)

    def predict(self, X: Any) -> np.ndarray:
        """Predict numbers, of the shape of the targets of `fit`."""
        found = self._outputs(X).astype(np.float64)
        if self._y_axis == "first":
            found = np.moveaxis(found, -1, 1)
        return found.reshape(len(found), *self._y_shape)

    def _facts(self) -> dict[str, Any]:
        return {"y_shape": list(self._y_shape), "y_axis": self._y_axis}

    def _restore(self, facts: Mapping[str, Any]) -> None:
        self._y_shape, self._y_axis = tuple(facts["y_shape"]), facts["y_axis"]

    def __sklearn_tags__(self):
        """Say what it gives."""
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags
