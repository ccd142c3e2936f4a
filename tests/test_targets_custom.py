"""Somebody's own arrays: what is resolved, what is refused, what a run leaves."""

import functools
import json

import h5py
import numpy as np
import pytest

from configs import custom
from recraft_jax import errors, main, targets, targets_custom
from recraft_jax.data import tasks


def write(folder, num=60, **changes):
    rng = np.random.default_rng(0)
    y = np.array(["cat", "dog", "eel"])[np.arange(num) % 3]
    x = rng.normal(size=(num, 24, 2)) + (np.arange(num) % 3)[:, None, None]
    path = folder / "data.npz"
    np.savez(path, **({"x": x.astype(np.float32), "y": y} | changes))
    return path


def resolved(path, keys="", **fields):
    arg = f"path={path}{',' * bool(keys)}{keys}"
    argv = [f"--config.{name}={value}" for name, value in fields.items()]
    return main.parse(["main", f"--config=configs/custom.py:{arg}", *argv])[0]


# ------------------------------------------------------------------------------ config
@pytest.mark.parametrize("arg", ["", "method=nft", "path=", "path=a,path=b"])
def test_path_is_needed_once(arg):
    with pytest.raises(ValueError, match="allowed: once, path=FILE"):
        custom.get_config(arg)


def test_unknown_key_and_missing_file_are_refused(tmp_path):
    with pytest.raises(errors.InputError, match="unknown key 'mehtod'"):
        resolved("a.npz", "mehtod=nft")
    with pytest.raises(errors.InputError, match="there is no such file"):
        resolved(tmp_path / "none.npz")


def test_everything_is_resolved_into_the_config(tmp_path):
    config = resolved(write(tmp_path), "method=nft")
    data = config.data
    assert (data.kind, data.channels, data.metric) == (
        "classification",
        "last",
        "error",
    )
    assert (data.scale_x, data.columns, len(data.sha256)) == ("channel", ("x",), 64)
    assert config.embedder.patch == 2  # 12 tokens
    # 800 steps of 16 would be 200 epochs of 60 samples.
    assert config.stage2.num_epochs == targets_custom.MAX_EPOCHS["demo"]
    named = ("kind", "channels", "metric", "scale_x", "scale_y", "loss")
    assert all(data[name] != targets_custom.AUTO for name in named)


def test_fields_begin_at_their_mean_with_a_fast_head(tmp_path):
    x = np.random.default_rng(0).normal(size=(60, 12, 12))
    config = resolved(write(tmp_path, x=x, y=x**2))
    assert (config.data.kind, config.data.scale_y) == ("dense", "point")
    assert config.stage2.optim.new_lr_factor == 30
    fno = resolved(write(tmp_path, x=x, y=x**2), "method=fno")
    assert fno.stage2.optim.new_lr_factor == 1


def test_what_is_given_is_kept(tmp_path):
    fields = {
        **{"data.metric": "1-f1", "data.scale_x": "none", "embedder.patch": 8},
        **{"stage2.num_epochs": 3, "stage2.optim.new_lr_factor": 2.0},
    }
    config = resolved(write(tmp_path), **fields)
    assert config.stage2.optim.new_lr_factor == 2
    assert (config.data.metric, config.data.scale_x) == ("1-f1", "none")
    assert (config.embedder.patch, config.stage2.num_epochs) == (8, 3)
    with pytest.raises(errors.InputError, match="allowed for classification: error"):
        resolved(write(tmp_path), **{"data.metric": "rmse"})


def test_other_content_is_another_run(tmp_path):
    path = write(tmp_path)
    before = resolved(path)
    write(tmp_path, num=63)
    after = resolved(path)
    assert before.data.sha256 != after.data.sha256
    assert main.default_workdir(before) != main.default_workdir(after)
    with pytest.raises(errors.InputError, match="has changed since this run began"):
        targets.load(before)


