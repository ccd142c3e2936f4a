"""Tables of a comparison as Markdown, LaTeX and CSV, made of `comparison.summarise`."""

import csv
import io
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from recraft_jax import comparison, comparison_stats, naming


class Table(NamedTuple):
    """A table of texts; those that begin with `*` are shown bold."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""


def tables(summary: Mapping[str, Any]) -> list[Table]:
    """Make tables of scores, differences, alignment and cost; no empty ones."""
    made = (_scores(summary), _difference_table(summary), _align(summary))
    return [table for table in (*made, _cost(summary)) if table.rows]


def header(summary: Mapping[str, Any], origin: Mapping[str, Any]) -> list[str]:
    """Say what was run, where, and what failed.

    Args:
      summary: of `summarise`.
      origin: `command`, `cpu` and `jobs` (runs at a time).
    """
    found = summary["provenance"]
    backbones = "; ".join(
        f"{name} ({', '.join(of)})" for name, of in found["backbones"].items()
    )
    versions = ", ".join(
        f"{name} {' and '.join(of)}" for name, of in found["versions"].items()
    )
    commits = ", ".join(c or "unknown" for c in found["commits"])
    if len(found["commits"]) > 1:
        commits = f"{len(found['commits'])} different ones: {commits}"
    seeds = ", ".join(map(str, summary["seeds"]))
    which = {"best_val": "best on validation", "last": "of the last step"}
    lines = [
        f"Command: {origin['command']}",
        f"Protocol: {', '.join(found['protocols'])}. Scale: "
        f"{', '.join(found['scales'])}. Preset: {', '.join(found['presets'])}. "
        f"Seeds: {seeds}.",
        f"Test scores are those of the parameters {which[summary['score']]}.",
        f"Backbones: {backbones or '-'}.",
        f"Versions: {versions or '-'}. Commit: {commits}.",
        f"CPU: {origin['cpu']}; {comparison.count(origin['jobs'], 'run')} at a time.",
    ]
    for one in summary["failed"]:
        where = " ".join(str(one[n]) for n in ("task", "method", "variant") if one[n])
        lines.append(f"FAILED: {where} seed {one['seed']}: {one['reason']}")
    return lines


def markdown(summary: Mapping[str, Any], origin: Mapping[str, Any]) -> str:
    """Write header and tables as Markdown."""
    lines = ["# Comparison", "", *(f"- {line}" for line in header(summary, origin))]
    for number, table in enumerate(tables(summary), start=1):
        lines += ["", f"## Table {number}. {table.title}", ""]
        lines.append(_md_row(table.head))
        lines.append("|" + "---|" * len(table.head))
        lines += [_md_row(row) for row in table.rows]
        lines += ["", table.note] if table.note else []
    return "\n".join(lines) + "\n"


def latex(summary: Mapping[str, Any], origin: Mapping[str, Any]) -> str:
    r"""Write the tables for `\input`, in plain `tabular`; the header is a comment."""
    lines = [f"% {line}" for line in header(summary, origin)]
    for table in tables(summary):
        lines += [
            r"\begin{table}[ht]",
            r"\centering\footnotesize",
            rf"\caption{{{escape(table.title)}. {escape(table.note)}}}",
            rf"\begin{{tabular}}{{{'l' * len(table.head)}}}",
            r"\hline",
            _tex_row(table.head),
            r"\hline",
            *(_tex_row(row) for row in table.rows),
            r"\hline",
            r"\end{tabular}",
            r"\end{table}",
        ]
    return "\n".join(lines) + "\n"


def csv_text(summary: Mapping[str, Any]) -> str:
    """Write one row for each task and method, and for each trivial baseline."""
    names = (
        *("task", "metric", "better", "kind", "method", "seeds", "missing"),
        *("test_mean", "test_std", "val_mean", "val_std", "rank"),
        *("difference_to", "difference", "low", "high"),
        *(f"{n}_{when}" for n in comparison.ALIGN for when in ("before", "after")),
        *(f"seconds_{name}" for name in comparison.SECONDS),
        *("peak_mb", "trained", "settings", "lr_factor"),
    )
    buffer = io.StringIO()
    out = csv.DictWriter(buffer, names, lineterminator="\n", restval="")
    out.writeheader()
    for task, found in summary["tasks"].items():
        shared = {"task": task, "metric": found["metric"], "better": found["better"]}
        for method, cell in found["methods"].items():
            row = shared | {"kind": "method", "method": method}
            row["missing"] = _seeds(cell["missing"] if cell else summary["seeds"])
            if cell:
                row |= _csv_cell(cell)
                row["settings"] = summary["tuning"]["settings"]
                row["rank"] = summary["ranks"]["by_task"].get(task, {}).get(method)
            out.writerow(row)
        for name, value in sorted(found["baselines"].items()):
            row = shared | {"kind": "baseline", "method": name, "test_mean": value}
            out.writerow(row)
    return buffer.getvalue()


def escape(text: str) -> str:
    """Escape what LaTeX reads as commands."""
    table = {c: rf"\{c}" for c in "_%&#${}"}
    table |= {
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "±": r"$\pm$",
        "<": r"$<$",
        ">": r"$>$",
        "|": r"$|$",
    }
    return "".join(table.get(c, c) for c in text.replace("->", "→")).replace(
        "→", r"$\to$"
    )


def _csv_cell(cell: Mapping[str, Any]) -> dict[str, Any]:
    gap, align = cell["difference"] or {}, cell["align"] or {}
    return {
        "seeds": _seeds(cell["seeds"]),
        **{f"{n}_{k}": cell[n][k] for n in ("test", "val") for k in ("mean", "std")},
        "difference_to": gap.get("to"),
        "difference": gap.get("value"),
        "low": gap.get("low"),
        "high": gap.get("high"),
        **{name: found["mean"] for name, found in align.items()},
        **{f"seconds_{name}": cell["seconds"][name] for name in comparison.SECONDS},
        **{name: cell[name] for name in ("peak_mb", "trained", "lr_factor")},
    }


def _scores(summary: Mapping[str, Any]) -> Table:
    methods = summary["methods"]
    trivial = sorted({n for t in summary["tasks"].values() for n in t["baselines"]})
    rows, beaten = [], []
    for task, found in summary["tasks"].items():
        cells = found["methods"]
        form = _form([c["test"]["mean"] for c in cells.values() if c])
        best = _best(found)
        row = [_task_label(task, found)]
        for method, cell in cells.items():
            text = "failed"
            if cell:
                text = f"{_text(cell['test'], form)} ({len(cell['seeds'])}"
                text += f" of {len(summary['seeds'])})" if cell["missing"] else ")"
            row.append(("*" if method in best else "") + text)
        values = [found["baselines"].get(name) for name in trivial]
        rows.append([*row, *("-" if v is None else form(v) for v in values)])
        beaten += _beaten(task, found)
    average = summary["ranks"]["average"]
    shown = [f"{average[m]:.2f}" if average else "-" for m in methods]
    least = min(average.values(), default=None)
    shown = [
        f"*{text}" if average and average[m] == least else text
        for m, text in zip(methods, shown, strict=True)
    ]
    rows.append(["average rank", *shown, *("" for _ in trivial)])
    spread = (
        "Mean ± standard deviation over seeds (number of seeds)"
        if len(summary["seeds"]) > 1
        else "One seed, so without a spread (number of seeds)"
    )
    note = (
        f"{spread}; bold is the best method with all seeds. Columns in brackets are "
        "trivial and linear baselines on the same test split, not ranked. "
        f"{_say_ranks(summary['ranks'])}{' '.join(['', *beaten])}"
    )
    head = [
        "task (metric)",
        *map(naming.method, methods),
        *(f"[{name}]" for name in trivial),
    ]
    return Table("Test scores", head, rows, note)


def _difference_table(summary: Mapping[str, Any]) -> Table:
    rows = []
    for task, found in summary["tasks"].items():
        gaps = {m: (c or {}).get("difference") for m, c in found["methods"].items()}
        values = [abs(gap["value"]) for gap in gaps.values() if gap]
        if not values:
            continue
        means = [c["test"]["mean"] for c in found["methods"].values() if c]
        form = _form(means, more=1)
        row = [_task_label(task, found), naming.method(found["baseline_method"])]
        for method, gap in gaps.items():
            if method == found["baseline_method"]:
                row.append("baseline")
            else:
                row.append(_difference(gap, form) if gap else "-")
        rows.append(row)
    chosen = (
        f"Baseline method: {summary['baseline']}."
        if summary["baseline"]
        else "Baseline method: that with the best mean validation score, of all but "
        f"{comparison.PROPOSED}."
    )
    num_seeds = len(summary["seeds"])
    seeds = (
        f" {num_seeds} seeds show {num_seeds - 1}/{num_seeds} of the variance over "
        "seeds, so intervals are narrow where it is large."
        if num_seeds > 1
        else " There is one seed, so intervals know nothing of other seeds."
    )
    num = f"{comparison_stats.RESAMPLES:,}"
    return Table(
        "Difference to the baseline method; positive is better for the method",
        ["task (metric)", "baseline method", *map(naming.method, summary["methods"])],
        rows,
        f"{chosen} In brackets the 95 % interval of a paired bootstrap over seeds and "
        f"test samples, {num} resamples, not corrected for the number of "
        f"comparisons; ! marks those without 0.{seeds}",
    )


def _align(summary: Mapping[str, Any]) -> Table:
    rows = []
    for task, method, cell in _cells(summary):
        if cell["align"]:
            row = [task, naming.method(method)]
            for name in comparison.ALIGN:
                pair = [cell["align"].get(f"{name}_{w}") for w in ("before", "after")]
                texts = [_text(one, "{:.3f}".format) if one else "-" for one in pair]
                row.append(" -> ".join(texts))
            rows.append(row)
    return Table(
        "FA and FLD before and after stage 1",
        ["task", "method", "FA", "FLD, training", "FLD, validation"],
        rows,
        "FA is a W1 distance in units of the features, FLD is H(Z_t|Z_s) in nats; "
        "methods without stage 1 are left out.",
    )


def _cost(summary: Mapping[str, Any]) -> Table:
    rows = []
    for task, method, cell in _cells(summary):
        peak, factor = cell["peak_mb"], cell["lr_factor"]
        rows.append(
            [
                *(task, naming.method(method)),
                *(f"{cell['seconds'][name]:.0f}" for name in comparison.SECONDS),
                "-" if peak is None else f"{peak:.0f}",
                f"{cell['trained']:,}",
                str(summary["tuning"]["settings"]),
                "-" if factor is None else f"{factor:g}",
            ]
        )
    factors = ", ".join(f"{f:g}" for f in summary["tuning"]["factors"])
    tuning = (
        f" Every method was tried with its learning rate of stage 2 times {factors}, "
        f"on seed {summary['seeds'][0]}; the factor with the best validation score was "
        "taken for all seeds."
        if factors
        else " No setting was tuned here."
    )
    return Table(
        "Cost and tuning",
        [
            *("task", "method", *(f"s {name}" for name in comparison.SECONDS)),
            *("peak MB", "parameters trained", "settings tried", "lr factor"),
        ],
        rows,
        f"Wall seconds and peak memory of a run, mean over seeds.{tuning}",
    )


def _cells(summary: Mapping[str, Any]) -> Iterator[tuple[str, str, dict]]:
    for task, found in summary["tasks"].items():
        for method, cell in found["methods"].items():
            if cell:
                yield task, method, cell


def _best(found: Mapping[str, Any]) -> list[str]:
    whole = {m: c for m, c in found["methods"].items() if c and not c["missing"]}
    means = {method: cell["test"]["mean"] for method, cell in whole.items()}
    if not means:
        return []
    best = (max if found["better"] == "higher" else min)(means.values())
    return [method for method, mean in means.items() if mean == best]


def _beaten(task: str, found: Mapping[str, Any]) -> list[str]:
    """Say which trivial baselines are better than every method."""
    means = [cell["test"]["mean"] for cell in found["methods"].values() if cell]
    if not means:
        return []
    is_higher = found["better"] == "higher"
    best = max(means) if is_higher else min(means)
    names = [
        name
        for name, value in sorted(found["baselines"].items())
        if (value > best if is_higher else value < best)
    ]
    return [f"On {task} {' and '.join(names)} beat every method."] if names else []


def _say_ranks(found: Mapping[str, Any]) -> str:
    if found["note"]:
        return f"Average ranks: {found['note']}."
    p = found["friedman"]["p"]
    return (
        f"Average ranks over {len(found['tasks'])} complete tasks: Friedman "
        f"{'p < 0.001' if p < 0.001 else f'p = {p:.3f}'}, Nemenyi critical difference "
        f"{found['critical_difference']:.2f} at 5 %."
    )


def _difference(gap: Mapping[str, Any], form: Callable[[float], str]) -> str:
    def signed(value: float) -> str:
        text = form(abs(value))
        is_zero = not any(c in text for c in "123456789")
        return text if is_zero else ("+" if value > 0 else "-") + text

    if gap["low"] is None or not math.isfinite(gap["low"] + gap["high"]):
        return f"{signed(gap['value'])} [no samples]"
    text = f"{signed(gap['value'])} [{signed(gap['low'])}, {signed(gap['high'])}]"
    return f"{text} !" if gap["excludes_0"] else text


def _text(found: Mapping[str, Any], form: Callable[[float], str]) -> str:
    mean = form(found["mean"])
    return mean if found["std"] is None else f"{mean} ± {form(found['std'])}"


def _form(means: Sequence[float], more: int = 0) -> Callable[[float], str]:
    """Choose decimals that give the smallest mean three digits, and some more."""
    sizes = [abs(m) for m in means if m and math.isfinite(m)]
    digits = min(max(2 - math.floor(math.log10(min(sizes))), 3), 8) if sizes else 3
    return lambda v: f"{v:.3g}" if abs(v) >= 1e5 else f"{v:.{digits + more}f}"


def _task_label(task: str, found: Mapping[str, Any]) -> str:
    if found["metric"] is None:
        return task
    return f"{task} ({found['metric']}, {found['better']} is better)"


def _seeds(seeds: Sequence[int]) -> str:
    return " ".join(map(str, seeds))


def _md_row(row: Sequence[str]) -> str:
    cells = [f"**{c[1:]}**" if c.startswith("*") else c for c in row]
    return f"| {' | '.join(cells)} |"


def _tex_row(row: Sequence[str]) -> str:
    cells = [
        rf"\textbf{{{escape(c[1:])}}}" if c.startswith("*") else escape(c) for c in row
    ]
    return " & ".join(cells) + r" \\"
