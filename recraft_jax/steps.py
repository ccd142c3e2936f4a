"""The only `jax.jit` of training: one step per phase, and evaluation steps."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
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
    shardings: states.TrainState | None = None,
) -> Callable[[states.TrainState, dict], tuple[states.TrainState, dict]]:
    """Jit one optimiser step of a phase.

    The state is donated. Gradients are taken with respect to the trained leaves only;
    the others pass through untouched. `loss` and `grad_norm` (before clipping) are
    always among the metrics: both finite means the update was finite.

    Args:
      phase: loss and trainable patterns.
      tx: optimiser whose state `TrainState.opt_state` holds.
      start: global step at which the phase begins.
      mesh: devices; batches come as `mesh.put` lays them.
      shardings: where the leaves of the state are; None is a whole one on each device.
    """
    everywhere = meshes.replicated(mesh)
    places = everywhere if shardings is None else shardings

    def whole(params):
        """Gather what is split. Left alone, XLA may move activations to the weights."""
        return {
            path: jax.lax.with_sharding_constraint(leaf, everywhere)
            if shardings and not shardings.params[path].is_fully_replicated
            else leaf
            for path, leaf in params.items()
        }

    def step(state: states.TrainState, batch: dict):
        train, frozen = tree.split(state.params, phase.trainable)
        key = jax.random.fold_in(state.key, state.step)

        def loss_fn(train, stats, batch):
            params = whole({**frozen, **train})
            with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
                return phase.loss_fn(params, stats, batch, key, state.step - start)

        value_and_grad = jax.value_and_grad(loss_fn, has_aux=True)
        if phase.accumulate > 1:
            value_and_grad = accumulated(value_and_grad, phase.accumulate)
        (loss, (stats, metrics)), grads = value_and_grad(train, state.stats, batch)
        updates, opt_state = tx.update(grads, state.opt_state, train)
        metrics = metrics | {"loss": loss, "grad_norm": optax.tree.norm(grads)}
        return state.replace(
            step=state.step + 1,
            params={**frozen, **optax.apply_updates(train, updates)},
            stats=stats,
            opt_state=opt_state,
        ), metrics

    return jax.jit(
        step,
        donate_argnums=0,
        in_shardings=(places, None),
        out_shardings=(places, everywhere),
    )


def accumulated(value_and_grad: Callable, count: int) -> Callable:
    """Take a mean over samples, and its gradient, in parts of the batch, one by one.

    It holds the activations of one part at a time. Part i has every `count`-th row
    from i on: rows that lie on one device stay there.

    Args:
      value_and_grad: `(train, stats, batch) -> ((loss, (stats, metrics)), grads)`,
        `loss` and `metrics` means over samples; `stats` pass through the parts in turn.
      count: of parts; divides the batch.
    """

    def call(train, stats, batch):
        parts = jax.tree.map(
            lambda x: x.reshape(-1, count, *x.shape[1:]).swapaxes(0, 1), batch
        )

        def add(carry, part):
            stats, total = carry
            (loss, (stats, metrics)), grads = value_and_grad(train, stats, part)
            total = jax.tree.map(jnp.add, total, (loss, metrics, grads))
            return (stats, total), None

        first = jax.tree.map(lambda x: x[0], parts)
        (_, (_, metrics)), _ = jax.eval_shape(value_and_grad, train, stats, first)
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), (metrics, train))
        (stats, total), _ = jax.lax.scan(add, (stats, (jnp.zeros(()), *zeros)), parts)
        loss, metrics, grads = jax.tree.map(lambda x: x / count, total)
        return (loss, (stats, metrics)), grads

    return call


def make_eval_step(fn: Callable[[dict, dict], dict], *, mesh: Mesh) -> Callable:
    """Jit `fn(params, batch)` of arrays as they lie; every device gets the result."""
    return jax.jit(fn, out_shardings=meshes.replicated(mesh))
