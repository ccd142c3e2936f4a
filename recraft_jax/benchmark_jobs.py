"""Benchmark of whole pieces: the default job, the input pipeline, checkpoints."""

import json
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from recraft_jax import (
    assembly,
    assets,
    benchmark_bodies,
    build,
    checkpoints,
    clock,
    errors,
    main,
    measure,
    mesh,
    optim,
    steps,
    train,
    writer,
)
from recraft_jax.data import pipeline as pipelines
from recraft_jax.data import tasks
from recraft_jax.losses import ot
from recraft_jax.models import patches

ARRAYS, BATCH = {"x": (900, 16, 16, 1), "y": (900, 16, 16, 1)}, 16  # as of darcy16
NUM_VALUES, NUM_LEAVES = 125_000_000, 25


def darcy16(
    name: str, *, repeats: int, config: str = "configs/pde.py"
) -> tuple[list[measure.Row], list[str]]:
    """Time the default job from its command to its end, next to one in PyTorch.

    Both find the downloads and stage 0 (the source head) in the cache. Ours finds no
    compiled programs; a second run, which does, is in the notes. The PyTorch job gets
    its data, weights and source features in one file. One run each whatever `repeats`.
    """
    del repeats
    with tempfile.TemporaryDirectory() as folder:
        cache = _cache_without_programs(pathlib.Path(folder))
        module = [sys.executable, "-m", "recraft_jax.main", f"--config={config}"]
        command = [*module, f"--config.assets.cache={cache}"]
        short = ["--config.stage1.num_steps=1", "--config.stage2.num_epochs=1"]
        # Downloads, stage 0 and simple baselines.
        _run(name, [*command, *short, f"--workdir={folder}/prepare"])
        for program in (cache / "xla").iterdir():
            program.unlink()
        cold, _ = measure.timed(lambda: _run(name, [*command, f"--workdir={folder}/a"]))
        warm, _ = measure.timed(lambda: _run(name, [*command, f"--workdir={folder}/b"]))
        results = [
            json.loads(pathlib.Path(folder, run, "results.json").read_text())
            for run in ("a", "b")
        ]
        peer_seconds, found = None, None
        if measure.peer_versions():
            path = f"{folder}/job.npz"
            dump(command[3:], path)
            code = f"from recraft_jax import benchmark_torch as b; b.report({path!r})"
            peer = [sys.executable, "-c", code]
            peer_seconds, out = measure.timed(lambda: _run(name, peer))
            found = json.loads(out.splitlines()[-1])
    row = measure.row(
        name,
        seconds=cold,
        peer="torch" if found else None,
        peer_seconds=peer_seconds,
        peak_bytes=results[0]["memory"]["peak_bytes"],
        peer_peak_bytes=found["peak_bytes"] if found else None,
        compile_cold=results[0]["seconds"]["compile"],
        compile_warm=results[1]["seconds"].get("compile", 0.0),
    )
    notes = [
        f"{name}: the default job, stage 0 in the cache, nothing compiled before; with "
        f"compiled programs {warm:.1f} s",
        f"  ours: test {results[0]['test']['best_val']:.4f}, "
        f"fa {results[0]['align']['fa_val_after']:.4f}, "
        f"fld {results[0]['align']['fld_val_after']:.4f}; "
        + _listed(results[0]["seconds"]),
    ]
    if found:
        scores = ("test", "fa", "fld")
        shown = ", ".join(f"{score} {found.pop(score):.4f}" for score in scores)
        notes.append(f"  torch: {shown}; {_listed(found)}")
    return [row], notes


