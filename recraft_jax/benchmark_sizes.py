"""How cost grows: seconds and memory against the sizes of a problem, with exponents.

    python -m recraft_jax.benchmark_sizes [--only=NAME,...] [--repeats=N] [--out=FILE]
        [--figure=FILE]

    source   points of the source cloud in FA: value and gradient, 128 target points of
             768 coordinates, epsilon 0.2, the source's self term a constant
    tokens   of a training step of RoBERTa-base, batch 4
    depth    layers of it, batch 4, 128 tokens
    batch    of it, 128 tokens

Everything in float32. `benchmark_sizes.json` has a list of {"name", "size", "seconds",
"bytes"}: the median of the repeats, and the peak memory of the process without what it
had after the imports. The exponents printed are p of a least-squares fit of c size^p
on logarithmic axes, with the standard error of p.
"""

import argparse
import functools
import pathlib
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import rich.box
import rich.console
import rich.table
from jaxtyping import Float
from matplotlib import figure, ticker

from recraft_jax import benchmark_bodies, cli, measure, plots, writer

BODY = "roberta_base"
_WIDTH = 24  # points of a token


class Sweep(NamedTuple):
    """One size that grows.

    Attributes:
      sizes: its values.
      what: the size in words, for the axis.
      call: `size -> (module, expression)` of what `measure.worker` shall serve.
    """

    sizes: Sequence[int]
    what: str
    call: Callable[[int], tuple[str, str]]


class Fit(NamedTuple):
    """Cost = constant size^exponent.

    Attributes:
      constant: cost at size 1.
      exponent: p.
      error: standard error of p.
    """

    constant: float
    exponent: float
    error: float


def _source(num: int) -> tuple[str, str]:
    return "benchmark_alignment", f"benchmark_alignment.serve({num}, 128, 768)"


def _body_by(name: str) -> Callable[[int], tuple[str, str]]:
    return functools.partial(_body, name=name)


def _body(size: int, *, name: str) -> tuple[str, str]:
    tokens = size if name == "tokens" else 128
    sizes = {
        "x_shape": (_WIDTH * tokens, 1),
        "patch": _WIDTH,
        "batch_size": size if name == "batch" else 4,
    }
    _, config = benchmark_bodies.FAMILIES[BODY]
    given = dict(config) | ({"num_hidden_layers": size} if name == "depth" else {})
    call = f"benchmark_bodies.serve({BODY!r}, 'train', 'float32', {sizes}, {given})"
    return "benchmark_bodies", call


SWEEPS: Mapping[str, Sweep] = {
    "source": Sweep((1000, 2000, 5000, 10000, 20000, 50000), "source points", _source),
    "tokens": Sweep((64, 128, 256, 512), "tokens", _body_by("tokens")),
    "depth": Sweep((6, 12, 18, 24), "layers", _body_by("depth")),
    "batch": Sweep((4, 8, 16, 32, 64), "samples in a batch", _body_by("batch")),
}


def run(name: str, sweep: Sweep, repeats: int) -> list[dict[str, Any]]:
    """Measure a sweep, each size in a process of its own."""
    rows = []
    for size in sweep.sizes:
        with measure.worker(f"{name} {size}", *sweep.call(size)) as ask:
            (seconds,) = measure.take_turns([ask], "step", repeats)
            facts = ask("facts")[1]
        grown = facts["peak_bytes"] - facts["baseline"]
        rows.append({"name": name, "size": size, "seconds": seconds, "bytes": grown})
    return rows


def fit(sizes: Float[np.ndarray, " n"], costs: Float[np.ndarray, " n"]) -> Fit:
    """Fit a power law by least squares on logarithmic axes; n is 3 or more."""
    x, y = np.log(sizes), np.log(costs)
    apart = x - x.mean()
    exponent = apart @ y / (apart @ apart)
    rest = y - y.mean() - exponent * apart
    error = np.sqrt(rest @ rest / (len(x) - 2) / (apart @ apart))
    constant = np.exp(y.mean() - exponent * x.mean())
    return Fit(float(constant), float(exponent), float(error))


