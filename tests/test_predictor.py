"""The predictor of a run: same predictions as the run's, without data or backbone."""

import json
import shutil

import jax
import numpy as np
import pytest

from recraft_jax import build, errors, main, metrics, predictor


@pytest.fixture(
    scope="module",
    params=[
        *("dense", "classes", "labels"),
        pytest.param("dense,method=unet", marks=pytest.mark.slow),
    ],
)
def finished(request, smoke, backbone, tmp_path_factory):
    """A finished run, its config and target; the backbone is gone."""
    folder = tmp_path_factory.mktemp("predictor")
    key, workdir = request.param, folder / "run"
    copied = shutil.copytree(backbone, folder / "backbone")
    key = key if "method" in key else f"{key},method=scratch"
    argv = smoke(key, copied)
    if "unet" in key:
        argv = [argv[0], argv[1].rpartition(",backbone")[0], *argv[2:]]
        argv.append("--config.unet.features=4")
    argv.append(f"--workdir={workdir}")
    assert main.main(argv) == 0
    shutil.rmtree(copied)
    config, _ = main.parse(argv)
    return workdir, build.target(config)


output = predictor.run


def test_predictions_are_those_of_the_run(finished):
    workdir, target = finished
    test = target.task.splits["test"]
    found = predictor.load(workdir)
    out = output(found, test["x"], batch_size=5)
    name = "values" if target.task.kind == "dense" else "logits"
    results = json.loads((workdir / "results.json").read_text())
    score = metrics.score(target.metric, out[name], test["y"])
    assert score == pytest.approx(results["test"]["best_val"], abs=1e-6)
    # Not those of parameters that the run has not chosen.
    other = {k: v if "head" not in k else v + 0.1 for k, v in found.params.items()}
    changed = output(found._replace(params=other), test["x"])
    assert "unet" in str(found.config.method) or (
        np.abs(changed[name] - out[name]).max() > 1e-3
    )


def test_blocks_are_the_whole(finished):
    workdir, target = finished
    x = target.task.splits["test"]["x"]
    found = predictor.load(workdir)
    whole = output(found, x)
    step = predictor.make_step(found, batch_size=4)
    parts = [step(part) for part in (x[:3], x[3:4], x[4:])]
    for name in whole:
        joined = np.concatenate([part[name] for part in parts])
        np.testing.assert_allclose(joined, whole[name], rtol=1e-5, atol=1e-6)


def test_probabilities_are_those_of_the_logits(finished):
    workdir, target = finished
    if target.task.kind == "dense":
        return
    out = output(predictor.load(workdir), target.task.splits["test"]["x"])
    z = out["logits"].astype(np.float64)
    want = 1 / (1 + np.exp(-z))
    if target.task.kind == "classification":
        want = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    np.testing.assert_allclose(out["probabilities"], want, rtol=1e-5)


def test_signature_survives_the_file(finished):
    workdir, target = finished
    found, want = predictor.load(workdir).signature, target.signature
    for name in ("kind", "x_shape", "y_shape", "num_outputs", "labels"):
        assert getattr(found, name) == getattr(want, name)
    jax.tree.map(
        np.testing.assert_array_equal,
        (found.scale_x, found.scale_y),
        (want.scale_x, want.scale_y),
    )


@pytest.mark.parametrize("name", ["predictor.json", "predictor.safetensors"])
def test_missing_file_is_said(finished, tmp_path, name):
    workdir, _ = finished
    for each in ("config.json", *{predictor.CARD, predictor.WEIGHTS} - {name}):
        shutil.copy(workdir / each, tmp_path)
    with pytest.raises(errors.InputError, match="holds no predictor: .*" + name):
        predictor.load(tmp_path)


def test_damaged_weights_are_refused(finished, tmp_path):
    workdir, _ = finished
    for each in ("config.json", predictor.CARD, predictor.WEIGHTS):
        shutil.copy(workdir / each, tmp_path)
    path = tmp_path / predictor.WEIGHTS
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(errors.InputError, match="damaged"):
        predictor.load(tmp_path)


def test_other_shape_and_bad_values_are_refused(finished):
    workdir, target = finished
    found = predictor.load(workdir)
    x = target.task.splits["test"]["x"].copy()
    with pytest.raises(errors.InputError, match=r"inputs of shape .*; allowed: \[n, "):
        output(found, x[:, :-1])
    x[4].flat[0] = np.nan
    with pytest.raises(errors.InputError, match="sample 4 has values"):
        output(found, x)
    with pytest.raises(errors.InputError, match="no inputs"):
        output(found, x[:0])


# ---------------------------------------------------------------------------- ensembles
def test_one_predictor_has_no_spread():
    values = np.float32([[1.0], [2.0]])
    found = predictor.together([{"values": values}])
    assert set(found) == {"values"}
    np.testing.assert_array_equal(found["values"], values)


def test_values_have_a_mean_and_a_spread():
    found = predictor.together(
        [{"values": np.float32([[1.0], [2.0]])}, {"values": np.float32([[3.0], [2.0]])}]
    )
    np.testing.assert_allclose(found["values"], [[2.0], [2.0]])
    np.testing.assert_allclose(found["spread"], [[np.sqrt(2)], [0.0]])
    assert "information" not in found


def test_information_is_of_class_and_predictor():
    sure = [
        {"probabilities": np.float32([[1, 0], [0.5, 0.5], [1, 0]])},
        {"probabilities": np.float32([[0, 1], [0.5, 0.5], [1, 0]])},
    ]
    found = predictor.together(sure)
    np.testing.assert_allclose(found["probabilities"], [[0.5, 0.5]] * 2 + [[1, 0]])
    # Sure and different: log 2; unsure alike, or sure alike: nothing.
    np.testing.assert_allclose(found["information"], [np.log(2), 0, 0], atol=1e-7)
