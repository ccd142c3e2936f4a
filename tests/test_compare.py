"""The grid of runs, with a script in place of `main` that is done at once."""

import contextlib
import fcntl
import json
import os
import pathlib
import shlex
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from recraft_jax import (
    compare,
    comparison_grid,
    comparison_plots,
    errors,
    main,
    naming,
    plots,
)

ROOT = pathlib.Path(__file__).parents[1]
PDE = f"{ROOT}/configs/pde.py"

# What `main` leaves, from the command alone; PLAN says which runs go wrong and how.
FAKE = """
import json, os, pathlib, shutil, signal, sys, time
here = pathlib.Path(__file__).parent
plan = json.loads((here / "plan.json").read_text())
given = dict(a.removeprefix("--").split("=", 1) for a in sys.argv[1:])
task, *keys = given["config"].split(":")[1].split(",")
keys = dict(k.split("=") for k in keys)
method, seed = keys["method"], int(keys["seed"])
workdir = pathlib.Path(given["workdir"])
name = f"{task}/{method}/{seed}"
def log(what):
    with (here / "log").open("a") as file:
        file.write(f"{what} {name} {time.monotonic()} {os.getpid()}\\n")
log("start")
workdir.mkdir(parents=True, exist_ok=True)
print("a warning", file=sys.stderr)
time.sleep(plan.get("sleep", {}).get(name, 0))
if name in plan.get("fail", []):
    print("error: loss is nan at step 3", file=sys.stderr)
    sys.exit(1)
if name in plan.get("kill", []):
    os.kill(os.getpid(), signal.SIGKILL)
lr = float(given.get("config.stage2.optim.lr", 3e-4))
omega = float(given.get("config.fa.omega", 0.4))
test = 0.1 * len(method) + 0.01 * seed + 0.001 * omega + abs(lr - 9e-4)
results = {
    "task": task, "method": method, "seed": seed, "metric": "nrmse",
    "protocol": "corrected", "scale": "demo", "preset": "default",
    "backbone_name": "minilm", "git": None, "versions": {},
    "data": {"sha256": task, "train": 8, "val": 1, "test": 4},
    "test": {"best_val": test, "last": test + 0.5}, "val": {"best": test + 0.05},
    "baselines": {"mean": 1.0},
    "align": {"fa_before": None, "fa_after": None},
    "seconds": {"total": 4.0, "compile": 1.0, "align": 0.0, "fit": 2.0},
    "params": {"total": 20, "trained": 15},
}
(workdir / "metrics.jsonl").write_text(
    json.dumps({"step": 5, "phase": "fit", "loss": 1.0}) + "\\n"
    + json.dumps({"step": 5, "phase": "fit", "val_nrmse": test}) + "\\n")
shutil.copy(here / "samples.npz", workdir / "samples.npz")
(workdir / "new.json").write_text(json.dumps(results))
(workdir / "new.json").rename(workdir / "results.json")
log("end")
"""


class Fake:
    """The script: how it is called, and what it did."""

    def __init__(self, folder):
        self.folder = folder
        (folder / "fake.py").write_text(FAKE)
        each = np.array([0.1, 0.2, 0.3, 0.4])
        np.savez(folder / "samples.npz", best_val=each, last=each, finish="mean")
        self.command = (sys.executable, "-I", "-S", str(folder / "fake.py"))
        self.plan()

    def plan(self, **plan):
        (self.folder / "plan.json").write_text(json.dumps(plan))

    def log(self, what="start"):
        """Names of runs that started or ended, with times and processes."""
        path = self.folder / "log"
        lines = path.read_text().splitlines() if path.exists() else []
        return [line.split()[1:] for line in lines if line.startswith(what)]

    def names(self):
        return [name for name, *_ in self.log()]


@pytest.fixture
def fake(tmp_path, monkeypatch):
    monkeypatch.setattr(compare, "POLL_SECONDS", 0.01)
    folder = tmp_path / "fake"
    folder.mkdir()
    return Fake(folder)


@pytest.fixture
def written(monkeypatch):
    """Summaries in place of the files of a comparison."""
    found = []
    monkeypatch.setattr(compare, "write", lambda out, *made: found.append(made[0]))
    return found


def arguments(out, tasks="darcy16", methods="nft,recraft", seeds="0,1", **more):
    given = {"config": f"{PDE}:{tasks}", "methods": methods, "seeds": seeds, "out": out}
    given |= {name.replace("_", "-"): value for name, value in more.items()}
    return [f"--{name}={value}" for name, value in given.items()]


