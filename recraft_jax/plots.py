"""Figures of finished runs: target error against semantic gap, and the bound's terms.

No window, no global state: figures are made with the Agg canvas and written whole or
not at all. What is drawn is read and checked in `gap.py`.
"""

import contextlib
import os
import pathlib
import tempfile
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import figure, ticker
from matplotlib.backends import backend_agg

from recraft_jax import errors, gap

DPI = 150
FORMATS = (".png", ".pdf", ".svg")

# Okabe and Ito's colours, told apart by colour-blind readers too.
_BLUE, _ORANGE, _GREEN, _PINK = "#0072B2", "#E69F00", "#009E73", "#CC79A7"
_SKY, _RED = "#56B4E9", "#D55E00"
_SEED_COLOURS = (_BLUE, _RED, _GREEN, _PINK, _ORANGE, _SKY)
_SEED_MARKERS = "osD^vP"
_TERMS = {
    "err_s": ("#999999", "source error err$_s$"),
    "fa": (_SKY, "feature alignment $\\omega W_1$"),
    "fld_entropy": (_ORANGE, "distortion $H(Z_t|Z_s)$"),
    "fld_kl": (_PINK, "distortion, excess of the predictor"),
}
_MAX_VALUE_LABELS = 16  # bars above which their totals would collide


def draw_gap(runs: Sequence[dict[str, Any]], omega: float) -> figure.Figure:
    """Draw target error against semantic gap, one point a run, labelled by its omega.

    Left the gap is that at each run's own omega, right that at one omega for all.

    Args:
      runs: of `gap.read`, comparable.
      omega: the common one, in nats per unit of feature distance.
    """
    first = runs[0]
    fig = new_figure(11, 5)
    axes = fig.subplots(1, 2, sharey=True)
    err_t = np.array([run["final"]["err_t"] for run in runs])
    seeds = sorted({run["seed"] for run in runs})
    names = (
        "at each run's own $\\omega$",
        f"at $\\omega$ = {omega:g} for all runs",
    )
    for ax, name, (_, gaps) in zip(axes, names, gap.panels(runs, omega), strict=True):
        for index, seed in enumerate(seeds):
            of_seed = np.array([run["seed"] == seed for run in runs])
            ax.scatter(
                gaps[of_seed],
                err_t[of_seed],
                s=42,
                color=_SEED_COLOURS[index % len(_SEED_COLOURS)],
                marker=_SEED_MARKERS[index % len(_SEED_MARKERS)],
                label=f"seed {seed}",
                zorder=3,
            )
        spearman, pearson = gap.over(runs, gaps)
        ax.set_title(
            f"Gap {name}, n = {len(runs)}\n{_short(spearman)};  {_short(pearson)}",
            fontsize=10.5,
        )
        ax.set_xlabel(
            ("$\\omega\\,W_1 + H(Z_t|Z_s)$" if ax is axes[0] else _common(omega))
            + "   [nats]"
        )
        ax.grid(alpha=0.3)
        ax.margins(0.12)
    axes[0].set_ylabel("target error err$_t$: log-loss [nats]")
    if len(seeds) > 1:
        axes[1].legend(loc="best", fontsize=9)
    fig.suptitle(
        f"{_title(first)}, {first['split']} split; the number at a point is its "
        "$\\omega$",
        fontsize=12,
    )
    # Points get their places from the layout, which therefore must be done before.
    fig.canvas.draw()
    fig.set_layout_engine("none")
    labels = [f"{run['final']['omega']:g}" for run in runs]
    for ax, (_, gaps) in zip(axes, gap.panels(runs, omega), strict=True):
        _label_points(ax, np.column_stack([gaps, err_t]), labels)
    return fig


def draw_bound(run: dict[str, Any]) -> figure.Figure:
    """Draw the terms of the bound at each checkpoint as a stack, beside the error.

    The last bar, set apart, belongs to the parameters the run reports. The dashed line
    is log K_t, the target error of guessing: above it the bound says nothing.

    Args:
      run: of `gap.read`.
    """
    rows = run["checkpoints"]
    at = np.concatenate([np.arange(len(rows)), [len(rows) + 0.6]])
    every = [*rows, run["final"]]
    fig = new_figure(min(max(7.5, 3.5 + 0.62 * len(every)), 16), 5.4)
    ax = fig.subplots()
    totals = np.array([row["bound"] for row in every])
    stack = {term: np.array([row[term] for row in every]) for term in gap.TERMS}
    bottom = np.zeros(len(every))
    for term, heights in stack.items():
        colour, label = _TERMS[term]
        ax.bar(at, heights, 0.7, bottom, color=colour, label=label)
        bottom += heights
    ax.plot(
        at,
        [row["err_t"] for row in every],
        "D",
        color="black",
        markersize=6,
        markeredgecolor="white",
        label="target error err$_t$",
        zorder=4,
    )
    guessing = run["log_num_classes"]
    ax.axhline(
        guessing,
        color="black",
        linestyle="--",
        linewidth=1,
        label=f"guessing, log $K_t$ = {guessing:.2f}",
    )
    if len(every) <= _MAX_VALUE_LABELS:
        for x, total in zip(at, totals, strict=True):
            ax.annotate(
                f"{total:.2f}",
                (x, total),
                xytext=(0, 2),
                textcoords="offset points",
                ha="center",
                fontsize=8,
            )
    if rows:
        ax.axvline(len(rows) - 0.2, color="0.7", linewidth=1)
    ax.set_xticks(at, _step_labels(rows) + ["reported\n "])
    ax.set_xlabel("training step and phase")
    ax.set_ylabel("log-loss [nats]")
    ax.set_ylim(0, 1.08 * max(totals.max(), guessing))
    ax.yaxis.set_major_locator(ticker.MaxNLocator(8, steps=[1, 2, 5, 10]))
    ax.grid(axis="y", alpha=0.3)
    ax.set_axisbelow(True)
    # Legends read from the top as the stack does.
    handles, labels = ax.get_legend_handles_labels()
    lines = len(labels) - len(stack)  # which come first
    order = [*reversed(range(lines, len(labels))), *range(lines)]
    fig.legend(
        [handles[i] for i in order],
        [labels[i] for i in order],
        loc="outside lower center",
        ncols=3,
        fontsize=9,
        frameon=False,
    )
    ax.set_title(
        f"{_title(run)}: the bound is the sum of the bars\n{run['split']} split, "
        f"$\\omega$ = {run['final']['omega']:g}, seed {run['seed']}",
        fontsize=11,
    )
    return fig


