"""Does the target error follow the semantic gap? Runs that differ in omega, compared.

The semantic gap (Eq. 11) of a run is `gap = omega W1 + H(Z_t|Z_s)` in nats, at the best
label map. At a run's own omega it grows with omega by definition, whatever the run has
learnt; so the same numbers are also compared at one omega for all runs.
"""

import json
import math
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from scipy import stats

from recraft_jax import errors, tree

DEFAULT_OMEGA = 1.0  # that of a run
MIN_RUNS = 3  # fewer have no correlation
TERMS = ("err_s", "fa", "fld_entropy", "fld_kl")  # of the bound, which is their sum

_NUMBERS = ("err_t", *TERMS, "w1", "bound", "refined", "omega", "gap")
_FLAGS = ("holds", "refined_holds")
_ROW = ("step", "phase", *_NUMBERS, *_FLAGS)
_HEAD = (
    *("task", "method", "backbone", "backbone_name", "seed", "split", "predictor"),
    "log_num_classes",
)
# What the runs of one comparison may differ in: the rest of the config must be equal.
_FREE = ("seed", "fa.omega", "assets", "log", "checkpoint")
_PERMUTATIONS = math.factorial(8)


class Correlation(NamedTuple):
    """Correlation of gap and target error over runs; `p` is two-sided.

    `r` and `p` are NaN where one of the two is constant or runs are too few.
    """

    kind: str  # Spearman or Pearson
    num: int
    r: float
    p: float


def read(workdir: pathlib.Path) -> dict[str, Any]:
    """Read a finished run with its `bound.json`, checked.

    Returns:
      `bound.json` with `name` (of the folder), `config`, `scale`, `protocol`, `metric`
      and `test`, the test score of the parameters that `final` belongs to.

    Raises:
      InputError: the run is not finished, or its bound is missing, damaged or that of
        another run.
    """
    results = _load(workdir / "results.json", "holds no finished run")
    config = _load(workdir / "config.json", "holds no finished run")
    command = f"python -m recraft_jax.evaluate --workdir={workdir} --bound"
    bound = _load(workdir / "bound.json", "holds no bound", f"; `{command}` makes it")
    where = f"{workdir / 'bound.json'}"
    again = f"; `{command}` makes it anew"
    rows = bound.get("checkpoints")
    final = bound.get("final")
    if not isinstance(rows, list) or not isinstance(final, dict):
        raise errors.InputError(f"{where} has no checkpoints or no final{again}")
    _need(bound, _HEAD, where, again)
    for index, row in enumerate(rows):
        at = f"{where}, checkpoint {index}"
        _need(row, _ROW, at, again)
    _need(final, _ROW, f"{where}, final", again)
    for name in ("task", "method", "seed"):
        if bound[name] != results[name]:
            raise errors.InputError(
                f"{where} belongs to another run: {name} is {bound[name]!r}, in "
                f"results.json {results[name]!r}{again}"
            )
    return bound | {
        "name": workdir.resolve().name,
        "config": config,
        "test": results["test"]["best_val"],
        **{name: results[name] for name in ("metric", "scale", "protocol")},
    }


def check_comparable(runs: Sequence[dict[str, Any]]) -> None:
    """Refuse runs that differ in more than omega and seed.

    Raises:
      InputError: naming two runs and what they differ in, or that two have the same
        omega and seed, or a number that is not finite.
    """
    first = runs[0]
    for run in runs:
        check_finite(run, [run["final"]])
        found = tree.differences(_shared(first), _shared(run))
        if found:
            raise errors.InputError(
                f"runs {first['name']} and {run['name']} do not compare: "
                f"{'; '.join(found)}; allowed: runs that differ in fa.omega and seed "
                "only"
            )
    keys = [(run["final"]["omega"], run["seed"]) for run in runs]
    for index, key in enumerate(keys):
        if key in keys[:index]:
            other = runs[keys.index(key)]["name"]
            raise errors.InputError(
                f"runs {other} and {runs[index]['name']} both have omega {key[0]:g} "
                f"and seed {key[1]}; allowed: one run of each"
            )


