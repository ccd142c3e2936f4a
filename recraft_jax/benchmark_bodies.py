"""Benchmark of full-size backbones: compilation, memory and seconds of a training step.

The step is the one that trains: embedder, body and head of `models/cross_modal.py`, all
leaves, mean squared error, AdamW, `steps.make_train_step`. Weights are random, for
neither the compiler nor the memory looks at them, so nothing is downloaded.
"""

import statistics
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from recraft_jax import measure, mesh, phase, state, steps
from recraft_jax.models import cross_modal, roberta, swin

_BODIES = {
    "roberta_base": (
        roberta.make,
        {
            "vocab_size": 50265,
            "max_position_embeddings": 514,
            "hidden_size": 768,
            "num_hidden_layers": 12,
            "num_attention_heads": 12,
            "intermediate_size": 3072,
        },
    ),
    "swin_base": (
        swin.make,
        {
            "embed_dim": 128,
            "depths": (2, 2, 18, 2),
            "num_heads": (4, 8, 16, 32),
            "window_size": 7,
        },
    ),
}
# One batch of the published settings (methods of Table 1): a series of 3,072 points in
# 128 tokens, a field of 128 x 128 points resized to 224 x 224 pixels; batch 4.
SIZES = {
    "roberta_base": {"x_shape": (3072, 1), "max_tokens": 128, "batch_size": 4},
    "swin_base": {"x_shape": (128, 128, 1), "image_size": 224, "batch_size": 4},
}


class Step(NamedTuple):
    """A training step that is not compiled yet.

    Attributes:
      phase: its loss, on all leaves.
      tx: its optimiser.
      state: at its start.
      x_shape: of a batch.
    """

    phase: phase.Phase
    tx: optax.GradientTransformation
    state: state.TrainState
    x_shape: tuple[int, ...]


def make_step(
    name: str, sizes: Mapping[str, Any], config: Mapping[str, Any] | None = None
) -> Step:
    """Lay out the training step of a backbone of random weights.

    Args:
      name: of a backbone of this file.
      sizes: `batch_size`, `x_shape` and other arguments of `cross_modal.make`.
      config: of the backbone, in place of the full-size one.
    """
    make, full = _BODIES[name]
    given = dict(sizes)
    batch_size, x_shape = given.pop("batch_size"), tuple(given.pop("x_shape"))
    body = make(config or full, jnp.float32)
    body = body._replace(params=jax.jit(body.init)(jax.random.key(0)))
    model = cross_modal.make(
        body, x_shape=x_shape, y_shape=x_shape, num_classes=0, **given
    )

    def loss_fn(params, stats, batch, key, step):
        del key, step
        pred, _ = model.apply(params, batch["x"])
        return jnp.mean(jnp.square(pred - batch["x"])), (stats, {})

    fit = phase.Phase("fit", "fit", loss_fn, (".*",), 1, None, "shuffled", batch_size)
    tx = optax.adamw(1e-4)
    params = model.init(jax.random.key(1))
    start = state.start_phase(params, {}, tx, fit.trainable, step=0, seed=0)
    return Step(fit, tx, start, (batch_size, *x_shape))


def training_step(
    name: str,
    repeats: int,
    sizes: Mapping[str, Any] | None = None,
    config: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Compile and run the training step, in this process, which should be fresh.

    Args:
      name: of a backbone of this file.
      repeats: steps to take the median of.
      sizes: `batch_size`, `x_shape` and other arguments of `cross_modal.make`.
      config: of the backbone, in place of the full-size one.

    Returns:
      `seconds`, `compile_cold`, `compile_warm`, `compile_gradient` (forward and
      backward alone, nothing cached), `peak_bytes`, `baseline` (peak after the
      imports), `params` (values trained) and the `sizes`.
    """
    sizes = dict(sizes or SIZES[name])
    jnp.zeros(1).block_until_ready()  # starts the backend
    baseline = measure.peak_bytes()
    fit, tx, start, x_shape = make_step(name, sizes, config)
    devices = mesh.make()
    num_params = sum(leaf.size for leaf in start.params.values())
    step = steps.make_train_step(fit, tx, start=0, mesh=devices)

    def gradient(params, batch):
        return jax.grad(lambda p: fit.loss_fn(p, {}, batch, None, None)[0])(params)

    x = jax.random.normal(jax.random.key(2), x_shape)
    batch = {"x": jax.device_put(x, mesh.split(devices))}
    cold, warm = measure.compile_seconds(step, start, batch)
    cold_gradient, _ = measure.compile_seconds(gradient, start.params, batch)
    compiled = step.lower(start, batch).compile()
    times, current = [], start
    del start
    for _ in range(repeats):
        seconds, (current, metrics) = measure.timed(
            lambda current=current: jax.block_until_ready(compiled(current, batch))
        )
        times.append(seconds)
    if not jnp.isfinite(metrics["loss"]):
        raise ValueError(f"{name}: the loss is {metrics['loss']}")
    return {
        "seconds": statistics.median(times),
        "compile_cold": cold,
        "compile_warm": warm,
        "compile_gradient": cold_gradient,
        "peak_bytes": measure.peak_bytes(),
        "baseline": baseline,
        "params": num_params,
        "sizes": sizes,
    }
