"""What a training step costs on many devices, counted from the compiled program.

    python -m recraft_jax.benchmark_scaling [--body=roberta_base,swin_base]
        [--devices=1,8,32] [--per-device=16] [--out=FILE]

Compiles the step of benchmark_bodies.py for virtual devices, data-parallel and with
large weights split (fsdp), and counts on one device: operations of the matrix products,
bytes of the collectives, bytes held between steps and during one. Runs nothing.
`benchmark_scaling.json` has a list of

    body, devices, fsdp, batch      the batch grows with the devices
    flops                           of matrix products, a step
    collectives, collective_bytes   how many run, bytes of their results, by kind
    state_bytes                     weights and optimiser between steps
    temporary_bytes                 beside them during a step, by XLA for a CPU

and then, for each accelerator of `ACCELERATORS`, the seconds that these numbers take at
its published rates: products at 40 % of the peak, a ring over its links.
"""

import pathlib
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import rich.box
import rich.console
import rich.table

from recraft_jax import benchmark_bodies, cli, measure, program, steps, writer
from recraft_jax import mesh as meshes

UTILISATION = 0.4  # share of the peak that products reach; of large transformers
BODIES = tuple(benchmark_bodies.SIZES)


class Accelerator(NamedTuple):
    """Published rates of one chip.

    Attributes:
      flops: dense bfloat16 operations a second.
      link: bytes a second that a chip sends to its neighbours, all links together.
    """

    flops: float
    link: float


# cloud.google.com/tpu/docs/v5e and /v5p (1,600 and 4,800 Gb/s a chip),
# nvidia.com/en-us/data-center/h100 (NVLink, 900 GB/s); links as the sum of both
# directions.
ACCELERATORS = {
    "TPU v5e": Accelerator(197e12, 200e9 / 2),
    "TPU v5p": Accelerator(459e12, 600e9 / 2),
    "H100 SXM": Accelerator(989e12, 900e9 / 2),
}


def count(body: str, devices: int, per_device: int, *, fsdp: bool) -> dict[str, Any]:
    """Compile a step for the first `devices` devices and count.

    Args:
      body: of `benchmark_bodies`.
      devices: at most those there are.
      per_device: samples of one device.
      fsdp: split large weights.
    """
    sizes = benchmark_bodies.SIZES[body] | {"batch_size": devices * per_device}
    made = benchmark_bodies.make_step(body, sizes)
    return count_step(made, jax.devices()[:devices], fsdp=fsdp) | {"body": body}


def count_step(
    made: benchmark_bodies.Step, devices: Sequence[jax.Device], *, fsdp: bool
) -> dict[str, Any]:
    """Count what `count` does, of any step."""
    mesh = meshes.make(devices)
    shardings = meshes.of_weights(mesh, made.state, fsdp=fsdp)

    def place(leaf, sharding):
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    state = jax.tree.map(place, made.state, shardings)
    batch = made.x_shape[0]
    rows = meshes.of_batch(mesh, batch)
    x = jax.ShapeDtypeStruct(made.x_shape, jnp.float32, sharding=rows)
    step = steps.make_train_step(
        made.phase, made.tx, start=0, mesh=mesh, shardings=shardings
    )
    compiled = step.lower(state, {"x": x}).compile()
    found, memory = program.work(compiled), compiled.memory_analysis()
    return {
        "devices": len(devices),
        "fsdp": fsdp,
        "batch": batch,
        "flops": found.flops,
        "collectives": found.count,
        "collective_bytes": found.size,
        "state_bytes": memory.alias_size_in_bytes,  # given and returned in place
        "temporary_bytes": memory.temp_size_in_bytes,
    }


def model(row: dict[str, Any], chip: Accelerator) -> dict[str, float]:
    """Seconds of a step of `count` on a chip.

    Every byte of an all-reduce's result crosses a link twice, in a ring of n devices
    2 (n - 1) / n times; of an all-gather or a reduce-scatter half as often. Gradients
    of one layer are sent while those of the next are computed, so the slower of the two
    is what a step takes at best, and their sum at worst.
    """
    around = (row["devices"] - 1) / row["devices"]
    sizes = row["collective_bytes"]
    sent = around * sum(sizes.values()) + around * sizes.get("all-reduce", 0)
    return {
        "products": row["flops"] / (UTILISATION * chip.flops),
        "sending": sent / chip.link,
    }


def show(rows: Sequence[dict[str, Any]]) -> None:
    """Print what was counted, then the model of each accelerator."""
    table = rich.table.Table(box=rich.box.SIMPLE_HEAD)
    heads = (
        "body, devices, batch, split, TFLOP, collectives, sent MB, state MB, step MB"
    )
    for head in heads.split(", "):
        table.add_column(head, justify="left" if head == "body" else "right")
    for name in ACCELERATORS:
        table.add_column(f"{name} ms\nproducts + sending", justify="right")
    for row in rows:
        kinds = [f"{n} {kind}" for kind, n in row["collectives"].items()]
        modelled = [model(row, chip) for chip in ACCELERATORS.values()]
        table.add_row(
            row["body"],
            str(row["devices"]),
            str(row["batch"]),
            "weights" if row["fsdp"] else "-",
            f"{row['flops'] / 1e12:.3f}",
            ", ".join(kinds) or "-",
            f"{sum(row['collective_bytes'].values()) / 1e6:.0f}",
            f"{row['state_bytes'] / 1e6:.0f}",
            f"{row['temporary_bytes'] / 1e6:.0f}",
            *(
                f"{1e3 * m['products']:.1f} + {1e3 * m['sending']:.1f}"
                for m in modelled
            ),
        )
    console = rich.console.Console(width=150, highlight=False, soft_wrap=True)
    console.print(table)
    console.print("A device each: products, bytes. " + measure.machine({}))


def main(argv: Sequence[str]) -> int:
    """Run the command line; returns the exit code."""
    return cli.run(_command, argv)


def _command(argv: Sequence[str]) -> None:
    parser = cli.Parser("benchmark_scaling", __doc__)
    parser.add_argument("--body", default=",".join(BODIES), help=", ".join(BODIES))
    parser.add_argument("--devices", default="1,8,32", help="N,N...")
    parser.add_argument("--per-device", default="16", help="samples of one device")
    parser.add_argument("--out", type=pathlib.Path, default="benchmark_scaling.json")
    given = parser.parse_args(argv)
    bodies = cli.names("--body", given.body, BODIES)
    counts = [cli.count("--devices", value) for value in given.devices.split(",")]
    per_device = cli.count("--per-device", given.per_device)
    cli.check_out(given.out)
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", max(counts))
    rows = [
        count(name, n, per_device, fsdp=fsdp)
        for name in bodies
        for n in counts
        for fsdp in ((False, True) if n > 1 else (False,))
    ]
    writer.write_json(given.out, rows)
    show(rows)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
