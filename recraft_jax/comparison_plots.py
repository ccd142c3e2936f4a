"""Figures of a comparison: scores, validation curves, average ranks, sweep of omega.

Drawn from the dict of `comparison.summarise` alone, one panel a task. Ranks are drawn
as by Demsar (2006, JMLR 7): a bar joins methods that do not differ significantly.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from matplotlib import figure

from recraft_jax import comparison, naming, plots

# Okabe and Ito's colours first, told apart by colour-blind readers too.
_COLOURS = (
    *("#D55E00", "#0072B2", "#009E73", "#E69F00", "#56B4E9", "#CC79A7"),
    *("#000000", "#999999", "#8C564B", "#6A3D9A"),
)
_MARKERS = "osD^vP<>Xh"
_COLUMNS = 3  # of panels
_OFF_SCALE = 2.5  # times the highest bar, from where on a baseline is not drawn
_LINES = ("--", ":", "-.", (0, (5, 1, 1, 1, 1, 1)))


def draw_scores(summary: Mapping[str, Any]) -> figure.Figure:
    """Draw a bar for each method with its deviation over seeds, and the baselines.

    A baseline far above the bars would flatten them: it is named, not drawn.
    """
    fig, panels = _panels(summary["tasks"])
    for ax, (task, found) in panels:
        done = {m: c for m, c in found["methods"].items() if c}
        names = list(found["methods"])
        top = 0.0
        for at, method in enumerate(names):
            if method not in done:
                ax.text(at, 0, "  failed", rotation=90, ha="center", va="bottom")
                continue
            test = done[method]["test"]
            colour = _COLOURS[at % len(_COLOURS)]
            ax.bar(at, test["mean"], 0.7, yerr=test["std"], color=colour, capsize=3)
            top = max(top, test["mean"] + (test["std"] or 0))
        for index, (name, value) in enumerate(sorted(found["baselines"].items())):
            style = {"color": "0.25", "linestyle": _LINES[index % len(_LINES)]}
            if top and value > _OFF_SCALE * top:
                ax.plot([], [], label=f"{name} {value:.3g}, off scale", **style)
            else:
                ax.axhline(value, label=f"{name} {value:.3g}", linewidth=1, **style)
        ax.set_xticks(
            range(len(names)),
            [*map(naming.method, names)],
            rotation=30,
            ha="right",
            fontsize=8,
        )
        ax.set_xlim(-0.6, len(names) - 0.4)
        ax.grid(axis="y", alpha=0.3)
        ax.set_axisbelow(True)
        if found["baselines"]:
            ax.legend(fontsize=7, loc="upper left", bbox_to_anchor=(0, -0.22), ncols=2)
        _label(ax, task, found, f"test {found['metric']}")
    num = len(summary["seeds"])
    bars = f"mean of {num} seeds and their deviation" if num > 1 else "one seed"
    fig.suptitle(f"Test scores: {bars}; lines are baselines", fontsize=12)
    return fig


def draw_curves(summary: Mapping[str, Any]) -> figure.Figure:
    """Draw the validation score against the step, mean over seeds."""
    fig, panels = _panels(summary["tasks"])
    for ax, (task, found) in panels:
        for at, (method, cell) in enumerate(found["methods"].items()):
            if cell and cell["curve"]["steps"]:
                ax.plot(
                    cell["curve"]["steps"],
                    cell["curve"]["mean"],
                    color=_COLOURS[at % len(_COLOURS)],
                    marker=_MARKERS[at % len(_MARKERS)],
                    markersize=3.5,
                    label=naming.method(method),
                )
        if ax.lines:
            ax.legend(fontsize=8)
        ax.set_xlabel("step, stage 1 included")
        ax.grid(alpha=0.3)
        _label(ax, task, found, f"validation {found['metric']}")
    seeds = comparison.count(len(summary["seeds"]), "seed")
    fig.suptitle(f"Validation while training, mean of {seeds}", fontsize=12)
    return fig


def draw_omega(summary: Mapping[str, Any]) -> figure.Figure:
    """Draw the test score against omega: mean and range over seeds."""
    fig, panels = _panels(summary["omega"])
    for ax, (task, points) in panels:
        omega, mean, low, high = (
            np.array([point[name] for point in points])
            for name in ("omega", "mean", "low", "high")
        )
        colour = _COLOURS[0]
        if any(len(point["seeds"]) > 1 for point in points):
            ax.fill_between(omega, low, high, color=colour, alpha=0.2, linewidth=0)
        ax.plot(omega, mean, "o-", color=colour, markersize=5)
        if (omega > 0).all():
            ax.set_xscale("log")
        ax.set_xticks(omega, [f"{value:g}" for value in omega])
        ax.minorticks_off()
        ax.set_xlabel("$\\omega$")
        ax.grid(alpha=0.3)
        _label(ax, task, summary["tasks"][task], f"test {points[0]['metric']}")
    num = len(summary["seeds"])
    spread = f"mean and range over {num} seeds" if num > 1 else "one seed"
    fig.suptitle(f"{comparison.PROPOSED} at several $\\omega$: {spread}", fontsize=12)
    return fig


def draw_ranks(summary: Mapping[str, Any]) -> figure.Figure:
    """Draw average ranks on a line, with bars that join methods that do not differ."""
    found = summary["ranks"]
    average = found["average"]
    order = sorted(average, key=lambda name: average[name])
    rows = math.ceil(len(order) / 2)
    fig = plots.new_figure(8, 2.2 + 0.28 * (rows + len(found["alike"] or ())))
    ax = fig.subplots()
    ax.set_axis_off()
    ax.set_title(_rank_title(found), fontsize=10.5)
    if not order:
        return fig
    last = max(len(order), 2)
    ax.set_xlim(1 - 0.3 * last, 1.3 * last)
    ax.hlines(0, 1, last, color="black", linewidth=1.2)
    for tick in range(1, last + 1):
        ax.vlines(tick, 0, 0.25, color="black", linewidth=1)
        ax.text(tick, 0.35, str(tick), ha="center", va="bottom", fontsize=9)
    bars = found["alike"] or []
    for index, group in enumerate(bars):
        ends = average[group[0]] - 0.03, average[group[-1]] + 0.03
        y = -0.35 - 0.35 * index
        ax.plot(ends, (y, y), color="black", linewidth=4, solid_capstyle="butt")
    start = -0.7 - 0.35 * len(bars)
    for index, name in enumerate(order):
        is_left = index < rows
        y = start - 0.8 * (index if is_left else len(order) - 1 - index)
        edge = 1 - 0.04 * last if is_left else 1.04 * last
        colour = _COLOURS[list(average).index(name) % len(_COLOURS)]
        x = average[name]
        ax.plot((x, x, edge), (0, y, y), color=colour, linewidth=1.2)
        side = "right" if is_left else "left"
        text = f" {naming.method(name)} {x:.2f} "
        ax.text(edge, y, text, ha=side, va="center", fontsize=9, color=colour)
    critical = found["critical_difference"]
    if critical:
        ax.plot((1, 1 + critical), (1.6, 1.6), "k|-", linewidth=1.5)
        ax.text(1, 1.75, f"CD {critical:.2f}", ha="left", va="bottom", fontsize=9)
    ax.set_ylim(start - 0.8 * rows, 2.6 if critical else 1.2)
    return fig


def _rank_title(found: Mapping[str, Any]) -> str:
    tasks = comparison.count(len(found["tasks"]), "complete task")
    if found["note"]:
        return f"Average ranks over {tasks}, 1 is best\n{found['note']}"
    p = found["friedman"]["p"]
    said = "p < 0.001" if p < 0.001 else f"p = {p:.3f}"
    return (
        f"Average ranks over {tasks}, 1 is best; Friedman {said}\n"
        "bars join methods that do not differ by Nemenyi's test at 5 %"
    )


def _panels(tasks: Mapping[str, Any]) -> tuple[figure.Figure, Iterator]:
    """Make a figure with one panel for each item."""
    columns = min(len(tasks), _COLUMNS)
    rows = math.ceil(len(tasks) / columns)
    fig = plots.new_figure(max(4.2 * columns, 6), 3.6 * rows + 0.5)
    axes = fig.subplots(rows, columns, squeeze=False).ravel()
    for ax in axes[len(tasks) :]:
        ax.set_axis_off()
    return fig, zip(axes, tasks.items(), strict=False)


def _label(ax, task: str, found: Mapping[str, Any], name: str) -> None:
    better = found["better"]
    ax.set_title(f"{task}, {better} is better" if better else task, fontsize=10)
    ax.set_ylabel(name if better else "")
