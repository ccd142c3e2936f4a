"""Target fitting: the last phase of every method, the only one without a stage 1.

Stage 2 of RECRAFT (the paper's Eq. 9): minimise the task loss over body and head, and
over the embedder unless it is frozen (the paper freezes it, the released code does
not).
"""

from collections.abc import Callable

import ml_collections

from recraft_jax import phase


def phases(
    config: ml_collections.ConfigDict,
    apply: Callable,
    loss: Callable,
    *,
    target: phase.Target,
    fit_steps: int,
) -> list[phase.Phase]:
    """The one phase of `nft`, `scratch` and `fno`; the embedder is fresh."""
    del target
    return [fit_phase(config, apply, loss, num_steps=fit_steps, freeze_embedder=False)]


def fit_phase(
    config: ml_collections.ConfigDict,
    apply: Callable,
    loss: Callable,
    *,
    num_steps: int,
    freeze_embedder: bool,
) -> phase.Phase:
    """Build the fitting phase.

    Args:
      config: the run's config; reads `stage2`.
      apply: `(params, x) -> (pred, out)`.
      loss: `(pred, y) -> [b]`.
      num_steps: optimiser steps.
      freeze_embedder: leave phi as it is.
    """

    def loss_fn(params, stats, batch, key, step):
        del key, step
        pred, _ = apply(params, batch["x"])
        return loss(pred, batch["y"]).mean(), (stats, {})

    # One pattern: a head may have no parameters, a model of its own is all body.
    parts = "body|head" if freeze_embedder else "embedder|body|head"
    return phase.Phase(
        name="fit",
        stage="fit",
        loss_fn=loss_fn,
        trainable=(f"(?:{parts})/.*",),
        num_steps=num_steps,
        optim=config.stage2.optim,
        stream="shuffled",
        batch_size=config.stage2.batch_size,
        select=True,
    )
