"""What finished runs say: tables from `results.json`, figures from `bound.json`.

python -m recraft_jax.report WORKDIR [WORKDIR ...]                  # Markdown table
python -m recraft_jax.report --gap WORKDIR [WORKDIR ...] --out=FILE.png [--omega=1]
python -m recraft_jax.report --bound WORKDIR --out=FILE.png
python -m recraft_jax.report --fields WORKDIR [--out=FILE.png]

--gap: target error against semantic gap, one point a run, of runs that differ in omega
and seed only; prints their table and correlations. --bound: the terms of the bound at
each checkpoint of one run. Both need what `python -m recraft_jax.evaluate
--workdir=WORKDIR --bound` leaves in each folder. --fields: input, target, prediction
and error of the first test samples of one run that predicts fields, by default into
WORKDIR/fields.png.
"""

import argparse
import json
import math
import pathlib
import statistics
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import rich.box
import rich.console
import rich.table

from recraft_jax import cli, errors, naming

_STAGE1 = ("recraft", "fa", "fld", "orca", "mona")  # they can freeze phi after it
_COLUMNS = (
    "method",
    "backbone",
    "phi in stage 2",
    "seeds",
    "test, best on val",
    "test, last step",
    "val, best",
    "FA before -> after",
    "FLD before -> after",
    "s stage 1",
    "s stage 2",
    "s total",
)


def closing(results: Mapping[str, Any], workdir: pathlib.Path) -> None:
    """Print the table a run ends with."""
    r = results
    table = rich.table.Table(
        title=f"{r['task']}: test {r['metric']} on {r['data']['test']} samples, lower "
        f"is better ({r['protocol']} protocol)",
        title_justify="left",
        box=rich.box.SIMPLE_HEAD,
    )
    table.add_column("predictor")
    table.add_column(r["metric"], justify="right")
    for name, value in sorted(r["baselines"].items(), key=lambda item: -item[1]):
        table.add_row(name, f"{value:.4f}")
    name = f"{naming.method(r['method'])}, {r['backbone_name']}"
    table.add_row(f"{name} (last step)", f"{r['test']['last']:.4f}")
    table.add_row(
        f"{name} (best on validation)", f"{r['test']['best_val']:.4f}", style="bold"
    )
    console = rich.console.Console(highlight=False, soft_wrap=True)
    console.print(table)
    if r.get("also"):
        found = "   ".join(f"{name} {value:.4f}" for name, value in r["also"].items())
        console.print(f"also      {found}")
    align = r["align"]
    if align["fa_before"] is not None:
        console.print(
            f"stage 1   FA {align['fa_before']:.3f} -> {align['fa_after']:.3f}   "
            f"FLD {align['fld_before']:.3f} -> {align['fld_after']:.3f} nats "
            f"(corrected {align['fld_corrected_before']:.3f} -> "
            f"{align['fld_corrected_after']:.3f})"
        )
    seconds = "   ".join(
        f"{name} {value:.1f}" for name, value in sorted(r["seconds"].items())
    )
    console.print(f"seconds   {seconds}")
    console.print(f"results   {workdir / 'results.json'}")


def markdown(runs: Sequence[Mapping[str, Any]]) -> str:
    """Tabulate runs: a row per setting, mean and standard deviation over its seeds.

    One table for each protocol, task, scale and set of samples: what does not compare
    never shares a table. The baselines of those samples stand below it.
    """
    tables: dict[tuple, list] = {}
    for r in runs:
        shared = tuple(r[name] for name in ("protocol", "task", "scale", "metric"))
        tables.setdefault((*shared, r["data"]["sha256"]), []).append(r)
    lines = []
    for (protocol, task, scale, metric, _), table in sorted(tables.items()):
        data = table[0]["data"]
        lines += [
            f"{task}, {metric}: {data['test']} test, {data['train']} training, "
            f"{data['val']} validation samples, `{scale}` scale, `{protocol}` protocol",
            "",
            f"| {' | '.join(_COLUMNS)} |",
            "|" + "---|" * len(_COLUMNS),
        ]
        groups: dict[tuple, list] = {}
        for r in table:
            key = (naming.method(r["method"]), r["backbone_name"], r["phi"])
            groups.setdefault(key, []).append(r)
        for setting, rows in sorted(groups.items()):
            rows = sorted(rows, key=lambda r: r["seed"])
            cells = (
                *setting,
                ", ".join(str(r["seed"]) for r in rows),
                _spread(rows, "test", "best_val"),
                _spread(rows, "test", "last"),
                _spread(rows, "val", "best"),
                _change(rows, "fa"),
                _change(rows, "fld"),
                _spread(rows, "seconds", "align", ".0f"),
                _spread(rows, "seconds", "fit", ".0f"),
                _spread(rows, "seconds", "total", ".0f"),
            )
            lines.append(f"| {' | '.join(cells)} |")
        found = sorted(table[0]["baselines"].items())
        lines += ["", ", ".join(f"{name} {value:.4f}" for name, value in found), ""]
    return "\n".join(lines)


