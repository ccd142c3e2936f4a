"""Compare methods: a grid of runs of `main`, and what they say together.

python -m recraft_jax.compare --config=FILE[:TASK,TASK,...[,key=value...]]
    --methods=a,b,c --seeds=0,1,2 --out=DIR [--jobs=1] [--tune=0.3,1,3]
    [--omegas=0.1,0.4,1] [--baseline=METHOD] [--metric-of=best_val|last] [--dry-run]
    [--config.section.name=value ...]

Parts of FILE:... without `=` are tasks, by default the first of the file; keys and
`--config.` overrides go to every run. Every run is a process of its own, in
DIR/runs/TASK/METHOD/seed-S, with its output in seed-S.log beside it; --jobs of them run
at once, each on its share of the cores. Finished runs are kept: the same command goes
on after a kill and ends with the same tables. Failed runs are listed, the others go on,
and the exit code is 1.

A method may be a variant, `recraft@fa.omega=0.1@stage1.num_steps=40`: the method with
other values of some fields, compared like any other.

--tune tries the learning rate of stage 2 times each factor on the first seed; the one
with the best validation score is used for all seeds. --omegas runs recraft with other
fa.omega too. --dry-run prints the commands and runs nothing.

Leaves in DIR: comparison.json (all numbers), table.md, table.csv, table.tex,
scores.png, curves.png, ranks.png, and omega.png with --omegas.
"""

import argparse
import contextlib
import fcntl
import os
import pathlib
import platform
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from recraft_jax import cli, comparison, comparison_tables, errors, writer
from recraft_jax import comparison_grid as grids

COMMAND = (sys.executable, "-m", "recraft_jax.main")
POLL_SECONDS = 0.1
STOP_SECONDS = 10  # that a run gets to end before it is killed


def run_grid(
    runs: Sequence[grids.Run],
    *,
    jobs: int = 1,
    command: Sequence[str] = COMMAND,
    done: Callable[[grids.Run, str | None, float], None] = lambda *_: None,
) -> dict[grids.Run, str]:
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
    waiting = [run for run in runs if not grids.is_finished(run)]
    active: dict[subprocess.Popen, tuple[grids.Run, float, int, tuple[int, ...]]] = {}
    shares = share_cores(jobs)
    failed: dict[grids.Run, str] = {}
    try:
        while waiting or active:
            for run in [r for r in waiting if not _is_locked(r)][: jobs - len(active)]:
                waiting.remove(run)
                log = grids.log_path(run)
                log.parent.mkdir(parents=True, exist_ok=True)
                size = log.stat().st_size if log.exists() else 0
                cores = shares.pop()
                process = _start([*command, *run.arguments], log, cores)
                active[process] = run, time.monotonic(), size, cores
            for process in [p for p in active if p.poll() is not None]:
                run, start, size, cores = active.pop(process)
                shares.append(cores)
                reason = _reason(run, process.returncode, size)
                if reason:
                    failed[run] = reason
                done(run, reason, time.monotonic() - start)
            if active or waiting:
                time.sleep(POLL_SECONDS)
    finally:
        _stop(list(active))
    return failed


# ---------------------------------------------------------------------------- process
def _start(
    command: Sequence[str], log: pathlib.Path, cores: Sequence[int]
) -> subprocess.Popen:
    """Start a run on some cores, in a session of its own: Ctrl-C does not reach it."""
    with log.open("ab") as file:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            env=os.environ | {"PYTHONUNBUFFERED": "1"},  # lines in their order
            start_new_session=True,
        )
    if cores:
        with contextlib.suppress(ProcessLookupError):  # it has ended
            os.sched_setaffinity(process.pid, cores)
    return process


def share_cores(jobs: int) -> list[tuple[int, ...]]:
    """Divide the cores of this process among jobs: threads in each other's way cost.

    Returns:
      Of each job the numbers of its cores; none: it is free to use all, as where the
      system has no such thing or there are more jobs than cores.
    """
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    if not 1 < jobs <= len(cores):
        return [()] * jobs
    return [tuple(cores[job::jobs]) for job in range(jobs)]


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