def check_finite(run: dict[str, Any], rows: Sequence[dict[str, Any]]) -> None:
    """Refuse numbers that cannot be drawn.

    Args:
      run: of `read`.
      rows: those of its checkpoints, or its final row, that are wanted.

    Raises:
      InputError: naming the first number that is not finite.
    """
    for row in rows:
        for name in _NUMBERS:
            if not math.isfinite(row[name]):
                raise errors.InputError(
                    f"run {run['name']}: {name} is {row[name]} at step {row['step']}; "
                    "allowed: finite numbers (a label of probability zero makes err_t "
                    "infinite)"
                )


def at_omega(run: dict[str, Any], omega: float) -> float:
    """Semantic gap of the reported parameters at a given omega, in nats."""
    return omega * run["final"]["w1"] + run["final"]["fld_entropy"]


def correlations(
    gaps: Float[np.ndarray, " n"], err_t: Float[np.ndarray, " n"]
) -> tuple[Correlation, Correlation]:
    """Correlate gap and target error by rank (Spearman) and linearly (Pearson).

    p is the share of pairings of the two columns whose correlation is as far out, on
    the rarer side and doubled: exact up to 8 runs, beyond that over 40,320 random
    pairings (a p of 0 cannot come out). Few runs need no normal distribution so.

    Args:
      gaps: semantic gap of each run, in nats.
      err_t: target log-loss of each run, in nats.
    """
    found = []
    for kind, x, y in (
        ("Spearman", stats.rankdata(gaps), stats.rankdata(err_t)),
        ("Pearson", np.asarray(gaps, float), np.asarray(err_t, float)),
    ):
        r = p = math.nan
        if len(x) >= MIN_RUNS and np.ptp(x) > 0 and np.ptp(y) > 0:
            x, y = ((v - v.mean()) / np.linalg.norm(v - v.mean()) for v in (x, y))
            r = float(np.clip(x @ y, -1, 1))
            test = stats.permutation_test(
                (x,),
                lambda x, axis, y=y: np.sum(x * y, axis=axis),
                permutation_type="pairings",
                vectorized=True,
                n_resamples=_PERMUTATIONS,
                rng=0,
            )
            p = float(test.pvalue)
        found.append(Correlation(kind, len(gaps), r, p))
    return found[0], found[1]


def say(found: Correlation) -> str:
    """Say in one line what a correlation is worth."""
    if math.isnan(found.r):
        why = "too few runs" if found.num < MIN_RUNS else "one side is constant"
        return f"{found.kind} undefined (n = {found.num}): {why}"
    if found.p > 0.05:
        verdict = "p > 0.05: no evidence of a relation"
    else:
        verdict = (
            f"the target error {'rises' if found.r > 0 else 'falls'} with the gap in "
            "these runs"
        )
    p = "< 0.001" if found.p < 0.001 else f"= {found.p:.3f}"
    r = round(found.r, 3) + 0.0  # no minus zero
    return f"{found.kind} {r:+.3f} (n = {found.num}, p {p}): {verdict}"