def read(workdir: pathlib.Path) -> dict[str, Any]:
    """Read a finished run, with `phi` (frozen or trained in stage 2) from its config.

    Raises:
      InputError: the run is not finished, or its files cannot be read.
    """
    try:
        results = json.loads((workdir / "results.json").read_text())
        config = json.loads((workdir / "config.json").read_text())
    except (OSError, ValueError) as error:
        raise errors.InputError(f"{workdir} holds no finished run: {error}") from None
    frozen = config["stage2"]["freeze_embedder"] and results["method"] in _STAGE1
    return results | {"phi": "frozen" if frozen else "trained"}


def _spread(rows, section, name, form=".4f") -> str:
    values = [r[section][name] for r in rows]
    mean = format(statistics.mean(values), form)
    return mean + (f" ± {statistics.stdev(values):{form}}" if len(values) > 1 else "")


def _change(rows, name) -> str:
    if any(r["align"][f"{name}_before"] is None for r in rows):
        return "-"
    return " -> ".join(
        _spread(rows, "align", f"{name}_{when}", ".3f") for when in ("before", "after")
    )


def main(argv: Sequence[str]) -> int:
    """Print the Markdown table of the given runs, or draw a figure of them."""
    return cli.run(lambda argv: print(_answer(_parse(argv))), argv)


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = cli.Parser("report", __doc__)
    parser.add_argument("workdir", nargs="+", type=pathlib.Path)
    parser.add_argument("--gap", action="store_true", help="draw error against gap")
    parser.add_argument("--bound", action="store_true", help="draw the bound of a run")
    parser.add_argument("--fields", action="store_true", help="draw fields of a run")
    parser.add_argument("--out", type=pathlib.Path, help="the figure to write")
    parser.add_argument(
        "--omega",
        type=float,
        help="common omega of the right panel of --gap (default 1), in nats per unit "
        "of feature distance",
    )
    return parser.parse_intermixed_args(argv)


def _answer(given: argparse.Namespace) -> str:
    """Do what was asked and return what to print."""
    figures = ("gap", "bound", "fields")
    figure = [f"--{name}" for name in figures if getattr(given, name)]
    if len(figure) > 1:
        raise errors.InputError(f"{' and '.join(figure)}; allowed: one of them")
    if given.fields:
        return _draw_fields(given)
    if bool(figure) != (given.out is not None):
        raise errors.InputError(
            f"{figure[0]} needs --out=FILE.png"
            if figure
            else "--out is for figures; allowed: --gap, --bound or --fields with it"
        )
    if given.omega is not None and not (given.gap and 0 <= given.omega < math.inf):
        raise errors.InputError(
            f"--omega={given.omega}; allowed: 0 or more, finite, with --gap"
        )
    if not figure:
        return markdown([read(path) for path in given.workdir])
    from recraft_jax import gap, plots  # here, so that tables do not wait for them

    plots.check_path(given.out)
    runs = [gap.read(path) for path in given.workdir]
    if given.gap:
        omega = gap.DEFAULT_OMEGA if given.omega is None else given.omega
        gap.check_comparable(runs)
        plots.save(plots.draw_gap(runs, omega), given.out)
        return f"{gap.summary(runs, omega)}\n\nfigure    {given.out}"
    if len(runs) != 1:
        raise errors.InputError(f"--bound with {len(runs)} runs; allowed: one")
    gap.check_finite(runs[0], [*runs[0]["checkpoints"], runs[0]["final"]])
    plots.save(plots.draw_bound(runs[0]), given.out)
    return f"figure    {given.out}"


def _draw_fields(given: argparse.Namespace) -> str:
    if given.omega is not None:
        raise errors.InputError(f"--omega={given.omega}; allowed: with --gap")
    if len(given.workdir) != 1:
        raise errors.InputError(
            f"--fields with {len(given.workdir)} runs; allowed: one"
        )
    from recraft_jax import field_plots, plots

    (workdir,) = given.workdir
    out = given.out or workdir / "fields.png"
    results = read(workdir)
    fields = field_plots.read(workdir)
    plots.check_path(out)
    plots.save(field_plots.draw(fields, results), out)
    return f"figure    {out}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