def fits(rows: Sequence[dict[str, Any]], name: str) -> dict[str, Fit]:
    """Fit seconds and bytes of a sweep."""
    found = [row for row in rows if row["name"] == name]
    sizes = np.array([row["size"] for row in found])
    return {
        cost: fit(sizes, np.array([row[cost] for row in found]))
        for cost in ("seconds", "bytes")
    }


def draw(rows: Sequence[dict[str, Any]]) -> figure.Figure:
    """Draw seconds above and memory below, one column a sweep, with their fits."""
    names = list(dict.fromkeys(row["name"] for row in rows))
    fig = plots.new_figure(3.2 * len(names), 5.5)
    axes = fig.subplots(2, len(names), squeeze=False)
    units = {"seconds": (1.0, "seconds"), "bytes": (1e9, "GB above the imports")}
    for column, name in enumerate(names):
        found = [row for row in rows if row["name"] == name]
        sizes = np.array([row["size"] for row in found])
        laws = fits(rows, name)
        for line, (cost, (unit, label)) in enumerate(units.items()):
            ax, law = axes[line, column], laws[cost]
            ax.loglog(sizes, [row[cost] / unit for row in found], "o")
            ax.loglog(sizes, law.constant * sizes**law.exponent / unit, "-", lw=1)
            ax.set_title(f"size$^{{{law.exponent:.2f} \\pm {law.error:.2f}}}$")
            ax.set_xlabel(SWEEPS[name].what if name in SWEEPS else name)
            ax.set_xticks(sizes, [f"{size:,}" for size in sizes], rotation=45)
            ax.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
            ax.yaxis.set_major_formatter(ticker.FormatStrFormatter("%g"))
            ax.minorticks_off()
            if column == 0:
                ax.set_ylabel(label)
    return fig


def show(rows: Sequence[dict[str, Any]]) -> None:
    """Print the costs, then the exponents."""
    table = rich.table.Table("name", box=rich.box.SIMPLE_HEAD)
    for heading in ("size", "seconds", "GB"):
        table.add_column(heading, justify="right")
    for row in rows:
        cells = f"{row['size']:,}", f"{row['seconds']:.3f}", f"{row['bytes'] / 1e9:.2f}"
        table.add_row(row["name"], *cells)
    console = rich.console.Console(width=100, highlight=False, soft_wrap=True)
    console.print(table)
    for name in dict.fromkeys(row["name"] for row in rows):
        laws = fits(rows, name).items()
        listed = [f"{c} size^{f.exponent:.2f} +- {f.error:.2f}" for c, f in laws]
        console.print(f"{name}: {', '.join(listed)}")
    console.print(measure.machine({}))


def _parse(argv: Sequence[str], allowed: Sequence[str]) -> argparse.Namespace:
    parser = cli.Parser("benchmark_sizes", __doc__)
    parser.add_argument("--only", default=",".join(allowed), help="NAME,NAME...")
    parser.add_argument("--repeats", default="3")
    parser.add_argument("--out", type=pathlib.Path, default="benchmark_sizes.json")
    parser.add_argument("--figure", type=pathlib.Path)
    given = parser.parse_args(argv)
    given.only = cli.names("--only", given.only, allowed)
    given.repeats = cli.count("--repeats", given.repeats)
    cli.check_out(given.out)
    if given.figure:
        plots.check_path(given.figure)
    return given


def main(argv: Sequence[str], sweeps: Mapping[str, Sweep] = SWEEPS) -> int:
    """Measure, write, print; returns the exit code."""

    def command(argv):
        given = _parse(argv, list(sweeps))
        rows = []
        for name in given.only:
            rows += run(name, sweeps[name], given.repeats)
            writer.write_json(given.out, rows)  # the next may take long
        show(rows)
        if given.figure:
            plots.save(draw(rows), given.figure)

    return cli.run(command, argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
