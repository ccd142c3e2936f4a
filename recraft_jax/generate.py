"""Make PDEBench's data: nine equations, in the layout of the published files.

    python -m recraft_jax.generate --task=burgers --num=1000 --nx=256 --out=FILE
        [--key=2022] [--mode=accurate|compat] [--chunk=SAMPLES]

--mode=accurate solves the equation in float64, to 1e-4 or better but for some flows
(docs/benchmarks.md); --mode=compat follows PDEBench's schemes step by step, rounding
and all. --nx sets every spatial axis. --key
is the key of the first run of samples, or of tasks drawn by seed (diffusion_sorption,
shallow_water, diffusion_reaction_2d) the first seed. Defaults are those of the
published file. What is finished stays in FILE.parts: the same command goes on after a
kill and ends with the same file. FILE.json says how FILE was made.

--task=darcy_flow and --task=spherical make the files of NAS-Bench-360 into the folder
--out, the second one from --out/cifar-100-python (generate_nas360.py).
"""

import argparse
import contextlib
import functools
import importlib
import json
import math
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence

import jax
import numpy as np
import rich.console
import rich.progress
from jax.sharding import PartitionSpec

from recraft_jax import cli, errors, generate_nas360, provenance, writer
from recraft_jax import mesh as meshes
from recraft_jax.data import pdebench_file, pdebench_layout
from recraft_jax.pde import equation

CHUNK_BYTES = 256 << 20  # of frames in float64, on all devices
MAX_CHUNK = 256


def make(
    out: pathlib.Path, *, task: str, num: int, nx: int, key: int, mode: str, chunk: int
) -> None:
    """Generate a file, or go on with one that was begun; returns when it is whole.

    Args:
      out: the file.
      task: a name in `pdebench_layout.LAYOUTS`.
      num: samples.
      nx: cells of each spatial axis.
      key: of the first run, or the first seed.
      mode: `compat` or `accurate`.
      chunk: samples solved at a time; 0 is as many as fit into a quarter of a GiB.

    Raises:
      InputError: values no task can use, or files at `out` that are made otherwise.
      RunError: a solution that is not finite.
    """
    check(task, num, nx, key, mode, chunk)
    asked = {"task": task, "num": num, "nx": nx, "key": key, "mode": mode}
    parts, card = (out.with_name(f"{out.name}.{s}") for s in ("parts", "json"))
    if out.exists():
        provenance.check_same(out, card, asked)
        shutil.rmtree(parts, ignore_errors=True)  # killed on its last step
        return
    if not out.parent.is_dir():
        raise errors.InputError(
            f"--out={out}: there is no folder {out.parent}; allowed: an existing one"
        )
    begun = parts / "asked.json"
    if begun.exists() or any(parts.glob("*.npz")):
        provenance.check_same(parts, begun, asked)
    settings = asked | {"chunk": chunk or _chunk(task, num, nx)}
    if begun.exists():
        settings = json.loads(begun.read_text())  # the same chunks as before the kill
    _take(find(task), settings, 0, 1)  # refuses cells too few before anything is made
    parts.mkdir(exist_ok=True)
    writer.write_json(begun, settings)
    starts = range(0, num, settings["chunk"])
    _solve_parts(parts, starts, settings)
    writer.write_json(card, settings)
    loaded = (_load(parts / _name(start)) for start in starts)
    pdebench_file.write(out, task, nx, range(key, key + num), loaded)
    shutil.rmtree(parts)


def check(task: str, num: int, nx: int, key: int, mode: str, chunk: int) -> None:
    """Refuse values before any work."""
    if task not in pdebench_layout.LAYOUTS:
        allowed = ", ".join(pdebench_layout.LAYOUTS)
        makers = ", ".join(generate_nas360.MAKERS)
        raise errors.InputError(f"--task={task}; allowed: {allowed}, {makers}")
    if mode not in equation.MODES:
        raise errors.InputError(f"--mode={mode}; allowed: {', '.join(equation.MODES)}")
    for name, value, least in (
        ("num", num, 1),
        ("nx", nx, 1),
        ("key", key, 0),
        ("chunk", chunk, 0),
    ):
        if value < least:
            raise errors.InputError(f"--{name}={value}; allowed: {least} or more")
    if key + num > 2**32:
        raise errors.InputError(f"--key={key}; allowed: seeds below 2**32")


def seconds(task: str, num: int, nx: int, mode: str) -> float:
    """Estimate how long `make` takes, from times measured on two processor cores.

    Good to a factor of two or so, plus compilation.
    """
    per_sample, measured_at, power = find(task).cost[mode]
    return num * per_sample * (nx / measured_at) ** power


def find(task: str) -> equation.Equation:
    """Return the equation of a task."""
    return importlib.import_module(f"recraft_jax.pde.{task}").EQUATION


