"""From a config to the arrays of its task: PDEBench's files, read or made once."""

import pathlib

import numpy as np
import pytest

from configs import offline, pde
from recraft_jax import asset_table, assets, errors, generate, metrics, targets
from recraft_jax.data import pdebench, pdebench_file, tasks
from recraft_jax.data.pdebench_layout import LAYOUTS


@pytest.fixture
def file(tmp_path):
    """Write a file of random values; returns its path."""

    def write(task, num=20, nx=16):
        rng = np.random.default_rng(0)
        fields = {
            name: rng.normal(1, 1, (num, *LAYOUTS[task].sample_shape(name, nx)))
            for name in LAYOUTS[task].fields
        }
        fields = {name: values.astype(np.float32) for name, values in fields.items()}
        path = tmp_path / LAYOUTS[task].file
        pdebench_file.write(path, task, nx, range(num), [fields])
        return path

    return write


def config_of(arg, path=""):
    config = pde.get_config(arg)
    config.data.path = str(path)
    config.data.num_samples = config.data.num_test = 0
    return config


def test_channels_come_last(file):
    path = file("cfd_2d")
    task = targets.load(config_of("cfd_2d", path))
    found = pdebench.load(path, "cfd_2d", "train")
    assert task.splits["train"]["x"].shape == (16, 8, 8, 4)
    for side in "xy":
        got = task.splits["train"][side]
        np.testing.assert_array_equal(got, np.moveaxis(found[side], 1, -1))


def test_corrected_fluid_has_three_channels_and_the_official_one(file):
    path = file("cfd_1d")
    corrected = targets.load(config_of("cfd_1d", path)).splits["test"]["x"]
    official = targets.load(config_of("cfd_1d,protocol=official", path))
    assert corrected.shape == (2, 16, 3)
    assert official.splits["test"]["x"].shape == (2, 48, 1)
    flat = pdebench.load(path, "cfd_1d", "test")["x"].reshape(2, 3, 16)
    np.testing.assert_array_equal(corrected, np.moveaxis(flat, 1, -1))


def test_official_selects_on_test(file):
    splits = targets.load(
        config_of("burgers,protocol=official", file("burgers"))
    ).splits
    np.testing.assert_array_equal(splits["val"]["y"], splits["test"]["y"])
    assert len(splits["train"]["x"]) == 18


def test_course_goes_through_input_and_target(file):
    path = file("burgers")
    for arg, frame in (("burgers", 2), ("burgers,protocol=official", 200)):
        task = targets.load(config_of(arg, path))
        assert task.course["frame"] == frame
        values, test = task.course["values"], task.splits["test"]
        np.testing.assert_array_equal(values[:, 0], test["x"])
        np.testing.assert_array_equal(values[:, frame], test["y"])


def test_folder_means_the_file_of_the_published_name(file):
    path = file("darcy")
    assert targets.find_file(config_of("darcy", path.parent)) == path
    with pytest.raises(errors.InputError, match="no such file"):
        targets.load(config_of("burgers", path.parent))


def test_missing_data_are_made_once(tmp_path, capsys, monkeypatch):
    config = pde.get_config("advection")
    config.assets.cache = str(tmp_path)
    config.data.num_samples, config.data.num_test, config.data.num_points = 8, 2, 16
    task = targets.load(config)
    said = capsys.readouterr().out
    assert said.count("generating 20 samples of advection (accurate, 16 cells") == 1
    assert [len(task.splits[s]["x"]) for s in ("train", "val", "test")] == [7, 1, 2]
    monkeypatch.setattr(generate, "make", None)
    again = targets.load(config)
    np.testing.assert_array_equal(again.splits["test"]["y"], task.splits["test"]["y"])


@pytest.mark.parametrize("name", targets.TARGETS)
def test_table_is_sound(name):
    target = targets.TARGETS[name]
    assert target.kind in tasks.KINDS
    assert target.metric in {*metrics.METRICS, "rmse"}
    assert bool(target.num_classes) == (target.kind in ("classification", "multilabel"))


def test_packaged_reader_gets_its_files_and_the_numbers_of_the_config(monkeypatch):
    monkeypatch.setattr(assets, "fetch", lambda name, cache: pathlib.Path(cache, name))
    calls = []
    read = targets._packaged("plaid", lambda *args, **kw: calls.append((args, kw)))
    config = offline.get_config("plaid")
    config.assets.cache = "/cache"
    config.data.num_samples, config.data.num_test, config.data.seed = 5, 6, 7
    read(config)
    paths = tuple(
        pathlib.Path("/cache/plaid") / f"PLAID_{s}.ts" for s in ("TRAIN", "TEST")
    )
    assert calls == [(paths, {"num_train": 5, "num_test": 6, "seed": 7})]
    darcy = tuple(asset_table.ASSETS["darcy16"].files)
    assert darcy == ("darcy_train_16.pt", "darcy_test_16.pt")


def test_regression_targets_are_read_and_split(monkeypatch, tmp_path):
    monkeypatch.setattr(assets, "fetch", lambda name, cache: tmp_path)
    for split, num in (("TRAIN", 10), ("TEST", 3)):
        rows = [
            ",".join(str(value + len(split) * 100 + row) for value in range(100))
            + f":{row}.5"
            for row in range(num)
        ]
        (tmp_path / f"Tecator_{split}.ts").write_text("@data\n" + "\n".join(rows))
    task = targets.load(offline.get_config("tecator"))
    assert task[:3] == ("tecator", "regression", "rmse") and task.num_classes == 0
    shapes = [task.splits[split]["y"].shape for split in tasks.SPLITS]
    assert shapes == [(8, 1), (2, 1), (3, 1)]


def test_unknown_task_is_refused_with_all_that_are_known():
    config = offline.get_config()
    config.task = "plad"
    with pytest.raises(errors.InputError, match="task 'plad'; allowed: .*plaid.*tones"):
        targets.load(config)
