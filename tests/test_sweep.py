"""Sweeps as lists of commands."""

import ast
import pathlib
import shlex
import subprocess
import sys

import pytest

from recraft_jax import main

ROOT = pathlib.Path(__file__).parents[1]
TWO_RUNS = """
def sweep():
    yield {"method": "nft", "seed": 0}
    yield {"fa.omega": 0.2, "task": "burgers", "stage2.freeze_embedder": True}
"""


@pytest.fixture
def sweep(tmp_path):
    """Run the script on a config file of these lines; the file is `x.py`."""

    def run(source, *args, arg=""):
        if source is not None:
            (tmp_path / "x.py").write_text(source)
        return subprocess.run(
            [sys.executable, ROOT / "launch" / "sweep.py", f"x.py{arg}", *args],
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )

    return run


def test_one_command_a_run(sweep):
    done = sweep(TWO_RUNS)
    assert done.returncode == 0 and done.stderr == ""
    assert done.stdout.splitlines() == [
        "python -m recraft_jax.main --config=x.py:method=nft,seed=0",
        "python -m recraft_jax.main --config=x.py:burgers --config.fa.omega=0.2 "
        "--config.stage2.freeze_embedder=true",
    ]


def test_run_overrides_what_follows_the_colon(sweep):
    done = sweep(TWO_RUNS, "--prefix=bash launch/local.sh --", arg=":darcy,seed=7,a=b")
    assert done.stdout.splitlines() == [
        "bash launch/local.sh -- --config=x.py:darcy,seed=0,a=b,method=nft",
        "bash launch/local.sh -- --config=x.py:burgers,seed=7,a=b "
        "--config.fa.omega=0.2 --config.stage2.freeze_embedder=true",
    ]


def test_values_survive_the_shell(sweep, tmp_path):
    evil = 'it\'s "q" $(touch pwned); `touch pwned` * \\ & |\nline'
    source = f'def sweep():\n    yield {{"backbone": {evil!r}, "data.path": {evil!r}}}'
    done = sweep(source, "--prefix=printf '%s\\0'")
    out = subprocess.run(["bash"], input=done.stdout, capture_output=True, text=True)
    assert out.stdout.split("\0")[:-1] == [
        f"--config=x.py:backbone={evil}",
        f"--config.data.path={evil}",
    ]
    assert not (tmp_path / "pwned").exists()
    assert shlex.split(done.stdout)[2] == f"--config=x.py:backbone={evil}"


def test_config_without_keys_has_no_colon(sweep):
    done = sweep("def sweep():\n    yield {}")
    assert done.stdout == "python -m recraft_jax.main --config=x.py\n"


BAD = {
    "no file": (
        None,
        [],
        "there is no file 'x.py'; allowed: a Python file with sweep()",
    ),
    "no sweep": ("x = 1", [], "x.py has no sweep(); allowed: a file with one"),
    "sweep of something else": (
        "def sweep():\n    yield 'nft'",
        [],
        "x.py: sweep() yields 'nft'; allowed: dicts",
    ),
    "comma in a key's value": (
        "def sweep():\n    yield {'backbone': 'a/b,c'}",
        [],
        "x.py: backbone = 'a/b,c'; allowed: no comma in it",
    ),
    "unknown option": (
        TWO_RUNS,
        ["--start"],
        "unrecognized arguments: --start; allowed",
    ),
    "no value": (TWO_RUNS, ["--prefix"], "expected one argument; allowed: FILE"),
    "missing module": (
        "import no_such_module",
        [],
        "x.py: No module named 'no_such_module'; allowed: the Python the project is in",
    ),
}


@pytest.mark.parametrize(("source", "args", "message"), BAD.values(), ids=BAD)
def test_bad_input_is_one_line(sweep, source, args, message):
    done = sweep(source, *args)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert message in done.stderr


def test_bad_default_is_one_line(sweep):
    done = sweep(TWO_RUNS, arg=":darcy,nft")
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "x.py:darcy,nft: 'nft'; allowed: key=value" in done.stderr


def test_help_says_what_it_does():
    script = ROOT / "launch" / "sweep.py"
    done = subprocess.run(
        [sys.executable, script, "-h"], capture_output=True, text=True
    )
    assert done.returncode == 0 and "start nothing" in done.stdout


def test_sweep_of_pde_is_read_by_main():
    script = ROOT / "launch" / "sweep.py"
    command = [sys.executable, script, f"{ROOT}/configs/pde.py:scale=quick"]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    lines = [shlex.split(line) for line in out.splitlines()]
    assert len(lines) == len({*map(tuple, lines)}) == 27
    found = []
    for line in (lines[0], lines[1], lines[8], lines[-1]):
        assert line[:3] == ["python", "-m", "recraft_jax.main"]
        config = main.parse(line[2:])[0]
        assert (config.task, config.scale) == ("darcy16", "quick")
        found.append((config.method, config.seed, config.fa.omega))
    assert found[0] == ("nft", 0, 1.0)
    assert found[1:] == [("recraft", 0, 0.1), ("recraft", 0, 8.0), ("recraft", 2, 8.0)]


def test_script_needs_nothing_but_python():
    """It may be run before anything is installed."""
    tree = ast.parse((ROOT / "launch" / "sweep.py").read_text())
    names = [
        a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names
    ]
    names += [n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)]
    assert {name.partition(".")[0] for name in names} <= sys.stdlib_module_names