def save(fig: figure.Figure, path: pathlib.Path) -> None:
    """Write a figure whole or not at all, in the format its name ends with.

    Raises:
      InputError: another ending, or a place that cannot be written.
    """
    check_path(path)
    temporary = None
    try:
        handle, temporary = tempfile.mkstemp(
            dir=path.parent, prefix=f".{path.name}.", suffix=path.suffix
        )
        with os.fdopen(handle, "wb") as file:
            fig.savefig(file, format=path.suffix[1:], dpi=DPI)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except OSError as error:
        raise errors.InputError(
            f"--out={path} cannot be written: {error.strerror}"
        ) from None
    finally:
        if temporary is not None:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)


def check_path(path: pathlib.Path) -> None:
    """Refuse a file name no figure can have.

    Raises:
      InputError: an unknown ending, or a folder that is not there.
    """
    if path.suffix not in FORMATS:
        raise errors.InputError(
            f"--out={path}; allowed: a name that ends with {', '.join(FORMATS)}"
        )
    if not path.parent.is_dir():
        raise errors.InputError(
            f"--out={path}: there is no folder {path.parent}; allowed: an existing one"
        )


def new_figure(width: float, height: float) -> figure.Figure:
    """Make a figure of its own, in inches, that pyplot knows nothing of."""
    fig = figure.Figure(figsize=(width, height), dpi=DPI, layout="constrained")
    backend_agg.FigureCanvasAgg(fig)
    return fig


def _title(run: dict[str, Any]) -> str:
    named = (run[name] for name in ("task", "method", "backbone_name", "predictor"))
    return f"{', '.join(named)} predictor"


def _common(omega: float) -> str:
    return f"{omega:g}$\\,W_1 + H(Z_t|Z_s)$"


def _short(found: gap.Correlation) -> str:
    if np.isnan(found.r):
        return f"{found.kind} undefined"
    p = "p < 0.001" if found.p < 0.001 else f"p = {found.p:.3f}"
    return f"{found.kind} {round(found.r, 2) + 0.0:+.2f} ({p})"  # no minus zero


def _step_labels(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Steps, with the phase below where it begins."""
    found, before = [], None
    for row in rows:
        # Every label has two lines, so that the steps stand on one.
        found.append(
            f"{row['step']}\n{row['phase'] if row['phase'] != before else ' '}"
        )
        before = row["phase"]
    return found


def _label_points(ax, points: np.ndarray, labels: Sequence[str]) -> None:
    """Write each label beside its point, where it covers no point and no other label.

    Of eight places around a point the free one nearest to the right top is taken; if
    none is free, the one with the fewest collisions.
    """
    scale = ax.figure.dpi / 72
    pixels = ax.transData.transform(points)
    size, far = 8.5 * scale, 6 * scale
    corner = np.array([far, far]) / 1.6
    taken = [(*(xy - corner), *(xy + corner)) for xy in pixels]
    sides = [(1, 1), (1, 0), (1, -1), (0, 1), (0, -1), (-1, 1), (-1, 0), (-1, -1)]
    for point, (x, y), label in zip(points, pixels, labels, strict=True):
        width, height = 0.62 * size * len(label), size

        def box(dx, dy, x=x, y=y, width=width, height=height):
            left = x + dx * far + (dx - 1) * width / 2
            low = y + dy * far + (dy - 1) * height / 2
            return left, low, left + width, low + height

        def collisions(side):
            return sum(_overlap(box(*side), other) for other in taken)

        best = min(sides, key=collisions)
        left, low, right, top = box(*best)
        taken.append((left, low, right, top))
        ax.annotate(
            label,
            point,
            xytext=(((left + right) / 2 - x) / scale, ((low + top) / 2 - y) / scale),
            textcoords="offset points",
            ha="center",
            va="center",
            fontsize=8.5,
        )


def _overlap(one: tuple, other: tuple) -> bool:
    return (
        one[0] < other[2]
        and other[0] < one[2]
        and one[1] < other[3]
        and other[1] < one[3]
    )
