"""The frozen body on labelled text: states of its units, slopes of their logits."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from recraft_jax import tree
from recraft_jax.methods import lipschitz, towers

BUCKET = 16  # sentences are padded to a multiple of this: few compiled shapes


def make(
    text: Any,
    params: dict[str, np.ndarray],
    embed: Callable[..., jax.Array],
    encode: Callable[..., jax.Array],
) -> towers.Tower:
    """Join labelled text and a frozen body.

    Args:
      text: `data.text.Text`: `ids` `[n l]`, `mask` `[n l]`, `labels` `[n]` (level
        `sentence`) or `[n l]` with -1 where there is none (level `token`), `names`.
      params: of the pretrained body.
      embed: `(params, ids [b l])` to tokens `[b l d]`.
      encode: `(params, tokens, mask [b l])` to hidden states `[b l d]`.
    """
    of_this = text, params, embed, encode
    return towers.Tower(
        names=text.names,
        level=text.level,
        num_samples=len(text.ids),
        labels=text.labels if text.level == "sentence" else None,
        tokens=functools.partial(embedded, text, params, embed),
        digest=tree.digest({"ids": text.ids, "mask": text.mask, "labels": text.labels}),
        units=functools.partial(frozen_units, *of_this),
        gradients=functools.partial(logit_gradients, *of_this),
    )


def frozen_units(
    text, params, embed, encode, batch_size: int = 64
) -> tuple[np.ndarray, towers.Units]:
    """Run the frozen body over a text.

    Returns:
      The mean embedding of each sentence `[n d]`, and the labelled units.
    """

    @jax.jit
    def run(params, ids, mask):
        tokens = embed(params, ids)
        hidden = encode(params, tokens, mask)
        weight = mask[..., None] / mask.sum(1)[:, None, None]
        return (tokens * weight).sum(1), (hidden * weight).sum(1), hidden

    params = jax.device_put(params)
    num = len(text.ids)
    pooled = means = None
    found: list[towers.Units] = []
    for rows, ids, mask in _buckets(text, np.arange(num), batch_size):
        u, mean, hidden = (
            v[: len(rows)] for v in jax.device_get(run(params, ids, mask))
        )
        if pooled is None:
            pooled = np.zeros((num, u.shape[1]), np.float32)
            means = np.zeros_like(pooled)
        pooled[rows], means[rows] = u, mean
        if text.level == "token":
            labels = text.labels[rows, : ids.shape[1]]
            row, position = np.nonzero(labels >= 0)
            state, label = hidden[row, position], labels[row, position]
            found.append(towers.Units(state, label, rows[row], position))
    if text.level == "sentence":
        return pooled, towers.Units(
            means, text.labels, np.arange(num), np.full(num, -1)
        )
    return pooled, towers.Units(
        *(np.concatenate(part) for part in zip(*found, strict=True))
    )


def embedded(text, params, embed, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Embed some sentences, cut at the longest of them.

    Returns:
      Tokens `[r l d]` and the mask `[r l]`.
    """
    mask = text.mask[rows]
    width = int(mask.sum(1).max())
    tokens = jax.jit(embed)(jax.device_put(params), text.ids[rows, :width])
    return jax.device_get(tokens), mask[:, :width]


def logit_gradients(
    text, params, embed, encode, kernel, units: towers.Units, *, pooled: bool
) -> np.ndarray:
    """Compute the gradients of the source logits of units in u.

    Args:
      text: the text the units come from.
      params: of the pretrained body.
      embed: `(params, ids)` to tokens.
      encode: `(params, tokens, mask)` to hidden states.
      kernel: of the source head `[d k]`.
      units: n units.
      pooled: whether u is the mean of the tokens or all of them.

    Returns:
      `[n d k]` for `pooled`, else `[n l d k]`, zero at padding.
    """

    @jax.jit
    def run(params, ids, mask, weight):
        def states_of(tokens):
            return (encode(params, tokens, mask) * weight[..., None]).sum(1)

        grads = lipschitz.logit_gradients(states_of, embed(params, ids), kernel)
        grads = grads * mask[..., None, None]
        return grads.sum(1) if pooled else grads

    params, kernel = jax.device_put(params), jnp.asarray(kernel)
    # A unit is a row of its own here, also if it shares its sentence with others.
    spread = text._replace(ids=text.ids[units.sample], mask=text.mask[units.sample])
    middle = () if pooled else (text.ids.shape[1],)
    out = np.zeros((len(units.labels), *middle, *kernel.shape), np.float32)
    for rows, ids, mask in _buckets(spread, np.arange(len(out)), 32):
        weight = mask / mask.sum(1, keepdims=True)
        at = units.position[rows]
        is_token = np.flatnonzero(at >= 0)
        weight[is_token] = np.arange(ids.shape[1]) == at[is_token, None]
        grads = jax.device_get(run(params, ids, mask, weight))[: len(rows)]
        if pooled:
            out[rows] = grads
        else:
            out[rows, : ids.shape[1]] = grads
    return out


def _buckets(text, sentences: np.ndarray, batch_size: int):
    """Yield batches of sentences of similar length: their indices, ids and mask.

    The last batch is filled up to `batch_size` with rows of one token.
    """
    lengths = text.mask.sum(1)[sentences]
    order = np.argsort(lengths, kind="stable")
    for start in range(0, len(order), batch_size):
        picks = order[start : start + batch_size]
        rows = sentences[picks]
        width = -(-int(lengths[picks].max()) // BUCKET) * BUCKET
        width = min(width, text.ids.shape[1])
        fill = ((0, batch_size - len(rows)), (0, 0))
        mask = np.pad(text.mask[rows, :width], fill)
        mask[len(rows) :, 0] = True  # a filled row must not divide by zero
        yield rows, np.pad(text.ids[rows, :width], fill), mask
