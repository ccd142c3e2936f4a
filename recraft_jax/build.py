"""From a config to the parts of a run: data, model, source."""

import functools
import json
import pathlib
import zipfile
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from absl import logging

from recraft_jax import assets, metrics, sources, targets, tree, writer
from recraft_jax.data import pseudo_labels, tasks
from recraft_jax.losses import task as task_losses
from recraft_jax.methods import alignment, lipschitz, source
from recraft_jax.models import body as bodies
from recraft_jax.models import cross_modal, fno, pretrained

DENSE_LOSSES = {"relative_l2": task_losses.relative_l2, "rmse": task_losses.rmse}
RELEASED_BATCH = 4.0  # of the released Lipschitz step, whose gradients carry 1/4


class Target(NamedTuple):
    """The target side of a run.

    Attributes:
      task: arrays in their own units.
      inputs: the same splits with `x` standardised by the training split.
      labels: class or cluster of each sample `[n]`, by split.
      num_classes: K_t of `labels`.
      metric: of the task.
      loss: `(pred, y) -> [b]` of the task.
    """

    task: tasks.Task
    inputs: dict[str, dict[str, np.ndarray]]
    labels: dict[str, np.ndarray]
    num_classes: int
    metric: metrics.Metric
    loss: Any


def keep_compiled(config: ml_collections.ConfigDict) -> None:
    """Keep compiled programs between processes, beside the downloads."""
    cache = assets.cache_dir(config.assets.cache) / "xla"
    jax.config.update("jax_compilation_cache_dir", str(cache))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)


def target(config: ml_collections.ConfigDict) -> Target:
    """Load the task, standardise its inputs and label its targets."""
    task = targets.load(config)
    scale = tasks.fit_scale(task.splits["train"]["x"], config.data.scale_x)
    inputs = {
        split: dict(arrays) | {"x": scale.apply(arrays["x"])}
        for split, arrays in task.splits.items()
    }
    values = {split: arrays["y"] for split, arrays in task.splits.items()}
    if task.kind == "classification":
        num_classes = task.num_classes
        labels = {split: y.astype(np.int32) for split, y in values.items()}
    else:
        num_classes = config.fld.num_clusters
        labels = pseudo_labels.fit(values, num_classes, config.data.split_seed)
    loss = {
        "classification": task_losses.cross_entropy,
        "dense": DENSE_LOSSES[config.data.loss],
        "multilabel": functools.partial(
            task_losses.binary_cross_entropy, pos_weight=config.data.pos_weight
        ),
    }[task.kind]
    metric = metrics.METRICS[task.metric]
    return Target(task, inputs, labels, num_classes, metric, loss)


def body(config: ml_collections.ConfigDict) -> bodies.Body | None:
    """Load the backbone, with its own weights or, for `scratch`, random ones.

    None for methods with a model of their own.
    """
    if config.method in OWN_MODELS:
        return None
    return pretrained.load(
        config.backbone,
        dtype=jnp.dtype(config.body.dtype),
        random_key=jax.random.key(config.seed + 1) if is_random(config) else None,
        revision=config.body.revision or None,
        cache=config.assets.cache,
    )


def is_random(config: ml_collections.ConfigDict) -> bool:
    """Whether all weights start at random: then there is no source model."""
    return config.method in ("scratch", *OWN_MODELS)


def model(
    config: ml_collections.ConfigDict, task: tasks.Task, body: bodies.Body | None
) -> cross_modal.CrossModal:
    """Join embedder, body and head; dense predictions are in units of the targets."""
    train = task.splits["train"]
    is_dense = task.kind == "dense"
    x_shape = train["x"].shape[1:]
    y_shape = train["y"].shape[1:] if is_dense else None
    if body is None:
        made = OWN_MODELS[config.method](config, x_shape, y_shape)
    else:
        made = cross_modal.make(
            body,
            x_shape=x_shape,
            y_shape=y_shape,
            num_classes=task.num_classes,
            patch=config.embedder.patch,
            max_tokens=config.embedder.max_tokens,
            image_size=config.embedder.image_size,
            init=config.embedder.init,
            head=config.head.kind,
        )
    if not is_dense:
        return made
    scale = tasks.fit_scale(train["y"], config.data.scale_y)

    def apply(params, x):
        pred, out = made.apply(params, x)
        return scale.invert(pred), out

    return made._replace(apply=apply)


def _fno(config: ml_collections.ConfigDict, x_shape, y_shape) -> cross_modal.CrossModal:
    """Make the Fourier neural operator, its parameters under `body/`."""
    made = fno.make(
        x_shape=x_shape,
        y_shape=y_shape,
        modes=config.fno.modes,
        width=config.fno.width,
        padding=config.fno.padding,
    )
    return cross_modal.CrossModal(
        apply=lambda params, x: made.apply(tree.under(params, "body"), x),
        init=lambda key: tree.prefixed(made.init(key), "body"),
    )


OWN_MODELS = {"fno": _fno}


def params(
    config: ml_collections.ConfigDict,
    model: cross_modal.CrossModal,
    origin: source.Source | None,
) -> dict[str, jax.Array]:
    """Parameters at step 0; those of the source ride along, frozen."""
    made = model.init(jax.random.key(config.seed))
    if origin is None:
        return made
    found = source.leaves(origin) | alignment.leaves(config.fa, origin.features)
    return made | {path: jnp.asarray(x) for path, x in found.items()}


def origin(
    config: ml_collections.ConfigDict, body: bodies.Body, workdir: pathlib.Path
) -> source.Source | None:
    """Run stage 0, or read what an earlier process of this run stored."""
    if is_random(config):
        return None
    path = workdir / "source.npz"
    if path.exists():
        try:
            with np.load(path, allow_pickle=False) as file:
                stored = {name: file[name] for name in source.Source._fields}
                stored["report"] = json.loads(str(stored["report"]))
                return source.Source(**stored)
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            logging.warning("%s is damaged (%s); running stage 0 again", path, error)
    found = source.prepare(
        sources.tower(config, body),
        num_features=config.source.num_features,
        test_frac=config.source.test_frac,
        seed=config.source.seed,
        recalibration=recalibration(config, body),
        double_softmax=body.modality == "text" and config.legacy.double_softmax_1d,
    )
    named = {"name": sources.resolve(config, body)} | found.report
    found = found._replace(report=named)
    writer.write_npz(path, **found._replace(report=json.dumps(found.report))._asdict())
    return found


def recalibration(
    config: ml_collections.ConfigDict, body: bodies.Body
) -> lipschitz.Settings:
    """How to recalibrate the source head; text is the released code's 1-D side."""
    section = config.lipschitz
    is_off = body.modality == "text" and not section.one_d
    return lipschitz.Settings(
        method="none" if is_off else section.method,
        tau=section.tau or config.fa.omega,
        delta=section.delta,
        rho=section.rho,
        u_space=section.u_space,
        norm_axis=section.norm_axis,
        grad_divisor=RELEASED_BATCH if section.mean_loss_grad else 1.0,
        num_samples=section.num_samples,
    )
