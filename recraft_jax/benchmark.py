"""How fast and how large: our pieces of work next to the same work in PyTorch.

python -m recraft_jax.benchmark [--out=FILE] [--only=NAME,...] [--repeats=N]

FA against GeomLoss; training steps, stage-1 steps and inference of full-size backbones
against transformers; the default job against the same job in PyTorch; the input
pipeline against a DataLoader, checkpoints against torch.save. It prints a table with
what was compared, and writes `benchmark.json`: a list with one object per piece of work
and type,

    name, dtype     the piece, and the type of its products
    seconds         median of the repeats, compilation not included (but for darcy16)
    peer            the other library; null if it is not installed or there is none
    peer_seconds    its median, measured in turns with ours, each in its own process
    ratio           seconds / peer_seconds: below 1 is faster than the peer
    flops_share     counted floating-point operations per second over those of a large
                    matrix product of that type in the same run
    peak_bytes      peak resident memory of the process, Python and JAX included
    peer_peak_bytes the same of the peer's process
    compile_cold    seconds to trace, lower and compile with nothing cached
    compile_warm    the same when the persistent compilation cache holds the program

and null where a number is not known. The peers need `pip install -e '.[bench]'`.
"""

import argparse
import functools
import pathlib
import sys
from collections.abc import Callable, Mapping, Sequence

import rich.box
import rich.console
import rich.table

from recraft_jax import (
    benchmark_alignment,
    benchmark_bodies,
    benchmark_jobs,
    cli,
    measure,
    writer,
)

_COLUMNS = {  # field: heading and format in the printed table
    "dtype": ("type", ""),
    "seconds": ("s", ".3f"),
    "peer": ("peer", ""),
    "peer_seconds": ("peer s", ".3f"),
    "ratio": ("ratio", ".3f"),
    "flops_share": ("flops", ".2f"),
    "peak_bytes": ("peak B", ".3g"),
    "peer_peak_bytes": ("peer B", ".3g"),
    "compile_cold": ("cold", ".2f"),
    "compile_warm": ("warm", ".2f"),
}
Piece = Callable[..., tuple[list[measure.Row], list[str]]]

_FA = benchmark_alignment.alignment
_BODY = benchmark_bodies.piece
PIECES: Mapping[str, Piece] = {
    "fa_distance": functools.partial(_FA, power=1, epsilon=None, tokens=1),
    "fa_half_squared": functools.partial(_FA, power=2, epsilon=0.1, tokens=64),
    "fa_blocks": benchmark_alignment.blocks,
    "roberta_base": functools.partial(_BODY, body="roberta_base", work="train"),
    "roberta_base_fld": functools.partial(_BODY, body="roberta_base", work="fld"),
    "roberta_base_predict": functools.partial(
        _BODY, body="roberta_base", work="predict"
    ),
    "swin_base": functools.partial(_BODY, body="swin_base", work="train"),
    "minilm": functools.partial(_BODY, body="minilm", work="train"),
    "darcy16": benchmark_jobs.darcy16,
    "pipeline": benchmark_jobs.pipeline,
    "checkpoint": benchmark_jobs.checkpoint,
}


def run(
    names: Sequence[str], repeats: int, pieces: Mapping[str, Piece] = PIECES
) -> tuple[list[measure.Row], list[str]]:
    """Measure the named pieces one after the other."""
    rows, notes = [], []
    for name in names:
        found, lines = pieces[name](name, repeats=repeats)
        rows += found
        notes += lines
    return rows, notes


def show(rows: Sequence[measure.Row], notes: Sequence[str]) -> None:
    """Print the table, then what was compared."""
    table = rich.table.Table(box=rich.box.SIMPLE_HEAD)
    table.add_column("name")
    for heading, _ in _COLUMNS.values():
        table.add_column(heading, justify="right")
    for row in rows:
        cells = [
            "-" if row[name] is None else format(row[name], form)
            for name, (_, form) in _COLUMNS.items()
        ]
        table.add_row(row["name"], *cells)
    console = rich.console.Console(
        width=120, highlight=False, soft_wrap=True, markup=False
    )
    console.print(table)
    peers = measure.peer_versions()
    for line in (*notes, measure.machine(peers)):
        console.print(line)
    if not peers:
        console.print("peer columns are empty: pip install -e '.[bench]'")


def _parse(argv: Sequence[str], allowed: Sequence[str]) -> argparse.Namespace:
    """Read the arguments; whatever is wrong is an `InputError` of one line."""
    parser = cli.Parser("benchmark", __doc__)
    parser.add_argument("--out", type=pathlib.Path, default="benchmark.json")
    parser.add_argument("--only", default=",".join(allowed), help="NAME,NAME...")
    parser.add_argument("--repeats", default="5")
    given = parser.parse_args(argv)
    given.only = cli.names("--only", given.only, allowed)
    given.repeats = cli.count("--repeats", given.repeats)
    cli.check_out(given.out)
    return given


def main(argv: Sequence[str], pieces: Mapping[str, Piece] = PIECES) -> int:
    """Measure, print, write."""

    def command(argv):
        given = _parse(argv, list(pieces))
        rows, notes = run(given.only, given.repeats, pieces)
        writer.write_json(given.out, rows)
        show(rows, notes)

    return cli.run(command, argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
