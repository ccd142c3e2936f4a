"""What runs of several methods on several tasks say together.

`summarise` puts all numbers into one dict of plain values, of which
`comparison_tables.py` and `comparison_plots.py` make the rest; the statistics behind
them are in `comparison_stats.py`.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from recraft_jax import comparison_stats, errors, naming

PROPOSED = "recraft"  # all other methods are baselines to it
SCORES = ("best_val", "last")
LEAST = 3  # tasks and methods below which ranks are not tested

_SHARED = ("protocol", "scale", "preset", "metric")  # by all runs on a task
SECONDS = ("total", "compile", "align", "fit")
ALIGN = ("fa", "fld", "fld_val")


class Finished(NamedTuple):
    """A finished run.

    Attributes:
      results: content of `results.json`.
      samples: test score of each sample `[n]`, or None if the run left none.
      is_root: whether the metric is the root of their mean, else it is the mean.
      curve: step and validation score, each time it was measured.
      factor: of the learning rate, where it was tuned.
      omega: `fa.omega` of a run of the sweep.
    """

    task: str
    method: str
    seed: int
    results: Mapping[str, Any]
    samples: Float[np.ndarray, " n"] | None = None
    is_root: bool = False
    curve: Sequence[tuple[int, float]] = ()
    factor: float | None = None
    omega: float | None = None


def choose(values: Mapping[float, float], better: str) -> float:
    """Choose the factor with the best validation score; of ties the one nearest 1."""
    sign = -1 if better == "higher" else 1
    return min(values, key=lambda f: (sign * values[f], abs(math.log(f)), f))


# ---------------------------------------------------------------------------- numbers
def check_comparable(runs: Sequence[Finished]) -> None:
    """Refuse runs on one task that do not compare.

    Raises:
      InputError: naming two runs and what they differ in.
    """
    firsts: dict[str, Finished] = {}
    for run in runs:
        first = firsts.setdefault(run.task, run)
        for name, (old, new) in _shared(first, run).items():
            if old != new:
                raise errors.InputError(
                    f"runs of task {run.task} do not compare: {name} is {old!r} of "
                    f"{_name(first)} and {new!r} of {_name(run)}; allowed: one for "
                    "all, so another --out"
                )


def summarise(
    runs: Sequence[Finished],
    sweep: Sequence[Finished] = (),
    *,
    tasks: Sequence[str],
    methods: Sequence[str],
    seeds: Sequence[int],
    score: str = "best_val",
    baseline: str | None = None,
    failed: Sequence[Mapping[str, Any]] = (),
    factors: Sequence[float] = (),
) -> dict[str, Any]:
    """Compute every number of tables and figures.

    Args:
      runs: the grid, of every task and method at most one run a seed.
      sweep: runs of the proposed method with their `omega`.
      tasks: rows, in their order.
      methods: columns.
      seeds: all that were asked for.
      score: which test score, of the parameters `best_val` or of the `last` ones.
      baseline: method that the others are compared with, by default on each task the
        one with the best mean validation score, of all but the proposed one.
      failed: runs that failed, with `task`, `method`, `seed`, `variant` and `reason`.
      factors: of the learning rate that were tried.

    Raises:
      InputError: runs that do not compare.
    """
    check_comparable([*runs, *sweep])
    found = {
        task: _summarise_task(
            [run for run in runs if run.task == task],
            methods,
            seeds,
            score,
            baseline,
        )
        for task in tasks
    }
    return {
        "tasks": found,
        "methods": list(methods),
        "seeds": list(seeds),
        "score": score,
        "baseline": baseline,
        "tuning": {"factors": list(factors), "settings": max(len(factors), 1)},
        "ranks": _rank(found, methods),
        "omega": _sweep(sweep, tasks, score),
        "failed": [dict(one) for one in failed],
        "provenance": _provenance([*runs, *sweep]),
    }


def _shared(first: Finished, run: Finished) -> dict[str, tuple[Any, Any]]:
    pairs = {n: (first.results.get(n), run.results.get(n)) for n in _SHARED}
    data = (first.results["data"]["sha256"], run.results["data"]["sha256"])
    return pairs | {"data sha256": data}


def _name(run: Finished) -> str:
    return f"{run.method} seed {run.seed}"


def _summarise_task(runs, methods, seeds, score, baseline) -> dict[str, Any]:
    if not runs:
        return {
            **dict.fromkeys(("metric", "better", "data", "baseline_method")),
            "baselines": {},
            "methods": dict.fromkeys(methods),
        }
    first = runs[0].results
    better = first.get("better", "lower")
    by_method = {
        method: sorted((r for r in runs if r.method == method), key=lambda r: r.seed)
        for method in methods
    }
    cells = {
        method: _summarise_cell(rows, seeds, score) if rows else None
        for method, rows in by_method.items()
    }
    base = baseline or _best_baseline(cells, better)
    for method, difference in _differences(by_method, base, better, score).items():
        cells[method]["difference"] = difference
    return {
        "metric": first["metric"],
        "better": better,
        "data": dict(first["data"]),
        "baselines": dict(first["baselines"]),
        "baseline_method": base if base and cells.get(base) else None,
        "methods": cells,
    }


def _summarise_cell(rows: Sequence[Finished], seeds, score: str) -> dict[str, Any]:
    done = [run.seed for run in rows]
    results = [run.results for run in rows]
    has_stage1 = all(
        r["align"].get("fa_before") is not None and r["seconds"].get("align", 0) > 0
        for r in results
    )
    align = {
        f"{name}_{when}": _spread([r["align"][f"{name}_{when}"] for r in results])
        for name in ALIGN
        for when in ("before", "after")
        if has_stage1 and all(f"{name}_{when}" in r["align"] for r in results)
    }
    peaks = [r["memory"]["peak_bytes"] for r in results if "memory" in r]
    return {
        "seeds": done,
        "missing": [seed for seed in seeds if seed not in done],
        "test": _spread([r["test"][score] for r in results]),
        "val": _spread([r["val"]["best"] for r in results]),
        "align": align or None,
        "seconds": {
            name: float(np.mean([r["seconds"].get(name, 0.0) for r in results]))
            for name in SECONDS
        },
        "peak_mb": float(np.mean(peaks)) / 2**20 if peaks else None,
        "trained": results[0]["params"]["trained"],
        "backbone": results[0]["backbone_name"],
        "lr_factor": rows[0].factor,
        "curve": _curve(rows),
        "difference": None,
    }


def _spread(values: Sequence[float]) -> dict[str, Any]:
    """Mean, and the deviation of a sample: one value has none."""
    std = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return {
        "mean": float(np.mean(values)),
        "std": std,
        "values": [float(v) for v in values],
    }


def _curve(rows: Sequence[Finished]) -> dict[str, list]:
    """Mean over seeds at the steps at which all of them were measured."""
    curves = [dict(run.curve) for run in rows]
    steps = sorted(set.intersection(*(set(curve) for curve in curves)))
    means = [float(np.mean([curve[step] for curve in curves])) for step in steps]
    return {"steps": steps, "mean": means}


def _best_baseline(cells: Mapping[str, Any], better: str) -> str | None:
    sign = -1 if better == "higher" else 1
    others = [m for m in cells if cells[m] and naming.split(m)[0] != PROPOSED]
    return min(others, key=lambda m: sign * cells[m]["val"]["mean"], default=None)


def _differences(by_method, base, better, score) -> dict[str, dict[str, Any]]:
    """Compare each method with the baseline on the seeds that both have."""
    rows = [run for method in by_method for run in by_method[method]]
    sampled = [run for run in rows if run.samples is not None]
    if len({len(run.samples) for run in sampled}) > 1:
        raise errors.InputError(
            f"runs of task {rows[0].task} have samples.npz of "
            f"{sorted({len(run.samples) for run in sampled})} samples; allowed: one "
            "number"
        )
    drawn = {}
    if sampled and base:
        means = comparison_stats.resample(
            np.stack([run.samples for run in sampled]), is_root=sampled[0].is_root
        )
        drawn = {
            (run.method, run.seed): column
            for run, column in zip(sampled, means.T, strict=True)
        }
    sign = -1 if better == "higher" else 1
    tests = {(run.method, run.seed): run.results["test"][score] for run in rows}
    found = {}
    for method in by_method:
        seeds = [run.seed for run in by_method[method] if (base, run.seed) in tests]
        if method == base or not seeds:
            continue
        each = [sign * (tests[base, s] - tests[method, s]) for s in seeds]
        low = high = None
        if all((m, s) in drawn for m in (method, base) for s in seeds):
            gaps = [sign * (drawn[base, s] - drawn[method, s]) for s in seeds]
            low, high = comparison_stats.interval(np.column_stack(gaps))
        found[method] = {
            "to": base,
            "seeds": seeds,
            "value": float(np.mean(each)),
            "low": low,
            "high": high,
            "excludes_0": low is not None and (low > 0 or high < 0),
        }
    return found


def _rank(found: Mapping[str, Any], methods: Sequence[str]) -> dict[str, Any]:
    """Rank on the tasks where every method has every seed."""

    def is_whole(task: str) -> bool:
        cells = found[task]["methods"].values()
        return all(cell and not cell["missing"] for cell in cells)

    tasks = [task for task in found if is_whole(task)]
    out: dict[str, Any] = {"tasks": tasks, "average": {}, "by_task": {}}
    out |= dict.fromkeys(("friedman", "critical_difference", "alike", "note"))
    if tasks:
        means = [
            [found[t]["methods"][m]["test"]["mean"] for m in methods] for t in tasks
        ]
        is_higher = np.array([found[t]["better"] == "higher" for t in tasks])
        ranked = comparison_stats.ranks(np.array(means), is_higher)
        out["by_task"] = {
            task: dict(zip(methods, row.tolist(), strict=True))
            for task, row in zip(tasks, ranked, strict=True)
        }
        out["average"] = dict(zip(methods, ranked.mean(0).tolist(), strict=True))
    if min(len(tasks), len(methods)) < LEAST:
        out["note"] = (
            f"ranks are not tested: {count(len(tasks), 'complete task')} and "
            f"{count(len(methods), 'method')}, {LEAST} of each are needed"
        )
        return out
    statistic, p = comparison_stats.friedman(ranked)
    critical = comparison_stats.critical_difference(len(methods), len(tasks))
    out["friedman"] = {"statistic": statistic, "p": p}
    out["critical_difference"] = critical
    out["alike"] = comparison_stats.alike(out["average"], critical)
    return out


def _sweep(sweep: Sequence[Finished], tasks, score: str) -> dict[str, list]:
    found: dict[str, list] = {}
    for task in tasks:
        omegas = sorted({run.omega for run in sweep if run.task == task})
        for omega in omegas:
            rows = [r for r in sweep if r.task == task and r.omega == omega]
            values = [run.results["test"][score] for run in rows]
            found.setdefault(task, []).append(
                {
                    "omega": omega,
                    "seeds": sorted(run.seed for run in rows),
                    "mean": float(np.mean(values)),
                    "low": float(min(values)),
                    "high": float(max(values)),
                    "metric": rows[0].results["metric"],
                }
            )
    return found


def _provenance(runs: Sequence[Finished]) -> dict[str, Any]:
    """Collect what all runs have, and what some have otherwise."""

    def every(name: str) -> list[str]:
        return sorted({run.results.get(name) or "" for run in runs})

    versions: dict[str, set] = {}
    for run in runs:
        for name, version in run.results.get("versions", {}).items():
            versions.setdefault(name, set()).add(version)
    backbones: dict[str, set] = {}
    for run in runs:
        backbones.setdefault(run.results["backbone_name"], set()).add(run.method)
    return {
        "protocols": every("protocol"),
        "scales": every("scale"),
        "presets": every("preset"),
        "commits": every("git"),
        "versions": {name: sorted(found) for name, found in sorted(versions.items())},
        "backbones": {name: sorted(of) for name, of in sorted(backbones.items())},
    }


def count(num: int, name: str) -> str:
    """Say how many, with the plural."""
    return f"{num} {name}{'' if num == 1 else 's'}"