def _is_locked(run: grids.Run) -> bool:
    """Whether another process is at this run, one that outlived its `compare` maybe."""
    try:
        with (run.workdir / ".lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def _reason(run: grids.Run, code: int, size: int) -> str | None:
    """Say why a run failed, or None: its signal, else the last line it wrote.

    Args:
      run: the run.
      code: its exit code.
      size: bytes of its log before it began.
    """
    if code == 0 and grids.is_finished(run):
        return None
    if code < 0:
        name = signal.Signals(-code).name
        return f"killed by {name}" + (", out of memory?" if name == "SIGKILL" else "")
    text = grids.log_path(run).read_bytes()[size:].decode(errors="replace")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    said = [line for line in lines if line.startswith("error:")] or lines
    return f"exit code {code}: {said[-1] if said else 'no output'}"


# ---------------------------------------------------------------------------- command
def main(argv: Sequence[str], command: Sequence[str] = COMMAND) -> int:
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
    grid = grids.resolve(given, overrides)
    score = given.metric_of
    trials = grids.tuning(grid)
    if given.dry_run:
        _print_commands(grid, trials, score, command)
        return

    def rest(chosen) -> list[grids.Run]:
        listed = grids.main_runs(grid, chosen) + grids.sweep_runs(grid, chosen)
        return [run for run in listed if run not in trials]

    later = len(rest(dict.fromkeys(grid.configs, *grid.factors[:1])))
    failed = _run(trials, [], later, {}, given, command)
    chosen = grids.choose(grid, trials, score)
    others = rest(chosen)
    failed |= _run(others, trials, 0, failed, given, command)

    def read(runs: Sequence[grids.Run]) -> list[comparison.Finished]:
        return [grids.read(run, score) for run in runs if grids.is_finished(run)]

    done, swept = (
        read(runs)
        for runs in (grids.main_runs(grid, chosen), grids.sweep_runs(grid, chosen))
    )
    if grid.omegas:  # the grid itself is one of them
        swept += [
            run._replace(omega=grid.configs[run.task, run.method].fa.omega)
            for run in done
            if run.method == comparison.PROPOSED
        ]
    summary = comparison.summarise(
        done,
        swept,
        tasks=grid.tasks,
        methods=grid.methods,
        seeds=grid.seeds,
        score=score,
        baseline=given.baseline,
        failed=[_describe(grid, run, reason) for run, reason in failed.items()],
        factors=grid.factors,
    )
    origin = {
        "command": shlex.join(["python", "-m", "recraft_jax.compare", *argv]),
        "cpu": _processor(),
        "jobs": given.jobs,
    }
    write(grid.out, summary, origin)
    for run, reason in failed.items():
        print(f"failed: {grids.log_path(run)}: {reason}", file=sys.stderr)
    if failed:
        raise errors.RunError(
            f"{len(failed)} of {len(trials) + len(others)} runs failed; the same "
            "command tries them again"
        )


def write(
    out: pathlib.Path, summary: Mapping[str, Any], origin: Mapping[str, Any]
) -> None:
    """Write tables and figures, each whole or not at all, and print the tables.

    Args:
      out: the folder; figures in it are left alone if no run is finished.
      summary: of `comparison.summarise`.
      origin: `command`, `cpu` and `jobs`.
    """
    from recraft_jax import comparison_plots, plots  # here, as help needs no figures

    writer.write_json(out / "comparison.json", dict(summary) | {"origin": dict(origin)})
    text = comparison_tables.markdown(summary, origin)
    writer.write_atomically(out / "table.md", text)
    writer.write_atomically(out / "table.tex", comparison_tables.latex(summary, origin))
    writer.write_atomically(out / "table.csv", comparison_tables.csv_text(summary))
    if any(any(found["methods"].values()) for found in summary["tasks"].values()):
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
    grids.one_of("--metric-of", given.metric_of, comparison.SCORES)
    if given.jobs < 1:
        raise errors.InputError(f"--jobs={given.jobs}; allowed: 1 or more")
    return given, overrides


def _run(runs, before, later: int, failed_before, given, command):
    """Run a stage of the comparison, with a line for each run that ends.

    Args:
      runs: of the stage.
      before: those of the stage before.
      later: number of runs after it.
      failed_before: those of `before` that failed.
      given: of the command line.
      command: of a run.

    Returns:
      Why each failed run did.
    """
    finished = sum(grids.is_finished(run) for run in (*before, *runs))
    total, ended = len(before) + len(runs) + later, finished + len(failed_before)
    failed, start, begun = len(failed_before), time.monotonic(), ended
    if finished and not before:
        print(f"{finished} of {total} runs are finished", flush=True)

    def done(run: grids.Run, reason: str | None, seconds: float) -> None:
        nonlocal ended, failed
        ended, failed = ended + 1, failed + bool(reason)
        left = (time.monotonic() - start) / (ended - begun) * (total - ended)
        words = [run.task, run.method, grids.variant(run), f"seed {run.seed}"]
        said = f"FAILED, {reason}"
        if not reason:
            r = grids.read(run, given.metric_of).results
            value, val = r["test"][given.metric_of], r["val"]["best"]
            said = f"{r['metric']} {value:.4g} (val {val:.4g}) in {seconds:.0f} s"
        print(
            f"[{ended}/{total}] {' '.join(filter(None, words))}: {said}; {failed} "
            f"failed, ETA {_clock(left)}",
            flush=True,
        )

    return run_grid(runs, jobs=given.jobs, command=command, done=done)


def _print_commands(grid, trials, score, command) -> None:
    chosen = grids.choose(grid, trials, score)
    is_tuned = all(map(grids.is_finished, trials))  # also if there is nothing to tune
    runs = list(trials)
    if is_tuned:
        listed = grids.main_runs(grid, chosen) + grids.sweep_runs(grid, chosen)
        runs += [run for run in listed if run not in trials]
    for run in runs:
        print(shlex.join([*command, *run.arguments]))
    if not is_tuned:
        print("# the other runs depend on these: the same command prints them then")


def _describe(grid: grids.Grid, run: grids.Run, reason: str) -> dict[str, Any]:
    return {
        "task": run.task,
        "method": run.method,
        "variant": grids.variant(run),
        "seed": run.seed,
        "reason": reason,
        "log": grids.log_path(run).relative_to(grid.out).as_posix(),
    }


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


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
    sys.exit(main(sys.argv[1:]))
