"""One run, read from top to bottom: parts, phases, measurements, loop, results.

There is one loop. A method is a list of phases (`phase.py`); what differs between
methods is that list and nothing here.
"""

import contextlib
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from absl import logging

from recraft_jax import (
    assembly,
    assets,
    baselines,
    build,
    checkpoints,
    clock,
    describe,
    errors,
    hosts,
    measure,
    memory,
    metrics,
    paths,
    predictor,
    provenance,
    scoring,
    steps,
    tree,
    writer,
)
from recraft_jax import mesh as meshes
from recraft_jax import phase as phases_lib
from recraft_jax.data import pipeline, rows, tasks
from recraft_jax.methods import recraft

NUM_SHOWN = 4  # test samples kept for figures


def run(
    config: ml_collections.ConfigDict,
    workdir: paths.Path,
    task: tasks.Task | None = None,
) -> dict[str, Any]:
    """Train one method on one task and measure it; resumes what `workdir` holds.

    Args:
      config: locked, of `configs/`.
      workdir: exists and holds the `config.json` of this config.
      task: arrays to train on; None loads those of the config.

    Returns:
      The content of `results.json`, which is written last.

    Raises:
      InputError: something the user gave cannot be used.
      RunError: the loss is not finite.
      Preempted: SIGTERM came; what was done is saved.
    """
    watch = clock.Clock()

    # -------------------------------------------------------------------------- parts
    with hosts.first_then_others("target"):
        target = build.target(config, task)
    check_same_data(target)
    task, inputs, labels = target.task, target.inputs, target.labels
    if task.about:
        writer.say(task.about)
    writer.say(describe.target(config, target))
    parts = assembly.make(config, target, workdir, watch).light()
    writer.say(f"model: {parts.name}")
    mesh, phases, starts = parts.mesh, parts.phases, parts.starts
    model, origin, params = parts.model, parts.origin, parts.params
    if origin is not None:
        for line in describe.source(origin.report):
            writer.say(line)

    # ------------------------------------------------------------------- measurements
    also = {f"also/{name}": metrics.make(name) for name in task.also}

    def judged(params, batch):
        pred, _ = model.apply(params, batch["x"])
        found = {name: m.each(pred, batch["y"]) for name, m in also.items()}
        return found | {"each": target.metric.each(pred, batch["y"]), "pred": pred}

    def transferred(params, batch):
        u, log_probs = recraft.features(params, model.apply, batch["x"])
        return {"u": u, "probs": jnp.exp(log_probs)}

    judge = steps.make_eval_step(judged, mesh=mesh)
    transfer_step = steps.make_eval_step(transferred, mesh=mesh)
    settings = {"batch_size": config.stage2.eval_batch_size, "mesh": mesh}

    def judge_split(params, split: str, names: Sequence[str], num: int | None = None):
        """Outputs of `judged` for the samples of a split, or for the first `num`."""
        some = {k: rows.take(inputs[split][k], np.s_[:num]) for k in ("x", "y")}
        with watch.stage("eval"):
            return scoring.collect(
                lambda *given: {name: judge(*given)[name] for name in names},
                params,
                some,
                **settings,
            )

    def finish(metric: metrics.Metric, values: np.ndarray, split: str) -> float:
        arrays = task.splits[split]
        with watch.stage("eval"):
            return metrics.finish(metric, values, arrays["y"], arrays.get("group"))

    def score(params, split: str) -> float:
        return finish(
            target.metric, judge_split(params, split, ["each"])["each"], split
        )

    def alignment(params) -> dict[str, float | None]:
        if origin is None:
            return {"fa": None, "fld": None}
        with watch.stage("eval"):
            out = {
                split: scoring.collect(
                    transfer_step,
                    params,
                    {"x": rows.take(inputs[split]["x"], np.s_[: scoring.FLD_POINTS])},
                    **settings,
                )
                for split in ("train", "val")
            }
            return scoring.alignment(out, labels, origin.features, target.num_classes)

    # ---------------------------------------------------------------- start or resume
    # 1. the newest whole checkpoint here, 2. the pretrained body and new parts.
    with (
        checkpoints.open_dir(workdir / "checkpoints", config.checkpoint.keep) as folder,
        writer.Writer(workdir, starts[-1]) as log,
        hosts.Stop() as stop,
        contextlib.ExitStack() as readers,
    ):
        for phase in phases:
            log.text(describe.phase(phase, params))
        restored = checkpoints.restore_latest(folder, parts.abstract)
        if restored is None:
            step, first, state, best = 0, 0, None, {}
            params = parts.place(params)
            record = {"align": {}, "best": None}
        else:
            step, arrays, record = restored
            state, best = arrays["state"], arrays.get("best", {})
            first, _ = phases_lib.locate(phases, step)
            watch.resume(record["seconds"])
            log.text(f"resuming {phases[first].name} at step {step} of {starts[-1]}")
        log.rewind(step)
        if "before" not in record["align"]:
            record["align"]["before"] = alignment(params)

        memory.give_back()

        # ----------------------------------------------------------------------- loop
        for index, phase in enumerate(phases[first:], start=first):
            start, end = starts[index], starts[index + 1]
            if state is None:
                state = parts.place(parts.begin(index, params))
                best, record["best"] = parts.keep(index, state), None
            train_step = steps.make_train_step(
                phase,
                parts.optimisers[index],
                start=start,
                mesh=mesh,
                shardings=parts.shardings(state),
            )
            stream = make_stream(phase, parts, config.seed)
            num_rows = stream.num_rows
            meshes.warn_if_uneven(mesh, num_rows, f"batches of phase {phase.name}")
            batches = pipeline.read(
                stream.only(meshes.share(mesh, num_rows)),
                *(step - start, end - start),
                num_workers=config.input.num_workers,
            )
            readers.enter_context(contextlib.closing(batches))
            window: list[tuple[int, dict]] = []
            while step < end:
                with watch.stage(phase.stage), jax.transfer_guard("disallow"):
                    batch = meshes.put(mesh, next(batches), num_rows)
                    state, measured = train_step(state, batch)
                step += 1
                # Logged one step late: the device works on while the host reads.
                if len(window) == config.log.every_steps:
                    with watch.stage(phase.stage):
                        log.scalars(*summary(window, phase))
                    window = []
                window.append((step, measured))
                log.progress(step, phase.name)
                done = step - start
                if phase.select and (done % parts.epoch_steps == 0 or step == end):
                    with watch.stage(phase.stage):
                        summary(window, phase)  # waits, and refuses what is not finite
                    value = score(parts.view(state), "val")
                    if not math.isfinite(value):
                        # A NaN would be kept as the best: nothing is below it.
                        raise errors.RunError(
                            f"val {task.metric} is {value} at step {step} of phase "
                            f"{phase.name!r}; the last good checkpoint is kept"
                        )
                    log.scalars(step, phase.name, {f"val_{task.metric}": value})
                    kept = record["best"]
                    if kept is None or metrics.is_better(
                        target.metric, value, kept["value"]
                    ):
                        record["best"] = {"value": value, "step": step}
                        best = parts.keep(index, state)
                stopping = step < starts[-1] and stop.is_due(step)
                if stopping or done % config.checkpoint.every_steps == 0 or step == end:
                    # Averages begin anew here, as they do when a run resumes here.
                    with watch.stage(phase.stage):
                        log.scalars(*summary(window, phase))
                    window = []
                    record["seconds"] = watch.read()
                    with watch.stage(phase.stage):
                        checkpoints.save(folder, step, parts.saved(state, best), record)
                if stopping:
                    raise errors.Preempted(
                        f"stopped by SIGTERM at step {step} of {starts[-1]}, which is "
                        "saved; the same command goes on from there"
                    )
            if phase.stage == "align" and phases[index + 1].stage != "align":
                record["align"]["after"] = alignment(state.params)
            last, state = parts.view(state), None
            params = {**last, **best}

    # ------------------------------------------------------------------------ results
    made = None
    if task.kind in tasks.ON_GRID:
        made = judge_split(params, "test", ["pred"], NUM_SHOWN)["pred"]
    found = judge_split(params, "test", ["each", *also])
    is_last_best = record["best"]["step"] == starts[-1]
    others = found if is_last_best else judge_split(last, "test", ["each"])
    each = {"best_val": found["each"], "last": others["each"]}
    test = {name: finish(target.metric, v, "test") for name, v in each.items()}
    predictor.save(workdir, target.signature, params, parts.body, mesh)
    before = record["align"]["before"]
    after = record["align"].get("after", before)
    fitted, _ = tree.split(last, phases[-1].trainable)
    apart = ("source/", "stats/")
    used = {path: leaf for path, leaf in last.items() if not path.startswith(apart)}
    sha256 = tasks.sha256(task)
    named = ("task", "method", "backbone", "protocol", "preset", "scale", "seed")
    results = {name: config[name] for name in named} | {
        "backbone_name": parts.name,
        "metric": task.metric,
        "better": target.metric.better,
        "test": test,
        "also": {
            name: finish(also[f"also/{name}"], found[f"also/{name}"], "test")
            for name in task.also
        },
        "val": {"best": record["best"]["value"], "step": record["best"]["step"]},
        "baselines": baselines.stored_scores(
            task, sha256, assets.cache_dir(config.assets.cache) / "baselines"
        ),
        "align": {
            f"{name}_{when}": values[name]
            for name in before
            for when, values in (("before", before), ("after", after))
        },
        "source": origin.report if origin else None,
        "params": {"total": tree.count(used), "trained": tree.count(fitted)},
        "memory": {"peak_bytes": measure.peak_bytes()},
        "data": {
            "name": task.name,
            "sha256": sha256,
            **{split: len(task.splits[split]["x"]) for split in tasks.SPLITS},
        },
        "versions": provenance.versions(),
        "git": provenance.git_commit(),
        "seconds": {"align": 0.0} | watch.read(),
    }
    if hosts.is_first():
        if made is not None:
            write_fields(workdir / "fields.npz", task, made)
        if isinstance(target.metric.combine, str):  # a value a sample
            combine = target.metric.combine
            writer.write_npz(workdir / "samples.npz", **each, finish=combine)
        writer.write_json(workdir / "results.json", results)
    return results