def grid(out, *overrides, **more):
    given, found = compare._parse([*arguments(out, **more), *overrides])
    return comparison_grid.resolve(given, found)


def grid_runs(out, **more):
    found = grid(out, **more)
    return comparison_grid.main_runs(found, dict.fromkeys(found.configs))


# ------------------------------------------------------------------------------ runner
def test_runs_in_order_and_finished_ones_are_skipped(fake, tmp_path):
    runs = grid_runs(tmp_path / "out")
    done = []
    found = compare.run_grid(
        runs, command=fake.command, done=lambda run, why, _: done.append((run, why))
    )
    assert found == {} and done == [(run, None) for run in runs]
    order = [f"darcy16/{method}/{seed}" for seed in (0, 1) for method in METHODS]
    assert fake.names() == order
    assert runs[0].workdir == tmp_path / "out/runs/darcy16/nft/seed-0"
    assert comparison_grid.log_path(runs[0]).read_text() == "a warning\n"
    (runs[2].workdir / "results.json").unlink()
    assert compare.run_grid(runs, command=fake.command) == {}
    assert fake.names() == [*order, "darcy16/nft/1"]


METHODS = ("nft", "recraft")


@pytest.mark.parametrize("jobs", [1, 2])
def test_jobs_run_at_once(fake, tmp_path, jobs):
    runs = grid_runs(tmp_path / "out", seeds="0,1")
    fake.plan(sleep={name: 0.25 for name in ("darcy16/nft/0", "darcy16/recraft/0")})
    compare.run_grid(runs, jobs=jobs, command=fake.command)
    events = [(float(t), 1) for _, t, _ in fake.log("start")]
    events += [(float(t), -1) for _, t, _ in fake.log("end")]
    assert max(np.cumsum([change for _, change in sorted(events)])) == jobs


def test_jobs_share_the_cores(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 2, 3, 5}, raising=False)
    assert compare.share_cores(1) == [()]
    assert compare.share_cores(2) == [(0, 3), (2, 5)]
    assert compare.share_cores(3) == [(0, 5), (2,), (3,)]
    assert compare.share_cores(5) == [()] * 5
    monkeypatch.delattr(os, "sched_getaffinity")
    assert compare.share_cores(2) == [()] * 2


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="no affinity here")
def test_a_run_keeps_to_its_cores(tmp_path):
    core = min(os.sched_getaffinity(0))
    wait = "import os, time; time.sleep(0.5); print(os.sched_getaffinity(0))"
    log = tmp_path / "log"
    compare._start([sys.executable, "-c", wait], log, [core]).wait()
    assert log.read_text() == f"{{{core}}}\n"


def test_failed_runs_say_why_and_the_others_go_on(fake, tmp_path):
    runs = grid_runs(tmp_path / "out")
    log = comparison_grid.log_path(runs[0])
    log.parent.mkdir(parents=True)
    log.write_text("error: of another day\n")
    fake.plan(fail=["darcy16/nft/1"], kill=["darcy16/nft/0"])
    found = compare.run_grid(runs, command=fake.command)
    assert found == {
        runs[0]: "killed by SIGKILL, out of memory?",
        runs[2]: "exit code 1: error: loss is nan at step 3",
    }
    assert [comparison_grid.is_finished(run) for run in runs] == [0, 1, 0, 1]
    fake.plan()
    assert compare.run_grid(runs, command=fake.command) == {}


def test_a_run_that_leaves_no_results_failed(tmp_path):
    (run, *_) = grid_runs(tmp_path / "out")
    command = (sys.executable, "-I", "-S", "-c", "print('all is well')")
    assert compare.run_grid([run], command=command) == {run: "exit code 0: all is well"}


def test_a_run_of_another_process_is_waited_for(fake, tmp_path):
    runs = grid_runs(tmp_path / "out", seeds="0")
    runs[0].workdir.mkdir(parents=True)
    lock = (runs[0].workdir / ".lock").open("w")
    fcntl.flock(lock, fcntl.LOCK_EX)
    freed = []

    def free():
        freed.append(time.monotonic())
        lock.close()

    threading.Timer(0.4, free).start()
    assert compare.run_grid(runs, command=fake.command) == {}
    (first, _, _), (second, at, _) = fake.log()
    assert (first, second) == ("darcy16/recraft/0", "darcy16/nft/0")
    assert float(at) > freed[0]


