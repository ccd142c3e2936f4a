"""Embedder + body + head as one pure function of a flat parameter dict.

Parameter paths begin with `embedder/`, `body/` or `head/`, so a phase can say in three
words what it trains.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from recraft_jax import errors, tree
from recraft_jax.models import body as bodies
from recraft_jax.models import embedders, patches

# What each `init` of the embedder does not take from the backbone.
_FRESH = {"pretrained": (), "xavier": ("patch/",), "normal": ("patch/", "norm/")}


class CrossModal(NamedTuple):
    """The target model.

    Attributes:
      apply: `(params, x) -> (pred, out)`; `x` is `[b ... c]`, standardised; `pred` is
        `[b ...]` values or `[b k]` logits; `out` holds `tokens` `[b l d]` (what phi
        makes of the patches) and `hidden` `[b l' e]`, both without the tokens that
        belong to no patch. XLA drops what the caller does not use.
      init: `key -> params`, flat, under `embedder/`, `body/` and `head/`; holds the
        pretrained weights.
      embed: `(params, x) -> tokens [b l d]` of the patches, the first part of `apply`;
        None, like the next two, of a model that has no such parts.
      encode: `(params, tokens, mask) -> hidden`, the second part, of any patch tokens;
        text bodies do not attend to tokens where `mask` `[b l]` is False; images have
        no padding, and their bodies no use for it.
      forward_from_tokens: `(params, tokens, mask) -> (pred, out)`, all but the first
        part; a dense prediction wants as many tokens as the target has.
      num_tokens: l.
      apply_train: `(params, stats, x) -> (pred, stats)` where training computes another
        function than `apply`, or needs statistics; `apply` then finds them in `params`
        under `stats/`.
      init_stats: `params -> stats` at the start of training, with `apply_train`.
    """

    apply: Callable[..., tuple[jax.Array, dict[str, jax.Array]]]
    init: Callable[[jax.Array], dict[str, jax.Array]]
    embed: Callable[..., jax.Array] | None = None
    encode: Callable[..., jax.Array] | None = None
    forward_from_tokens: Callable[..., tuple[jax.Array, dict]] | None = None
    num_tokens: int = 0
    apply_train: Callable[..., tuple[jax.Array, dict[str, jax.Array]]] | None = None
    init_stats: Callable[[dict], dict[str, jax.Array]] | None = None


def make(
    body: bodies.Body,
    *,
    x_shape: Sequence[int],
    y_shape: Sequence[int] | None,
    num_classes: int,
    patch: int = 0,
    max_tokens: int = 512,
    image_size: int = 0,
    init: str = "pretrained",
    head: str = "linear",
) -> CrossModal:
    """Join a body to an embedder and a head for one task.

    Args:
      body: the pretrained transformer.
      x_shape: one input without the batch axis: `[n c]` or `[h w c]`, of any size.
      y_shape: one dense target on the same grid, or None for classes or labels.
      num_classes: logits of the pooled head when `y_shape` is None.
      patch: points per patch along each spatial axis, for text bodies; 0 chooses
        `embedders.stack_factor` for a series, and for a field the smallest patch that
        makes at most `max_tokens` of them.
      max_tokens: see `patch`.
      image_size: side of the square that inputs are resized to, for image bodies; 0 is
        the size the body was trained on.
      init: of the embedder. `pretrained`: all that the backbone lends, its patch map
        repeated over the input channels included; `xavier` (D20): as that, but a fresh
        patch map; `normal`: fresh patch map and norm, with its positions.
      head: of dense targets, `linear` or `pool`, see `embedders.py`.

    Raises:
      InputError: a patch or size the input cannot have, or more tokens than positions.
    """
    *spatial, channels = x_shape
    if not 1 <= len(spatial) <= 2:
        raise errors.InputError(
            f"input of shape {tuple(x_shape)}; allowed: [n c] or [h w c]"
        )
    if y_shape is not None and tuple(y_shape[:-1]) != tuple(spatial):
        raise errors.InputError(
            f"dense target {tuple(y_shape)} is not on the grid of input "
            f"{tuple(x_shape)}"
        )
    for name, value, allowed in (
        ("embedder.init", init, tuple(_FRESH)),
        ("head.kind", head, embedders.HEADS),
    ):
        if value not in allowed:
            raise errors.InputError(
                f"{name} = {value!r}; allowed: {', '.join(allowed)}"
            )
    if body.modality == "image":
        patch, image_size = body.patch, image_size or body.image_size
        grid = _image_grid(body, image_size)
    else:
        image_size = 0
        patch, grid = _patches(body, x_shape, patch, max_tokens)
    lent = dict(body.lend(body.params, grid))
    has_norm, has_position = "norm/scale" in lent, "position" in lent
    if "patch/kernel" in lent:
        lent["patch/kernel"] = _tiled(lent["patch/kernel"], patch, channels)
    lent = {k: v for k, v in lent.items() if not k.startswith(_FRESH[init])}
    embedder = embedders.PatchEmbedder(
        patch=patch,
        width=body.width,
        norm_eps=body.norm_eps if has_norm else None,
        num_prefix=body.num_prefix,
        has_position=has_position,
        image_size=image_size,
        patch_init=init,
    )
    if y_shape is None:
        top = embedders.PooledHead(num_classes)
    elif body.modality == "image":
        top = embedders.ImageHead(body.stride, image_size, tuple(y_shape), head)
    else:
        top = embedders.DenseHead(patch, tuple(y_shape), head)
    prefix = body.num_prefix
    # Whoever holds `apply` need not hold the weights as they were.
    run_encoder = body.encode
    is_text = body.modality == "text"
    has_decoder = (
        y_shape is not None
        and head == "pool"
        and body.decode is not None
        and body.config["encoder_stride"] == body.stride
        and body.config["num_channels"] == embedders.RGB
    )

    def embed(params, x):
        return bodies.apply(embedder, params, "embedder", x)[:, prefix:]

    def encode(params, tokens, mask=None):
        if prefix:
            special = jnp.asarray(params["embedder/prefix"], tokens.dtype)
            special = jnp.broadcast_to(special, (tokens.shape[0], *special.shape))
            tokens = jnp.concatenate([special, tokens], axis=1)
        given = (mask,) if mask is not None and is_text else ()
        return run_encoder(tree.under(params, "body"), tokens, *given)[:, prefix:]

    def forward_from_tokens(params, tokens, mask=None):
        hidden = encode(params, tokens, mask)
        pred = bodies.apply(top, params, "head", hidden).astype(jnp.float32)
        return pred, {"tokens": tokens, "hidden": hidden}

    def apply(params, x):
        return forward_from_tokens(params, embed(params, x))

    encoder = {
        path: leaf
        for path, leaf in tree.prefixed(body.params, "body").items()
        if path.startswith("body/encoder/")
    }

    @jax.jit
    def draw(key):
        embed_key, head_key = jax.random.split(key)
        x = jnp.zeros((1, *x_shape))
        drawn = bodies.init(embedder, embed_key, "embedder", x)
        hidden = jax.eval_shape(lambda p: encode(p, embed(p, x)), drawn | encoder)
        hidden = jnp.zeros(hidden.shape)
        return drawn | bodies.init(top, head_key, "head", hidden)

    def initial(key):
        params = draw(key) | tree.prefixed(lent, "embedder") | encoder
        if has_decoder:
            params |= tree.prefixed(tree.under(body.params, "decoder"), "head")
        return {path: jnp.asarray(leaf) for path, leaf in params.items()}

    return CrossModal(
        apply=apply,
        init=initial,
        embed=embed,
        encode=encode,
        forward_from_tokens=forward_from_tokens,
        num_tokens=math.prod(grid),
    )


def _image_grid(body: bodies.Body, image_size: int) -> tuple[int, int]:
    if image_size < body.patch or image_size % body.patch:
        raise errors.InputError(
            f"embedder.image_size = {image_size}; allowed: multiples of "
            f"{body.patch}, the backbone's patch"
        )
    return (image_size // body.patch,) * 2


def _patches(body, x_shape, patch: int, max_tokens: int) -> tuple[int, tuple[int]]:
    """Patch and number of tokens of an input for a text body."""
    *spatial, _ = x_shape
    if not 0 <= patch <= max(spatial):
        raise errors.InputError(
            f"embedder.patch = {patch}; allowed: 1 to {max(spatial)} for input "
            f"{tuple(x_shape)}, or 0 to choose by embedder.max_tokens"
        )
    if patch == 0 and max_tokens < 1:
        raise errors.InputError(
            f"embedder.max_tokens = {max_tokens}; allowed: 1 to {body.positions}"
        )
    if patch == 0 and len(spatial) == 1:
        patch = embedders.stack_factor(spatial[0], max_tokens)
    elif patch == 0:
        patch = next(
            p
            for p in range(1, max(spatial) + 1)
            if math.prod(patches.grid(spatial, p)) <= max_tokens
        )
    tokens = math.prod(patches.grid(spatial, patch))
    if tokens > body.positions:
        raise errors.InputError(
            f"embedder.patch = {patch} makes {tokens} tokens of input "
            f"{tuple(x_shape)}, the backbone has {body.positions} positions; allowed: "
            "a larger patch"
        )
    return patch, (tokens,)


def _tiled(kernel, patch: int, channels: int) -> np.ndarray:
    """Repeat a patch map `[p p c, d]` over other input channels, in turn."""
    kernel = np.asarray(kernel).reshape(patch**2, -1, kernel.shape[1])
    kernel = kernel[:, np.arange(channels) % kernel.shape[1]]
    return kernel.reshape(-1, kernel.shape[2])
