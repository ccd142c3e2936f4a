"""Target side: numeric arrays to tokens, and heads from hidden states.

The embedder is phi of the paper: what stage 1 learns. It cuts a 1-D or 2-D array into
patches, maps each to a token, normalises where the backbone does, and adds positions.
As in the released code the norm comes before the positions, and both start from the
backbone's own. An array for an image body is first resized to a square image, a series
folded into one before that, so that the body sees patches of the size it knows.

Heads are linear in the hidden states. `linear` predicts the target's own channels and
is ours; `pool` is the released one: for text bodies it has no parameters and averages
the d channels down to the values of a patch, for image bodies it is the decoder of a
masked-image model, whose three channels are then averaged or repeated.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from recraft_jax.models import layers, patches

HEADS = ("linear", "pool")
RGB = 3


def stack_factor(length: int, max_tokens: int) -> int:
    """Smallest divisor s of a length with at most `max_tokens` patches of s points.

    The rule of the released code. A length with few divisors gets few tokens: 1 for a
    prime above `max_tokens`.
    """
    return next(
        s for s in range(1, length + 1) if length % s == 0 and length // s <= max_tokens
    )


def conv_init(kind: str, patch_points: int):
    """Initialiser of a patch map `[points c, d]`, as if it were a convolution.

    Args:
      kind: `normal` is a normal of deviation 0.02 (PyTorch's `trunc_normal_` cuts at a
        hundred deviations, which is not at all); `xavier`, and `pretrained` where a
        backbone has no patch map to lend, Xavier-uniform with gain sqrt(2), whose fans
        count the points of a patch on both sides.
      patch_points: points of a patch.
    """
    if kind == "normal":
        return nn.initializers.normal(0.02)

    def init(key, shape, dtype=jnp.float32):
        fans = shape[0] + patch_points * shape[1]
        limit = math.sqrt(2.0) * math.sqrt(6.0 / fans)
        return jax.random.uniform(key, shape, dtype, -limit, limit)

    return init


class PatchEmbedder(nn.Module):
    """Numeric array to tokens: patches, dense map, LayerNorm, positions, prefix.

    Attributes:
      patch: points per patch along each spatial axis.
      width: d.
      norm_eps: of the LayerNorm, None for none.
      num_prefix: learned tokens put before the patches.
      has_position: whether tokens get a learned position.
      image_size: resize to this square first, 0 for no resizing.
      patch_init: of the patch map, see `conv_init`.
    """

    patch: int
    width: int
    norm_eps: float | None = None
    num_prefix: int = 0
    has_position: bool = True
    image_size: int = 0
    patch_init: str = "xavier"

    @nn.compact
    def __call__(self, x: Float[Array, "b ..."]) -> Float[Array, "b l d"]:
        """Embed `[b n c]` or `[b h w c]`, standardised."""
        if self.image_size:
            x = patches.fold(x) if x.ndim == 3 else x
            x = patches.resize(x, (self.image_size, self.image_size))
        kernel_init = conv_init(self.patch_init, self.patch ** (x.ndim - 2))
        tokens = patches.patchify(x, self.patch)
        tokens = nn.Dense(self.width, kernel_init=kernel_init, name="patch")(tokens)
        if self.norm_eps is not None:
            tokens = layers.LayerNorm(self.norm_eps, jnp.float32, name="norm")(tokens)
        table = nn.initializers.normal(0.02)
        if self.has_position:
            tokens += self.param("position", table, (tokens.shape[1], self.width))
        if self.num_prefix:
            prefix = self.param("prefix", table, (self.num_prefix, self.width))
            prefix = jnp.broadcast_to(prefix, (tokens.shape[0], *prefix.shape))
            tokens = jnp.concatenate([prefix, tokens], axis=1)
        return tokens


class DenseHead(nn.Module):
    """Hidden states of a text body to an array, one patch per token."""

    patch: int
    shape: tuple[int, ...]
    kind: str = "linear"

    @nn.compact
    def __call__(self, hidden: Float[Array, "b l d"]) -> Float[Array, "b ..."]:
        """Predict `[b *shape]`, channels last."""
        values = self.patch ** (len(self.shape) - 1) * self.shape[-1]
        if self.kind == "pool":
            hidden = hidden.astype(jnp.float32)
            out = patches.resize_axis(hidden, 2, values, patches.pooling)
        else:
            out = _dense(values)(hidden)
        return patches.shuffle(out, self.patch, self.shape)


class ImageHead(nn.Module):
    """Hidden states of an image body to an array: decode an image, pool it.

    Attributes:
      stride: pixels along the side of what a hidden state stands for.
      image_size: of the square image that was embedded.
      shape: of the target, channels last; a series is folded as the embedder does.
      kind: `linear` decodes the channels of the target, `pool` three.
    """

    stride: int
    image_size: int
    shape: tuple[int, ...]
    kind: str = "linear"

    @nn.compact
    def __call__(self, hidden: Float[Array, "b l e"]) -> Float[Array, "b ..."]:
        """Predict `[b *shape]`, channels last."""
        *spatial, channels = self.shape
        decoded = channels if self.kind == "linear" else RGB
        values = _dense(self.stride**2 * decoded)(hidden)
        square = (self.image_size, self.image_size, decoded)
        image = patches.shuffle(values, self.stride, square)
        image = patches.resize_axis(image, 3, channels, patches.pooling)
        if len(spatial) == 2:
            return patches.resize(image, spatial, patches.pooling)
        image = patches.resize(image, patches.folded(spatial[0]), patches.pooling)
        return image.reshape(image.shape[0], -1, channels)[:, : spatial[0]]


class PooledHead(nn.Module):
    """Mean over tokens, then a dense map: logits `[b k]` of classes or of labels."""

    num_classes: int

    @nn.compact
    def __call__(self, hidden: Float[Array, "b l d"]) -> Float[Array, "b k"]:
        """Predict logits."""
        return _dense(self.num_classes)(hidden.astype(jnp.float32).mean(1))


def _dense(values: int) -> nn.Dense:
    init = nn.initializers.truncated_normal(0.02)
    return nn.Dense(values, kernel_init=init, name="out")