def test_processes_end_with_the_runner(fake, tmp_path):
    runs = grid_runs(tmp_path / "out")
    fake.plan(sleep={"darcy16/recraft/0": 60})

    def stop(run, *_):
        while len(fake.log()) < 2:
            time.sleep(0.01)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compare.run_grid(runs, jobs=2, command=fake.command, done=stop)
    for _, _, pid in fake.log():
        with pytest.raises(ProcessLookupError):
            os.kill(int(pid), 0)


def test_killed_comparison_ends_with_the_same_tables(fake, tmp_path, monkeypatch):
    whole = []
    out = tmp_path / "out"
    argv = arguments(out, tasks="darcy16,burgers", tune="1,3")
    fake.plan(sleep={"burgers/recraft/0": 60})
    code = "import sys; from recraft_jax import compare\n"
    code += f"sys.exit(compare.main({argv!r}, {fake.command!r}))"
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stderr=subprocess.PIPE, text=True
    )
    while "burgers/recraft/0" not in fake.names() and process.poll() is None:
        time.sleep(0.05)
    process.terminate()
    assert process.communicate(timeout=20)[1] == (
        "error: interrupted; run the same command again to resume\n"
    )
    assert process.returncode == 128 + signal.SIGTERM
    *_, (name, _, pid) = fake.log()
    assert name == "burgers/recraft/0"
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid), 0)
    fake.plan()
    before = len(fake.log())
    with contextlib.chdir(ROOT):
        assert compare.main(argv, fake.command) == 0
        started = fake.names()[before:]
        assert len(started) == 5 + 4  # trials that were left, and the second seed
        monkeypatch.setattr(compare, "write", lambda _, *made: whole.append(made[0]))
        assert compare.main([*argv, f"--out={tmp_path}/whole"], fake.command) == 0
    resumed = json.loads((out / "comparison.json").read_text())
    resumed.pop("origin")
    assert resumed == json.loads(json.dumps(whole[0]))
    names = {path.name for path in out.iterdir() if path.is_file()}
    assert names == {
        *("comparison.json", "table.md", "table.csv", "table.tex"),
        *("scores.png", "curves.png", "ranks.png"),
    }


# ------------------------------------------------------------------------- the command
def test_every_run_has_a_line(fake, tmp_path, written, capsys):
    fake.plan(fail=["darcy16/nft/1"])
    assert compare.main(arguments(tmp_path / "out"), fake.command) == 1
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert lines[0].startswith(
        "[1/4] darcy16 nft seed 0: nrmse 0.301 (val 0.351) in 0 s; 0 failed, ETA 0:0"
    )
    assert lines[2].startswith(
        "[3/4] darcy16 nft seed 1: FAILED, exit code 1: error: loss is nan at step 3; "
        "1 failed, ETA 0:0"
    )
    log = tmp_path / "out/runs/darcy16/nft/seed-1.log"
    assert err.splitlines() == [
        f"failed: {log}: exit code 1: error: loss is nan at step 3",
        "error: 1 of 4 runs failed; the same command tries them again",
    ]
    (summary,) = written
    assert summary["failed"][0]["log"] == "runs/darcy16/nft/seed-1.log"
    assert summary["tasks"]["darcy16"]["methods"]["nft"]["missing"] == [1]
    fake.plan()
    assert compare.main(arguments(tmp_path / "out"), fake.command) == 0
    assert capsys.readouterr().out.startswith("3 of 4 runs are finished\n[4/4] ")
    assert written[1]["failed"] == []


def test_all_failed_still_writes_the_tables(fake, tmp_path, capsys):
    fake.plan(fail=["darcy16/nft/0"])
    out = tmp_path / "out"
    argv = arguments(out, methods="nft", seeds="0")
    assert compare.main(argv, fake.command) == 1
    assert "| darcy16 | failed |" in (out / "table.md").read_text()
    assert json.loads((out / "comparison.json").read_text())["failed"]


