"""Target fitting: the last phase of every method, the only one without a stage 1.

Stage 2 of RECRAFT (the paper's Eq. 9): minimise the task loss over body and head, and
over the embedder unless it is frozen (the paper freezes it, the released code does
not).
"""

from collections.abc import Callable
from typing import Any

import ml_collections

from recraft_jax import phase

TRAINABLE = ("full", "norms", "head")
NORMS = "body/.*norm/.*"  # the LayerNorms of every backbone


def phases(
    config: ml_collections.ConfigDict,
    model: Any,
    loss: Callable,
    *,
    target: phase.Target,
    fit_steps: int,
) -> list[phase.Phase]:
    """The one phase of `nft`, `scratch`, `fno` and `unet`; the embedder is fresh."""
    del target
    return [fit_phase(config, model, loss, num_steps=fit_steps, freeze_embedder=False)]


def fit_phase(
    config: ml_collections.ConfigDict,
    model: Any,
    loss: Callable,
    *,
    num_steps: int,
    freeze_embedder: bool,
) -> phase.Phase:
    """Build the fitting phase.

    Args:
      config: the run's config; reads `stage2`.
      model: `apply`, `(params, x) -> (pred, out)`; or `apply_train`, `(params, stats,
        x) -> (pred, stats)`, where training is another function than prediction, with
        `init_stats`.
      loss: `(pred, y) -> [b]`.
      num_steps: optimiser steps.
      freeze_embedder: leave phi as it is.
    """

    def loss_fn(params, stats, batch, key, step):
        del key, step
        if model.apply_train is None:
            pred, _ = model.apply(params, batch["x"])
        else:
            pred, stats = model.apply_train(params, stats, batch["x"])
        return loss(pred, batch["y"]).mean(), (stats, {})

    return phase.Phase(
        name="fit",
        stage="fit",
        loss_fn=loss_fn,
        trainable=(trainable(config.stage2.trainable, freeze_embedder),),
        init_stats=model.init_stats,
        num_steps=num_steps,
        optim=config.stage2.optim,
        stream="shuffled",
        batch_size=config.stage2.batch_size,
        accumulate=config.stage2.accumulate,
        select=True,
    )


def trainable(kind: str, freeze_embedder: bool) -> str:
    """One pattern of what stage 2 trains.

    One, because a head may have no parameters, and a model of its own is all body.

    Args:
      kind: `full`, `norms` (of the body only its LayerNorms) or `head` (nothing of the
        body).
      freeze_embedder: leave phi as it is.
    """
    body = {"full": ["body/.*"], "norms": [NORMS], "head": []}[kind]
    phi = [] if freeze_embedder else ["embedder/.*"]
    return "|".join([*phi, *body, "head/.*"])