def test_task_has_names_and_says_what_it_is(tmp_path):
    task = targets.load(resolved(write(tmp_path)))
    assert task.labels == ("cat", "dog", "eel")
    assert "classification, 3 classes: cat, dog, eel (data.kind)" in task.about
    sizes = [len(task.splits[split]["x"]) for split in tasks.SPLITS]
    assert sizes == [41, 7, 12] and sum(sizes) == 60


def test_as_many_samples_as_asked_for(tmp_path):
    config = resolved(write(tmp_path), **{"data.num_samples": 30, "data.num_test": 6})
    task = targets.load(config)
    sizes = [len(task.splits[split]["x"]) for split in tasks.SPLITS]
    assert sum(sizes[:2]) == 30 and sizes[2] == 6


def test_targets_few_and_alike_have_fewer_clusters(tmp_path):
    y = np.repeat([1.5, 2.5, 4.5], 20)
    path = write(tmp_path, y=y)
    config = resolved(path, **{"data.kind": "regression"})
    task = targets.load(config)
    assert targets_custom.num_clusters(task.splits["train"]["y"], 10) == 3


# -------------------------------------------------------------------------- end to end
def run(path, backbone, compile_cache, workdir, **fields):
    fields = {"stage2.num_epochs": 2, "assets.cache": compile_cache} | fields
    return main.main(
        [
            "main",
            f"--config=configs/custom.py:path={path},method=scratch,backbone={backbone}",
            *(f"--config.{name}={value}" for name, value in fields.items()),
            f"--workdir={workdir}",
        ]
    )


def test_file_becomes_a_result_in_one_command(
    tmp_path, backbone, compile_cache, capsys
):
    workdir = tmp_path / "run"
    given = (write(tmp_path), backbone, compile_cache, workdir)
    assert run(*given) == 0
    out = capsys.readouterr().out
    assert out.startswith("data ") and "(data.kind)" in out
    results = json.loads((workdir / "results.json").read_text())
    assert results["data"]["test"] == 12 and results["metric"] == "error"
    stored = json.loads((workdir / "config.json").read_text())
    assert stored["data"]["kind"] == "classification"
    assert stored["data"]["sha256"]
    assert run(*given) == 0  # the table of the finished run
    again = capsys.readouterr().out
    assert "phase fit" in out and "phase fit" not in again
    assert "test error on 12 samples" in again


def test_bad_data_is_one_line_and_nothing_is_written(
    tmp_path, backbone, compile_cache, capsys
):
    x = np.zeros((60, 4), np.float32)
    x[7, 2] = np.nan
    path = write(tmp_path, x=x)
    workdir = tmp_path / "run"
    assert run(path, backbone, compile_cache, workdir) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "row 7" in err
    assert not workdir.exists()


def test_same_arrays_and_settings_are_the_same_run(
    smoke, tmp_path, backbone, compile_cache
):
    """`waves` as somebody's own file, with its split, gives its score bit for bit."""
    argv = smoke("classes,method=scratch")
    theirs = tmp_path / "theirs"
    assert main.main([*argv, f"--workdir={theirs}"]) == 0
    config, _ = main.parse(argv)
    task = targets.load(config)
    parts = [task.splits[split] for split in tasks.SPLITS]
    path = tmp_path / "waves.h5"
    with h5py.File(path, "w") as file:
        file["x"] = np.concatenate([part["x"] for part in parts])
        file["y"] = np.concatenate([part["y"] for part in parts])
        names = np.repeat(tasks.SPLITS, [len(part["x"]) for part in parts])
        file["split"] = names.astype("S")
    same = ("embedder.patch", "stage2.num_epochs", "stage2.batch_size")
    same += ("stage2.optim.new_lr_factor", "stage2.eval_batch_size")
    flat = {name: functools.reduce(getattr, name.split("."), config) for name in same}
    ours = tmp_path / "ours"
    assert run(path, backbone, compile_cache, ours, **flat) == 0
    tests = [
        json.loads((place / "results.json").read_text())["test"]
        for place in (theirs, ours)
    ]
    assert tests[0] == tests[1]
