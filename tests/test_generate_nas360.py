"""Darcy Flow and Spherical from the command line: files, resuming, refusals."""

import json

import nas360_files
import numpy as np
import pytest
import scipy.io

from recraft_jax import generate, generate_nas360
from recraft_jax.data.nas360 import darcy_flow, spherical
from recraft_jax.pde import piecewise_darcy


def darcy(folder, *more, num=4):
    given = ("--task=darcy_flow", f"--out={folder}", f"--num={num}", "--nx=16")
    return generate.main([*given, *more])


def test_darcy_flow_is_made_for_its_reader(tmp_path):
    assert darcy(tmp_path, "--key=3", "--low=3", num=20) == 0
    found = scipy.io.loadmat(tmp_path / darcy_flow.FILES["train"])
    assert found["coeff"].shape == (20, 16, 16)
    assert set(np.unique(found["coeff"])) == {3, 12}
    _, want = piecewise_darcy.sample("train", 7, nodes=16, seed=3, low=3.0)
    np.testing.assert_array_equal(found["sol"][7], want)
    loaded = darcy_flow.load(tmp_path, boundary_eps=False)
    assert [len(loaded[split]["x"]) for split in ("train", "test")] == [20, 2]
    assert not list(tmp_path.glob("*.parts"))


def test_killed_darcy_flow_goes_on_where_it_was(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(generate_nas360, "CHUNK", 2)
    made = []
    sample = piecewise_darcy.sample

    def counted(split, index, **options):
        if len(made) == 5:
            raise KeyboardInterrupt
        made.append((split, index))
        return sample(split, index, **options)

    monkeypatch.setattr(piecewise_darcy, "sample", counted)
    with pytest.raises(KeyboardInterrupt):
        darcy(tmp_path, num=6)
    assert not (tmp_path / darcy_flow.FILES["train"]).exists()
    made.clear()
    assert darcy(tmp_path, num=6) == 0
    assert made == [("train", 4), ("train", 5), ("test", 0)]
    killed = scipy.io.loadmat(tmp_path / darcy_flow.FILES["train"])["sol"]
    whole = [sample("train", i, nodes=16, seed=0, low=4.0)[1] for i in range(6)]
    np.testing.assert_array_equal(killed, whole)
    assert darcy(tmp_path, num=6) == 0
    assert capsys.readouterr().out.count("there already") == 2


def test_other_settings_are_refused(tmp_path, capsys):
    assert darcy(tmp_path, num=1) == 0
    assert darcy(tmp_path, "--key=1", num=1) == 2
    assert "made with other settings (key: 0 -> 1)" in capsys.readouterr().err
    (tmp_path / f"{darcy_flow.FILES['train']}.json").unlink()
    assert darcy(tmp_path, num=1) == 2
    assert "does not say how it was made" in capsys.readouterr().err


def test_spherical_is_made_from_photographs(tmp_path):
    nas360_files.write_cifar100(tmp_path, num_train=10, num_test=8)
    given = ["--task=spherical", f"--out={tmp_path}", "--num=10", "--nx=12"]
    assert generate.main(given) == 0
    found = spherical.load(tmp_path, test_in_train=False)
    assert found["train"]["x"].shape == (10, 12, 12, 3)
    assert found["test"]["x"].shape == (2, 12, 12, 3)
    card = json.loads((tmp_path / "s2_cifar100.gz.json").read_text())
    assert card == {"task": "spherical", "num": 10, "nx": 12, "key": 0}
    assert generate.main(given) == 0


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--task=darcy_flow", "--low=20"], "a permeability above 0 and up to 12"),
        (["--task=darcy_flow", "--nx=2"], "allowed: 3 nodes or more"),
        (["--task=darcy_flow", "--num=0"], "--num=0; allowed: 1 or more"),
        (["--task=darcy_flow", "--mode=compat"], "allowed: leave them out"),
        (["--task=spherical", "--nx=13"], "--nx=13; allowed: even numbers"),
        (["--task=spherical"], "cifar-100-python"),
        (["--task=burgers", "--low=3"], "allowed: with --task=darcy_flow"),
        (["--task=darcyflow"], "darcy_flow, spherical"),
    ],
)
def test_bad_arguments_are_one_line(tmp_path, capsys, argv, message):
    assert generate.main([*argv, f"--out={tmp_path}"]) == 2
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_folder_must_exist(tmp_path, capsys):
    assert generate.main(["--task=darcy_flow", f"--out={tmp_path / 'no'}"]) == 2
    assert "allowed: a folder that exists" in capsys.readouterr().err
