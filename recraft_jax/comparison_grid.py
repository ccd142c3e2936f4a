"""Which runs a comparison is made of: from its command line to their folders and back.

Every command is read by `main.parse` before any run starts, so that a comparison of
hours does not end with a misspelt name.
"""

import argparse
import contextlib
import json
import math
import pathlib
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import ml_collections
import numpy as np

from recraft_jax import comparison, errors, main, naming, tree

_OWN_KEYS = {"task": "TASK", "method": "--methods", "seed": "--seeds"}


class Grid(NamedTuple):
    """What was asked for, resolved.

    Attributes:
      tasks: their names.
      methods: as asked for: a name, and after each `@` a field it has otherwise.
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
    one_of("--baseline", given.baseline, (None, *methods))
    for method in methods:
        for change in naming.split(method)[1]:
            name, sign, _ = change.partition("=")
            if name in _OWN_KEYS or not sign:
                raise errors.InputError(
                    f"--methods={method}: {change!r}; allowed: section.name=value"
                )
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
    """List the runs that choose learning rates.

    Runs that differ in the rate alone share what was compiled, if they do not start
    together.
    """
    return [
        make_run(grid, task, method, grid.seeds[0], factor)
        for factor in grid.factors
        for task in grid.tasks
        for method in grid.methods
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
    found = (change.split("=", 1) for change in naming.split(method)[1])
    changes = {f"--config.{name}": value for name, value in found}
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
    method, _ = naming.split(run.method)
    for name, value in (("method", method), ("seed", run.seed)):
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


def one_of(name: str, value: Any, allowed: Sequence[Any]) -> None:
    """Refuse a value that is not allowed; None is not named."""
    if value not in allowed:
        listed = ", ".join(str(one) for one in allowed if one is not None)
        raise errors.InputError(f"{name}={value}; allowed: {listed}")


def _resolve(file, task, method, keys, seed, overrides):
    """Find the arguments of a method; one with a model of its own has no backbone."""
    name, changes = naming.split(method)
    overrides = [*overrides, *(f"--config.{change}" for change in changes)]

    def spec(keys: Sequence[str]) -> str:
        named = [task] if task else []
        return f"--config={file}:{','.join([*named, f'method={name}', *keys])}"

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
