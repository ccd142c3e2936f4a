"""Compare methods: a grid of runs of `main`, and what they say together.

python -m recraft_jax.compare --config=FILE[:TASK,TASK,...[,key=value...]]
    --methods=a,b,c --seeds=0,1,2 --out=DIR [--jobs=1] [--tune=0.3,1,3]
    [--omegas=0.1,0.4,1] [--baseline=METHOD] [--metric-of=best_val|last] [--dry-run]
    [--config.section.name=value ...]

Parts of FILE:... without `=` are tasks, by default the first of the file; keys and
`--config.` overrides go to every run. Every run is a process of its own, in
DIR/runs/TASK/METHOD/seed-S, with its output in seed-S.log beside it; --jobs of them run
at once. Finished runs are kept: the same command goes on after a kill and ends with the
same tables. Failed runs are listed, the others go on, and the exit code is 1.

--tune tries the learning rate of stage 2 times each factor on the first seed; the one
with the best validation score is used for all seeds. --omegas runs recraft with other
fa.omega too. --dry-run prints the commands and runs nothing.

Leaves in DIR: comparison.json (all numbers), table.md, table.csv, table.tex,
scores.png, curves.png, ranks.png, and omega.png with --omegas.
"""

import argparse
import contextlib
import fcntl
import json
import math
import os
import pathlib
import platform
import shlex
import signal
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import ml_collections
import numpy as np

from recraft_jax import cli, comparison, comparison_tables, errors, main, tree, writer

COMMAND = (sys.executable, "-m", "recraft_jax.main")
POLL_SECONDS = 0.1
STOP_SECONDS = 10  # that a run gets to end before it is killed

_OWN_KEYS = {"task": "TASK", "method": "--methods", "seed": "--seeds"}


class Grid(NamedTuple):
    """What was asked for, resolved.

    Attributes:
      tasks: their names.
      specs: by task and method, `--config=...` without a seed.
      configs: by task and method, the config of the first seed.
      factors: of the learning rate to try; none: it is not tuned.
      omegas: of `recraft`, besides its own.
      overrides: `--config.section.name=value` of every run.
      out: folder of it all.
    """

    tasks: tuple[str, ...]
    methods: tuple[str, ...]
    seeds: tuple[int, ...]
    specs: Mapping[tuple[str, str], str]
    configs: Mapping[tuple[str, str], ml_collections.ConfigDict]
    factors: tuple[float, ...]
    omegas: tuple[float, ...]
    overrides: tuple[str, ...]
    out: pathlib.Path


class Run(NamedTuple):
    """One run of `main`; `arguments` are those behind its name."""

    task: str
    method: str
    seed: int
    factor: float | None
    omega: float | None
    workdir: pathlib.Path
    arguments: tuple[str, ...]


def run_grid(
    runs: Sequence[Run],
    *,
    jobs: int = 1,
    command: Sequence[str] = COMMAND,
    done: Callable[[Run, str | None, float], None] = lambda *_: None,
) -> dict[Run, str]:
    """Run what is not finished, some at once; whatever ends this ends the processes.

    A run that another process is at is waited for, and then run to see its end.

    Args:
      runs: in the order to start them.
      jobs: processes at a time.
      command: what a run's arguments are given to.
      done: called with each run that ended here, why it failed, and its seconds.

    Returns:
      Why each failed run did.
    """
    waiting = [run for run in runs if not is_finished(run)]
    active: dict[subprocess.Popen, tuple[Run, float, int]] = {}
    failed: dict[Run, str] = {}
    try:
        while waiting or active:
            for run in [r for r in waiting if not _is_locked(r)][: jobs - len(active)]:
                waiting.remove(run)
                log = log_path(run)
                log.parent.mkdir(parents=True, exist_ok=True)
                size = log.stat().st_size if log.exists() else 0
                process = _start([*command, *run.arguments], log)
                active[process] = run, time.monotonic(), size
            for process in [p for p in active if p.poll() is not None]:
                run, start, size = active.pop(process)
                reason = _reason(run, process.returncode, size)
                if reason:
                    failed[run] = reason
                done(run, reason, time.monotonic() - start)
            if active or waiting:
                time.sleep(POLL_SECONDS)
    finally:
        _stop(list(active))
    return failed


def is_finished(run: Run) -> bool:
    """Whether a run has its results."""
    return (run.workdir / "results.json").exists()


def log_path(run: Run) -> pathlib.Path:
    """Where a run's output goes: `main` wants its workdir for itself."""
    return run.workdir.with_name(f"{run.workdir.name}.log")


