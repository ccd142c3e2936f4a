"""From a config to everything a run consists of, before anything is trained.

`train` trains it, `evaluate` puts stored parameters into it. Both see the same task,
splits, source and phases, because both come through here.
"""

import math
import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax

from recraft_jax import build, clock, optim, phase, state, tree
from recraft_jax import mesh as meshes
from recraft_jax.methods import fit, recraft, source
from recraft_jax.models import body as bodies
from recraft_jax.models import cross_modal

METHODS = {
    "recraft": recraft.phases,
    "fa": recraft.phases,
    "fld": recraft.phases,
    "nft": fit.phases,
    "scratch": fit.phases,
    "fno": fit.phases,
}


class Assembly(NamedTuple):
    """The parts of a run.

    Attributes:
      mesh: all devices.
      target: data and losses of the task.
      name: of the model.
      body: the pretrained transformer, None for a method with a model of its own.
      model: embedder, body and head as one function.
      origin: the source side, None for random weights.
      params: parameters at step 0.
      phases: of the method, in order.
      starts: global step at which each phase begins, and the last step.
      optimisers: one for each phase.
      epoch_steps: steps of one epoch of stage 2.
      seed: of the random keys.
    """

    mesh: jax.sharding.Mesh
    target: build.Target
    name: str
    body: bodies.Body | None
    model: cross_modal.CrossModal
    origin: source.Source | None
    params: dict[str, jax.Array]
    phases: list[phase.Phase]
    starts: list[int]
    optimisers: list[optax.GradientTransformation]
    epoch_steps: int
    seed: int

    def begin(self, index: int, params: dict[str, jax.Array]) -> state.TrainState:
        """State at the first step of a phase."""
        current = self.phases[index]
        return state.start_phase(
            params,
            current.init_stats(params) if current.init_stats else {},
            self.optimisers[index],
            current.trainable,
            step=self.starts[index],
            seed=self.seed,
        )

    def keep(self, index: int, params: dict[str, jax.Array]) -> dict[str, jax.Array]:
        """Copy the leaves a phase trains: their state will be donated."""
        chosen, _ = tree.split(params, self.phases[index].trainable)
        return jax.tree.map(jnp.copy, chosen) if self.phases[index].select else {}

    def saved(self, current: state.TrainState, best: dict) -> dict[str, Any]:
        """What a checkpoint holds."""
        return {"state": current} | ({"best": best} if best else {})

    def abstract(self, step: int) -> dict[str, Any]:
        """Shapes and shardings of what the checkpoint of a step holds."""
        index, _ = phase.locate(self.phases, step)
        shapes = jax.eval_shape(
            lambda p: self.saved(self.begin(index, p), self.keep(index, p)), self.params
        )
        sharding = meshes.replicated(self.mesh)
        return jax.tree.map(
            lambda s: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=sharding), shapes
        )


def make(
    config: ml_collections.ConfigDict,
    target: build.Target,
    workdir: pathlib.Path,
    watch: clock.Clock,
) -> Assembly:
    """Load the backbone, run or read stage 0, lay out the phases.

    Args:
      config: locked, of `configs/`.
      target: of `build.target`.
      workdir: where stage 0 is stored.
      watch: counts the seconds of stage 0.

    Raises:
      InputError: something the user gave cannot be used.
    """
    mesh = meshes.make()
    for section, name in (
        ("stage1", "batch_size"),
        ("stage2", "batch_size"),
        ("stage2", "eval_batch_size"),
    ):
        meshes.check_batch_size(config[section][name], f"{section}.{name}")
    body = build.body(config)
    model = build.model(config, target.task, body)
    with watch.stage("source"):
        origin = build.origin(config, body, workdir)
    x = target.inputs["train"]["x"]
    epoch_steps = math.ceil(len(x) / config.stage2.batch_size)
    phases = METHODS[config.method](
        config,
        model.apply,
        target.loss,
        target=phase.Target(
            x,
            target.labels["train"],
            target.num_classes,
            is_dense_1d=target.task.kind == "dense"
            and body is not None
            and body.modality == "text",
        ),
        fit_steps=config.stage2.num_epochs * epoch_steps,
    )
    return Assembly(
        mesh=mesh,
        target=target,
        name=body.name if body else config.method.upper(),
        body=body,
        model=model,
        origin=origin,
        params=build.params(config, model, origin),
        phases=phases,
        starts=np.cumsum([0] + [part.num_steps for part in phases]).tolist(),
        optimisers=[optim.make(part.optim, part.num_steps) for part in phases],
        epoch_steps=epoch_steps,
        seed=config.seed,
    )
