"""The only `jax.jit` of training: one step per phase, and evaluation steps."""

from collections.abc import Callable

import jax
import optax
from jax.sharding import Mesh

from recraft_jax import mesh as meshes
from recraft_jax import phase as phases
from recraft_jax import state as states
from recraft_jax import tree


def make_train_step(
    phase: phases.Phase,
    tx: optax.GradientTransformation,
    *,
    start: int,
    mesh: Mesh,
) -> Callable[[states.TrainState, dict], tuple[states.TrainState, dict]]:
    """Jit one optimiser step of a phase.

    The state is donated. Gradients are taken with respect to the trained leaves only;
    the others pass through untouched. `loss` and `grad_norm` (before clipping) are
    always among the metrics: both finite means the update was finite.

    Args:
      phase: loss and trainable patterns.
      tx: optimiser whose state `TrainState.opt_state` holds.
      start: global step at which the phase begins.
      mesh: devices; parameters are replicated, batches split.
    """

    def step(state: states.TrainState, batch: dict):
        train, frozen = tree.split(state.params, phase.trainable)
        key = jax.random.fold_in(state.key, state.step)

        def loss_fn(train):
            return phase.loss_fn(
                {**frozen, **train}, state.stats, batch, key, state.step - start
            )

        (loss, (stats, metrics)), grads = jax.value_and_grad(loss_fn, has_aux=True)(
            train
        )
        updates, opt_state = tx.update(grads, state.opt_state, train)
        metrics = metrics | {"loss": loss, "grad_norm": optax.tree.norm(grads)}
        return state.replace(
            step=state.step + 1,
            params={**frozen, **optax.apply_updates(train, updates)},
            stats=stats,
            opt_state=opt_state,
        ), metrics

    replicated = meshes.replicated(mesh)
    return jax.jit(
        step,
        donate_argnums=0,
        in_shardings=(replicated, meshes.split(mesh)),
        out_shardings=replicated,
    )


def make_eval_step(fn: Callable[[dict, dict], dict], *, mesh: Mesh) -> Callable:
    """Jit `fn(params, batch)`: parameters replicated, batch split."""
    replicated = meshes.replicated(mesh)
    return jax.jit(
        fn,
        in_shardings=(replicated, meshes.split(mesh)),
        out_shardings=replicated,
    )
