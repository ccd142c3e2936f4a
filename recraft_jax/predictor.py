"""A fitted predictor: what a run leaves to predict with.

`predictor.json` says what goes in and comes out and which transformer it is;
`predictor.safetensors` holds the parameters that the run reports (the best on
validation) and the standardisation. With the `config.json` beside them they are whole:
neither the data nor the backbone's files are needed any more.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import safetensors
import safetensors.numpy

from recraft_jax import build, errors, hosts, paths, tree, writer
from recraft_jax import mesh as meshes
from recraft_jax.data import pipeline, tasks
from recraft_jax.models import body as bodies
from recraft_jax.models import pretrained

CARD, WEIGHTS = "predictor.json", "predictor.safetensors"
VERSION = 1
HAVE_UNITS = ("dense", "distance", "regression")  # kinds that predict values


class Predictor(NamedTuple):
    """A predictor.

    Attributes:
      config: of the run.
      signature: what goes in and comes out.
      params: flat dict, numpy; standardisation of inputs under `scale/`.
      forward: `(params, x [b *x_shape]) -> outputs`, pure: `values` `[b ...]` in the
        units of the targets; or `logits` `[b ...]` and `probabilities` `[b ...]`, of
        classes (which sum to 1) or of labels or points (which do not).
    """

    config: ml_collections.ConfigDict
    signature: tasks.Signature
    params: dict[str, np.ndarray]
    forward: Callable[[Mapping[str, Any], Any], dict[str, jax.Array]]


def save(
    workdir: paths.Path,
    signature: tasks.Signature,
    params: Mapping[str, jax.Array],
    body: bodies.Body | None,
    mesh: jax.sharding.Mesh,
) -> None:
    """Write the predictor of a run; process 0 does, the others help to gather.

    Args:
      workdir: of the run.
      signature: of its task.
      params: flat dict, with statistics under `stats/`; those of the source stay out.
      body: of the model, None for a method with a model of its own.
      mesh: where the parameters are.
    """
    kept = {k: v for k, v in params.items() if not k.startswith("source/")}
    if not all(leaf.is_fully_replicated for leaf in kept.values()):
        whole = meshes.replicated(mesh)
        kept = jax.jit(lambda leaves: leaves, out_shardings=whole)(kept)
    if not hosts.is_first():
        return
    leaves = {k: np.ascontiguousarray(v) for k, v in jax.device_get(kept).items()}
    for name in ("x", "y"):
        scale = getattr(signature, f"scale_{name}")
        for part, value in scale._asdict().items():
            leaves[f"scale/{name}_{part}"] = np.ascontiguousarray(value, np.float32)
    card = signature._asdict() | {"scale_x": None, "scale_y": None}
    card = {"version": VERSION, "signature": card, "weights": tree.digest(leaves)}
    card["body"] = dict(body.config) if body else None
    data = safetensors.numpy.save(leaves)
    writer.write_atomically(workdir / WEIGHTS, data)
    writer.write_json(workdir / CARD, card)


def load(workdir: paths.Path) -> Predictor:
    """Read the predictor of a finished run.

    Raises:
      InputError: there is none, or its files are damaged.
    """
    try:
        parts = [
            (workdir / name).read_bytes() for name in ("config.json", CARD, WEIGHTS)
        ]
    except OSError as error:
        raise errors.InputError(
            f"{workdir} holds no predictor: {error}; allowed: the folder of a finished "
            "run of this version"
        ) from None
    return unpack(*parts, str(workdir))


def unpack(config: bytes, card: bytes, weights: bytes, where: str) -> Predictor:
    """Make a predictor of what its three files hold.

    Args:
      config: of `config.json`.
      card: of `predictor.json`.
      weights: of `predictor.safetensors`.
      where: they are, for messages.

    Raises:
      InputError: they are damaged.
    """
    try:
        config, card = json.loads(config), json.loads(card)
        leaves = safetensors.numpy.load(weights)
        is_whole = card["version"] == VERSION and tree.digest(leaves) == card["weights"]
    except (ValueError, KeyError, safetensors.SafetensorError) as error:
        raise errors.InputError(f"{where}: damaged predictor: {error}") from None
    if not is_whole:
        raise errors.InputError(
            f"{where}: {WEIGHTS} is not what {CARD} describes: damaged, or of another "
            "version"
        )
    scales = tree.under(leaves, "scale")
    facts = card["signature"]
    signature = tasks.Signature(
        facts["kind"],
        tuple(facts["x_shape"]),
        facts["y_shape"] and tuple(facts["y_shape"]),
        facts["num_outputs"],
        tasks.Scale(scales["x_mean"], scales["x_std"]),
        tasks.Scale(scales["y_mean"], scales["y_std"]),
        tuple(facts["labels"]),
    )
    config = ml_collections.ConfigDict(config).lock()
    body = None
    if card["body"]:
        body = pretrained.blank(card["body"], jnp.dtype(config.body.dtype))
    model = build.model(config, signature, body)
    outside = ("scale/y_mean", "scale/y_std")  # the model has them
    params = {path: leaf for path, leaf in leaves.items() if path not in outside}
    return Predictor(config, signature, params, _forward(signature, model.apply))


def _forward(signature: tasks.Signature, apply: Callable) -> Callable:
    def forward(params, x):
        x = (x - params["scale/x_mean"]) / params["scale/x_std"]
        pred, _ = apply(params, x)
        pred = pred.astype(jnp.float32)
        if signature.kind in HAVE_UNITS:
            return {"values": pred}
        squash = jax.nn.sigmoid
        if signature.kind == "classification":
            squash = jax.nn.softmax
        return {"logits": pred, "probabilities": squash(pred)}

    return forward


def make_step(
    predictor: Predictor, batch_size: int = 128
) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
    """Make `x [n *x_shape] -> outputs of forward`, numpy, any n, one program.

    Args:
      predictor: the predictor.
      batch_size: samples of a step.
    """
    step = jax.jit(predictor.forward)
    params = jax.device_put(predictor.params)

    def call(x):
        parts = []
        for batch in pipeline.once({"x": x}, batch_size):
            out = step(params, np.asarray(batch["x"], np.float32))
            out = jax.device_get(out)
            parts.append({name: value[batch["mask"]] for name, value in out.items()})
        return {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}

    return call


def run(
    predictor: Predictor, x: np.ndarray, batch_size: int = 128
) -> dict[str, np.ndarray]:
    """Predict samples `[n *x_shape]` in the units of the training data.

    Raises:
      InputError: another shape, no samples, or values that are not finite.
    """
    check(x, predictor.signature)
    return make_step(predictor, batch_size)(x)


def check(x: np.ndarray, signature: tasks.Signature, begin: int = 0) -> None:
    """Refuse inputs that the predictor cannot take, by sample, counted from `begin`."""
    if not len(x):
        raise errors.InputError("no inputs; allowed: one sample or more")
    if x.shape[1:] != signature.x_shape:
        want = ", ".join(str(size) for size in signature.x_shape)
        raise errors.InputError(
            f"inputs of shape {x.shape[1:]}; allowed: [n, {want}], channels last, as "
            "in training"
        )
    bad = ~np.isfinite(x.reshape(len(x), -1)).all(1)
    if bad.any():
        raise errors.InputError(
            f"sample {begin + bad.argmax()} has values that are not finite; allowed: "
            "finite numbers"
        )


def together(outputs: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Join what several predictors say of the same samples.

    Returns:
      `values` or `probabilities`, the mean over predictors. With two or more also
      `spread`, their standard deviation (divided by the number less one); and of
      classes `information`, the mutual information in nats between class and
      predictor: the entropy of the mean less the mean entropy, large where predictors
      are sure and differ.
    """
    name = "values" if "values" in outputs[0] else "probabilities"
    each = np.stack([one[name] for one in outputs]).astype(np.float64)
    joined = {name: each.mean(0)}
    if len(outputs) > 1:
        joined["spread"] = each.std(0, ddof=1)
    if len(outputs) > 1 and name == "probabilities" and each.ndim == 3:
        joined["information"] = _entropy(each.mean(0)) - _entropy(each).mean(0)
    return {key: value.astype(np.float32) for key, value in joined.items()}


def _entropy(probabilities: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore"):
        logs = np.where(probabilities > 0, np.log(probabilities), 0.0)
    return -(probabilities * logs).sum(-1)
