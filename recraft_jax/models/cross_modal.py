"""Embedder + body + head as one pure function of a flat parameter dict.

Parameter paths begin with `embedder/`, `body/` or `head/`, so a phase can say in three
words what it trains.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import flax.traverse_util
import jax
import jax.numpy as jnp

from recraft_jax import errors, tree
from recraft_jax.models import embedders, pretrained


class CrossModal(NamedTuple):
    """The target model.

    Attributes:
      apply: `(params, x) -> (pred, out)`; `x` is `[b ... c]`, standardised; `pred` is
        `[b ...]` values or `[b k]` logits; `out` holds `tokens` `[b l d]` (what phi
        makes) and `hidden` `[b l d]`. XLA drops what the caller does not use.
      init: `key -> params`, flat, under `embedder/`, `body/` and `head/`.
    """

    apply: Callable[..., tuple[jax.Array, dict[str, jax.Array]]]
    init: Callable[[jax.Array], dict[str, jax.Array]]


def make(
    body: pretrained.Body,
    *,
    x_shape: Sequence[int],
    y_shape: Sequence[int] | None,
    num_classes: int,
    patch: int,
) -> CrossModal:
    """Join a body to an embedder and a head for one task.

    Args:
      body: the pretrained transformer.
      x_shape: one input without the batch axis: `[n c]` or `[h w c]`.
      y_shape: one dense target on the same grid, or None for classification.
      num_classes: logits of the pooled head when `y_shape` is None.
      patch: points per patch along each spatial axis.

    Raises:
      InputError: a patch the input cannot have, or more tokens than positions.
    """
    *spatial, _ = x_shape
    if not 1 <= patch <= max(spatial):
        raise errors.InputError(
            f"embedder.patch = {patch}; allowed: 1 to {max(spatial)} for input "
            f"{tuple(x_shape)}"
        )
    tokens = 1
    for cells in embedders.grid(spatial, patch):
        tokens *= cells
    if tokens > body.positions:
        raise errors.InputError(
            f"embedder.patch = {patch} makes {tokens} tokens of input {x_shape}, the "
            f"backbone has {body.positions} positions; allowed: a larger patch"
        )
    if y_shape is not None and tuple(y_shape[:-1]) != tuple(spatial):
        raise errors.InputError(
            f"dense target {tuple(y_shape)} is not on the grid of input "
            f"{tuple(x_shape)}"
        )
    embedder = embedders.PatchEmbedder(patch, body.width, body.config["layer_norm_eps"])
    head = (
        embedders.PooledHead(num_classes)
        if y_shape is None
        else embedders.DenseHead(patch, tuple(y_shape))
    )

    def apply(params, x):
        tokens = _apply(embedder, tree.under(params, "embedder"), x)
        hidden = body.encode(tree.under(params, "body"), tokens)
        pred = _apply(head, tree.under(params, "head"), hidden)
        return pred.astype(jnp.float32), {"tokens": tokens, "hidden": hidden}

    @jax.jit
    def draw(key):
        embed_key, head_key = jax.random.split(key)
        x = jnp.zeros((1, *x_shape))
        hidden = jnp.zeros((1, tokens, body.width))
        return {
            **tree.prefixed(_init(embedder, embed_key, x), "embedder"),
            **tree.prefixed(_init(head, head_key, hidden), "head"),
        }

    def init(key):
        params = draw(key)
        native = tree.under(body.params, "embeddings")
        params["embedder/norm/scale"] = jnp.asarray(native["norm/scale"])
        params["embedder/norm/bias"] = jnp.asarray(native["norm/bias"])
        params["embedder/position"] = jnp.asarray(native["position/embedding"][:tokens])
        encoder = tree.prefixed(tree.under(body.params, "encoder"), "body/encoder")
        return params | {path: jnp.asarray(leaf) for path, leaf in encoder.items()}

    return CrossModal(apply=apply, init=init)


def _apply(module, params, *args):
    nested = flax.traverse_util.unflatten_dict(params, sep="/")
    return module.apply({"params": nested}, *args)


def _init(module, key, *args):
    variables = module.init(key, *args)
    return flax.traverse_util.flatten_dict(variables["params"], sep="/")