def variant(run: Run) -> str:
    """Name what a run has otherwise than the grid: `lr-3`, `omega-0.1`, or nothing."""
    return "/".join(_variants(run.factor, run.omega))


def read(run: Run, score: str) -> comparison.Finished:
    """Read a finished run.

    Args:
      run: the run.
      score: which test score's samples, `best_val` or `last`.

    Raises:
      InputError: files that cannot be read, or belong to another run.
    """
    workdir = run.workdir
    try:
        results = json.loads((workdir / "results.json").read_text())
        lines = []
        with contextlib.suppress(FileNotFoundError):
            text = (workdir / "metrics.jsonl").read_text()
            lines = [json.loads(line) for line in text.splitlines()]
        samples, is_root = None, False
        with contextlib.suppress(FileNotFoundError):
            with np.load(workdir / "samples.npz", allow_pickle=False) as file:
                samples = file[score].astype(np.float64)
                is_root = str(file["finish"]) == "root"
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise errors.InputError(f"{workdir} cannot be read: {error}") from None
    for name, value in (("method", run.method), ("seed", run.seed)):
        if results.get(name) != value:
            raise errors.InputError(
                f"{workdir} holds a run of {name} {results.get(name)!r}; allowed: "
                f"{value!r}, or another --out"
            )
    name = f"val_{results['metric']}"
    curve = [(line["step"], line[name]) for line in lines if name in line]
    return comparison.Finished(
        run.task,
        run.method,
        run.seed,
        results,
        samples=samples,
        is_root=is_root,
        curve=curve,
        factor=run.factor,
        omega=run.omega,
    )


# ------------------------------------------------------------------------------- grid
def resolve(given: argparse.Namespace, overrides: Sequence[str]) -> Grid:
    """Read and check what was asked for, down to the config of every method.

    Args:
      given: of the command line.
      overrides: its `--config.section.name=value`.

    Raises:
      InputError: an unknown task, method, key or field, or a value no run can use.
    """
    file, _, arg = given.config.partition(":")
    parts = [part for part in arg.split(",") if part]
    keys = [part for part in parts if "=" in part]
    for key in keys:
        name = key.partition("=")[0]
        if name in _OWN_KEYS:
            raise errors.InputError(
                f"--config={given.config}: {key!r} is for one run; allowed: "
                f"{_OWN_KEYS[name]} for it"
            )
    for override in overrides:
        if "=" not in override:
            raise errors.InputError(f"{override}; allowed: {override}=VALUE")
    tasks = [part for part in parts if "=" not in part]
    methods = _listed("methods", given.methods, str, "names")
    seeds = _listed("seeds", given.seeds, int, "whole numbers from 0 up", low=0)
    factors = _listed("tune", given.tune, float, "numbers above 0", above=0)
    omegas = _listed("omegas", given.omegas, float, "numbers from 0 up", low=0)
    _one_of("--baseline", given.baseline, (None, *methods))
    if omegas and comparison.PROPOSED not in methods:
        raise errors.InputError(
            f"--omegas without {comparison.PROPOSED}; allowed: with it in --methods"
        )
    labels, specs, configs = [], {}, {}
    for task in tasks or [""]:
        for method in methods:
            spec, config = _resolve(file, task, method, keys, seeds[0], overrides)
            label = task or config.task
            specs[label, method], configs[label, method] = spec, config
        if label in labels:
            raise errors.InputError(f"task {label!r} twice; allowed: once")
        labels.append(label)
    grid = Grid(
        *(tuple(labels), methods, seeds, specs, configs),
        *(factors, omegas, tuple(overrides), pathlib.Path(given.out)),
    )
    _check(grid)
    return grid


def tuning(grid: Grid) -> list[Run]:
    """List the runs that choose learning rates."""
    return [
        make_run(grid, task, method, grid.seeds[0], factor)
        for task in grid.tasks
        for method in grid.methods
        for factor in grid.factors
    ]


def main_runs(grid: Grid, chosen: Mapping[tuple[str, str], float | None]) -> list[Run]:
    """List the runs of the tables.

    Args:
      grid: what was asked for.
      chosen: by task and method, the factor of the learning rate, or None; cells that
        are not there have no runs.
    """
    return [
        make_run(grid, task, method, seed, chosen[task, method])
        for task in grid.tasks
        for seed in grid.seeds
        for method in grid.methods
        if (task, method) in chosen
    ]