def summary(runs: Sequence[dict[str, Any]], omega: float) -> str:
    """Tabulate runs by omega (Markdown) and say how error and gap go together.

    Args:
      runs: of `read`, comparable.
      omega: the common one, in nats per unit of feature distance.
    """
    first = runs[0]
    lines = [
        f"{first['task']}, {first['method']}, {first['backbone_name']}: "
        f"{len(runs)} runs, {first['predictor']} predictor on the {first['split']} "
        f"split, `{first['scale']}` scale, `{first['protocol']}` protocol; all but "
        f"omega and {first['metric']} in nats (w1: feature distance)",
        "",
        f"| omega | seed | err_t | test {first['metric']} | fa | w1 | fld_entropy "
        f"| gap | gap at {omega:g} | bound | refined | bound holds | refined holds |",
        "|" + "---|" * 13,
    ]
    for run in sorted(runs, key=_order):
        f = run["final"]
        numbers = (f["err_t"], run["test"], f["fa"], f["w1"], f["fld_entropy"])
        numbers += (f["gap"], at_omega(run, omega), f["bound"], f["refined"])
        cells = [f"{f['omega']:g}", str(run["seed"]), *(f"{v:.4f}" for v in numbers)]
        cells += ["yes" if f[flag] else "no" for flag in _FLAGS]
        lines.append(f"| {' | '.join(cells)} |")
    held = [sum(bool(run["final"][flag]) for run in runs) for flag in _FLAGS]
    worst = f"log K_t = {first['log_num_classes']:.3f} nats, what guessing reaches"
    above = sum(r["final"]["bound"] > r["log_num_classes"] for r in runs)
    lines += [
        "",
        f"The bound holds in {held[0]} of {len(runs)} runs, the condition of the "
        f"refined one in {held[1]}; the bound is above {worst}, in {above}.",
    ]
    for label, gaps in panels(runs, omega):
        lines += ["", f"err_t against the gap {label}:"]
        lines += [f"- {say(one)}" for one in over(runs, gaps)]
        seeds = sorted({run["seed"] for run in runs})
        for seed in seeds if len(seeds) > 1 else ():
            of_seed = [run["seed"] == seed for run in runs]
            chosen = [run for run, is_in in zip(runs, of_seed, strict=True) if is_in]
            for one in over(chosen, gaps[of_seed]):
                lines.append(f"- seed {seed}: {say(one)}")
    return "\n".join(lines)


def panels(
    runs: Sequence[dict[str, Any]], omega: float
) -> tuple[tuple[str, np.ndarray], tuple[str, np.ndarray]]:
    """Gap of each run at its own omega and at a common one, with what to call it."""
    return (
        (
            "at each run's own omega (it rises with omega by definition)",
            np.array([run["final"]["gap"] for run in runs]),
        ),
        (
            f"at omega = {omega:g} for all runs",
            np.array([at_omega(run, omega) for run in runs]),
        ),
    )


def over(
    runs: Sequence[dict[str, Any]], gaps: np.ndarray
) -> tuple[Correlation, Correlation]:
    """Correlate the given gaps with the target errors of the runs."""
    return correlations(gaps, np.array([run["final"]["err_t"] for run in runs]))


def _order(run: dict[str, Any]) -> tuple[float, int]:
    return run["final"]["omega"], run["seed"]


def _shared(run: dict[str, Any]) -> dict[str, Any]:
    """Everything that must be equal for two runs to compare."""
    flat = dict(run["config"])
    for path in _FREE:
        section, _, name = path.partition(".")
        if name:
            flat[section] = dict(flat.get(section, {}))
            flat[section].pop(name, None)
        else:
            flat.pop(section, None)
    names = ("task", "method", "split", "predictor", "scale", "protocol", "backbone")
    return flat | {name: run[name] for name in names}


def _need(row: Any, names: Sequence[str], where: str, again: str) -> None:
    if not isinstance(row, dict):
        raise errors.InputError(f"{where} is {type(row).__name__}, not a dict{again}")
    for name in names:
        if name not in row:
            raise errors.InputError(f"{where} has no {name!r}{again}")
        if name in _NUMBERS and not isinstance(row[name], int | float):
            raise errors.InputError(f"{where}: {name} is {row[name]!r}{again}")


def _load(path: pathlib.Path, what: str, hint: str = "") -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise errors.InputError(
            f"{path.parent} {what}: {path.name}: {reason}{hint}"
        ) from None
    if not isinstance(value, dict):
        raise errors.InputError(f"{path} holds no JSON object{hint}")
    return value