def test_tuning_takes_the_best_factor_and_keeps_its_run(fake, tmp_path, written):
    argv = arguments(tmp_path / "out", methods="recraft,fno", tune="0.3,1,3")
    assert compare.main(argv, fake.command) == 0
    assert len(fake.log()) == 6 + 2
    cells = written[0]["tasks"]["darcy16"]["methods"]
    # The script likes 9e-4 best: three times recraft's 3e-4, 0.3 times FNO's 3e-3.
    assert cells["recraft"]["lr_factor"] == 3 and cells["fno"]["lr_factor"] == 0.3
    expected = [0.7 + 0.01 * seed + 0.0004 for seed in (0, 1)]
    np.testing.assert_allclose(cells["recraft"]["test"]["values"], expected)
    assert (tmp_path / "out/runs/darcy16/recraft/lr-3/seed-1/results.json").exists()
    assert written[0]["tuning"] == {"factors": [0.3, 1.0, 3.0], "settings": 3}


def test_omegas_are_swept_at_the_chosen_factor(fake, tmp_path, written):
    argv = arguments(tmp_path / "out", tune="3", omegas="0.1,0.4,1")
    assert compare.main(argv, fake.command) == 0
    # 1 is the config's own, of which the script is not told.
    assert len(fake.log()) == 4 + 2 * 2
    points = written[0]["omega"]["darcy16"]
    assert [p["omega"] for p in points] == [0.1, 0.4, 1.0]
    np.testing.assert_allclose(
        [p["mean"] for p in points], [0.7 + 0.005 + 0.001 * w for w in (0.1, 0.4, 0.4)]
    )
    folder = tmp_path / "out/runs/darcy16/recraft/lr-3/omega-0.1/seed-1"
    assert (folder / "results.json").exists()


def test_a_variant_is_a_method_with_other_values(fake, tmp_path, written):
    methods = "nft,recraft,recraft@fa.omega=0.1@stage1.num_steps=3"
    argv = [*arguments(tmp_path / "out", methods=methods), "--config.fa.omega=2"]
    assert compare.main(argv, fake.command) == 0
    cells = written[0]["tasks"]["darcy16"]["methods"]
    for method, omega in (("recraft", 2.0), (methods.split(",")[-1], 0.1)):
        expected = [0.7 + 0.01 * seed + 0.001 * omega + 0.0006 for seed in (0, 1)]
        np.testing.assert_allclose(cells[method]["test"]["values"], expected)
    assert written[0]["tasks"]["darcy16"]["baseline_method"] == "nft"
    runs = grid_runs(tmp_path / "out", methods=methods, seeds="0")
    assert runs[-1].arguments[-2:] == (
        *("--config.fa.omega=0.1", "--config.stage1.num_steps=3"),
    )
    assert naming.method(methods.split(",")[-1]) == (
        "recraft, fa.omega=0.1, stage1.num_steps=3"
    )


def test_dry_run_prints_commands_and_runs_nothing(tmp_path, capsys):
    out = tmp_path / "an out"
    argv = arguments(out, "darcy16,burgers,scale=quick", seeds="0", dry_run="")
    argv[-1] = "--dry-run"
    argv += ["--config.fa.omega=0.2", "--config.stage2.optim.lr=0.1"]
    assert compare.main(argv) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4 and not out.exists()
    assert shlex.split(lines[0]) == [
        *(sys.executable, "-m", "recraft_jax.main"),
        f"--config={PDE}:darcy16,method=nft,scale=quick,seed=0",
        f"--workdir={out}/runs/darcy16/nft/seed-0",
        *("--config.fa.omega=0.2", "--config.stage2.optim.lr=0.1"),
    ]
    for line in lines:
        config, workdir = main.parse(shlex.split(line)[2:])
        assert config.scale == "quick" and config.fa.omega == 0.2
        assert workdir.relative_to(out).parts[1:3] == (config.task, config.method)
    assert compare.main([*argv, "--tune=1,3"]) == 0
    *tuned, comment = capsys.readouterr().out.splitlines()
    assert comment.startswith("# the other runs depend on these")
    rates = [main.parse(shlex.split(s)[2:])[0].stage2.optim.lr for s in tuned]
    np.testing.assert_allclose(rates, [0.1] * 4 + [0.3] * 4)


def test_a_model_of_its_own_gets_no_backbone(tmp_path):
    found = grid(tmp_path, tasks="darcy16,backbone=vit-s", methods="fno,nft")
    assert found.configs["darcy16", "fno"].backbone == "none"
    assert found.configs["darcy16", "nft"].backbone == "vit-s"


