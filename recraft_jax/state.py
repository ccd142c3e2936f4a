"""The training state: data only, no functions.

Parameters are one flat dict. What a phase trains is a sub-dict of it, so gradients and
optimiser state exist for those leaves alone.
"""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from recraft_jax import tree


@flax.struct.dataclass
class TrainState:
    """What changes during training.

    Attributes:
      step: optimiser steps since the start of the run, over all phases; int32 scalar.
      params: every leaf, trained or frozen, by path.
      stats: non-trained state of the model (BatchNorm averages), may be empty.
      opt_state: optax state for the leaves this phase trains.
      key: typed random key; a step uses `fold_in(key, step)`, so resumed runs draw the
        same numbers.
    """

    step: jax.Array
    params: dict[str, jax.Array]
    stats: dict[str, jax.Array]
    opt_state: Any
    key: jax.Array


def start_phase(
    params: dict[str, jax.Array],
    stats: dict[str, jax.Array],
    tx: optax.GradientTransformation,
    trainable: tuple[str, ...],
    *,
    step: int,
    seed: int,
) -> TrainState:
    """State at the first step of a phase: a fresh optimiser for its leaves."""
    train, _ = tree.split(params, trainable)
    return TrainState(
        step=jnp.asarray(step, jnp.int32),
        params=dict(params),
        stats=dict(stats),
        opt_state=jax.jit(tx.init)(train),
        key=jax.random.key(seed),
    )
