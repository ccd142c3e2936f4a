"""Target side: patches of numeric arrays to tokens, and heads from hidden states.

The embedder is phi of the paper: what stage 1 learns. It cuts a 1-D or 2-D array into
patches, maps each to a token, normalises, and adds positions. As in the released code
(RECRAFT's `newEmbedder`), the norm comes before the positions and
both start from the backbone's own.
"""

import math
from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float


def grid(shape: Sequence[int], patch: int) -> tuple[int, ...]:
    """Number of patches along each spatial axis; the last may reach over the edge."""
    return tuple(math.ceil(n / patch) for n in shape)


def patchify(x: Float[Array, "b ..."], patch: int) -> Float[Array, "b l p"]:
    """Cut `[b n c]` or `[b h w c]` into flat patches, row by row.

    Sizes that `patch` does not divide are filled with zeros at the end. `unpatchify`
    is the inverse.
    """
    *spatial, channels = x.shape[1:]
    cells = grid(spatial, patch)
    fill = [(0, c * patch - n) for c, n in zip(cells, spatial, strict=True)]
    x = jnp.pad(x, [(0, 0), *fill, (0, 0)])
    axes = len(spatial)
    x = x.reshape(x.shape[0], *(v for c in cells for v in (c, patch)), channels)
    outer = [1 + 2 * i for i in range(axes)]
    inner = [2 + 2 * i for i in range(axes)]
    x = x.transpose(0, *outer, *inner, 1 + 2 * axes)
    return x.reshape(x.shape[0], math.prod(cells), patch**axes * channels)


def unpatchify(
    patches: Float[Array, "b l p"], patch: int, shape: Sequence[int]
) -> Float[Array, "b ..."]:
    """Put flat patches back into an array of `shape` (spatial axes and channels)."""
    *spatial, channels = shape
    cells = grid(spatial, patch)
    axes = len(spatial)
    x = patches.reshape(patches.shape[0], *cells, *([patch] * axes), channels)
    order = [v for i in range(axes) for v in (1 + i, 1 + axes + i)]
    x = x.transpose(0, *order, 1 + 2 * axes)
    x = x.reshape(x.shape[0], *(c * patch for c in cells), channels)
    return x[(slice(None), *(slice(n) for n in spatial))]


class PatchEmbedder(nn.Module):
    """Numeric array to tokens: patches, dense map, LayerNorm, positions."""

    patch: int
    width: int
    norm_eps: float

    @nn.compact
    def __call__(self, x: Float[Array, "b ..."]) -> Float[Array, "b l d"]:
        """Embed `[b n c]` or `[b h w c]`, standardised."""
        init = nn.initializers.variance_scaling(2.0, "fan_avg", "uniform")
        tokens = patchify(x, self.patch)
        tokens = nn.Dense(self.width, kernel_init=init, name="patch")(tokens)
        tokens = nn.LayerNorm(
            epsilon=self.norm_eps, use_fast_variance=False, name="norm"
        )(tokens)
        positions = self.param(
            "position", nn.initializers.normal(0.02), (tokens.shape[1], self.width)
        )
        return tokens + positions


class DenseHead(nn.Module):
    """Hidden states to an array on the input's grid, one patch per token."""

    patch: int
    shape: tuple[int, ...]

    @nn.compact
    def __call__(self, hidden: Float[Array, "b l d"]) -> Float[Array, "b ..."]:
        """Predict `[b *shape]`, channels last."""
        *spatial, channels = self.shape
        values = self.patch ** len(spatial) * channels
        init = nn.initializers.truncated_normal(0.02)
        patches = nn.Dense(values, kernel_init=init, name="out")(hidden)
        return unpatchify(patches, self.patch, self.shape)


class PooledHead(nn.Module):
    """Mean over tokens, then a dense map: class logits `[b k]`."""

    num_classes: int

    @nn.compact
    def __call__(self, hidden: Float[Array, "b l d"]) -> Float[Array, "b k"]:
        """Predict logits."""
        init = nn.initializers.truncated_normal(0.02)
        return nn.Dense(self.num_classes, kernel_init=init, name="out")(hidden.mean(1))
