"""The bound of finished runs: from the command line, and computed a second time."""

import json
import pathlib
import shutil

import jax
import numpy as np
import pytest
from scipy import optimize
from scipy.spatial import distance

from recraft_jax import build, checkpoints, evaluate, main
from recraft_jax.models import pretrained

ROOT = pathlib.Path(__file__).parents[1]
SMOKE = f"{ROOT}/configs/smoke.py"


def train(backbone, table, cache, workdir, key, **fields):
    fields = {"source.path": table, "assets.cache": cache} | fields
    overrides = [f"--config.{name}={value}" for name, value in fields.items()]
    spec = f"--config={SMOKE}:{key},backbone={backbone}"
    assert main.main(["main", spec, *overrides, f"--workdir={workdir}"]) == 0
    return workdir


@pytest.fixture(scope="module")
def runs(backbone, source_table, compile_cache, tmp_path_factory):
    """Finished runs with all checkpoints, evaluated."""
    found = {}
    for key in ("dense", "classes"):
        workdir = tmp_path_factory.mktemp(key) / "run"
        train(
            *(backbone, source_table, compile_cache, workdir, key),
            **{"checkpoint.keep": 0, "checkpoint.every_steps": 4},
            **{"lipschitz.tau": 2.0},
        )
        before = {p: p.stat().st_mtime_ns for p in workdir.rglob("*") if p.is_file()}
        assert evaluate.main([f"--workdir={workdir}", "--bound"]) == 0
        after = {p: p.stat().st_mtime_ns for p in workdir.rglob("*") if p.is_file()}
        assert set(after) - set(before) == {workdir / "bound.json"}
        assert all(after[path] == when for path, when in before.items())
        found[key] = workdir
    return found


def read(workdir):
    return json.loads((workdir / "bound.json").read_text())


@pytest.mark.parametrize("key", ["dense", "classes"])
def test_bound_holds_at_every_checkpoint_of_a_run(runs, key):
    found = read(runs[key])
    rows = found["checkpoints"]
    steps = [row["step"] for row in rows]
    assert steps == checkpoints.steps(runs[key] / "checkpoints") and len(steps) >= 6
    assert {row["phase"] for row in rows} == {"align", "fit"}
    for row in [*rows, found["final"]]:
        assert row["holds"] and row["err_t"] <= row["bound"]
        np.testing.assert_allclose(
            row["bound"], row["err_s"] + row["fa"] + row["fld"], rtol=1e-9
        )
        np.testing.assert_allclose(row["fa"], 2.0 * row["w1"], rtol=1e-9)
        assert row["source_shift"] <= row["fa"] + row["slack"] + 1e-9
    assert found["predictor"] == ("head" if key == "classes" else "probe")
    assert rows[0]["predictor"] == "probe"


def test_phi_moves_the_terms_and_the_source_side_stays(runs):
    rows = read(runs["dense"])["checkpoints"]
    assert len({row["err_s"] for row in rows}) == 1
    assert len({row["w1"] for row in rows}) == len(rows)


