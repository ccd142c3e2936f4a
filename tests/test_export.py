"""Export of a run: loads without this package, says what it is, predicts the same."""

import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from recraft_jax import build, export, main, predictor

ALONE = """
import importlib.abc, sys
sys.path = [p for p in sys.path if p]
class Refuse(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {names!r}:
            raise ImportError(name + " is not there")
sys.meta_path.insert(0, Refuse())
sys.path.insert(0, {folder!r})
import numpy, load
predict = load.load({folder!r})
numpy.savez({out!r}, **predict(numpy.load({x!r})))
"""
ABSENT = ("recraft_jax", "safetensors", "flatbuffers", "flax", "transformers", "ott")


@pytest.fixture(scope="module")
def exported(smoke, tmp_path_factory):
    folder = tmp_path_factory.mktemp("export")
    workdir, out = folder / "run", folder / "artifact"
    argv = [*smoke("classes,method=scratch"), f"--workdir={workdir}"]
    assert main.main(argv) == 0
    assert export.main([f"--workdir={workdir}", f"--out={out}"]) == 0
    return workdir, out, main.parse(argv)[0]


def test_process_without_this_package_predicts_the_same(exported, tmp_path):
    workdir, out, config = exported
    x = build.target(config).task.splits["test"]["x"]
    np.save(tmp_path / "x.npy", x)
    paths = {"folder": str(out), "x": str(tmp_path / "x.npy")}
    paths["out"] = str(tmp_path / "found.npz")
    code = ALONE.format(names=ABSENT, **paths)
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)
    want = predictor.run(predictor.load(workdir), x)
    with np.load(tmp_path / "found.npz") as found:
        assert set(found) == {"logits", "probabilities"}
        for name in found:
            np.testing.assert_allclose(found[name], want[name], rtol=0, atol=1e-5)


def test_manifest_says_what_it_is(exported):
    workdir, out, _ = exported
    results = json.loads((workdir / "results.json").read_text())
    manifest = json.loads((out / "manifest.json").read_text())
    about = manifest["about"]
    assert about["kind"] == "classification" and about["metric"] == "error"
    assert about["scores"]["test"] == results["test"]["best_val"]
    assert about["baselines"] == results["baselines"]
    assert manifest["x"]["shape"] == ["b", 32, 1]
    assert manifest["outputs"]["logits"]["shape"] == ["b", 3]
    mean = predictor.load(workdir).signature.scale_x.mean
    np.testing.assert_allclose(about["normalisation"]["x"]["mean"], mean.tolist())
    readme = (out / "README.md").read_text()
    assert "jax" in readme and "numpy" in readme


def test_no_path_of_this_machine_is_in_it(exported):
    _, out, _ = exported
    here = str(pathlib.Path(__file__).parents[1]).encode()
    assert all(here not in path.read_bytes() for path in out.iterdir())


def test_bad_folders_are_refused(exported, tmp_path, capsys):
    workdir, out, _ = exported
    assert export.main([f"--workdir={tmp_path}", f"--out={tmp_path / 'a'}"]) == 2
    assert "holds no predictor" in capsys.readouterr().err
    assert export.main([f"--workdir={workdir}", f"--out={out}"]) == 2
    err = capsys.readouterr().err
    assert str(out) in err and err.count("\n") == 1
    assert not (tmp_path / "a").exists()
