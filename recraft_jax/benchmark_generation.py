"""How fast data are made: samples per second and peak memory per task, mode and batch.

python -m recraft_jax.benchmark_generation [--tasks=TASK,...] [--modes=MODE,...]
    [--nx=CELLS] [--batches=1,8,64] [--repeats=N] [--out=FILE]

Each line is measured in a fresh process, which solves one batch of samples on all
devices (`taskset -c 0` in front takes one core): seconds are the median of the repeats
after a first call, whose excess over them is compilation. Memory is the peak of the
process, Python and JAX (0.3 GB) included; that of pools of processes is their parent's.
Without --nx every task has the size of its demo. The table goes to the screen, the
numbers to `generation.json`.
"""

import argparse
import contextlib
import pathlib
import statistics
import sys
from collections.abc import Sequence
from typing import Any

import rich.box
import rich.console
import rich.table

from recraft_jax import cli, errors, generate, measure, writer
from recraft_jax.data.pdebench_layout import LAYOUTS
from recraft_jax.pde import equation

DEMO_NX = {
    name: 32 if name in ("shallow_water", "diffusion_reaction_2d") else 64
    for name, layout in LAYOUTS.items()
    if layout.space == "xy"
}
DEMO_NX_1D = 128


def solve(task: str, mode: str, nx: int, batch: int, repeats: int) -> dict[str, Any]:
    """Measure one case in this process; plain values only."""
    generate.use_all_cores()
    pde = generate.find(task)
    sample = pde.draw(LAYOUTS[task].key, batch, nx)
    settings = {"task": task, "mode": mode, "nx": nx, "num": batch, "chunk": batch}
    with contextlib.ExitStack() as stack:
        call = generate.make_solver(stack, pde, settings)
        first, _ = measure.timed(lambda: call(sample))
        seconds = statistics.median(
            measure.timed(lambda: call(sample))[0] for _ in range(repeats)
        )
    return {
        "task": task,
        "mode": mode,
        "nx": nx,
        "batch": batch,
        "seconds_per_sample": seconds / batch,
        "samples_per_second": batch / seconds,
        "compile_seconds": max(first - seconds, 0.0),
        "peak_bytes": measure.peak_bytes(),
    }


def main(argv: Sequence[str]) -> int:
    """Run the command line; returns the exit code."""
    return cli.run(_measure, argv)


def _measure(argv: Sequence[str]) -> None:
    given = _parse(argv)
    rows = []
    for task in given.tasks:
        for mode in given.modes:
            for batch in given.batches:
                nx = given.nx or DEMO_NX.get(task, DEMO_NX_1D)
                call = f"benchmark_generation.solve({task!r}, {mode!r}, {nx}, {batch}, "
                rows.append(
                    measure.in_fresh_process(
                        f"{task} {mode}",
                        "benchmark_generation",
                        f"{call}{given.repeats})",
                    )
                )
                print(
                    "{task} {mode} {nx} x {batch}: {samples_per_second:.3g}/s".format(
                        **rows[-1]
                    ),
                    flush=True,
                )
    writer.write_json(given.out, rows)
    show(rows)


def show(rows: Sequence[dict[str, Any]]) -> None:
    """Print the table and the machine."""
    table = rich.table.Table(box=rich.box.SIMPLE_HEAD)
    for heading in ("task", "mode", "nx", "batch", "samples/s", "s/sample"):
        table.add_column(heading)
    table.add_column("compile s")
    table.add_column("peak GB")
    for row in rows:
        table.add_row(
            *(str(row[name]) for name in ("task", "mode", "nx", "batch")),
            f"{row['samples_per_second']:.3g}",
            f"{row['seconds_per_sample']:.3g}",
            f"{row['compile_seconds']:.1f}",
            f"{row['peak_bytes'] / 1e9:.2f}",
        )
    console = rich.console.Console(width=100, highlight=False, soft_wrap=True)
    console.print(table)
    console.print(measure.machine({}))


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = cli.Parser("benchmark_generation", __doc__)
    parser.add_argument("--tasks", default=",".join(LAYOUTS))
    parser.add_argument("--modes", default=",".join(equation.MODES))
    parser.add_argument("--nx", type=int, default=0, help="cells of an axis")
    parser.add_argument("--batches", default="1,8,64", help="samples at a time")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--out", type=pathlib.Path, default="generation.json")
    given = parser.parse_args(argv)
    for name, allowed in (("tasks", LAYOUTS), ("modes", equation.MODES)):
        values = getattr(given, name).split(",")
        for value in values:
            if value not in allowed:
                raise errors.InputError(
                    f"--{name}={value}; allowed: {', '.join(allowed)}"
                )
        setattr(given, name, values)
    sizes = given.batches.split(",")
    if not all(size.isdecimal() and int(size) for size in sizes):
        raise errors.InputError(f"--batches={given.batches}; allowed: 1,8,64 and so on")
    given.batches = [int(size) for size in sizes]
    if given.repeats < 1 or given.nx < 0:
        raise errors.InputError(
            f"--repeats={given.repeats} --nx={given.nx}; allowed: 1 or more, and 0 or "
            "more"
        )
    cli.check_out(given.out)
    return given


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
