"""From a config to the parts of a run: data, model, source."""

import functools
import hashlib
import io
import json
import time
import zipfile
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from absl import logging

from recraft_jax import (
    assets,
    errors,
    hosts,
    metrics,
    paths,
    sources,
    targets,
    tree,
    writer,
)
from recraft_jax.data import pseudo_labels, rows, tasks
from recraft_jax.losses import task as task_losses
from recraft_jax.methods import lipschitz, source
from recraft_jax.models import body as bodies
from recraft_jax.models import cross_modal, fno, pretrained, unet

DENSE_LOSSES = {"relative_l2": task_losses.relative_l2, "rmse": task_losses.rmse}
SOURCE_VERSION = 1  # of what stage 0 computes: a new one leaves shared files aside
RELEASED_BATCH = 4.0  # of the released Lipschitz step, whose gradients carry 1/4


class Target(NamedTuple):
    """The target side of a run.

    Attributes:
      task: arrays in their own units.
      signature: what a predictor of it takes and gives.
      inputs: the same splits with `x` standardised by the training split.
      labels: class or cluster of each sample `[n]`, by split.
      num_classes: K_t of `labels`.
      metric: of the task.
      loss: `(pred, y) -> [b]` of the task.
    """

    task: tasks.Task
    signature: tasks.Signature
    inputs: dict[str, dict[str, np.ndarray]]
    labels: dict[str, np.ndarray]
    num_classes: int
    metric: metrics.Metric
    loss: Any


def keep_compiled(config: ml_collections.ConfigDict) -> None:
    """Keep compiled programs between processes, beside the downloads."""
    cache = assets.cache_dir(config.assets.cache) / "xla"
    jax.config.update("jax_compilation_cache_dir", str(cache))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def target(config: ml_collections.ConfigDict, task: tasks.Task | None = None) -> Target:
    """Standardise the inputs of a task and label its targets.

    Args:
      config: of the run.
      task: None loads that of the config.
    """
    task = targets.load(config) if task is None else task
    signature = tasks.sign(task, config.data.scale_x, config.data.scale_y)
    inputs = {
        split: dict(arrays) | {"x": _scaled(arrays["x"], signature.scale_x)}
        for split, arrays in task.splits.items()
    }
    values = {split: arrays["y"] for split, arrays in task.splits.items()}
    if task.kind == "classification":
        num_classes = task.num_classes
        labels = {split: y.astype(np.int32) for split, y in values.items()}
    else:
        num_classes = config.fld.num_clusters
        num_classes = min(num_classes, task.most_clusters or num_classes)
        labels = pseudo_labels.fit(
            values,
            num_classes,
            config.seed if config.fld.raw_clusters else config.data.split_seed,
            is_raw=config.fld.raw_clusters,
        )
    metric = metrics.make(task.metric, task.metric_options)
    loss = _loss(config, task)
    return Target(task, signature, inputs, labels, num_classes, metric, loss)


def augment(target: Target) -> Callable | None:
    """What the task does to training inputs, for inputs that are standardised."""
    change, scale = target.task.augment, target.signature.scale_x
    if change is None:
        return None
    return lambda x, seeds: scale.apply(change(scale.invert(x), seeds))


def _scaled(x, scale: tasks.Scale):
    return x.map(scale.apply) if isinstance(x, rows.Rows) else scale.apply(x)


def _loss(config: ml_collections.ConfigDict, task: tasks.Task) -> Callable:
    """Return `(pred, y) -> [b]`."""
    data = config.data
    if task.kind == "classification":
        return task_losses.cross_entropy
    if task.kind == "regression":
        std = tasks.fit_scale(task.splits["train"]["y"], "channel").std
        return functools.partial(task_losses.mean_squared_error, scale=std)
    if task.kind == "dense":
        return DENSE_LOSSES[data.loss]
    if task.kind == "distance":
        return task_losses.judged_squared_error
    if task.kind == "segmentation":
        return functools.partial(task_losses.judged_cross_entropy, **task.loss_options)
    return functools.partial(
        task_losses.binary_cross_entropy, pos_weight=data.pos_weight
    )


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
    config: ml_collections.ConfigDict,
    signature: tasks.Signature,
    body: bodies.Body | None,
) -> cross_modal.CrossModal:
    """Join embedder, body and head; predicted values are in units of the targets."""
    x_shape, y_shape = signature.x_shape, signature.y_shape
    num_outputs = signature.num_outputs
    if body is None:
        grid = (*x_shape[:-1], num_outputs)
        made = OWN_MODELS[config.method](config, x_shape, y_shape or grid)
        if y_shape is None:
            made = _averaged(made)
    else:
        made = cross_modal.make(
            body,
            x_shape=x_shape,
            y_shape=y_shape,
            num_classes=num_outputs,
            patch=config.embedder.patch,
            max_tokens=config.embedder.max_tokens,
            image_size=config.embedder.image_size,
            init=config.embedder.init,
            head=config.head.kind,
        )
    scale = signature.scale_y
    if not scale.mean.any() and (scale.std == 1).all():
        return made  # logits, or values as they are

    def inverted(fn):
        def call(*args):
            pred, more = fn(*args)
            return scale.invert(pred), more

        return call

    names = ("apply", "apply_train", "forward_from_tokens")
    given = {name: getattr(made, name) for name in names}
    return made._replace(**{name: inverted(fn) for name, fn in given.items() if fn})


