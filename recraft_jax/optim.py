"""Optimiser of a phase from its config section: clip, direction, decay, schedule."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax

from recraft_jax import errors

DIRECTIONS = {
    "adamw": lambda o: optax.scale_by_adam(b1=o.b1, b2=o.b2),
    "adam": lambda o: optax.scale_by_adam(b1=o.b1, b2=o.b2),
    "sgd": lambda o: optax.trace(decay=o.b1),
}


def schedule(section: ml_collections.ConfigDict, num_steps: int) -> optax.Schedule:
    """Make the learning rate of a phase: linear warm-up, then the decay.

    Args:
      section: `lr`, `warmup_frac` (share of the phase), `decay` (`cosine`, `linear`,
        `constant`, or `step`: a fifth after each third, as in the released stage 1) and
        `end_factor` (what is left of `lr` at the end of a cosine or linear decay).
      num_steps: steps of the phase.
    """
    warmup = round(section.warmup_frac * num_steps)
    rest = max(num_steps - warmup, 1)
    if section.decay == "cosine":
        after = optax.cosine_decay_schedule(section.lr, rest, section.end_factor)
    elif section.decay == "linear":
        after = optax.linear_schedule(section.lr, section.end_factor * section.lr, rest)
    elif section.decay == "constant":
        after = optax.constant_schedule(section.lr)
    elif section.decay == "step":
        # Released: epochs 20 and 40 of 60 must be exceeded, counted from 0.
        thirds = {num_steps * third // 3 + 1 - warmup: 0.2 for third in (1, 2)}
        after = optax.piecewise_constant_schedule(section.lr, thirds)
    else:
        raise errors.InputError(
            f"optim.decay = {section.decay!r}; allowed: cosine, linear, constant, step"
        )
    # The first step moves: warm-up starts at lr / warmup, not at 0.
    up = optax.linear_schedule(section.lr / max(warmup, 1), section.lr, max(warmup, 1))
    return optax.join_schedules([up, after], [warmup])


def make(
    section: ml_collections.ConfigDict, num_steps: int
) -> optax.GradientTransformation:
    """Build the optimiser of a phase.

    `adamw` decays weights apart from the gradient, `adam` and `sgd` add the decay to
    the gradient as PyTorch does. Only kernels decay: not biases, norms or positions.

    Args:
      section: `name`, `lr`, `new_lr_factor` (learning rate of embedder and head over
        that of the body), `weight_decay`, `b1` (momentum for sgd), `b2`, `clip` (global
        norm, 0 is off), `warmup_frac`, `decay`, `end_factor`.
      num_steps: steps of the phase.

    Raises:
      InputError: an unknown name or decay.
    """
    if section.name not in DIRECTIONS:
        raise errors.InputError(
            f"optim.name = {section.name!r}; allowed: {', '.join(DIRECTIONS)}"
        )
    decay = optax.add_decayed_weights(
        section.weight_decay,
        mask=lambda params: {path: path.endswith("kernel") for path in params},
    )
    direction = DIRECTIONS[section.name](section)
    order = [direction, decay] if section.name == "adamw" else [decay, direction]
    clip = [optax.clip_by_global_norm(section.clip)] if section.clip > 0 else []
    # One program, not one for each operation.
    rates = jax.jit(jax.vmap(schedule(section, num_steps)))(jnp.arange(num_steps))
    rate = _follow(np.asarray(rates))
    return optax.chain(*clip, *order, _scale_new(section.new_lr_factor), rate)


class Rates(NamedTuple):
    """State of `_follow`: the next step, and the learning rates of all `[steps]`."""

    count: jax.Array
    rates: jax.Array


def _follow(rates: np.ndarray) -> optax.GradientTransformation:
    """Step against the update by the learning rate of each step.

    The rates are data, not part of the program: runs that differ in them alone, as
    those of a search do, share what was compiled.
    """

    def update(updates, state, params=None):
        rate = state.rates[state.count]
        updates = jax.tree.map(lambda update: -rate * update, updates)
        return updates, state._replace(count=state.count + 1)

    return optax.GradientTransformation(
        lambda params: Rates(jnp.zeros((), jnp.int32), jnp.asarray(rates)), update
    )


def _scale_new(factor: float) -> optax.GradientTransformation:
    """Multiply the updates of all leaves but those of the pretrained body."""
    return optax.stateless(
        lambda updates, params: {
            path: update * (1.0 if path.startswith("body/") else factor)
            for path, update in updates.items()
        }
    )