def test_numbers_of_the_last_checkpoint_by_hand(runs, backbone):
    """Class task: every term again, with the pretrained body read a second time."""
    workdir = runs["classes"]
    config = evaluate.read_config(workdir)
    target = build.target(config)
    parts = evaluate.assembly.make(config, target, workdir, evaluate.clock.Clock())
    last = parts.starts[-1]
    arrays, _ = checkpoints.load(workdir / "checkpoints", last, parts.abstract)
    params = jax.device_get(arrays["state"].params)
    x = target.inputs["test"]["x"]
    pred, out = parts.model.apply(params, x)
    body = pretrained.load(backbone)
    hidden = np.asarray(body.encode(body.params, out["tokens"])).mean(1)
    assert not np.allclose(hidden, np.asarray(out["hidden"]).mean(1), atol=1e-4)
    with np.load(workdir / "source.npz") as source:
        source = dict(source)
    labels, log_t = target.labels["test"], np.asarray(jax.nn.log_softmax(pred))
    probs = np.asarray(jax.nn.softmax(hidden @ source["kernel"] + source["bias"]))
    q = probs.T @ np.eye(3)[labels] / len(labels)
    entropy = -(q * np.log(q / q.sum(1, keepdims=True))).sum()
    u = np.asarray(out["tokens"]).mean(1)
    cost = distance.cdist(source["held_features"], u)
    size = np.lcm(*cost.shape)
    cost = cost.repeat(size // cost.shape[0], 0).repeat(size // cost.shape[1], 1)
    w1 = cost[optimize.linear_sum_assignment(cost)].mean()
    rows = np.arange(len(source["held_labels"]))
    want = {
        "err_t": -log_t[np.arange(len(labels)), labels].mean(),
        "err_s": -source["held_log_probs"][rows, source["held_labels"]].mean(),
        "fld_entropy": entropy,
        "w1": w1,
        "gap": 2.0 * w1 + entropy,
        "posterior_entropy": -(probs * np.log(probs)).sum(1).mean(),
    }
    (row,) = [r for r in read(workdir)["checkpoints"] if r["step"] == last]
    for name, value in want.items():
        np.testing.assert_allclose(row[name], value, rtol=2e-4, err_msg=name)


def test_reported_parameters_are_the_best_on_validation(runs):
    for workdir in runs.values():
        results = json.loads((workdir / "results.json").read_text())
        assert read(workdir)["final"]["step"] == results["val"]["step"]


def test_table_is_printed(runs, capsys):
    assert evaluate.main([f"--workdir={runs['classes']}", "--bound"]) == 0
    out = capsys.readouterr().out
    final = read(runs["classes"])["final"]
    for text in ("reported", f"{final['bound']:.3f}", "log K_t = 1.099", "refined"):
        assert text in out


def test_validation_split_is_another(runs, tmp_path):
    copy = shutil.copytree(runs["classes"], tmp_path / "run")
    assert evaluate.main([f"--workdir={copy}", "--bound", "--split=val"]) == 0
    assert read(copy)["split"] == "val"
    assert read(copy)["final"]["err_t"] != read(runs["classes"])["final"]["err_t"]


def refused(capsys, *arguments):
    assert evaluate.main(list(arguments)) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ") and err.count("\n") == 1
    return err


def test_bad_arguments_get_one_line(runs, capsys, tmp_path):
    assert "--bound" in refused(capsys, f"--workdir={runs['dense']}")
    assert "no finished run" in refused(capsys, f"--workdir={tmp_path}", "--bound")
    assert "split" in refused(
        capsys, f"--workdir={runs['dense']}", "--bound", "--split=train"
    )


def test_damaged_and_missing_checkpoints_are_named(runs, capsys, tmp_path):
    copy = shutil.copytree(runs["classes"], tmp_path / "run")
    folder = copy / "checkpoints"
    last = checkpoints.steps(folder)[-1]
    shutil.rmtree(folder / str(last))
    (copy / "bound.json").unlink()
    assert "lacks the last checkpoint" in refused(
        capsys, f"--workdir={copy}", "--bound"
    )
    first = checkpoints.steps(folder)[0]
    for path in (folder / str(first)).rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[:10])
    assert f"checkpoints/{first} cannot" in refused(
        capsys, f"--workdir={copy}", "--bound"
    )
    assert not (copy / "bound.json").exists()
    assert len(checkpoints.steps(folder)) >= 5  # nothing moved aside


def test_scratch_has_no_bound(backbone, source_table, compile_cache, capsys, tmp_path):
    workdir = tmp_path / "run"
    train(backbone, source_table, compile_cache, workdir, "dense,method=scratch")
    results = json.loads((workdir / "results.json").read_text())
    assert results["align"]["fa_before"] is None and results["source"] is None
    assert "no source model" in refused(capsys, f"--workdir={workdir}", "--bound")