def _averaged(model: cross_modal.CrossModal) -> cross_modal.CrossModal:
    """Average the fields that a model predicts over the grid, one value a channel.

    A Fourier operator or a U-Net has no head for classes of its own; this is that of a
    fully convolutional classifier.
    """

    def averaged(fn):
        def call(*args):
            pred, more = fn(*args)
            return pred.mean(range(1, pred.ndim - 1)), more

        return call

    given = {name: getattr(model, name) for name in ("apply", "apply_train")}
    return model._replace(**{name: averaged(fn) for name, fn in given.items() if fn})


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


def _unet(
    config: ml_collections.ConfigDict, x_shape, y_shape
) -> cross_modal.CrossModal:
    """Make the U-Net, its parameters under `body/`, its statistics under `stats/`."""
    made = unet.make(x_shape=x_shape, y_shape=y_shape, features=config.unet.features)

    def apply(params, x):
        parts = tree.under(params, "body"), tree.under(params, "stats")
        return made.apply(*parts, x, False)

    return cross_modal.CrossModal(
        apply=apply,
        init=lambda key: tree.prefixed(made.init(key)[0], "body"),
        apply_train=lambda params, stats, x: made.apply(
            tree.under(params, "body"), stats, x, True
        ),
        init_stats=lambda params: made.init(jax.random.key(0))[1],
    )


OWN_MODELS = {"fno": _fno, "unet": _unet}


def origin(
    config: ml_collections.ConfigDict, body: bodies.Body, workdir: paths.Path
) -> source.Source | None:
    """Run stage 0, or read what an earlier process stored.

    A run keeps its source in its workdir. Stage 0 depends on the backbone, the source
    data and a few settings, not on the target: runs that share these share one file in
    the cache, named by a hash of them all. Of several processes the first one does it
    for all.
    """
    if is_random(config):
        return None
    return _unpack(hosts.from_first(lambda: _pack(_origin(config, body, workdir))))


def _origin(
    config: ml_collections.ConfigDict, body: bodies.Body, workdir: paths.Path
) -> source.Source:
    path = workdir / "source.npz"
    found = _read_origin(path)
    if found is not None:
        return found
    tower = sources.tower(config, body)
    settings = {
        "num_features": config.source.num_features,
        "test_frac": config.source.test_frac,
        "seed": config.source.seed,
        "recalibration": recalibration(config, body),
        "double_softmax": body.modality == "text" and config.legacy.double_softmax_1d,
    }
    named = {
        "version": SOURCE_VERSION,
        "jax": jax.__version__,
        "device": jax.devices()[0].device_kind,
        "body": tree.digest(body.params),
        "body_config": dict(body.config),
        "dtype": config.body.dtype,
        "data": tower.digest,
        "image_size": config.embedder.image_size,
        **settings,
        "recalibration": settings["recalibration"]._asdict(),
    }
    text = json.dumps(named, sort_keys=True, default=str)
    name = hashlib.sha256(text.encode()).hexdigest()
    shared = assets.cache_dir(config.assets.cache) / "sources" / f"{name}.npz"
    found = _read_origin(shared)
    if found is None:
        begin = time.monotonic()
        found = source.prepare(tower, **settings)
        facts = {
            "name": sources.resolve(config, body),
            "seconds": time.monotonic() - begin,
        }
        found = found._replace(report=facts | found.report)
        shared.parent.mkdir(parents=True, exist_ok=True)
        _write_origin(shared, found)
    _write_origin(path, found)
    return found


def _read_origin(path: paths.Path) -> source.Source | None:
    if not path.exists():
        return None
    try:
        return _unpack(path.read_bytes())
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        logging.warning("%s is damaged (%s); not used", path, error)
        return None


def _write_origin(path: paths.Path, found: source.Source) -> None:
    writer.write_atomically(path, _pack(found))


def _pack(found: source.Source) -> bytes:
    report = json.dumps(found.report)
    return writer.npz(**found._replace(report=report)._asdict())


def _unpack(data: bytes) -> source.Source:
    with np.load(io.BytesIO(data), allow_pickle=False) as file:
        stored = {name: file[name] for name in source.Source._fields}
    return source.Source(**stored | {"report": json.loads(str(stored["report"]))})


def source_samples(
    config: ml_collections.ConfigDict, body: bodies.Body
) -> dict[str, np.ndarray]:
    """Embed labelled source samples for methods that train on them.

    Returns:
      `source_tokens` float32 `[n l d]`, `source_mask` `[n l]` and `source_label` int32
      `[n]` of at most `source.num_features` samples.

    Raises:
      InputError: the labels belong to tokens, not to samples.
    """
    tower = sources.tower(config, body)
    if tower.labels is None:
        raise errors.InputError(
            f"source.name = {sources.resolve(config, body)!r} labels tokens; allowed "
            f"with method {config.method}: a source with one label a sample"
        )
    rng = np.random.default_rng(config.source.seed)
    order = rng.permutation(tower.num_samples)
    rows = np.sort(order[: config.source.num_features])
    tokens, mask = tower.tokens(rows)
    return {
        "source_tokens": np.asarray(tokens, np.float32),
        "source_mask": mask,
        "source_label": tower.labels[rows].astype(np.int32),
    }


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
