"""The frozen body on labelled images: states, and slopes of their logits.

u is the mean of the patch tokens and the state of an image the mean of its hidden patch
tokens; special tokens in front (the CLS token of ViT; Swin has none) are in neither.
They stay where they are when u moves.

Pixels travel to the device as uint8. A set is run in batches of one shape, so that each
of the two programs is compiled once.
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from recraft_jax import errors, tree
from recraft_jax.methods import lipschitz, towers


def make(
    images: Any,
    params: dict[str, np.ndarray],
    embed: Callable[..., jax.Array],
    encode: Callable[..., jax.Array],
    *,
    size: int,
    num_prefix: int,
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
    batch_size: int = 32,
) -> towers.Tower:
    """Join images and a frozen body.

    Args:
      images: `pixels` uint8 `[n h w c]`, c = 1 (grey) or 3; `labels` int32 `[n]`;
        `names` of the classes.
      params: of the pretrained body.
      embed: `(params, pixels [b size size 3])` to tokens `[b p+l d]`.
      encode: `(params, tokens)` to hidden states `[b p+m e]`; m and e may differ from l
        and d, as patches are merged. Images must not see each other.
      size: of the images that the body wants.
      num_prefix: p, special tokens in front of the patches.
      mean: per channel, of pixels in [0, 1], as the body was pretrained with.
      std: per channel.
      batch_size: images at once; a quarter of it for gradients.

    Raises:
      InputError: pixels of another type or shape, or no image.
    """
    pixels, labels = images.pixels, images.labels
    if (
        pixels.dtype != np.uint8
        or pixels.ndim != 4
        or pixels.shape[-1] not in (1, 3)
        or not len(pixels) == len(labels) > 0
    ):
        raise errors.InputError(
            f"source images: pixels {pixels.dtype} {pixels.shape} with {len(labels)} "
            "labels; allowed: uint8 [n h w c] with c = 1 or 3 and n > 0 labels"
        )

    def tokens_of(params, pixels):
        return embed(params, standardise(pixels, size, mean, std))

    def states_of(params, tokens):
        return _patch_mean(encode(params, tokens), num_prefix)

    @jax.jit
    def run(params, pixels):
        tokens = tokens_of(params, pixels)
        return _patch_mean(tokens, num_prefix), states_of(params, tokens)

    @jax.jit
    def patches_of(params, pixels):
        return (tokens_of(params, pixels)[:, num_prefix:],)

    @functools.partial(jax.jit, static_argnames="pooled")
    def slopes(params, kernel, pixels, *, pooled):
        tokens = tokens_of(params, pixels)
        special, patches = tokens[:, :num_prefix], tokens[:, num_prefix:]
        b, num_patches, d = patches.shape

        def moved(shift):
            return states_of(params, jnp.concatenate([special, patches + shift], 1))

        # A shift that all patches share has the sum of their gradients, and the
        # gradients themselves, k times the size of the tokens, are never held.
        shift = jnp.zeros((b, 1 if pooled else num_patches, d))
        grads = lipschitz.logit_gradients(moved, shift, kernel)
        return (grads[:, 0] if pooled else grads,)

    def units() -> tuple[np.ndarray, towers.Units]:
        rows = np.arange(len(pixels))
        on_device = functools.partial(run, jax.device_put(params))
        pooled, states = _in_batches(on_device, pixels, rows, batch_size)
        return pooled, towers.Units(states, labels, rows, np.full(len(rows), -1))

    def gradients(
        kernel: np.ndarray, units: towers.Units, *, pooled: bool
    ) -> np.ndarray:
        on_device = functools.partial(
            slopes, jax.device_put(params), jnp.asarray(kernel), pooled=pooled
        )
        # The backward pass keeps every activation of its batch.
        num_rows = max(batch_size // 4, 1)
        (grads,) = _in_batches(on_device, pixels, units.sample, num_rows)
        return grads

    def some_tokens(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        on_device = functools.partial(patches_of, jax.device_put(params))
        (tokens,) = _in_batches(on_device, pixels, rows, batch_size)
        return tokens, np.ones(tokens.shape[:2], bool)

    return towers.Tower(
        names=images.names,
        level="image",
        num_samples=len(pixels),
        labels=labels,
        tokens=some_tokens,
        digest=tree.digest({"pixels": pixels, "labels": labels}),
        units=units,
        gradients=gradients,
    )


def standardise(
    pixels: UInt8[Array, "b h w c"],
    size: int,
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
) -> Float[Array, "b size size 3"]:
    """Bring pixels to the range and the size that a body was pretrained with.

    The resize is bilinear with half-pixel centres, clamped at the edges and without
    antialiasing: PyTorch's `interpolate` with `align_corners=False`.
    """
    x = pixels.astype(jnp.float32) / 255
    x = jnp.broadcast_to(x, (*x.shape[:3], 3))  # grey is red, green and blue alike
    x = (x - jnp.asarray(mean)) / jnp.asarray(std)
    shape = (len(x), size, size, 3)
    return jax.image.resize(x, shape, "bilinear", antialias=False)


def _patch_mean(tokens, num_prefix: int):
    return tokens[:, num_prefix:].astype(jnp.float32).mean(1)


def _in_batches(run, pixels, rows: np.ndarray, batch_size: int) -> list[np.ndarray]:
    """Put together the arrays that `run` makes of the images in `rows`."""
    out: list[np.ndarray] = []
    for place, batch in _batches(pixels, rows, batch_size):
        found = jax.device_get(run(batch))
        out = out or [np.zeros((len(rows), *x.shape[1:]), x.dtype) for x in found]
        for whole, part in zip(out, found, strict=True):
            whole[place] = part[: len(whole[place])]
    return out


def _batches(
    pixels, rows: np.ndarray, batch_size: int
) -> Iterator[tuple[slice, np.ndarray]]:
    """Yield places in `rows` and their images, the last batch filled up with black."""
    for start in range(0, len(rows), batch_size):
        picks = rows[start : start + batch_size]
        fill = ((0, batch_size - len(picks)), (0, 0), (0, 0), (0, 0))
        yield slice(start, start + len(picks)), np.pad(pixels[picks], fill)