def dump(flags: list[str], path: str) -> None:
    """Write what stages 1 and 2 of a run consist of, for `benchmark_torch.job`.

    Batches, weights, learning rates, source features and head, all as arrays.

    Args:
      flags: of `main`: a task of fields, a text backbone, the method `recraft`.
      path: of the `.npz` file.
    """
    with tempfile.TemporaryDirectory() as folder:
        config, workdir = main.parse(["", *flags, f"--workdir={folder}"])
        target = build.target(config)
        parts = assembly.make(config, target, workdir, clock.Clock())
        arrays: dict[str, Any] = {
            "omega": config.fa.omega,
            "fld_weight": config.fld.weight,
            "epsilon": float(_epsilon(parts)),
            "weight_decay": config.stage2.optim.weight_decay,
            "epoch_steps": parts.epoch_steps,
            "save_steps": config.checkpoint.every_steps,
            "num_classes": target.num_classes,
        }
    scale = tasks.fit_scale(target.task.splits["train"]["y"], config.data.scale_y)
    arrays |= {"y_mean": scale.mean, "y_std": scale.std}
    kept = "embedder/", "body/", "head/", "source/"
    arrays |= {k: v for k, v in parts.params.items() if k.startswith(kept)}
    sizes = {k: v for k, v in parts.body.config.items() if type(v) is int}
    arrays |= {f"config/{name}": size for name, size in sizes.items()}
    for phase in parts.phases:
        stream = train.make_stream(phase, parts, config.seed)
        batches = [stream[step] for step in range(phase.num_steps)]
        for key in batches[0]:
            arrays[f"{phase.name}/{key}"] = np.stack([batch[key] for batch in batches])
        schedule = optim.schedule(phase.optim, phase.num_steps)
        arrays[f"{phase.name}/factor"] = phase.optim.new_lr_factor
        arrays[f"{phase.name}/rates"] = jax.vmap(schedule)(jnp.arange(phase.num_steps))
    for split, found in target.inputs.items():
        arrays |= {f"{split}/{k}": v for k, v in found.items()}
        arrays[f"{split}/label"] = target.labels[split]
    for key in [key for key in arrays if key.endswith(("/x", "/y"))]:
        arrays[key] = _tokens(np.asarray(arrays[key]), config.embedder.patch)
    writer.write_npz(
        pathlib.Path(path), **{k: np.asarray(v) for k, v in arrays.items()}
    )


def _epsilon(parts: assembly.Assembly) -> jax.Array:
    """Epsilon of FA at the first step, in units of distance."""
    x = parts.target.inputs["train"]["x"][:80]
    _, out = parts.model.apply(parts.params, x)
    _, info = ot.wasserstein1(parts.params["source/features"], out["tokens"].mean(1))
    return info["epsilon"]


def _tokens(fields: np.ndarray, patch: int) -> np.ndarray:
    """Cut fields `[... h w c]` into `[... l p p c]`, the last three axes as one."""
    *lead, rows, columns, channels = fields.shape
    flat = patches.patchify(fields.reshape(-1, rows, columns, channels), patch)
    return np.asarray(flat).reshape(*lead, *flat.shape[1:])


def pipeline(name: str, *, repeats: int) -> tuple[list[measure.Row], list[str]]:
    """Time an epoch of the input pipeline next to a DataLoader, without a model.

    The notes have the share of a training run of MiniLM that waits for it.
    """
    calls = {"benchmark_jobs": "benchmark_jobs.serve_pipeline()"}
    if measure.peer_versions():
        calls["benchmark_torch"] = (
            f"benchmark_torch.serve_pipeline({ARRAYS!r}, {BATCH})"
        )
    with measure.workers(name, calls) as asks:
        seconds, *peer_seconds = measure.take_turns(asks, "epoch", repeats)
        waiting = asks[0]("waiting")[1]
    num = ARRAYS["x"][0]
    row = measure.row(
        name,
        seconds=seconds,
        peer="torch" if peer_seconds else None,
        peer_seconds=peer_seconds[0] if peer_seconds else None,
    )
    notes = [
        f"{name}: {num} samples of 16 x 16 and their targets in shuffled batches of "
        f"{BATCH}, put on the device: {num / seconds:,.0f} samples/s",
        f"  waiting for it: {waiting:.2%} of the time of training steps of MiniLM",
    ]
    if peer_seconds:
        rate = num / peer_seconds[0]
        notes.append(f"  DataLoader, no workers: {rate:,.0f} samples/s")
    return [row], notes


