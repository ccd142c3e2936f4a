"""U-Net in one and two dimensions, trained from scratch: the PDEBench baseline.

Ronneberger et al. 2015 with BatchNorm and tanh. Four levels of 32, 64, 128 and 256
channels around a bottleneck of 512; each block is twice (convolution over 3 points
without bias, BatchNorm, tanh); max-pooling over 2 on the way down, transposed
convolution over 2 on the way up, where the skip follows the upsampled channels.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from recraft_jax import errors
from recraft_jax.models import initializers

NUM_LEVELS = 4
MULTIPLE = 2**NUM_LEVELS


class Model(NamedTuple):
    """The network as pure functions of two flat dicts.

    Attributes:
      apply: `(params, stats, x, train) -> (pred, stats)`; with `train` the batch's own
        statistics are used and the running ones come back updated, without it the
        running ones are used and come back as they are. `train` is a Python bool.
      init: `key -> (params, stats)`, paths joined by `/`; drawn as PyTorch does.
    """

    apply: Callable[..., tuple[jax.Array, dict[str, jax.Array]]]
    init: Callable[[jax.Array], tuple[dict[str, jax.Array], dict[str, jax.Array]]]


def make(
    *, x_shape: Sequence[int], y_shape: Sequence[int] | None, features: int = 32
) -> Model:
    """Build the network for one task.

    Args:
      x_shape: one input without the batch axis, `[n c]` or `[h w c]`; several input
        times are stacked along `c`.
      y_shape: one target on the same grid, `[n c_out]` or `[h w c_out]`.
      features: channels of the first level; they double at each level.

    Raises:
      InputError: a target that is not on the input's grid.
    """
    *spatial, _ = x_shape
    if len(spatial) not in (1, 2):
        raise errors.InputError(
            f"U-Net: input {tuple(x_shape)}; allowed: [n c] or [h w c]"
        )
    if y_shape is None or tuple(y_shape[:-1]) != tuple(spatial):
        raise errors.InputError(
            f"U-Net: target {y_shape and tuple(y_shape)}; allowed: a dense target on "
            f"the grid {tuple(spatial)} of the input"
        )
    if features < 1:
        raise errors.InputError(f"U-Net: features = {features}; allowed: from 1")
    module = UNet(y_shape[-1], features)

    def apply(params, stats, x, train):
        variables = {"params": _nested(params), "batch_stats": _nested(stats)}
        if not train:
            return module.apply(variables, x), stats
        pred, new = module.apply(variables, x, train=True, mutable=["batch_stats"])
        return pred, _flat(new["batch_stats"])

    @jax.jit
    def init(key):
        x = jnp.zeros((1, *x_shape))
        like = jax.eval_shape(module.init, jax.random.key(0), x)
        stats = _constants(_flat(like["batch_stats"]))
        like = _flat(like["params"])
        norms = {path: leaf for path, leaf in like.items() if "/norm_" in path}
        maps = initializers.uniform(
            key, {p: v for p, v in like.items() if p not in norms}
        )
        maps = {
            path: leaf * initializers.bound(like, path) for path, leaf in maps.items()
        }
        return maps | _constants(norms), stats

    return Model(apply=apply, init=init)


class UNet(nn.Module):
    """Array on a grid to array on the same grid, 1-D or 2-D by the rank of `x`.

    Four halvings want sizes that 16 divides. Others (at which PDEBench stops) are
    filled up behind each axis with copies of the last point and cut back at the end;
    the copies count in the batch statistics. PyTorch's start is `make`'s; the module's
    own `init` is flax's default.
    """

    out_channels: int
    features: int = 32

    @nn.compact
    def __call__(
        self, x: Float[Array, "b ..."], *, train: bool = False
    ) -> Float[Array, "b ..."]:
        """Map `[b n c]` or `[b h w c]` to the same with `out_channels`."""
        spatial = x.shape[1:-1]
        fill = [(0, -n % MULTIPLE) for n in spatial]
        x = jnp.pad(x, [(0, 0), *fill, (0, 0)], mode="edge")
        twos = (2,) * len(spatial)
        skips = []
        for level in range(NUM_LEVELS):
            width = self.features * 2**level
            x = Block(width, name=f"encoder_{level}")(x, train=train)
            skips.append(x)
            x = nn.max_pool(x, twos, strides=twos)
        x = Block(self.features * MULTIPLE, name="bottleneck")(x, train=train)
        for level in reversed(range(NUM_LEVELS)):
            width = self.features * 2**level
            x = nn.ConvTranspose(
                width,
                twos,
                strides=twos,
                padding="VALID",
                transpose_kernel=True,  # the adjoint of a convolution, as in PyTorch
                name=f"up_{level}",
            )(x)
            x = jnp.concatenate([x, skips[level]], axis=-1)
            x = Block(width, name=f"decoder_{level}")(x, train=train)
        x = nn.Dense(self.out_channels, name="out")(x)
        return x[(slice(None), *(slice(n) for n in spatial))]


class Block(nn.Module):
    """Twice: convolution over 3 points with zeros at the ends, BatchNorm, tanh."""

    width: int

    @nn.compact
    def __call__(self, x, *, train):
        """Map to `width` channels on the same grid."""
        threes = (3,) * (x.ndim - 2)
        for index in (1, 2):
            x = nn.Conv(
                self.width,
                threes,
                use_bias=False,
                name=f"conv_{index}",
            )(x)
            x = jnp.tanh(BatchNorm(name=f"norm_{index}")(x, train=train))
        return x


class BatchNorm(nn.Module):
    """PyTorch's BatchNorm, which flax's is not in one point.

    Both normalise by the biased variance of the batch, but the running variance
    collects the unbiased one here (`n / (n - 1)` of it, `n` values per channel).
    """

    momentum: float = 0.1  # weight of the new batch
    eps: float = 1e-5

    @nn.compact
    def __call__(self, x, *, train):
        """Normalise each channel, the last axis, over all other axes."""
        channels = x.shape[-1]
        scale = self.param("scale", nn.initializers.ones, (channels,))
        bias = self.param("bias", nn.initializers.zeros, (channels,))
        run_mean = self.variable("batch_stats", "mean", jnp.zeros, (channels,))
        run_var = self.variable("batch_stats", "var", jnp.ones, (channels,))
        mean, var = run_mean.value, run_var.value
        if train:
            n = x.size // channels
            if n < 2:
                raise errors.InputError(
                    "U-Net: one value per channel at the bottleneck has no variance; "
                    f"allowed in training: a batch from 2 or a grid over {MULTIPLE}"
                )
            axes = tuple(range(x.ndim - 1))
            mean = jnp.mean(x, axis=axes)
            var = jnp.mean(jnp.square(x - mean), axis=axes)
            keep = 1 - self.momentum
            run_mean.value = keep * run_mean.value + self.momentum * mean
            run_var.value = keep * run_var.value + self.momentum * var * n / (n - 1)
        return (x - mean) * (jax.lax.rsqrt(var + self.eps) * scale) + bias


def _constants(like):
    """Ones for scales and variances, zeros for biases and means."""
    return {
        path: jnp.full(leaf.shape, float(path.endswith(("scale", "var"))))
        for path, leaf in like.items()
    }


def _nested(params):
    return flax.traverse_util.unflatten_dict(params, sep="/")


def _flat(params):
    return flax.traverse_util.flatten_dict(params, sep="/")