def sweep_runs(grid: Grid, chosen: Mapping[tuple[str, str], float | None]) -> list[Run]:
    """List the runs of other omegas; the config's own is in `main_runs`."""
    method = comparison.PROPOSED
    return [
        make_run(grid, task, method, seed, chosen[task, method], omega)
        for task in grid.tasks
        for omega in grid.omegas
        for seed in grid.seeds
        if (task, method) in chosen and omega != grid.configs[task, method].fa.omega
    ]


def make_run(
    grid: Grid,
    task: str,
    method: str,
    seed: int,
    factor: float | None = None,
    omega: float | None = None,
) -> Run:
    """Make the command of one run and name its folder."""
    changes = {}
    if factor is not None:
        lr = grid.configs[task, method].stage2.optim.lr * factor
        changes["--config.stage2.optim.lr"] = f"{lr:.12g}"  # 3 * 0.1 is 0.3
    if omega is not None:
        changes["--config.fa.omega"] = f"{omega:.12g}"
    kept = [o for o in grid.overrides if o.partition("=")[0] not in changes]
    folder = grid.out / "runs" / task / method
    workdir = folder.joinpath(*_variants(factor, omega), f"seed-{seed}")
    arguments = (
        f"{grid.specs[task, method]},seed={seed}",
        f"--workdir={workdir}",
        *kept,
        *(f"{name}={value}" for name, value in changes.items()),
    )
    return Run(task, method, seed, factor, omega, workdir, arguments)


def _resolve(file, task, method, keys, seed, overrides):
    """Find the arguments of a method; one with a model of its own has no backbone."""

    def spec(keys: Sequence[str]) -> str:
        named = [task] if task else []
        return f"--config={file}:{','.join([*named, f'method={method}', *keys])}"

    rest = [key for key in keys if not key.startswith("backbone=")]
    if rest != keys:
        config, _ = main.parse(["compare", f"{spec(rest)},seed={seed}", *overrides])
        if config.backbone == "none":
            return spec(rest), config
    config, _ = main.parse(["compare", f"{spec(keys)},seed={seed}", *overrides])
    return spec(keys), config


def _check(grid: Grid) -> None:
    """Refuse before any work values that `main` refuses, and folders of other runs."""
    found: list[Run] = []
    for factor in grid.factors or (None,):
        chosen = dict.fromkeys(grid.configs, factor)
        found += main_runs(grid, chosen) + sweep_runs(grid, chosen)
    for run in found:
        path = run.workdir / "config.json"
        if run.seed != grid.seeds[0] and not path.exists():
            continue
        config, _ = main.parse(["compare", *run.arguments])
        if not path.exists():
            continue
        try:
            stored = json.loads(path.read_text())
            name = main.default_workdir(ml_collections.ConfigDict(stored))
        except (ValueError, AttributeError, TypeError) as error:
            raise errors.InputError(f"{path} cannot be read: {error}") from None
        if name != main.default_workdir(config):  # it has a hash of what counts
            settings = json.loads(config.to_json_best_effort())
            raise errors.InputError(
                f"{run.workdir} holds a run of another config "
                f"({'; '.join(tree.differences(stored, settings))}); allowed: the "
                "same config, or another --out"
            )


def _variants(factor: float | None, omega: float | None) -> list[str]:
    named = (("lr", factor), ("omega", omega))
    return [f"{name}-{value:.12g}" for name, value in named if value is not None]


# ---------------------------------------------------------------------------- process
def _start(command: Sequence[str], log: pathlib.Path) -> subprocess.Popen:
    """Start a run in a session of its own, so that Ctrl-C reaches it through us only."""
    with log.open("ab") as file:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            env=os.environ | {"PYTHONUNBUFFERED": "1"},  # lines in their order
            start_new_session=True,
        )


def _stop(processes: Sequence[subprocess.Popen]) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        for process in processes:
            if process.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, number)
        end = time.monotonic() + STOP_SECONDS
        for process in processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(end - time.monotonic(), 0))