def check_same_data(target: build.Target) -> None:
    """Refuse to train on other data in one process than in another."""
    if hosts.is_several():
        labels = tree.digest(target.labels)
        hosts.check_same(
            tasks.sha256(target.task) + labels,
            "target data or labels of it",
            "the same files and package versions on each machine",
        )


def write_fields(path: paths.Path, task: tasks.Task, pred: np.ndarray) -> None:
    """Store input, target and prediction of the first test samples for figures.

    Args:
      path: of the `.npz` file.
      task: its arrays are stored in their own units, and its course if it has one.
      pred: of the best parameters `[k ...]`.
    """
    test = {name: task.splits["test"][name][: len(pred)] for name in ("x", "y")}
    course = {f"course_{name}": v for name, v in task.course.items()}
    writer.write_npz(path, pred=pred, **test, **course)


def make_stream(phase: phases_lib.Phase, parts: assembly.Assembly, seed: int):
    """Batches of a phase, by step within it."""
    target = parts.target
    arrays, labels = target.inputs["train"], target.labels["train"]
    settings = {"batch_size": phase.batch_size, "seed": seed}
    settings["augment"] = build.augment(target)
    if phase.stream == "balanced":
        return pipeline.balanced({"x": arrays["x"]}, labels, **settings)
    if phase.stream == "paired":
        return pipeline.paired(arrays, parts.source_samples(), **settings)
    return pipeline.shuffled(arrays, **settings)


