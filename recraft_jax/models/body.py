"""The contract of every pretrained body: pure functions of a flat parameter dict."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from recraft_jax import errors, tree

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class Body(NamedTuple):
    """A transformer as functions of its parameters.

    Text bodies take token ids `[b l]`, image bodies pixels `[b h w c]`, standardised
    with `pixel_mean` and `pixel_std`. Tokens are `[b p+l d]`: p leading ones
    (`num_prefix`) that belong to no patch, then the patches row by row. Hidden states
    are `[b p+l' e]`; a Swin merges patches, elsewhere l' = l and e = d.

    Attributes:
      embed: `(params, native input) -> tokens`, the native embedding (theta).
      encode: `(params, tokens) -> hidden`. Text bodies take a mask `[b l]` as well,
        Swin the token grid `(rows, columns)` if that is not square.
      decode: `(params, hidden) -> pixels [b h w c]` of a checkpoint with a decoder for
        masked images, else None.
      lend: `(params, grid) -> leaves`: what the native embedding gives an embedder of
        other data with a grid `(l,)` or `(rows, columns)` of tokens: `norm/scale`,
        `norm/bias`, `position` `[l d]`, `prefix` `[p d]`, `patch/kernel` `[p p c, d]`,
        `patch/bias`, those it has.
      init: `key -> params`: random weights, as the family's pretraining starts.
      params: flat dict of numpy arrays under `embeddings/`, `encoder/`, `decoder/`.
      config: the checkpoint's own config.json, with the family's defaults filled in.
      modality: `text` or `image`, of what `embed` takes.
      width: d.
      hidden_width: e.
      positions: rows of the position table that tokens can use; 0: there is none, or it
        is interpolated to any grid.
      num_prefix: p.
      norm_eps: of the embedding's LayerNorm.
      patch: side of a patch in pixels (images).
      stride: side in pixels of what one hidden state stands for (images).
      image_size: side of the images it was trained on (images).
      pixel_mean: per channel, of pixels in [0, 1], in its pretraining (images).
      pixel_std: per channel (images).
      name: what to call it in print.
    """

    embed: Callable[..., jax.Array]
    encode: Callable[..., jax.Array]
    decode: Callable[..., jax.Array] | None
    lend: Callable[..., dict[str, jax.Array]]
    init: Callable[[jax.Array], dict[str, jax.Array]]
    params: dict[str, np.ndarray]
    config: Mapping[str, Any]
    modality: str
    width: int
    hidden_width: int
    positions: int = 0
    num_prefix: int = 0
    norm_eps: float = 0.0
    patch: int = 0
    stride: int = 0
    image_size: int = 0
    pixel_mean: tuple[float, ...] = IMAGENET_MEAN
    pixel_std: tuple[float, ...] = IMAGENET_STD
    name: str = ""


def apply(module, params: Mapping[str, Any], prefix: str, *args):
    """Apply a linen module to the leaves under a prefix."""
    nested = flax.traverse_util.unflatten_dict(tree.under(params, prefix), sep="/")
    return module.apply({"params": nested}, *args)


def init(module, key: jax.Array, prefix: str, *args) -> dict[str, jax.Array]:
    """Initialise a linen module into flat leaves under a prefix."""
    variables = module.init(key, *args)
    leaves = flax.traverse_util.flatten_dict(variables.get("params", {}), sep="/")
    return tree.prefixed(leaves, prefix)


def random_params(
    key: jax.Array, std: float, *parts: tuple[Any, ...]
) -> dict[str, jax.Array]:
    """Draw fresh parameters of all parts of a body.

    Kernels and tables come from N(0, std^2); norms, biases and scales are as the
    modules start them.

    Args:
      key: of the draw.
      std: `initializer_range` of the config.
      *parts: `(module, prefix, *example inputs)`.
    """
    *keys, key = jax.random.split(key, len(parts) + 1)
    leaves = {}
    for (module, prefix, *args), init_key in zip(parts, keys, strict=True):
        leaves |= init(module, init_key, prefix, *args)
    for index, (path, leaf) in enumerate(sorted(leaves.items())):
        if path.endswith(("kernel", "embedding", "position", "prefix")):
            leaf_key = jax.random.fold_in(key, index)
            leaves[path] = std * jax.random.normal(leaf_key, leaf.shape, leaf.dtype)
    return leaves


def check_ids(ids, positions: int) -> None:
    """Refuse what is not `[b l]` integers of at most `positions` tokens."""
    if ids.ndim != 2 or not jnp.issubdtype(ids.dtype, jnp.integer):
        raise errors.InputError(
            f"token ids are {ids.dtype} {ids.shape}; allowed: integers [b l]"
        )
    if ids.shape[1] > positions:
        raise errors.InputError(
            f"{ids.shape[1]} tokens, but the backbone has {positions} positions; "
            f"allowed: 1 to {positions}"
        )


def check_pixels(pixels, channels: int, patch: int) -> None:
    """Refuse what is not `[b h w channels]`, at least one patch large."""
    if pixels.ndim != 4 or pixels.shape[-1] != channels:
        raise errors.InputError(
            f"pixels have shape {pixels.shape}; allowed: [b h w {channels}]"
        )
    if min(pixels.shape[1:3]) < patch:
        raise errors.InputError(
            f"images of {pixels.shape[1]} x {pixels.shape[2]} pixels; allowed: "
            f"{patch} x {patch}, one patch, and larger"
        )


def check_tokens(tokens, width: int) -> None:
    """Refuse what is not `[b l width]`."""
    if tokens.ndim != 3 or tokens.shape[-1] != width:
        raise errors.InputError(
            f"tokens have shape {tokens.shape}; allowed: [b l {width}]"
        )


def check_config(
    config: Mapping[str, Any], defaults: Mapping[str, Any], needed: Sequence[str]
) -> dict[str, Any]:
    """Fill a config.json with the family's defaults.

    Raises:
      InputError: a size is missing or no size, or an activation is not the erf GELU.
    """
    missing = [name for name in needed if name not in config]
    if missing:
        raise errors.InputError(f"config.json lacks {', '.join(missing)}")
    full = {"hidden_act": "gelu", "initializer_range": 0.02, **defaults, **config}
    if full["hidden_act"] != "gelu":
        raise errors.InputError(
            f"config.json: hidden_act = {full['hidden_act']!r}; allowed: gelu"
        )
    for name in needed:
        sizes = full[name] if isinstance(full[name], (list, tuple)) else [full[name]]
        if not all(isinstance(size, int) and size > 0 for size in sizes):
            raise errors.InputError(
                f"config.json: {name} = {full[name]!r}; allowed: 1, 2, ..."
            )
    return full


def check_heads(width: int, num_heads: int) -> None:
    """Refuse attention heads that do not share the width evenly."""
    if width % num_heads:
        raise errors.InputError(
            f"config.json: {num_heads} attention heads on a width of {width}; "
            "allowed: a divisor of the width"
        )


def squares(config: Mapping[str, Any]) -> tuple[int, int]:
    """Sides of the patches and images of a config, which must be squares."""
    sides = []
    for name in ("patch_size", "image_size"):
        both = (
            config[name] if isinstance(config[name], (list, tuple)) else [config[name]]
        )
        if not all(isinstance(n, int) and n > 0 for n in both) or len(set(both)) != 1:
            raise errors.InputError(
                f"config.json: {name} = {config[name]}; allowed: the side of a square"
            )
        sides.append(both[0])
    if sides[0] > sides[1]:
        raise errors.InputError(
            f"config.json: patch_size = {sides[0]}; allowed: up to image_size, "
            f"{sides[1]}"
        )
    return sides[0], sides[1]
