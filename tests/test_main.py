"""The command line: bad input, whole runs, resuming after a kill."""

import contextlib
import fcntl
import json
import logging
import pathlib
import resource
import shutil

import accidents
import jax.numpy as jnp
import numpy as np
import pytest

from recraft_jax import build, defaults, evaluate, main, metrics, report
from recraft_jax.losses import lipschitz as lipschitz_losses
from recraft_jax.methods import alignment, fit, label_distortion, lipschitz, recraft
from recraft_jax.pde import equation

ROOT = pathlib.Path(__file__).parents[1]
SMOKE = f"{ROOT}/configs/smoke.py"
PDE = f"{ROOT}/configs/pde.py"


@pytest.fixture(scope="session")
def image_smoke(smoke, image_backbone, tmp_path_factory):
    """The same with a tiny Swin and grey images of a bright bar: where is it?"""
    rng = np.random.default_rng(0)
    labels = np.arange(90) % 3
    pixels = rng.integers(0, 90, (90, 9, 12), dtype=np.uint8)
    pixels[np.arange(90), 3 * labels + 1] += 120
    path = tmp_path_factory.mktemp("images") / "bars.npz"
    np.savez(path, pixels=pixels, labels=labels)

    def arguments(key="dense", **fields):
        fields = {"source.name": "npz", "source.path": path} | fields
        return smoke(key, backbone=image_backbone, **fields)

    return arguments


def read(workdir):
    return json.loads((workdir / "results.json").read_text())


def lines(workdir):
    return [json.loads(s) for s in (workdir / "metrics.jsonl").read_text().splitlines()]


