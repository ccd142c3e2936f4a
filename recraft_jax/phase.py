"""A method is a list of phases: "train these leaves, on this loss, for so many steps".

The loop in `train.py` knows nothing else about a method, so a new method adds a list
and no branch.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np


class Target(NamedTuple):
    """What a method may know of the target task.

    Attributes:
      x: standardised training inputs `[n ...]`.
      labels: their classes or clusters `[n]`.
      num_classes: K_t of `labels`.
      is_dense_1d: whether it predicts an array with a text body (a released 1-D task).
      num_tokens: tokens of one sample.
      width: of the tokens.
      hidden_width: of the hidden states.
      num_source_classes: K_s, 0 without a source.
    """

    x: np.ndarray
    labels: np.ndarray
    num_classes: int
    is_dense_1d: bool
    num_tokens: int = 0
    width: int = 0
    hidden_width: int = 0
    num_source_classes: int = 0


class Phase(NamedTuple):
    """One stretch of training.

    Attributes:
      name: shown in logs, keys of `metrics.jsonl`.
      stage: `align` (stage 1) or `fit` (stage 2): whose seconds it counts as.
      loss_fn: `(params, stats, batch, key, step) -> (scalar, (stats, metrics))`, pure;
        `step` counts from 0 within the phase, `metrics` is a dict of scalars.
      trainable: regular expressions on parameter paths; all other leaves stay as they
        are, bit for bit.
      num_steps: optimiser steps.
      optim: config section that `optim.make` reads.
      stream: which batches it eats: `shuffled`, `balanced` (over pseudo-labels) or
        `paired` (shuffled, with as many source samples as `source_tokens` `[b l d]` of
        the native embedding, `source_mask` `[b l]` and `source_label` `[b]`).
      batch_size: samples of one step, over all devices.
      select: keep the parameters with the best validation score rather than the last.
      accumulate: parts of a batch whose gradients are averaged before a step, where the
        loss is a mean over samples.
      init_stats: `params -> stats` at the first step of the phase; empty if None.
    """

    name: str
    stage: str
    loss_fn: Callable[..., tuple[Any, tuple[dict, dict]]]
    trainable: tuple[str, ...]
    num_steps: int
    optim: Any
    stream: str
    batch_size: int
    select: bool = False
    accumulate: int = 1
    init_stats: Callable[[dict], dict] | None = None


def locate(phases: Sequence[Phase], step: int) -> tuple[int, int]:
    """Find the phase of a global step and the step within it.

    A step on the border belongs to the earlier phase, as finished: that is the state a
    checkpoint written at the end of a phase holds.

    Args:
      phases: the phases of a run, in order.
      step: optimiser steps done since the start of the run.

    Returns:
      Index into `phases` and the number of steps done within that phase.
    """
    start = 0
    for index, phase in enumerate(phases):
        if step <= start + phase.num_steps:
            return index, step - start
        start += phase.num_steps
    raise ValueError(f"step {step} lies beyond the {start} steps of the run")
