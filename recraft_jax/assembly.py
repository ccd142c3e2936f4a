"""From a config to everything a run consists of, before anything is trained.

`train` trains it, `evaluate` puts stored parameters into it. Both see the same task,
splits, source and phases, because both come through here.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax

from recraft_jax import build, clock, hosts, optim, paths, phase, state, tree
from recraft_jax import mesh as meshes
from recraft_jax.methods import fit, mona, orca, pare, recraft, source
from recraft_jax.models import body as bodies
from recraft_jax.models import cross_modal


class Method(NamedTuple):
    """A method: its phases, and parameters of its own.

    Attributes:
      phases: `(config, model, loss, *, target, fit_steps)` to a list of phases.
      leaves: `(config, features, labels)` of the source to constants of stage 1.
      init: `(target, key)` to parameters that it trains beside the model.
    """

    phases: Callable[..., list[phase.Phase]]
    leaves: Callable[..., dict[str, np.ndarray]] | None = None
    init: Callable[..., dict[str, jax.Array]] | None = None


_RECRAFT, _FIT = Method(recraft.phases, leaves=recraft.leaves), Method(fit.phases)
METHODS = {
    "recraft": _RECRAFT,
    "fa": _RECRAFT,
    "fld": _RECRAFT,
    "nft": _FIT,
    "scratch": _FIT,
    "orca": Method(orca.phases, leaves=orca.leaves),
    "pare": Method(pare.phases, init=pare.init),
    "mona": Method(mona.phases),
    "fno": _FIT,
    "unet": _FIT,
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
      fsdp: whether large weights are split over the devices.
      seed: of the random keys.
      source_samples: makes the source's part of `paired` batches.
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
    fsdp: bool
    seed: int
    source_samples: Callable[[], dict[str, np.ndarray]]

    def light(self) -> "Assembly":
        """Let go of the weights as they were loaded, of which `params` is a copy.

        Methods that pair their batches with embedded source samples keep them.
        """
        if self.body is None or any(part.stream == "paired" for part in self.phases):
            return self
        return self._replace(
            body=self.body._replace(params={}),
            model=self.model._replace(init=None),
            source_samples=None,
        )

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

    def keep(self, index: int, current: state.TrainState) -> dict[str, jax.Array]:
        """Copy what a phase moves: its state will be donated."""
        chosen, _ = tree.split(current.params, self.phases[index].trainable)
        chosen |= tree.prefixed(current.stats, "stats")
        return jax.tree.map(jnp.copy, chosen) if self.phases[index].select else {}

    def view(self, current: state.TrainState) -> dict[str, jax.Array]:
        """Parameters as `model.apply` takes them, with the statistics of the model."""
        return current.params | tree.prefixed(current.stats, "stats")

    def saved(self, current: state.TrainState, best: dict) -> dict[str, Any]:
        """What a checkpoint holds."""
        return {"state": current} | ({"best": best} if best else {})

    def abstract(self, step: int) -> dict[str, Any]:
        """Shapes and shardings of what the checkpoint of a step holds."""
        index, _ = phase.locate(self.phases, step)

        def saved(params):
            current = self.begin(index, params)
            return self.saved(current, self.keep(index, current))

        shapes = jax.eval_shape(saved, self.params)
        return jax.tree.map(
            lambda leaf, sharding: jax.ShapeDtypeStruct(
                leaf.shape, leaf.dtype, sharding=sharding
            ),
            shapes,
            self.shardings(shapes),
        )

    def shardings(self, tree: Any) -> Any:
        """Where the leaves of parameters or of a state are."""
        return meshes.of_weights(self.mesh, tree, fsdp=self.fsdp)

    def place(self, tree: Any) -> Any:
        """Put parameters or a state there."""
        return meshes.place(tree, self.shardings(tree))


def make(
    config: ml_collections.ConfigDict,
    target: build.Target,
    workdir: paths.Path,
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
    with hosts.first_then_others("body"):
        body = build.body(config)
    model = build.model(config, target.signature, body)
    with watch.stage("source"):
        origin = build.origin(config, body, workdir)
    x = target.inputs["train"]["x"]
    epoch_steps = math.ceil(len(x) / config.stage2.batch_size)
    method = METHODS[config.method]
    seen = phase.Target(
        x,
        target.labels["train"],
        target.num_classes,
        is_dense_1d=target.task.kind == "dense"
        and body is not None
        and body.modality == "text",
        num_tokens=model.num_tokens,
        width=body.width if body else 0,
        hidden_width=body.hidden_width if body else 0,
        num_source_classes=len(origin.bias) if origin else 0,
    )
    phases = method.phases(
        config,
        model,
        target.loss,
        target=seen,
        fit_steps=config.stage2.num_epochs * epoch_steps,
    )
    return Assembly(
        mesh=mesh,
        target=target,
        name=body.name if body else config.method.upper(),
        body=body,
        model=model,
        origin=origin,
        params=params(config, model, origin, method, seen),
        phases=phases,
        starts=np.cumsum([0] + [part.num_steps for part in phases]).tolist(),
        optimisers=[optim.make(part.optim, part.num_steps) for part in phases],
        epoch_steps=epoch_steps,
        fsdp=config.devices.fsdp,
        seed=config.seed,
        source_samples=functools.partial(build.source_samples, config, body),
    )


def params(
    config: ml_collections.ConfigDict,
    model: cross_modal.CrossModal,
    origin: source.Source | None,
    method: Method,
    target: phase.Target,
) -> dict[str, jax.Array]:
    """Parameters at step 0; those of the source ride along, frozen."""
    key = jax.random.key(config.seed)
    made = model.init(key)
    if method.init:
        made |= method.init(target, jax.random.fold_in(key, 1))
    if origin is None:
        return made
    found = source.leaves(origin)
    if method.leaves:
        found |= method.leaves(config, origin.features, origin.labels)
    return made | {path: jnp.asarray(x) for path, x in found.items()}