# ---------------------------------------------------------------------------- bad input
BAD = {
    "no config": ([], "allowed: once"),
    "two configs": ([f"--config={PDE}", f"--config={PDE}"], "given 2 times"),
    "no such file": (["--config=configs/pdee.py"], "no file 'configs/pdee.py'"),
    "unknown task": (
        [f"--config={PDE}:darcy61"],
        "unknown task 'darcy61' (did you mean 'darcy16'?); allowed: darcy16, advection",
    ),
    "unknown method": (
        [f"--config={PDE}:method=recaft"],
        "unknown method 'recaft' (did you mean 'recraft'?); allowed: recraft, fa",
    ),
    "unknown backbone": (
        [f"--config={PDE}:backbone=minilmm"],
        "(did you mean 'minilm'?); allowed: minilm",
    ),
    "unknown key": (
        [f"--config={PDE}:darcy16,metod=nft"],
        "unknown key 'metod' (did you mean 'method'?); allowed: method, backbone",
    ),
    "backbone of a method that has none": (
        [f"--config={PDE}:method=fno,backbone=minilm"],
        "backbone with method fno, which has a model of its own; allowed: leave it out",
    ),
    "data that are not there": (
        [f"--config={PDE}:burgers", "--config.data.path=no/such.hdf5"],
        "data.path = 'no/such.hdf5'; allowed: a file or folder that exists",
    ),
    "unknown mode of data": (
        [f"--config={PDE}:burgers", "--config.data.mode=exact"],
        "data.mode = 'exact'; allowed: accurate, compat",
    ),
    "key twice": ([f"--config={PDE}:seed=1,seed=2"], "key 'seed' is given twice"),
    "seed of wrong type": ([f"--config={PDE}:seed=one"], "a whole number"),
    "unknown field": (
        [f"--config={PDE}", "--config.stage2.num_epoch=3"],
        "unknown field --config.stage2.num_epoch (did you mean 'num_epochs'?); allowed",
    ),
    "field of a value": (
        [f"--config={PDE}", "--config.seed.x=3"],
        "nothing, it is a value",
    ),
    "wrong type": (
        [f"--config={PDE}", "--config.stage2.num_epochs=many"],
        "--config.stage2.num_epochs=many: invalid literal for int()",
    ),
    "value out of range": (
        [f"--config={PDE}", "--config.stage2.num_epochs=0"],
        "stage2.num_epochs = 0; allowed: 1 or more",
    ),
    "parts that do not divide": (
        [f"--config={PDE}", "--config.stage2.accumulate=3"],
        "stage2.accumulate = 3; allowed: a divisor of stage2.batch_size = 16",
    ),
    "parts of a loss that mixes": (
        [f"--config={PDE}:darcy16,method=pare", "--config.stage2.accumulate=2"],
        "stage2.accumulate = 2; allowed: 1 with method pare",
    ),
    "fewer than no workers": (
        [f"--config={PDE}", "--config.input.num_workers=-1"],
        "input.num_workers = -1; allowed: 0 or more",
    ),
    "fraction out of range": (
        [f"--config={PDE}", "--config.data.val_frac=1.0"],
        "data.val_frac = 1.0; allowed: above 0 and below 1",
    ),
    "labels of no weight": (
        [f"--config={SMOKE}:labels", "--config.data.pos_weight=0"],
        "data.pos_weight = 0.0; allowed: above 0 and finite",
    ),
    "labels of weight NaN": (
        [f"--config={SMOKE}:labels", "--config.data.pos_weight=nan"],
        "data.pos_weight = nan; allowed: above 0 and finite",
    ),
    "no stage 1": (
        [f"--config={PDE}", "--config.fa.omega=0", "--config.fld.weight=0"],
        "has no stage 1",
    ),
    "unknown preset": (
        [f"--config={PDE}:preset=oficial"],
        "unknown preset 'oficial' (did you mean 'official'?); allowed: default, paper",
    ),
    "unknown form of FA": (
        [f"--config={PDE}", "--config.fa.kind=w2"],
        "fa.kind = 'w2'; allowed: w1, w2sq_half, otdd_single_label",
    ),
    "unknown form of FLD": (
        [f"--config={PDE}", "--config.fld.kind=ce"],
        "fld.kind = 'ce'; allowed: mi, transport, entropy, negative_sets",
    ),
    "momentum of one": (
        [f"--config={PDE}", "--config.fld.momentum=1.0"],
        "fld.momentum = 1.0; allowed: 0 or more and below 1",
    ),
    "slope of nothing": (
        [f"--config={PDE}", "--config.fa.omega=0"],
        "lipschitz.tau = 0 stands for fa.omega, which is 0",
    ),
    "token norms of pooled features": (
        [f"--config={PDE}", "--config.lipschitz.norm_axis=tokens"],
        "lipschitz.norm_axis = 'tokens'; allowed: sample, or u_space = mixed",
    ),
    "class scale without class terms": (
        [f"--config={PDE}", "--config.legacy.batch_count_scale=true"],
        "legacy.batch_count_scale = True; allowed: false, or fld.kind entropy",
    ),
    "unknown flag": ([f"--config={PDE}", "--wrokdir=x"], "Did you mean: workdir"),
    "stray argument": ([f"--config={PDE}", "advection"], "unknown argument"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_arguments_get_one_line_and_exit_code_2(name, capsys, tmp_path):
    arguments, message = BAD[name]
    workdir = tmp_path / "run"
    code = main.main(["main", *arguments, f"--workdir={workdir}"])
    err = capsys.readouterr().err
    assert code == 2
    assert message in err
    assert err.startswith("error: ") and err.count("\n") == 1
    assert not workdir.exists()


LATE = {
    "empty split": ({"data.num_test": 0}, "the test split is empty"),
    "NaN in the data": (
        {"data.noise": "nan"},
        "train x has values that are not finite in 60 of 60 samples, first in sample 0",
    ),
    "patch": ({"embedder.patch": 99}, "embedder.patch = 99; allowed: 1 to 32"),
    "optimiser": ({"stage2.optim.name": "lion"}, "'lion'; allowed: adamw, adam, sgd"),
    "source": ({"source.name": "treck"}, "source.name = 'treck'; allowed for backbone"),
    "images for text": (
        {"source.name": "mnist5k"},
        "which takes text: auto, trec6, wnut16, table, conll, tfds_conll2003",
    ),
    "no source file": ({"source.path": "/nowhere/x.tsv"}, "/nowhere/x.tsv"),
}


@pytest.mark.parametrize("name", LATE)
def test_bad_values_get_one_line_and_no_results(name, smoke, capsys, tmp_path):
    fields, message = LATE[name]
    code = main.main([*smoke("classes", **fields), f"--workdir={tmp_path}/run"])
    err = capsys.readouterr().err
    assert code == 2
    assert message in err
    assert err.startswith("error: ") and err.count("\n") == 1
    assert not (tmp_path / "run" / "results.json").exists()


def test_text_for_images_gets_one_line_and_no_results(image_smoke, capsys, tmp_path):
    arguments = image_smoke(**{"source.name": "trec6"})
    assert main.main([*arguments, f"--workdir={tmp_path}/run"]) == 2
    assert capsys.readouterr().err == (
        "error: source.name = 'trec6'; allowed for swin, which takes image: auto, "
        "mnist5k, cifar10, npz, tfds_cifar10\n"
    )
    assert not (tmp_path / "run" / "results.json").exists()


def test_backbone_folder_that_is_not_there_is_named(capsys, tmp_path):
    spec = f"--config={SMOKE}:dense,backbone={tmp_path}/none"
    assert main.main(["main", spec, f"--workdir={tmp_path}/run"]) == 2
    assert "none' is neither a folder nor a name" in capsys.readouterr().err


@pytest.mark.parametrize("below", ["", "/deep/run"])
def test_workdir_that_cannot_be_made_is_named(smoke, below, capsys, tmp_path):
    (tmp_path / "file").write_text("here")
    workdir = f"{tmp_path}/file{below}"
    assert main.main([*smoke(), f"--workdir={workdir}"]) == 2
    err = capsys.readouterr().err
    assert f"{tmp_path}/file" in err and err.count("\n") == 1


def test_folder_of_something_else_is_refused(smoke, capsys, tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    assert main.main([*smoke(), f"--workdir={tmp_path}"]) == 2
    assert "holds 'thesis.tex' and no config.json" in capsys.readouterr().err
    assert sorted(p.name for p in tmp_path.iterdir()) == [".lock", "thesis.tex"]


def test_choices_are_those_of_the_modules_that_make_them():
    assert main.CHOICES["fa.kind"] == alignment.KINDS
    assert set(main.CHOICES["fld.kind"]) == set(label_distortion.KINDS)
    assert main.CHOICES["fld.transport_cost"] == label_distortion.COSTS
    assert set(main.CHOICES["lipschitz.method"]) == set(lipschitz.METHODS)
    assert main.CHOICES["lipschitz.norm_axis"] == lipschitz_losses.AXES
    assert main.CHOICES["stage1.mode"] == recraft.MODES
    assert main.CHOICES["stage2.trainable"] == fit.TRAINABLE
    assert set(main.CHOICES["data.loss"]) == set(build.DENSE_LOSSES)
    assert set(main.CHOICES["data.mode"]) == set(equation.MODES)
    assert set(defaults.NO_BACKBONE) == set(build.OWN_MODELS)


def test_default_workdir_differs_when_the_config_does(smoke):
    names = {
        str(main.parse(arguments)[1])
        for arguments in (
            smoke(),
            smoke(**{"assets.cache": "/other"}),
            smoke(**{"stage2.optim.lr": 0.1}),
            smoke("classes"),
        )
    }
    assert len(names) == 3


# --------------------------------------------------------------------------- whole runs
@pytest.fixture(scope="module")
def finished(smoke, tmp_path_factory):
    """Folder of a finished run, with what it printed in `printed.txt` beside it."""
    workdir = tmp_path_factory.mktemp("finished") / "run"
    with (workdir.parent / "printed.txt").open("w") as printed:
        with contextlib.redirect_stdout(printed):
            assert main.main([*smoke(), f"--workdir={workdir}"]) == 0
    return workdir


def test_run_ends_with_its_table_and_results(finished):
    out = (finished.parent / "printed.txt").read_text()
    results = read(finished)
    for text in ("linear", "persistence", "mean", "best on validation", "FLD", "ETA"):
        assert text in out
    assert f"{results['test']['best_val']:.4f}" in out
    assert set(results) >= {
        *("task", "method", "backbone", "protocol", "scale", "seed", "metric", "test"),
        *("val", "baselines", "align", "seconds", "params", "data", "versions", "git"),
    }
    assert set(results["seconds"]) >= {"total", "compile", "align", "fit", "eval"}
    assert results["data"]["train"] == 48 and results["data"]["val"] == 12
    assert 0 < results["params"]["trained"] <= results["params"]["total"]
    phases = [line["phase"] for line in lines(finished)]
    assert phases.index("fit") > phases.index("align")
    steps = [line["step"] for line in lines(finished)]
    assert steps == sorted(steps) and steps[-1] == 24
    best = min(line["val_nrmse"] for line in lines(finished) if "val_nrmse" in line)
    assert results["val"]["best"] == pytest.approx(best)


def test_run_leaves_fields_that_can_be_drawn(finished, capsys):
    with np.load(finished / "fields.npz") as fields:
        assert fields["pred"].shape == fields["y"].shape == (4, 32, 1)
        assert fields["course_values"].shape == (4, 201, 32, 1)
        at = fields["course_values"][:, fields["course_frame"]]
        np.testing.assert_array_equal(at, fields["y"])
        np.testing.assert_array_equal(fields["course_values"][:, 0], fields["x"])
    assert report.main(["--fields", str(finished)]) == 0
    assert (finished / "fields.png").exists()
    capsys.readouterr()


@pytest.mark.parametrize(
    "method", ["fno", pytest.param("unet", marks=pytest.mark.slow)]
)
def test_own_model_runs_without_a_backbone(method, compile_cache, tmp_path, capsys):
    """On classes, whose fields are averaged; the U-Net has statistics."""
    arguments = ["main", f"--config={SMOKE}:classes,method={method}"]
    fields = {"unet.features": 4, "assets.cache": compile_cache}
    arguments += [f"--config.{name}={value}" for name, value in fields.items()]
    assert main.main([*arguments, f"--workdir={tmp_path}"]) == 0
    results = read(tmp_path)
    assert results["backbone_name"] == method.upper() and results["source"] is None
    assert results["metric"] == "error" and 0 <= results["test"]["best_val"] < 1
    assert "nearest" in capsys.readouterr().out
    assert evaluate.main(["--workdir", str(tmp_path), "--bound"]) == 2
    assert "no source model" in capsys.readouterr().err


def test_samples_hold_what_the_test_score_is_the_mean_of(finished):
    results = read(finished)
    with np.load(finished / "samples.npz") as samples:
        assert samples["finish"] == "mean"
        for name in ("best_val", "last"):
            assert samples[name].shape == (results["data"]["test"],)
            mean = samples[name].mean(dtype=np.float64)
            np.testing.assert_allclose(mean, results["test"][name], rtol=1e-6)
    assert results["better"] == "lower"
    assert results["memory"]["peak_bytes"] > 1e8


def test_same_command_again_shows_the_table_and_trains_nothing(smoke, capsys, finished):
    before = {p: p.stat().st_mtime_ns for p in finished.rglob("*.json*")}
    assert main.main([*smoke(), f"--workdir={finished}"]) == 0
    assert "best on validation" in capsys.readouterr().out
    assert before == {p: p.stat().st_mtime_ns for p in finished.rglob("*.json*")}


def test_workdir_of_another_config_is_refused_with_the_differences(
    smoke, capsys, finished
):
    arguments = smoke(**{"stage2.optim.lr": 0.5, "fa.omega": 0.9})
    assert main.main([*arguments, f"--workdir={finished}"]) == 2
    err = capsys.readouterr().err
    assert "fa.omega: 1.0 -> 0.9; stage2.optim.lr: 0.0003 -> 0.5" in err
    assert "seed" not in err


# `scratch` runs in test_evaluate.py; `fld` is `fa` with the other term.
METHODS = {
    "fa": "dense",
    "nft": "classes",
    "orca": "classes",
    "pare": "dense",
    "mona": "dense",
}


# What only this method logs.
OWN = {"fa": "fa", "nft": "loss", "orca": "otdd"}
OWN |= {"pare": "num_replaced", "mona": "mona_uniform"}


@pytest.mark.usefixtures("keys_are_used_once")
@pytest.mark.parametrize(
    "method",
    [
        pytest.param(name, marks=pytest.mark.slow if name != "nft" else ())
        for name in METHODS
    ],
)
def test_every_method_runs(method, smoke, tmp_path):
    task, workdir = METHODS[method], tmp_path / "run"
    key = f"{task},method={method}"
    assert main.main([*smoke(key), f"--workdir={workdir}"]) == 0
    results = read(workdir)
    align = results["align"]
    if method == "fa":
        assert align["fa_after"] < align["fa_before"]
    elif method in ("orca", "mona"):
        assert align["fa_before"] != align["fa_after"]
    else:
        assert align["fa_before"] == align["fa_after"]
    shown = [v for line in lines(workdir) for k, v in line.items() if k == OWN[method]]
    assert np.isfinite(shown).all() and len(shown) > 1
    assert results["metric"] == ("nrmse" if task == "dense" else "error")


@pytest.mark.slow
def test_image_backbone_runs_resumes_and_shows_its_table(image_smoke, capsys, tmp_path):
    whole, again = tmp_path / "whole", tmp_path / "again"
    arguments = image_smoke(**{"checkpoint.every_steps": 3, "checkpoint.keep": 0})
    assert main.main([*arguments, f"--workdir={whole}"]) == 0
    results = read(whole)
    assert results["backbone_name"] == "swin" and results["metric"] == "nrmse"
    source = results["source"]
    assert (source["name"], source["level"]) == ("npz", "image")
    # Of few images; recalibration on fewer may cost it all. Chance is a third.
    assert source["lipschitz"]["before"]["accuracy"] > 0.6
    align = results["align"]
    for term in ("fa", "fld"):
        assert np.isfinite([align[f"{term}_before"], align[f"{term}_after"]]).all()
        assert align[f"{term}_before"] != align[f"{term}_after"]
    scores = [*results["test"].values(), *results["baselines"].values()]
    assert np.isfinite([score for score in scores if score is not None]).all()
    assert np.isfinite(results["val"]["best"])

    shutil.copytree(whole, again)
    (again / "results.json").unlink()
    for path in (again / "checkpoints").iterdir():
        if path.name.isdigit() and int(path.name) > 9:
            shutil.rmtree(path)
    assert main.main([*arguments, f"--workdir={again}"]) == 0
    assert "resuming fit at step 9" in capsys.readouterr().out
    for name in ("test", "align", "val", "source"):
        assert read(again)[name] == results[name]
    assert lines(again) == lines(whole)

    before = {p: p.stat().st_mtime_ns for p in whole.rglob("*.json*")}
    assert main.main([*arguments, f"--workdir={whole}"]) == 0
    assert "best on validation" in capsys.readouterr().out
    assert before == {p: p.stat().st_mtime_ns for p in whole.rglob("*.json*")}


@pytest.mark.slow
def test_labels_run_and_are_bounded(smoke, capsys, tmp_path):
    workdir = tmp_path / "run"
    arguments = smoke("labels", **{"data.pos_weight": 3.0, "checkpoint.keep": 1})
    assert main.main([*arguments, f"--workdir={workdir}"]) == 0
    results = read(workdir)
    assert results["metric"] == "label_error"
    assert set(results["baselines"]) == {"mean", "nearest", "linear"}
    for score in (*results["baselines"].values(), *results["test"].values()):
        # Shares of 12 samples with 4 labels each.
        assert 0 <= score <= 1 and score * 48 == pytest.approx(round(score * 48))
    losses = [v for line in lines(workdir) for k, v in line.items() if k == "loss"]
    assert np.isfinite(losses).all()
    assert results["align"]["fld_before"] is not None
    # The bound needs classes: clusters of the labels, seen by a probe.
    capsys.readouterr()
    assert evaluate.main([f"--workdir={workdir}", "--bound"]) == 0
    assert "target predictor: probe" in capsys.readouterr().out
    found = json.loads((workdir / "bound.json").read_text())
    assert found["num_classes"] == 4 and found["final"]["holds"]

    target = build.target(evaluate.read_config(workdir))
    assert target.task.kind == "multilabel" and target.num_classes == 4
    assert target.labels["train"].shape == (48,) and target.labels["train"].max() == 3
    loss = target.loss(jnp.zeros((2, 4)), jnp.array([[1.0, 1, 1, 1], [0, 0, 0, 0]]))
    np.testing.assert_allclose(loss, [3 * np.log(2), np.log(2)], rtol=1e-6)


def test_official_preset_and_protocol(smoke, tmp_path):
    """Three phases, and the best epoch is chosen on the test split."""
    workdir = tmp_path / "run"
    key = "dense,preset=official,protocol=official"
    assert main.main([*smoke(key), f"--workdir={workdir}"]) == 0
    names = [line["phase"] for line in lines(workdir)]
    assert list(dict.fromkeys(names)) == ["align_fa", "align_fld", "fit"]
    results = read(workdir)
    assert results["preset"] == "official"
    assert "lipschitz" not in results["source"]  # D15: not for text
    assert results["align"]["fa_after"] < results["align"]["fa_before"]
    assert results["seconds"]["align"] > 0 and results["seconds"]["fit"] > 0
    assert results["data"]["train"] == 60
    assert results["val"]["best"] == pytest.approx(results["test"]["best_val"])


@pytest.mark.slow
def test_moving_average_survives_a_resume(smoke, tmp_path):
    """Its joint is part of the state: stopping in the middle changes nothing."""
    fields = {"fld.momentum": 0.5, "checkpoint.every_steps": 3, "checkpoint.keep": 0}
    whole, again = tmp_path / "whole", tmp_path / "again"
    assert main.main([*smoke("dense", **fields), f"--workdir={whole}"]) == 0
    shutil.copytree(whole, again)
    (again / "results.json").unlink()
    for path in (again / "checkpoints").iterdir():
        if path.name.isdigit() and int(path.name) > 3:
            shutil.rmtree(path)
    assert main.main([*smoke("dense", **fields), f"--workdir={again}"]) == 0
    for name in ("test", "align", "val"):
        assert read(again)[name] == read(whole)[name]
    assert lines(again) == lines(whole)


def test_loss_that_is_not_finite_stops_with_step_and_phase(smoke, capsys, tmp_path):
    workdir = tmp_path / "run"
    fields = {"stage2.optim.lr": 1e30, "stage2.optim.clip": 0.0}
    arguments = [*smoke("dense,method=nft", **fields), f"--workdir={workdir}"]
    assert main.main(arguments) == 1
    err = capsys.readouterr().err
    assert "of phase 'fit'" in err and "at step" in err and err.count("\n") == 1
    assert not (workdir / "results.json").exists()
    kept = {p.name for p in (workdir / "checkpoints").iterdir()}
    assert all(int(name) < 24 for name in kept)


def test_validation_score_that_is_not_finite_stops_the_run(
    smoke, capsys, monkeypatch, tmp_path
):
    """It would otherwise be kept as the best, since nothing is below a NaN."""
    monkeypatch.setattr(metrics, "finish", lambda *_: float("nan"))
    workdir = tmp_path / "run"
    assert main.main([*smoke("dense,method=nft"), f"--workdir={workdir}"]) == 1
    err = capsys.readouterr().err
    assert "val nrmse is nan at step 6 of phase 'fit'" in err and err.count("\n") == 1
    assert not (workdir / "results.json").exists()


# ----------------------------------------------------------------------------- resuming
def test_killed_run_resumes_to_the_same_numbers_bit_for_bit(smoke, finished, tmp_path):
    workdir = tmp_path / "run"
    killed = [{0: "kill@12"}, {0: "save@1"}]  # at a step, and while it writes
    codes = accidents.until_it_ends(smoke(), workdir, killed, devices=2)
    assert codes == [-9, -9, 0]
    assert accidents.numbers(workdir) == accidents.numbers(finished)
    assert lines(workdir) == lines(finished)


def test_damaged_checkpoint_falls_back_to_the_same_numbers(
    smoke, caplog, finished, tmp_path
):
    broken = tmp_path / "broken"
    shutil.copytree(finished, broken)
    (broken / "results.json").unlink()
    newest = max((broken / "checkpoints").iterdir(), key=lambda p: int(p.name))
    for path in newest.rglob("ocdbt.process_0/d/*"):
        path.write_bytes(b"\x00" * 99)
    with caplog.at_level(logging.WARNING):
        assert main.main([*smoke(), f"--workdir={broken}"]) == 0
    assert f"{newest.name} is damaged" in caplog.text
    assert read(finished)["test"] == read(broken)["test"]
    assert lines(finished) == lines(broken)


def test_damaged_source_is_made_again(smoke, caplog, finished, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(finished, broken)
    (broken / "results.json").unlink()
    (broken / "source.npz").write_bytes(b"not a zip")
    with caplog.at_level(logging.WARNING):
        assert main.main([*smoke(), f"--workdir={broken}"]) == 0
    assert "source.npz is damaged" in caplog.text
    assert read(finished)["test"] == read(broken)["test"]
    # Its seconds too: what the first run stored for all is read, not made again.
    assert read(finished)["source"] == read(broken)["source"]


@pytest.mark.usefixtures("finished")  # so that nothing but checkpoints is to be written
def test_disk_that_fills_up_while_saving_gets_one_line(smoke, tmp_path):
    """A limit on file sizes stands in for a full disk: the same failing write."""
    workdir = tmp_path / "run"
    limit = 20_000  # above what stage 0 stores, below the arrays of a checkpoint

    arguments = smoke("dense,method=nft", **{"checkpoint.every_steps": 3})
    group = accidents.Group(arguments, workdir)
    resource.prlimit(group.processes[0].pid, resource.RLIMIT_FSIZE, (limit, limit))
    (code,), _, (err,) = group.wait()
    assert code == 2, err
    assert err.splitlines()[-1].startswith("error: cannot write the checkpoint of step")
    assert "File too large" in err and "Traceback" not in err
    assert not (workdir / "results.json").exists()


def test_second_process_in_a_workdir_is_refused(smoke, capsys, finished):
    with (finished / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert main.main([*smoke(), f"--workdir={finished}"]) == 2
    assert "another process is running" in capsys.readouterr().err
