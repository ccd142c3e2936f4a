"""Generation: any chunk, any kill, the same file; bad input; both ways of solving."""

import json
import pathlib
import subprocess
import sys

import h5py
import jax.numpy as jnp
import numpy as np
import pytest

from recraft_jax import errors, generate
from recraft_jax.data import pdebench_layout
from recraft_jax.pde import equation

LAYOUT = pdebench_layout.LAYOUTS["diffusion_reaction"]
ASKED = {
    "task": "diffusion_reaction",
    "num": 7,
    "nx": 8,
    "key": 5,
    "mode": "accurate",
    "chunk": 2,
}


def draw(key, num, nx):
    """Numbers that depend on the key and on how many are drawn."""
    return {"a": np.random.default_rng((key, num)).random((num, nx))}


def solve(sample, *, nx, mode):
    """Fields that grow linearly; what they hold tells how they were computed."""
    times = jnp.arange(LAYOUT.num_frames, dtype=sample["a"].dtype)
    assert sample["a"].shape[1] == nx
    return {"tensor": sample["a"][:, None, :] + times[:, None]}


def toy(**fields):
    settings = {
        "draw": draw,
        "solve": solve,
        "times": np.arange(LAYOUT.num_frames),
        "domain": (0.0, 1.0),
        "run_size": 100,
        "cost": dict.fromkeys(equation.MODES, (0.5, 8, 2.0)),
    }
    return equation.Equation(**settings | fields)


@pytest.fixture
def pde(monkeypatch):
    """Put a toy in the place of the equation."""

    def put(**fields):
        generate._draw.cache_clear()
        monkeypatch.setattr(generate, "find", lambda task: toy(**fields))

    put()
    return put


def tensor(path):
    with h5py.File(path) as file:
        return file["tensor"][:]


def want(num, nx=8, key=5):
    return draw(key, num, nx)["a"][:, None, :] + np.arange(LAYOUT.num_frames)[:, None]


@pytest.mark.parametrize("chunk", [0, 1, 2, 3, 7, 20])
def test_chunks_do_not_change_the_file(pde, chunk, tmp_path):
    out = tmp_path / "made.hdf5"
    generate.make(out, **ASKED | {"chunk": chunk})
    np.testing.assert_array_equal(tensor(out), want(7).astype(np.float32))
    # Nothing is left but the file and what it says of itself.
    assert sorted(p.name for p in tmp_path.iterdir()) == [out.name, f"{out.name}.json"]
    card = json.loads((tmp_path / f"{out.name}.json").read_text())
    assert {k: v for k, v in card.items() if k != "chunk"} == {
        k: v for k, v in ASKED.items() if k != "chunk"
    }


def test_killed_generation_goes_on_to_the_same_bytes(pde, tmp_path, monkeypatch):
    whole, out = tmp_path / "whole.hdf5", tmp_path / "made.hdf5"
    generate.make(whole, **ASKED)
    drawn = []

    def dying(key, num, nx):
        drawn.append(key)
        if len(drawn) == 4:  # the first draw is a check
            raise KeyboardInterrupt
        return draw(key, num, nx)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        pde(draw=dying)
        patch.setattr(generate, "_draw", lambda draw, *args: draw(*args))
        generate.make(out, **ASKED)
    parts = out.with_name("made.hdf5.parts")
    first = sorted(parts.glob("*.npz"))
    assert not out.exists() and len(first) == 2
    stamps = [path.stat().st_mtime_ns for path in first]
    # A file that was being written when the process died is no part of it.
    (parts / ".00000004.npz.abc").write_bytes(b"half")
    pde()
    kept = []

    def look(folder):
        kept.extend(path.stat().st_mtime_ns for path in first)

    with monkeypatch.context() as patch:
        patch.setattr(generate.shutil, "rmtree", look)
        generate.make(out, **ASKED | {"chunk": 5})  # goes on with the chunks it has
    assert kept == stamps
    assert out.read_bytes() == whole.read_bytes()


def test_finished_file_is_left_alone(pde, tmp_path):
    out = tmp_path / "made.hdf5"
    generate.make(out, **ASKED)
    stamp = out.stat().st_mtime_ns
    pde(solve=None)
    generate.make(out, **ASKED)
    assert out.stat().st_mtime_ns == stamp


def test_kills_at_the_edges_leave_nothing_behind(pde, tmp_path):
    out, parts = tmp_path / "made.hdf5", tmp_path / "made.hdf5.parts"
    parts.mkdir()  # killed before it said what it makes
    generate.make(out, **ASKED)
    np.testing.assert_array_equal(tensor(out), want(7).astype(np.float32))
    parts.mkdir()  # killed before it cleaned up
    generate.make(out, **ASKED)
    assert not parts.exists()


def test_too_few_cells_are_refused_before_anything_is_made(tmp_path, capsys):
    out = tmp_path / "made.hdf5"
    assert generate.main(["--task=burgers", "--nx=4", "--num=2", f"--out={out}"]) == 2
    assert "allowed: at least" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_file_of_other_settings_is_refused(pde, tmp_path):
    out = tmp_path / "made.hdf5"
    generate.make(out, **ASKED)
    with pytest.raises(
        errors.InputError, match=r"other settings \(.*key.*another --out"
    ):
        generate.make(out, **ASKED | {"key": 6})
    (tmp_path / "made.hdf5.json").unlink()
    with pytest.raises(errors.InputError, match="does not say how it was made"):
        generate.make(out, **ASKED)