def _is_locked(run: Run) -> bool:
    """Whether another process is at this run, one that outlived its `compare` maybe."""
    try:
        with (run.workdir / ".lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def _reason(run: Run, code: int, size: int) -> str | None:
    """Say why a run failed, or None: its signal, else the last line it wrote.

    Args:
      run: the run.
      code: its exit code.
      size: bytes of its log before it began.
    """
    if code == 0 and is_finished(run):
        return None
    if code < 0:
        name = signal.Signals(-code).name
        return f"killed by {name}" + (", out of memory?" if name == "SIGKILL" else "")
    text = log_path(run).read_bytes()[size:].decode(errors="replace")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    said = [line for line in lines if line.startswith("error:")] or lines
    return f"exit code {code}: {said[-1] if said else 'no output'}"


# --------------------------------------------------------------------------- the command
def start(argv: Sequence[str], command: Sequence[str] = COMMAND) -> int:
    """Run the command line; returns the exit code."""
    with _stoppable():
        try:
            return cli.run(lambda argv: _compare(argv, command), argv)
        except KeyboardInterrupt as stop:
            again = "interrupted; run the same command again to resume"
            print(f"error: {again}", file=sys.stderr, flush=True)
            return 128 + (stop.args[0] if stop.args else signal.SIGINT)


def _compare(argv: Sequence[str], command: Sequence[str]) -> None:
    given, overrides = _parse(argv)
    grid = resolve(given, overrides)
    trials = tuning(grid)
    if given.dry_run:
        _print_commands(grid, trials, given.metric_of, command)
        return
    failed = _run(trials, [], {}, given, command)
    chosen = choose(grid, trials, given.metric_of)
    runs, sweep = main_runs(grid, chosen), sweep_runs(grid, chosen)
    rest = [run for run in (*runs, *sweep) if run not in trials]
    failed |= _run(rest, trials, failed, given, command)
    origin = {
        "command": shlex.join(["python", "-m", "recraft_jax.compare", *argv]),
        "cpu": _processor(),
        "jobs": given.jobs,
    }
    done = [read(run, given.metric_of) for run in runs if is_finished(run)]
    swept = [read(run, given.metric_of) for run in sweep if is_finished(run)]
    own = [
        run._replace(omega=grid.configs[run.task, run.method].fa.omega)
        for run in done
        if run.method == comparison.PROPOSED and grid.omegas
    ]
    if not done:
        raise errors.RunError(_failures(failed, len(trials) + len(rest)))
    summary = comparison.summarise(
        done,
        [*swept, *own],
        tasks=grid.tasks,
        methods=grid.methods,
        seeds=grid.seeds,
        score=given.metric_of,
        baseline=given.baseline,
        failed=[_describe(grid, run, reason) for run, reason in failed.items()],
        factors=grid.factors,
    )
    write(grid.out, summary, origin)
    if failed:
        raise errors.RunError(_failures(failed, len(trials) + len(rest)))


def choose(
    grid: Grid, trials: Sequence[Run], score: str
) -> dict[tuple[str, str], float | None]:
    """Choose the factor of each task and method that has a finished trial."""
    if not grid.factors:
        return dict.fromkeys(grid.configs)
    found: dict[tuple[str, str], dict[float, float]] = {}
    better = {}
    for run in trials:
        if is_finished(run):
            results = read(run, score).results
            cell = run.task, run.method
            found.setdefault(cell, {})[run.factor] = results["val"]["best"]
            better[cell] = results.get("better", "lower")
    return {
        cell: comparison.choose(values, better[cell]) for cell, values in found.items()
    }


def write(
    out: pathlib.Path, summary: Mapping[str, Any], origin: Mapping[str, Any]
) -> None:
    """Write the tables and figures, each whole or not at all, and print the first."""
    from recraft_jax import comparison_plots, plots  # here, as help needs no figures

    writer.write_json(out / "comparison.json", dict(summary) | {"origin": dict(origin)})
    text = comparison_tables.markdown(summary, origin)
    writer.write_atomically(out / "table.md", text)
    writer.write_atomically(out / "table.tex", comparison_tables.latex(summary, origin))
    writer.write_atomically(out / "table.csv", comparison_tables.csv_text(summary))
    plots.save(comparison_plots.draw_scores(summary), out / "scores.png")
    plots.save(comparison_plots.draw_curves(summary), out / "curves.png")
    plots.save(comparison_plots.draw_ranks(summary), out / "ranks.png")
    if summary["omega"]:
        plots.save(comparison_plots.draw_omega(summary), out / "omega.png")
    print(f"\n{text}\nwritten   {out}", flush=True)


def _parse(argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    parser = cli.Parser("compare", __doc__)
    parser.add_argument("--config", required=True, help="FILE[:TASK,...,key=value...]")
    parser.add_argument("--methods", required=True, help="to compare")
    parser.add_argument("--seeds", required=True, help="of each method")
    parser.add_argument("--out", required=True, help="folder of it all")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    parser.add_argument("--tune", help="factors of stage2.optim.lr to try")
    parser.add_argument("--omegas", help="further fa.omega of recraft")
    parser.add_argument("--baseline", help="method the others are compared with")
    parser.add_argument("--metric-of", default="best_val", help="best_val or last")
    parser.add_argument("--dry-run", action="store_true", help="print the commands")
    overrides = [arg for arg in argv if arg.startswith("--config.")]
    given = parser.parse_args([arg for arg in argv if arg not in overrides])
    _one_of("--metric-of", given.metric_of, comparison.SCORES)
    if given.jobs < 1:
        raise errors.InputError(f"--jobs={given.jobs}; allowed: 1 or more")
    return given, overrides


def _run(runs, before, failed_before, given, command) -> dict[Run, str]:
    """Run a stage of the comparison, with a line for each run that ends."""
    finished = sum(is_finished(run) for run in (*before, *runs))
    total, ended = len(before) + len(runs), finished + len(failed_before)
    failed, start, begun = len(failed_before), time.monotonic(), ended
    if finished and not before:
        print(f"{finished} of {total} runs are finished", flush=True)

    def done(run: Run, reason: str | None, seconds: float) -> None:
        nonlocal ended, failed
        ended, failed = ended + 1, failed + bool(reason)
        left = (time.monotonic() - start) / (ended - begun) * (total - ended)
        words = [run.task, run.method, variant(run), f"seed {run.seed}"]
        said = f"FAILED, {reason}"
        if not reason:
            r = read(run, given.metric_of).results
            value, val = r["test"][given.metric_of], r["val"]["best"]
            said = f"{r['metric']} {value:.4g} (val {val:.4g}) in {seconds:.0f} s"
        print(
            f"[{ended}/{total}] {' '.join(filter(None, words))}: {said}; {failed} "
            f"failed, ETA {_clock(left)}",
            flush=True,
        )

    return run_grid(runs, jobs=given.jobs, command=command, done=done)


def _print_commands(grid, trials, score, command) -> None:
    chosen = choose(grid, trials, score)
    runs = list(trials)
    if len(chosen) == len(grid.configs) and all(map(is_finished, trials)):
        runs += [
            run
            for run in main_runs(grid, chosen) + sweep_runs(grid, chosen)
            if run not in trials
        ]
    for run in runs:
        print(shlex.join([*command, *run.arguments]))
    if grid.factors and runs == list(trials):
        print("# the other runs depend on these: the same command prints them then")


def _describe(grid: Grid, run: Run, reason: str) -> dict[str, Any]:
    return {
        "task": run.task,
        "method": run.method,
        "variant": variant(run),
        "seed": run.seed,
        "reason": reason,
        "log": log_path(run).relative_to(grid.out).as_posix(),
    }


def _failures(failed: Mapping[Run, str], total: int) -> str:
    listed = "; ".join(f"{log_path(run)}: {why}" for run, why in failed.items())
    return f"{len(failed)} of {total} runs failed: {listed}"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def _listed(name, text, kind, allowed, *, low=None, above=None) -> tuple:
    """Read a list, refusing what is empty, given twice or out of range."""
    if text is None:
        return ()
    try:
        found = tuple(kind(part.strip()) for part in text.split(","))
    except ValueError:
        found = ()
    is_bad = not found or "" in found or len(set(found)) < len(found)
    for value in () if kind is str else found:
        is_bad |= not math.isfinite(value)
        is_bad |= low is not None and value < low
        is_bad |= above is not None and value <= above
    if is_bad:
        raise errors.InputError(
            f"--{name}={text}; allowed: {allowed}, separated by commas, each once"
        )
    return found


def _one_of(name: str, value: Any, allowed: Sequence[Any]) -> None:
    if value not in allowed:
        listed = ", ".join(str(one) for one in allowed if one is not None)
        raise errors.InputError(f"{name}={value}; allowed: {listed}")


def _processor() -> str:
    """Name the processor of this machine."""
    info = pathlib.Path("/proc/cpuinfo")
    if info.exists():
        lines = info.read_text().splitlines()
        names = [s.split(":")[1].strip() for s in lines if s.startswith("model name")]
        if names:
            return f"{names[0]}, {os.cpu_count()} cores"
    return f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores"


@contextlib.contextmanager
def _stoppable() -> Iterator[None]:
    """End on SIGTERM and SIGHUP as on Ctrl-C, so that no run is left behind."""

    def stop(number, _):
        raise KeyboardInterrupt(number)

    before = {}
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is not signal.SIG_IGN:  # as under nohup
                before[number] = signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


if __name__ == "__main__":
    sys.exit(start(sys.argv[1:]))
