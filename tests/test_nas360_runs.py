"""Each of the ten tasks, from its files to a result."""

import json

import nas360_writers
import numpy as np
import pytest

from configs import nas360
from recraft_jax import main


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return nas360_writers.write_all(tmp_path_factory.mktemp("nas360"))


@pytest.mark.parametrize("task", nas360.TASKS)
def test_task_runs_from_its_files_to_a_result(
    root, task, backbone, compile_cache, tmp_path
):
    protocol = "official" if task in ("psicov", "cosmic", "ecg") else "corrected"
    fields = {
        "data.path": root,
        "assets.cache": compile_cache,
        "stage2.num_epochs": 1,
        "stage2.batch_size": 4,
        "stage2.eval_batch_size": 4,
        "fld.num_clusters": 2,
    }
    if task == "darcy_flow":
        fields["embedder.patch"] = 1  # the grid of the test's file is 5 x 5
    workdir = tmp_path / "run"
    argv = [
        "main",
        f"--config=configs/nas360.py:{task},method=scratch,backbone={backbone},"
        f"protocol={protocol}",
        *(f"--config.{name}={value}" for name, value in fields.items()),
        f"--workdir={workdir}",
    ]
    assert main.main(argv) == 0
    results = json.loads((workdir / "results.json").read_text())
    assert results["task"] == task and results["protocol"] == protocol
    assert np.isfinite(results["test"]["best_val"])
    assert np.isfinite(results["baselines"]["mean"])
    assert set(results["also"]) == {
        "cosmic": {"fnr"},
        "ecg": {"1-f1_records"},
    }.get(task, set())
    is_mean = results["metric"] in ("error", "nrmse")
    assert (workdir / "samples.npz").exists() == is_mean
    assert (workdir / "predictor.json").exists()
