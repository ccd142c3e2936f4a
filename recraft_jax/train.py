"""One run, read from top to bottom: data, model, source, phases, loop, results.

There is one loop. A method is a list of phases (`phase.py`); what differs between methods
is that list and nothing here.
"""

import io
import json
import math
import pathlib
import platform
import subprocess
import zipfile
from importlib import metadata
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from absl import logging

import recraft_jax
from recraft_jax import (
    assets,
    baselines,
    checkpoints,
    clock,
    errors,
    evaluate,
    metrics,
    optim,
    steps,
    tree,
    writer,
)
from recraft_jax import mesh as meshes
from recraft_jax import phase as phases_lib
from recraft_jax import state as states
from recraft_jax.data import darcy, generators, pipeline, pseudo_labels, tasks, text
from recraft_jax.losses import distortion, ot, task as task_losses
from recraft_jax.methods import fit, recraft, source
from recraft_jax.models import cross_modal, pretrained

METHODS = {
    "recraft": recraft.phases,
    "fa": recraft.phases,
    "fld": recraft.phases,
    "nft": fit.phases,
    "scratch": fit.phases,
}
FA_REPORT_POINTS = 2048


def run(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> dict[str, Any]:
    """Train one method on one task and measure it; resumes what `workdir` holds.

    Args:
      config: locked, of `configs/`.
      workdir: exists and holds the `config.json` of this config.

    Returns:
      The content of `results.json`, which is written last.

    Raises:
      InputError: something the user gave cannot be used.
      RunError: the loss is not finite.
    """
    time = clock.Clock()

    # ---------------------------------------------------------------- devices and data
    mesh = meshes.make()
    replicated = meshes.replicated(mesh)
    for size in ("stage1.batch_size", "stage2.batch_size", "stage2.eval_batch_size"):
        section, name = size.split(".")
        meshes.check_batch_size(config[section][name], size)
    task = load_task(config)
    x_scale = tasks.fit_scale(task.splits["train"]["x"], config.data.scale_x)
    inputs = {
        split: arrays | {"x": x_scale.apply(arrays["x"])}
        for split, arrays in task.splits.items()
    }
    labels = target_labels(config, task)
    num_classes = max(int(v.max()) for v in labels.values()) + 1

    # ------------------------------------------------------------------ model, source
    body = load_body(config)
    model = make_model(config, task, body)
    params = model.init(jax.random.key(config.seed))
    with time.stage("source"):
        origin = None if is_random(config) else load_source(config, body, workdir)
    if origin is not None:
        params |= {path: jnp.asarray(v) for path, v in source.leaves(origin).items()}
    metric = metrics.METRICS[task.metric]

    # ------------------------------------------------------------------------- phases
    fit_steps = config.stage2.num_epochs * math.ceil(
        len(inputs["train"]["x"]) / config.stage2.batch_size
    )
    phases = METHODS[config.method](
        config,
        model.apply,
        task_losses.relative_l2 if task.kind == "dense" else task_losses.cross_entropy,
        num_classes=num_classes,
        fit_steps=fit_steps,
    )
    starts = np.cumsum([0] + [phase.num_steps for phase in phases]).tolist()
    optimisers = [optim.make(phase.optim, phase.num_steps) for phase in phases]
    epoch = max(fit_steps // config.stage2.num_epochs, 1)

    def begin(index: int, params) -> states.TrainState:
        return states.start_phase(
            params,
            {},
            optimisers[index],
            phases[index].trainable,
            step=starts[index],
            seed=config.seed,
        )

    def keep(index: int, params) -> dict[str, jax.Array]:
        """Copy the leaves a phase trains: the state they come from will be donated."""
        chosen, _ = tree.split(params, phases[index].trainable)
        return jax.tree.map(jnp.copy, chosen) if phases[index].select else {}

    def saved(state, best) -> dict[str, Any]:
        return {"state": state} | ({"best": best} if best else {})

    def abstract(step: int) -> dict[str, Any]:
        index, _ = phases_lib.locate(phases, step)
        shapes = jax.eval_shape(
            lambda p: saved(begin(index, p), keep(index, p)), params
        )
        return jax.tree.map(
            lambda s: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=replicated),
            shapes,
        )

    # ------------------------------------------------------------------- measurements
    def sums(params, batch):
        pred, _ = model.apply(params, batch["x"])
        return metric.update(pred, batch["y"], batch["mask"])

    def transferred(params, batch):
        u, log_probs = recraft.features(params, model.apply, batch["x"])
        return {"u": u, "probs": jnp.exp(log_probs)}

    score_step = steps.make_eval_step(sums, mesh=mesh)
    transfer_step = steps.make_eval_step(transferred, mesh=mesh)
    settings = {"batch_size": config.stage2.eval_batch_size, "mesh": mesh}

    def score(params, split: str) -> float:
        with time.stage("eval"):
            return evaluate.score(
                score_step, params, inputs[split], metric=metric, **settings
            )

    def alignment(params) -> dict[str, float | None]:
        """FA in units of feature distance, FLD in nats, both on whole splits."""
        if origin is None:
            return {"fa": None, "fld": None}
        with time.stage("eval"):
            out = {
                split: evaluate.collect(
                    transfer_step, params, {"x": inputs[split]["x"]}, **settings
                )
                for split in ("train", "val")
            }
            fa, info = _report_fa(out["train"]["u"][:FA_REPORT_POINTS], origin.features)
            if not info["converged"]:
                logging.warning(
                    "the reported FA is off: Sinkhorn stopped at a marginal error of "
                    "%.1e",
                    info["marginal_error"],
                )
            joints = {
                split: distortion.joint(
                    jnp.asarray(o["probs"]), jax.nn.one_hot(labels[split], num_classes)
                )
                for split, o in out.items()
            }
            return {
                "fa": float(fa),
                "fld": float(distortion.target_given_source(joints["train"])),
                "fld_val": float(distortion.target_given_source(joints["val"])),
                "source_entropy": float(distortion.entropy(joints["train"].sum(1))),
            }

    # ---------------------------------------------------------------- start or resume
    # 1. the newest whole checkpoint of this workdir, 2. pretrained body and new parts.
    checkpointer = checkpoints.open_dir(workdir / "checkpoints")
    log = writer.Writer(workdir, starts[-1])
    restored = checkpoints.restore_latest(checkpointer, abstract)
    if restored is not None:
        step, arrays, record = restored
        state, best = arrays["state"], arrays.get("best", {})
        index, _ = phases_lib.locate(phases, step)
        time.resume(record["seconds"])
        log.text(f"resuming at step {step} of {starts[-1]} ({phases[index].name})")
    else:
        step, index, state, best = 0, 0, None, {}
        params = jax.device_put(params, replicated)
        record = {"align": {}, "best": None}
    log.rewind(step)
    describe(log, config, task, origin, params, phases, labels["train"])

    def save(step: int, state, best) -> None:
        record["seconds"] = time.read()
        checkpoints.save(checkpointer, step, saved(state, best), record)

    if "before" not in record["align"]:
        record["align"]["before"] = alignment(params)

    # --------------------------------------------------------------------------- loop
    with checkpointer, log:
        for index in range(index, len(phases)):
            phase, start, end = phases[index], starts[index], starts[index + 1]
            if state is None:
                state = begin(index, params)
                state = jax.device_put(state, replicated)
                best = keep(index, state.params)
                record["best"] = None
            train_step = steps.make_train_step(
                phase, optimisers[index], start=start, mesh=mesh
            )
            stream = make_stream(phase, inputs["train"], labels["train"], config.seed)
            window: list[tuple[int, dict]] = []
            for step in range(step, end):
                with time.stage(phase.name), jax.transfer_guard("disallow"):
                    batch = meshes.put(mesh, stream[step - start])
                    state, measured = train_step(state, batch)
                step += 1
                # Logged one step late: the device works on while the host reads.
                if (step - start - 1) % config.log.every_steps == 0 and window:
                    with time.stage(phase.name):
                        log.scalars(*summary(window, phase))
                    window = []
                window.append((step, measured))
                log.progress(step, phase.name)
                is_last = step == end
                if phase.select and ((step - start) % epoch == 0 or is_last):
                    with time.stage(phase.name):
                        summary(window, phase)
                    value = score(state.params, "val")
                    if not math.isfinite(value):
                        raise errors.RunError(
                            f"val {task.metric} is {value} at step {step} of phase "
                            f"{phase.name!r}; the last good checkpoint is kept"
                        )
                    log.scalars(step, phase.name, {f"val_{task.metric}": value})
                    if record["best"] is None or value < record["best"]["value"]:
                        record["best"] = {"value": value, "step": step}
                        best = keep(index, state.params)
                if (step - start) % config.checkpoint.every_steps == 0 or is_last:
                    with time.stage(phase.name):
                        late = summary(window, phase)
                        if is_last:
                            log.scalars(*late)
                        save(step, state, best)
            if phase.name == "align":
                record["align"]["after"] = alignment(state.params)
            last = state.params
            params = {**last, **best}
            state = None

        # ----------------------------------------------------------------- results
        test = {"best_val": score(params, "test"), "last": score(last, "test")}
        checkpoints.wait(checkpointer)
    before = record["align"]["before"]
    after = record["align"].get("after", before)
    fitted, _ = tree.split(last, phases[-1].trainable)
    model_leaves = {p: v for p, v in last.items() if not p.startswith("source/")}
    results = {
        **{name: config[name] for name in ("task", "method", "backbone", "protocol")},
        **{name: config[name] for name in ("scale", "seed")},
        "metric": task.metric,
        "test": test,
        "val": {"best": record["best"]["value"], "step": record["best"]["step"]},
        "baselines": baselines.scores(task),
        "align": {
            f"{name}_{when}": values[name]
            for name in before
            for when, values in (("before", before), ("after", after))
        },
        "source": origin.report if origin else None,
        "params": {"total": tree.count(model_leaves), "trained": tree.count(fitted)},
        "data": {
            "name": task.name,
            "sha256": tasks.sha256(task),
            **{split: len(task.splits[split]["x"]) for split in tasks.SPLITS},
        },
        "versions": versions(),
        "git": git_commit(),
        "seconds": {name: 0.0 for name in ("align", "fit", "eval")} | time.read(),
    }
    writer.write_json(workdir / "results.json", results)
    return results


def load_task(config: ml_collections.ConfigDict) -> tasks.Task:
    """Read or make the arrays of the config's task and split them."""
    if config.task == "darcy16":
        folder = assets.fetch("darcy16", config.assets.cache)
        arrays = darcy.load(folder / "darcy_train_16.pt", folder / "darcy_test_16.pt")
    elif config.task == "advection":
        data = config.data
        made = generators.advection(
            data.num_samples + data.num_test, data.num_points, data.seed
        )
        # As PDEBench's loaders do for single-file sets: the first samples are the test.
        arrays = {
            "test": {k: v[: data.num_test] for k, v in made.items()},
            "train": {k: v[data.num_test :] for k, v in made.items()},
        }
    else:
        raise errors.InputError(f"task {config.task!r}; allowed: darcy16, advection")
    return tasks.split_task(
        config.task,
        arrays,
        kind="dense",
        metric="nrmse",
        protocol=config.protocol,
        val_frac=config.data.val_frac,
        split_seed=config.data.split_seed,
    )


def target_labels(config, task: tasks.Task) -> dict[str, np.ndarray]:
    """Class labels `[n]` by split: the task's own, or k-means clusters of its targets."""
    targets = {split: arrays["y"] for split, arrays in task.splits.items()}
    if task.kind == "classification":
        return {split: y.astype(np.int32) for split, y in targets.items()}
    return pseudo_labels.fit(targets, config.fld.num_clusters, config.data.split_seed)


def is_random(config) -> bool:
    """Whether the body starts from random weights: then there is no source model."""
    return config.method == "scratch"


def load_body(config) -> pretrained.Body:
    """Load the backbone by name or from a folder."""
    return pretrained.load(
        backbone_folder(config),
        random_key=jax.random.key(config.seed + 1) if is_random(config) else None,
    )


def backbone_folder(config) -> pathlib.Path:
    """Folder with the backbone's weights and tokenizer."""
    if "/" in config.backbone:
        return pathlib.Path(config.backbone)
    return assets.fetch(config.backbone, config.assets.cache)


def make_model(config, task: tasks.Task, body) -> cross_modal.CrossModal:
    """Join embedder, body and head; predictions are in the units of the targets."""
    train = task.splits["train"]
    is_dense = task.kind == "dense"
    model = cross_modal.make(
        body,
        x_shape=train["x"].shape[1:],
        y_shape=train["y"].shape[1:] if is_dense else None,
        num_classes=task.num_classes,
        patch=config.embedder.patch,
    )
    if not is_dense:
        return model
    y_scale = tasks.fit_scale(train["y"], config.data.scale_y)

    def apply(params, x):
        pred, out = model.apply(params, x)
        return y_scale.invert(pred), out

    return model._replace(apply=apply)


def load_source(config, body, workdir: pathlib.Path) -> source.Source:
    """Run stage 0, or read what an earlier process of this run stored."""
    path = workdir / "source.npz"
    if path.exists():
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = {name: file[name] for name in ("features", "kernel", "bias")}
                return source.Source(**arrays, report=json.loads(str(file["report"])))
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            logging.warning(
                "%s is damaged (%s); running stage 0 again",
                path,
                checkpoints.first_line(error),
            )
    found = source.prepare(
        load_text(config),
        lambda ids: body.embed(body.params, ids),
        lambda tokens, mask: body.encode(body.params, tokens, mask),
        num_features=config.source.num_features,
        test_frac=config.source.test_frac,
        seed=config.source.seed,
    )
    buffer = io.BytesIO()
    np.savez(buffer, **found._replace(report=json.dumps(found.report))._asdict())
    writer.write_atomically(path, buffer.getvalue())
    return found


def load_text(config) -> text.Text:
    """Read and tokenize the labelled source text."""
    section = config.source
    if section.name in ("trec6", "wnut16"):
        folder = assets.fetch(section.name, config.assets.cache)
    elif not section.path:
        raise errors.InputError(f"source.name = {section.name!r} needs source.path")
    if section.name == "trec6":
        units, labels = text.read_trec(folder / "question_labels.txt")
    elif section.name == "wnut16":
        units, labels = text.read_conll(folder / "ner.txt")
    elif section.name == "table":
        units, labels = text.read_table(pathlib.Path(section.path))
    elif section.name == "conll":
        units, labels = text.read_conll(pathlib.Path(section.path))
    else:
        raise errors.InputError(
            f"source.name = {section.name!r}; allowed: trec6, wnut16, table, conll"
        )
    if 0 < section.num_sentences < len(units):
        order = np.random.default_rng(section.seed).permutation(len(units))
        chosen = np.sort(order[: section.num_sentences])
        units, labels = [units[i] for i in chosen], [labels[i] for i in chosen]
    is_token = section.name in ("wnut16", "conll")
    encode = text.encode_words if is_token else text.encode_sentences
    return encode(backbone_folder(config), units, labels, section.max_length)


def make_stream(phase: phases_lib.Phase, arrays, labels: np.ndarray, seed: int):
    """Batches of a phase by step."""
    if phase.stream == "balanced":
        only_x = {"x": arrays["x"]}
        return pipeline.balanced(only_x, labels, phase.batch_size, seed)
    return pipeline.shuffled(arrays, phase.batch_size, seed)


def summary(window, phase: phases_lib.Phase) -> tuple[int, str, dict[str, float]]:
    """Average the metrics of several steps, refusing values that are not finite."""
    names = [step for step, _ in window]
    values = jax.device_get([measured for _, measured in window])
    for step, measured in zip(names, values, strict=True):
        bad = [n for n in ("loss", "grad_norm") if not np.isfinite(measured[n])]
        if bad:
            raise errors.RunError(
                f"{bad[0]} is {float(measured[bad[0]])} at step {step} of phase "
                f"{phase.name!r}; the last good checkpoint is kept. A lower "
                "learning rate may help"
            )
    mean = {n: float(np.mean([m[n] for m in values])) for n in sorted(values[0])}
    if mean.get("sinkhorn_converged", 1.0) < 1.0:
        logging.warning(
            "Sinkhorn did not converge in %.0f %% of the steps to %d; its marginal error "
            "is %.1e",
            100 * (1 - mean["sinkhorn_converged"]),
            names[-1],
            mean["sinkhorn_error"],
        )
    return names[-1], phase.name, mean


def describe(log, config, task, origin, params, phases, labels) -> None:
    """Say what is about to be trained, on what."""
    counts = ", ".join(f"{len(task.splits[s]['x'])} {s}" for s in tasks.SPLITS)
    log.text(f"{config.task}: {counts}; {config.method}, {config.backbone}")
    log.text(f"label sizes {np.bincount(labels).tolist()}")
    if origin is not None:
        r = origin.report
        log.text(
            f"source head on {config.source.name}: held-out accuracy {r['accuracy']:.3f} "
            f"(majority {r['majority']:.3f}), log-loss {r['log_loss']:.3f}, information "
            f"{r['information']:.3f} of {r['entropy']:.3f} nats"
        )
    for phase in phases:
        trained, _ = tree.split(params, phase.trainable)
        log.text(
            f"phase {phase.name}: {phase.num_steps} steps of {phase.batch_size}, "
            f"{tree.count(trained):,} of {tree.count(params):,} parameters"
        )


def versions() -> dict[str, str]:
    """Versions of what the numbers depend on."""
    names = ("jax", "jaxlib", "flax", "optax", "ott-jax", "orbax-checkpoint", "numpy")
    found = {name: metadata.version(name) for name in names}
    return found | {
        "python": platform.python_version(),
        "recraft_jax": recraft_jax.__version__,
    }


def git_commit() -> str | None:
    """Commit of the checkout this package runs from, `+changes` when it is not clean."""
    root = pathlib.Path(__file__).parents[1]
    if not (root / ".git").exists():
        return None

    def git(*args: str) -> str:
        command = ["git", "-C", str(root), *args]
        return subprocess.run(
            command, capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no")
        return git("rev-parse", "HEAD") + ("+changes" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return None


_report_fa = jax.jit(ot.wasserstein1)