def _chunk(task: str, num: int, nx: int) -> int:
    """Samples at a time: a multiple of the devices."""
    each = 8 * pdebench_layout.LAYOUTS[task].sample_values(nx)
    most = min(MAX_CHUNK, CHUNK_BYTES // each, num)
    devices = jax.local_device_count()
    return max(most // devices, 1) * devices


def _solve_parts(parts: pathlib.Path, starts: range, settings: dict) -> None:
    task, num, mode = settings["task"], settings["num"], settings["mode"]
    pde = find(task)
    missing = [start for start in starts if not (parts / _name(start)).exists()]
    with contextlib.ExitStack() as stack:
        solve = make_solver(stack, pde, settings)
        advance = stack.enter_context(_progress(task, num, len(starts) - len(missing)))
        for start in missing:
            stop = min(start + settings["chunk"], num)
            sample = _take(pde, settings, start, stop)
            frames = solve(sample)
            frames = {k: np.asarray(v).astype(np.float32) for k, v in frames.items()}
            for name, values in frames.items():
                flat = values.reshape(len(values), -1)
                bad = ~np.isfinite(flat).all(axis=1)
                if bad.any():
                    raise errors.RunError(
                        f"{task}, {mode}: {name} of sample {start + bad.argmax()} is "
                        "not finite; what is finished is kept. Another --nx or --key "
                        "may help"
                    )
            writer.write_npz(parts / _name(start), **frames)
            advance(min(start + settings["chunk"], num), stop - start)


def _take(pde: equation.Equation, settings: dict, start: int, stop: int) -> dict:
    """Rows of what is drawn; a set larger than a run joins runs of keys one apart."""
    rows = []
    for run in range(start // pde.run_size, (stop - 1) // pde.run_size + 1):
        first = run * pde.run_size
        size = pde.run_size if settings["num"] > pde.run_size else settings["num"]
        step = pde.run_size if pde.is_seeded else 1
        drawn = _draw(pde.draw, settings["key"] + run * step, size, settings["nx"])
        within = slice(max(start - first, 0), stop - first)
        rows.append({name: values[within] for name, values in drawn.items()})
    return {name: np.concatenate([r[name] for r in rows]) for name in rows[0]}


@functools.lru_cache(maxsize=2)
def _draw(draw, key: int, num: int, nx: int) -> dict[str, np.ndarray]:
    return draw(key, num, nx)


def num_cores() -> int:
    """Count the processor cores this process may use."""
    has_affinity = hasattr(os, "sched_getaffinity")
    return len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count()


def use_all_cores() -> None:
    """Make every core a device, where the processor is what JAX computes on.

    Does nothing in a process that has computed already.
    """
    with contextlib.suppress(RuntimeError):
        jax.config.update("jax_num_cpu_devices", num_cores())


def make_solver(stack: contextlib.ExitStack, pde: equation.Equation, settings: dict):
    """Make `sample -> frames`: jitted over the devices, or in processes."""
    nx, mode = settings["nx"], settings["mode"]
    if mode in pde.host_modes:
        return _spread(settings)
    if mode in pde.wide_modes:
        stack.enter_context(jax.enable_x64(True))
    mesh = meshes.make(jax.local_devices())
    # Every device runs its own time loop: no step waits for another device's.
    solve = jax.jit(
        jax.shard_map(
            functools.partial(pde.solve, nx=nx, mode=mode),
            mesh=mesh,
            in_specs=PartitionSpec("data"),
            out_specs=PartitionSpec("data"),
            check_vma=False,
        )
    )
    size = -(-min(settings["chunk"], settings["num"]) // mesh.size) * mesh.size

    def padded(sample: dict) -> dict:
        """One size for all chunks, one compilation: the last sample is repeated."""
        count = len(next(iter(sample.values())))
        rows = np.minimum(np.arange(size), count - 1)
        batch = {name: values[rows] for name, values in sample.items()}
        frames = jax.device_get(solve(meshes.put(mesh, batch, size)))
        return {name: values[:count] for name, values in frames.items()}

    return padded


def _spread(settings: dict):
    """Make `sample -> frames` that runs in as many processes as there are cores.

    Each gets its share of the samples as a file and leaves a file: the calling program
    need not be written for workers, and nothing is pickled.
    """
    call = "import sys; from recraft_jax import generate; generate.work(*sys.argv[1:])"
    named = [settings["task"], str(settings["nx"]), settings["mode"]]

    def spread(sample: dict) -> dict:
        count = len(next(iter(sample.values())))
        shares = np.array_split(np.arange(count), min(num_cores(), count))
        with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
            paths = [pathlib.Path(folder, _name(i)) for i in range(len(shares))]
            workers = []
            for path, rows in zip(paths, shares, strict=True):
                writer.write_npz(path, **{k: v[rows] for k, v in sample.items()})
                command = [sys.executable, "-c", call, *named, str(path)]
                worker = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
                stack.callback(worker.kill)
                workers.append(worker)
            for worker in workers:
                said = worker.communicate()[1].strip()
                if worker.returncode:
                    raise errors.RunError(
                        f"{settings['task']}: a process that solves samples ended "
                        f"with {worker.returncode}: {said.splitlines()[-1:]}"
                    )
            found = [_load(path) for path in paths]
        return {k: np.concatenate([one[k] for one in found]) for k in found[0]}

    return spread


def work(task: str, nx: str, mode: str, path: str) -> None:
    """Replace the samples in a file by their solution: the process `_spread` starts."""
    sample = _load(pathlib.Path(path))
    frames = find(task).solve(sample, nx=int(nx), mode=mode)
    writer.write_npz(pathlib.Path(path), **frames)


@contextlib.contextmanager
def _progress(task: str, num: int, done_chunks: int) -> Iterator:
    """A bar on a terminal, elsewhere a line a chunk."""
    console = rich.console.Console(highlight=False, soft_wrap=True)
    begun = time.monotonic()
    made = 0

    def line(stop: int, count: int) -> None:
        nonlocal made
        made += count
        rate = made / (time.monotonic() - begun)
        left = (num - stop) / rate
        if console.is_terminal:
            bar.update(shown, completed=stop)
        else:
            console.print(
                f"{task} {stop}/{num} samples, {rate:.3g} a second, {left:.0f} s to go"
            )

    if done_chunks:
        console.print(f"{task}: going on, {done_chunks} chunks are there")
    if not console.is_terminal:
        yield line
        return
    with rich.progress.Progress(console=console, transient=True) as bar:
        shown = bar.add_task(task, total=num)
        yield line


def _name(start: int) -> str:
    return f"{start:08d}.npz"


def _load(path: pathlib.Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as file:
        return dict(file)


def main(argv: Sequence[str]) -> int:
    """Run the command line; returns the exit code."""
    return cli.run(_generate, argv)


def _generate(argv: Sequence[str]) -> None:
    parser = cli.Parser("generate", __doc__)
    tasks = (*pdebench_layout.LAYOUTS, *generate_nas360.MAKERS)
    parser.add_argument("--task", required=True, help=", ".join(tasks))
    parser.add_argument("--num", type=int, help="samples")
    parser.add_argument("--nx", type=int, help="cells of each spatial axis")
    parser.add_argument("--key", type=int, help="of the first run, or first seed")
    parser.add_argument("--mode", default="accurate", help=", ".join(equation.MODES))
    parser.add_argument("--chunk", type=int, default=0, help="samples at a time")
    parser.add_argument("--out", type=pathlib.Path, help="the file to write")
    parser.add_argument("--low", type=float, help="of darcy_flow, by default 4")
    given = parser.parse_args(argv)
    if given.task in generate_nas360.MAKERS:
        _generate_nas360(given)
        return
    if given.low is not None:
        raise errors.InputError(f"--low={given.low}; allowed: with --task=darcy_flow")
    check(given.task, 1, 8, 0, given.mode, 0)
    layout = pdebench_layout.LAYOUTS[given.task]
    num, nx, key = (
        getattr(layout, name) if value is None else value
        for name, value in (("num", given.num), ("nx", given.nx), ("key", given.key))
    )
    out = given.out or pathlib.Path(layout.file)
    is_there = out.exists()
    use_all_cores()
    if not is_there:
        check(given.task, num, nx, key, given.mode, given.chunk)
        print(announcement(given.task, num, nx, key, given.mode, out), flush=True)
    make(
        out,
        task=given.task,
        num=num,
        nx=nx,
        key=key,
        mode=given.mode,
        chunk=given.chunk,
    )
    size = out.stat().st_size / 1e6
    print(f"{out}: {size:.1f} MB{', there already' if is_there else ''}")


def _generate_nas360(given: argparse.Namespace) -> None:
    if given.mode != "accurate" or given.chunk:
        raise errors.InputError(
            f"--mode and --chunk with --task={given.task}; allowed: leave them out"
        )
    low = 4.0 if given.low is None else given.low
    out = given.out or pathlib.Path()
    generate_nas360.make(given.task, out, given.num, given.nx, given.key, low)


def announcement(
    task: str, num: int, nx: int, key: int, mode: str, out: pathlib.Path
) -> str:
    """Say what is about to be made and how long it takes."""
    about = max(seconds(task, num, nx, mode), 1.0)
    size = 4e-6 * num * pdebench_layout.LAYOUTS[task].sample_values(nx)
    unit = f"{about:.0f} s" if about < 120 else f"{math.ceil(about / 60)} min"
    return (
        f"generating {num} samples of {task} ({mode}, {nx} cells an axis, key {key}, "
        f"{size:.0f} MB) into {out}: about {unit} on two cores"
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