def serve_pipeline(
    body: str = "minilm", config: Mapping[str, Any] | None = None, num_steps: int = 56
) -> None:
    """Serve `epoch` and `waiting` (share of time) for `measure.worker`."""
    devices = mesh.make()
    rng = np.random.default_rng(0)
    arrays = {
        name: rng.standard_normal(shape, dtype=np.float32)
        for name, shape in ARRAYS.items()
    }
    stream = pipelines.shuffled(arrays, BATCH, seed=0)
    sizes = {"x_shape": ARRAYS["x"][1:], "patch": 4, "batch_size": BATCH}

    def epoch():
        for batch in pipelines.read(stream, 0, len(arrays["x"]) // BATCH):
            jax.block_until_ready(mesh.put(devices, batch, BATCH))

    def waiting():
        made = benchmark_bodies.make_step(body, sizes, config)
        step = steps.make_train_step(made.phase, made.tx, start=0, mesh=devices)
        batches = pipelines.read(stream, 0, num_steps + 1)
        state, waited = made.state, 0.0
        state, _ = step(state, mesh.put(devices, next(batches), BATCH))  # compiles
        jax.block_until_ready(state)
        start = time.perf_counter()
        for _ in range(num_steps):
            seconds, batch = measure.timed(lambda: next(batches))
            waited += seconds
            state, _ = step(state, mesh.put(devices, batch, BATCH))
        jax.block_until_ready(state)
        return waited / (time.perf_counter() - start)

    measure.serve({"epoch": epoch, "waiting": waiting})


def checkpoint(
    name: str, *, repeats: int, num: int = NUM_VALUES
) -> tuple[list[measure.Row], list[str]]:
    """Time writing and reading `num` float32 values next to torch.save and torch.load.

    Ours checks a fingerprint of the values when it reads.
    """
    with tempfile.TemporaryDirectory() as ours, tempfile.TemporaryDirectory() as theirs:
        module = "benchmark_jobs"
        calls = {module: f"{module}.serve_checkpoint({num}, {ours!r})"}
        if measure.peer_versions():
            module = "benchmark_torch"
            calls[module] = (
                f"{module}.serve_checkpoint({num}, {NUM_LEAVES}, {theirs!r})"
            )
        with measure.workers(name, calls) as asks:
            save, restore = (
                measure.take_turns(asks, action, repeats)
                for action in ("save", "restore")
            )
    seconds, *peer_seconds = (a + b for a, b in zip(save, restore, strict=True))
    row = measure.row(
        name,
        seconds=seconds,
        peer="torch" if peer_seconds else None,
        peer_seconds=peer_seconds[0] if peer_seconds else None,
    )
    notes = [
        f"{name}: {num:,} values, {4 * num / 1e9:.2f} GB; save {save[0]:.2f} s (a run "
        f"waits for the copy alone), restore and check {restore[0]:.2f} s"
    ]
    if peer_seconds:
        notes.append(f"  torch: save {save[1]:.2f} s, load {restore[1]:.2f} s")
    return [row], notes


def serve_checkpoint(num: int, folder: str) -> None:
    """Serve `save`, until it is on disk, and `restore` for `measure.worker`."""
    keys = jax.random.split(jax.random.key(0), NUM_LEAVES)
    size = num // NUM_LEAVES
    state = {str(i): jax.random.normal(key, (size,)) for i, key in enumerate(keys)}
    place = mesh.replicated(mesh.make())
    abstract = {
        name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place)
        for name, leaf in state.items()
    }
    path = pathlib.Path(folder) / "checkpoints"
    count = 0

    def save():
        nonlocal count
        count += 1
        with checkpoints.open_dir(path, keep=1) as found:  # leaving waits
            checkpoints.save(found, count, {"state": state}, {})

    def restore():
        with checkpoints.open_dir(path, keep=1) as found:
            step, _, _ = checkpoints.restore_latest(
                found, lambda _: {"state": abstract}
            )
        return step

    measure.serve({"save": save, "restore": restore})


def _cache_without_programs(folder: pathlib.Path) -> pathlib.Path:
    """Make a cache that shares all but the compiled programs with the user's."""
    cache, new = assets.cache_dir(""), folder / "cache"
    new.mkdir()
    (new / "xla").mkdir()
    for name in ("assets", "sources", "baselines"):
        (cache / name).mkdir(parents=True, exist_ok=True)
        (new / name).symlink_to(cache / name)
    return new


def _run(name: str, command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise errors.RunError(f"{name}: {lines[-1]}")
    return done.stdout


def _listed(seconds: Mapping[str, float]) -> str:
    """Name the stages and their seconds."""
    stages = ((k, v) for k, v in seconds.items() if isinstance(v, float))
    return "seconds " + ", ".join(f"{stage} {value:.1f}" for stage, value in stages)