def summary(window, phase: phases_lib.Phase) -> tuple[int, str, dict[str, float]]:
    """Average the metrics of several steps.

    Args:
      window: pairs of global step and its metrics, on device.
      phase: the phase they come from.

    Returns:
      The last step, the phase's name and the means.

    Raises:
      RunError: a loss or gradient is not finite, at the first step where it is not.
    """
    values = jax.device_get([measured for _, measured in window])
    for (step, _), measured in zip(window, values, strict=True):
        bad = [n for n in ("loss", "grad_norm") if not np.isfinite(measured[n])]
        if bad:
            raise errors.RunError(
                f"{bad[0]} is {float(measured[bad[0]])} at step {step} of phase "
                f"{phase.name!r}; the last good checkpoint is kept. A lower learning "
                "rate may help"
            )
    last, _ = window[-1]
    mean = {n: float(np.mean([m[n] for m in values])) for n in sorted(values[0])}
    if mean.get("sinkhorn_converged", 1.0) < 1.0:
        logging.warning(
            "Sinkhorn did not converge in %.0f %% of the steps to %d; marginal error "
            "%.1e",
            100 * (1 - mean["sinkhorn_converged"]),
            last,
            mean["sinkhorn_error"],
        )
    if mean.get("source_collapsed", 0.0) > 0.5:
        logging.warning(
            "H(Z_s) = %.3f nats is below half of its maximum at step %d: the target is "
            "collapsing onto few source labels",
            mean["source_entropy"],
            last,
        )
    return last, phase.name, mean
