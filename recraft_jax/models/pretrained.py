"""Pretrained bodies behind one contract: pure functions and a flat parameter dict.

A body comes from a folder in Hugging Face's layout: `config.json` and
`model.safetensors`. It is never changed in place: `params` are numpy arrays that the
caller puts on devices.
"""

import json
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy
from absl import logging

from recraft_jax import errors, tree
from recraft_jax.models import bert, convert


class Body(NamedTuple):
    """A pretrained transformer as functions of its parameters.

    Attributes:
      embed: `(params, ids [b l]) -> tokens [b l d]`, the native embedding (theta).
      encode: `(params, tokens [b l d], mask [b l] | None) -> hidden [b l d]`.
      width: d.
      positions: rows of the position table: the largest number of tokens.
      params: flat dict with the prefixes `embeddings/` and `encoder/`.
      config: the checkpoint's own config.json.
    """

    embed: Callable[..., jax.Array]
    encode: Callable[..., jax.Array]
    width: int
    positions: int
    params: dict[str, np.ndarray]
    config: dict[str, Any]


def load(
    folder: str | pathlib.Path,
    *,
    dtype: Any = jnp.float32,
    random_key: jax.Array | None = None,
) -> Body:
    """Read a BERT-family encoder from a local folder.

    Args:
      folder: holds `config.json` and `model.safetensors`.
      dtype: of the body's products; LayerNorm statistics and softmax stay float32.
      random_key: draw fresh weights of the same shapes instead (normal, std
        `initializer_range`, zero biases, unit norms): the `scratch` baseline.

    Raises:
      InputError: a file is missing or broken, the family is not supported, or a tensor
        does not fit.
    """
    folder = pathlib.Path(folder)
    config = _read_config(folder / "config.json")
    if config.get("model_type") != "bert":
        raise errors.InputError(
            f"{folder / 'config.json'}: model_type = {config.get('model_type')!r}; "
            "allowed: bert"
        )
    if config.get("hidden_act", "gelu") != "gelu":
        raise errors.InputError(
            f"{folder / 'config.json'}: hidden_act = {config['hidden_act']!r}; "
            "allowed: gelu"
        )
    embeddings = bert.Embeddings(
        vocab_size=config["vocab_size"],
        max_positions=config["max_position_embeddings"],
        num_types=config["type_vocab_size"],
        width=config["hidden_size"],
        norm_eps=config["layer_norm_eps"],
        dtype=dtype,
    )
    encoder = bert.Encoder(
        num_layers=config["num_hidden_layers"],
        num_heads=config["num_attention_heads"],
        hidden=config["intermediate_size"],
        norm_eps=config["layer_norm_eps"],
        dtype=dtype,
    )

    def embed(params, ids):
        return embeddings.apply(_nested(tree.under(params, "embeddings")), ids)

    def encode(params, tokens, mask=None):
        return encoder.apply(_nested(tree.under(params, "encoder")), tokens, mask)

    def init():
        key = jax.random.key(0)
        ids = jnp.zeros((1, 1), jnp.int32)
        tokens = jnp.zeros((1, 1, config["hidden_size"]))
        return {
            **tree.prefixed(_flat(embeddings.init(key, ids)), "embeddings"),
            **tree.prefixed(_flat(encoder.init(key, tokens)), "encoder"),
        }

    like = jax.eval_shape(init)
    if random_key is None:
        params = _read_weights(folder / "model.safetensors", like)
    else:
        params = _random(like, config.get("initializer_range", 0.02), random_key)
    return Body(
        embed=embed,
        encode=encode,
        width=config["hidden_size"],
        positions=config["max_position_embeddings"],
        params=params,
        config=config,
    )


def _nested(params):
    return {"params": flax.traverse_util.unflatten_dict(params, sep="/")}


def _flat(variables):
    return flax.traverse_util.flatten_dict(variables["params"], sep="/")


def _read_config(path: pathlib.Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise errors.InputError(f"cannot read {path}: {error}") from None
    wanted = (
        "vocab_size",
        "max_position_embeddings",
        "type_vocab_size",
        "hidden_size",
        "num_hidden_layers",
        "num_attention_heads",
        "intermediate_size",
        "layer_norm_eps",
    )
    missing = [name for name in wanted if name not in config]
    if config.get("model_type") == "bert" and missing:
        raise errors.InputError(f"{path} lacks {', '.join(missing)}")
    return config


def _read_weights(path, like) -> dict[str, np.ndarray]:
    try:
        tensors = safetensors.numpy.load_file(path)
    except (OSError, safetensors.SafetensorError) as error:
        raise errors.InputError(f"cannot read {path}: {error}") from None
    params, ignored = convert.apply_table(tensors, bert.TABLE, like, where=str(path))
    logging.info("%s: %d tensors, ignored %s", path, len(tensors), ignored)
    return params


def _random(like, std: float, key: jax.Array) -> dict[str, np.ndarray]:
    """Draw the weights BERT starts its own pretraining from."""
    params = {}
    for index, (path, leaf) in enumerate(sorted(like.items())):
        name = path.rsplit("/", 1)[-1]
        if name in ("kernel", "embedding"):
            draw = jax.random.normal(jax.random.fold_in(key, index), leaf.shape)
            params[path] = np.asarray(std * draw)
        else:
            params[path] = np.full(leaf.shape, float(name == "scale"), np.float32)
    return params