def test_the_first_task_is_the_default(tmp_path, capsys):
    argv = arguments(tmp_path, tasks="scale=quick", methods="nft", seeds="2")
    assert compare.main([*argv, "--dry-run"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert f"{PDE}:method=nft,scale=quick,seed=2" in line
    assert f"{tmp_path}/runs/darcy16/nft/seed-2" in line


BAD = {
    "task": ({"tasks": "darcy61"}, "unknown task 'darcy61' (did you mean 'darcy16'?)"),
    "task twice": ({"tasks": "burgers,burgers"}, "task 'burgers' twice"),
    "method": ({"methods": "nft,recaft"}, "unknown method 'recaft'"),
    "variant": ({"methods": "nft@lr"}, "--methods=nft@lr: 'lr'; allowed: section"),
    "its field": ({"methods": "nft@fa.omga=1"}, "unknown field --config.fa.omga"),
    "its seed": ({"methods": "nft@seed=1"}, "'seed=1'; allowed: section.name=value"),
    "method twice": ({"methods": "nft,nft"}, "--methods=nft,nft; allowed: names"),
    "no method": ({"methods": ""}, "--methods=; allowed: names"),
    "key": ({"tasks": "metod=nft"}, "unknown key 'metod'"),
    "method as key": ({"tasks": "method=nft"}, "'method=nft' is for one run; allowed"),
    "seeds": ({"seeds": "0,one"}, "--seeds=0,one; allowed: whole numbers from 0 up"),
    "seed below 0": ({"seeds": "-1"}, "--seeds=-1; allowed: whole numbers from 0 up"),
    "factor": ({"tune": "0,1"}, "--tune=0,1; allowed: numbers above 0"),
    "omega": ({"omegas": "nan"}, "--omegas=nan; allowed: numbers from 0 up"),
    "omega 0": ({"omegas": "0,1"}, "lipschitz.tau = 0 stands for fa.omega"),
    "omegas alone": ({"methods": "nft", "omegas": "1"}, "--omegas without recraft"),
    "baseline": ({"baseline": "fno"}, "--baseline=fno; allowed: nft, recraft"),
    "score": ({"metric_of": "best"}, "--metric-of=best; allowed: best_val, last"),
    "jobs": ({"jobs": "0"}, "--jobs=0; allowed: 1 or more"),
    "field": ({"config.fa.omga": "1"}, "unknown field --config.fa.omga"),
    "argument": ({"seed": "1"}, "unrecognized arguments: --seed=1; allowed: --help"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_refused_before_any_work(name, tmp_path, capsys):
    more, said = BAD[name]
    assert compare.main(arguments(tmp_path / "out", **more), ("false",)) == 2
    out, err = capsys.readouterr()
    assert err.startswith("error: ") and said in err and err.count("\n") == 1
    assert out == "" and not (tmp_path / "out").exists()


def test_folder_of_another_comparison_is_refused(tmp_path):
    (run, *_) = grid_runs(tmp_path, seeds="3")
    run.workdir.mkdir(parents=True)
    config, _ = main.parse(["main", *run.arguments])
    path = run.workdir / "config.json"
    path.write_text(config.to_json_best_effort())
    grid(tmp_path, "--config.log.every_steps=7", seeds="0,3")  # no part of a run
    with pytest.raises(errors.InputError, match="num_epochs: 8 -> 9.*another --out"):
        grid(tmp_path, "--config.stage2.num_epochs=9", seeds="0,3")
    path.write_text("{")
    with pytest.raises(errors.InputError, match="config.json cannot be read"):
        grid(tmp_path, seeds="0,3")


def test_read_refuses_what_is_not_the_run(fake, tmp_path):
    (run, other) = grid_runs(tmp_path / "out", seeds="0")
    compare.run_grid([run], command=fake.command)
    found = comparison_grid.read(run, "last")
    assert found.curve == [(5, found.results["test"]["best_val"])]
    assert found.samples.tolist() == [0.1, 0.2, 0.3, 0.4] and not found.is_root
    other.workdir.parent.mkdir()
    run.workdir.rename(other.workdir)
    with pytest.raises(errors.InputError, match="method 'nft'; allowed: 'recraft'"):
        comparison_grid.read(other, "last")
    (other.workdir / "samples.npz").write_bytes(b"PK")
    with pytest.raises(errors.InputError, match="cannot be read"):
        comparison_grid.read(other, "last")


def test_help_needs_nothing(capsys):
    with pytest.raises(SystemExit) as end:
        compare.main(["--help"])
    assert end.value.code == 0 and "--metric-of" in capsys.readouterr().out
    assert plots and comparison_plots  # imported above, so that no test waits for them