def test_large_sets_join_runs_of_keys_one_apart(pde, tmp_path):
    pde(run_size=3)
    out = tmp_path / "made.hdf5"
    generate.make(out, **ASKED)
    runs = [want(3, key=5 + run) for run in range(3)]
    np.testing.assert_array_equal(tensor(out), np.concatenate(runs)[:7].astype("f4"))


def test_seeds_go_on_over_runs(pde, tmp_path):
    def seeds(key, num, nx):
        return {"a": np.tile((key + np.arange(num, dtype=float))[:, None], nx)}

    pde(draw=seeds, run_size=3, is_seeded=True)
    out = tmp_path / "made.hdf5"
    generate.make(out, **ASKED)
    np.testing.assert_array_equal(tensor(out)[:, 0, 0], 5 + np.arange(7))


@pytest.mark.parametrize(("mode", "form"), [("accurate", "f8"), ("compat", "f4")])
def test_modes_compute_in_their_precision(pde, mode, form, tmp_path):
    def precise(sample, *, nx, mode):
        assert sample["a"].dtype == np.dtype(form)
        return solve(sample, nx=nx, mode=mode)

    pde(solve=precise)
    generate.make(tmp_path / "made.hdf5", **ASKED | {"mode": mode})


def test_solutions_that_are_not_finite_stop_and_keep_the_rest(pde, tmp_path):
    def drawn(key, num, nx):
        values = draw(key, num, nx)["a"]
        values[4] = np.nan
        return {"a": values}

    pde(draw=drawn)
    out = tmp_path / "made.hdf5"
    with pytest.raises(errors.RunError, match="tensor of sample 4 is not finite"):
        generate.make(out, **ASKED)
    assert not out.exists()
    assert len(list((tmp_path / "made.hdf5.parts").glob("0*.npz"))) == 2


def test_estimate_grows_with_samples_and_cells(pde):
    assert generate.seconds("diffusion_reaction", 10, 8, "compat") == 5.0
    assert generate.seconds("diffusion_reaction", 10, 16, "compat") == 20.0


BAD = {
    "task": (["--task=burger"], "--task=burger; allowed: advection, burgers"),
    "mode": (["--mode=exact"], "--mode=exact; allowed: compat, accurate"),
    "num": (["--num=0"], "--num=0; allowed: 1 or more"),
    "nx": (["--nx=0"], "--nx=0; allowed: 1 or more"),
    "key": (["--key=-1"], "--key=-1; allowed: 0 or more"),
    "seed": (["--key=4294967295"], "allowed: seeds below 2**32"),
    "chunk": (["--chunk=-2"], "--chunk=-2; allowed: 0 or more"),
    "folder": (["--out=no/made.hdf5"], "there is no folder no; allowed: an existing"),
    "word": (["--num=many"], "invalid int value: 'many'"),
    "unknown": (["--nump=3"], "unrecognized arguments: --nump=3"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_arguments_get_one_line(pde, name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    arguments, message = BAD[name]
    base = {"--task": "diffusion_reaction", "--num": "2", "--nx": "8"}
    base |= dict(argument.split("=") for argument in arguments)
    assert generate.main([f"{k}={v}" for k, v in base.items()]) == 2
    err = capsys.readouterr().err
    assert message in err and err.startswith("error: ") and err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_command_says_what_it_makes_and_where(pde, tmp_path, capsys):
    out = tmp_path / "made.hdf5"
    arguments = ["--task=diffusion_reaction", "--num=3", "--nx=8", f"--out={out}"]
    assert generate.main(arguments) == 0
    said = capsys.readouterr().out
    assert "generating 3 samples of diffusion_reaction (accurate, 8 cells" in said
    assert "about 2 s on two cores" in said and "3/3 samples" in said
    np.testing.assert_array_equal(tensor(out), want(3, key=2022).astype(np.float32))
    assert generate.main(arguments) == 0
    assert "there already" in capsys.readouterr().out


def test_equations_solved_on_the_host_are_spread_over_processes(tmp_path):
    out = tmp_path / "made.h5"
    arguments = ["--task=diffusion_sorption", "--num=2", "--nx=8", "--mode=compat"]
    code = [sys.executable, "-m", "recraft_jax.generate", *arguments, f"--out={out}"]
    root = pathlib.Path(__file__).parents[1]
    subprocess.run(code, check=True, cwd=root, capture_output=True)
    with h5py.File(out) as file:
        assert list(file) == ["0000", "0001"]
        # Seed 0 draws 0.109763, everywhere.
        np.testing.assert_allclose(file["0000/data"][0], 0.109763, atol=1e-6)


@pytest.mark.parametrize("task", pdebench_layout.LAYOUTS)
def test_every_task_has_an_equation_of_its_layout(task):
    pde, layout = generate.find(task), pdebench_layout.LAYOUTS[task]
    assert pde.domain == layout.domain
    assert set(pde.cost) == set(equation.MODES)
    assert pde.is_seeded == layout.is_grouped
    if layout.num_frames:
        steps = layout.spacing * np.arange(layout.num_frames)
        np.testing.assert_allclose(pde.times, steps)
