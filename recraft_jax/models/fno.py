"""Fourier neural operator in one and two dimensions, trained from scratch.

Li et al. 2021 (arXiv 2010.08895), in the form of the PDEBench baseline: the grid
coordinates join the channels, four Fourier layers, zeros behind the domain because it
may not be periodic. PDEBench takes modes 12 and width 20 in its runs; its 1-D class
alone defaults to 16 and 64.

Spectral weights are complex. They are kept as two float32 parameters, `real` and
`imag`, so that optimisers, gradient norms and checkpoints see plain arrays; PyTorch's
Adam does the same inside, and no conjugate convention of gradients comes into it.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from recraft_jax import errors
from recraft_jax.models import initializers

NUM_LAYERS = 4
PROJECTION = 128  # width of the two-layer output map


class Model(NamedTuple):
    """The operator as pure functions of a flat parameter dict.

    Attributes:
      apply: `(params, x, grid=None) -> (pred, {})`, see `FNO`. The sizes of `x` may
        differ from those `make` was given: the parameters do not depend on them.
      init: `key -> params`, paths joined by `/`; drawn as PDEBench does: linear maps
        as PyTorch, spectral parts from U(0, 1) / (c * c_out).
    """

    apply: Callable[..., tuple[jax.Array, dict]]
    init: Callable[[jax.Array], dict[str, jax.Array]]


def make(
    *,
    x_shape: Sequence[int],
    y_shape: Sequence[int] | None,
    modes: int = 12,
    width: int = 20,
    padding: int = 2,
) -> Model:
    """Build the operator for one task.

    Args:
      x_shape: one input without the batch axis, `[n c]` or `[h w c]`; several input
        times are stacked along `c`.
      y_shape: one target on the same grid, `[n c_out]` or `[h w c_out]`.
      modes: frequencies kept per axis and sign.
      width: channels inside.
      padding: zeros put behind each axis and cut off again.

    Raises:
      InputError: a target that is not on the input's grid, or more modes than it has.
    """
    *spatial, _ = x_shape
    if len(spatial) not in (1, 2):
        raise errors.InputError(
            f"FNO: input {tuple(x_shape)}; allowed: [n c] or [h w c]"
        )
    if y_shape is None or tuple(y_shape[:-1]) != tuple(spatial):
        raise errors.InputError(
            f"FNO: target {y_shape and tuple(y_shape)}; allowed: a dense target on the "
            f"grid {tuple(spatial)} of the input"
        )
    if width < 1 or padding < 0:
        raise errors.InputError(
            f"FNO: width = {width}, padding = {padding}; allowed: from 1 and from 0"
        )
    _check_modes(modes, [n + padding for n in spatial])
    module = FNO(y_shape[-1], modes, width, padding)

    def apply(params, x, grid=None):
        nested = flax.traverse_util.unflatten_dict(params, sep="/")
        return module.apply({"params": nested}, x, grid), {}

    @jax.jit
    def init(key):
        x = jnp.zeros((1, *x_shape))
        like = jax.eval_shape(module.init, jax.random.key(0), x)["params"]
        like = flax.traverse_util.flatten_dict(like, sep="/")
        params = initializers.uniform(key, like)
        for path, leaf in params.items():
            if path.endswith(("/real", "/imag")):  # from 0 up, in PDEBench
                params[path] = (leaf + 1) / 2 / math.prod(leaf.shape[-2:])
            else:
                params[path] = leaf * initializers.bound(like, path)
        return params

    return Model(apply=apply, init=init)


class FNO(nn.Module):
    """Function on a grid to function on the same grid, 1-D or 2-D by the rank of `x`.

    Computes in float32 at least: the transform knows no half precision. The start that
    PDEBench draws is `make`'s; the module's own `init` is flax's default.
    """

    out_channels: int
    modes: int = 12
    width: int = 20
    padding: int = 2

    @nn.compact
    def __call__(
        self, x: Float[Array, "b ..."], grid: Float[Array, "..."] | None = None
    ) -> Float[Array, "b ..."]:
        """Map `[b n c]` or `[b h w c]` to the same with `out_channels`.

        Args:
          x: channels last.
          grid: coordinates of the points, `[n 1]` or `[h w 2]`. By default `n` points
            from 0 to 1, both ends included. PDEBench uses those stored with the data.
        """
        x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        batch, *spatial, _ = x.shape
        axes = len(spatial)
        grid = unit_grid(spatial) if grid is None else grid
        grid = jnp.broadcast_to(grid, (batch, *spatial, axes)).astype(x.dtype)
        x = nn.Dense(self.width, name="lift")(jnp.concatenate([x, grid], axis=-1))
        x = jnp.pad(x, [(0, 0), *[(0, self.padding)] * axes, (0, 0)])
        for index in range(NUM_LAYERS):
            spectral = SpectralConv(self.width, self.modes, name=f"spectral_{index}")
            local = nn.Dense(self.width, name=f"local_{index}")
            x = spectral(x) + local(x)
            if index < NUM_LAYERS - 1:
                x = jax.nn.gelu(x, approximate=False)
        x = x[(slice(None), *(slice(n) for n in spatial))]
        x = nn.Dense(PROJECTION, name="project")(x)
        x = jax.nn.gelu(x, approximate=False)
        return nn.Dense(self.out_channels, name="out")(x)


class SpectralConv(nn.Module):
    r"""Multiply the lowest frequencies by one matrix each, drop the others.

    `y = \sum_k e^{2 \pi i k x} W_k \hat v_k`, real part. On the last axis `k` is
    `0..modes-1` (the negative ones follow, as `v` is real); on the first of two axes it
    is also `-modes..-1`. Weights are `[modes c out]` or `[2*modes modes c out]`, in the
    order `0..modes-1, -modes..-1`: PDEBench's two corner blocks, stacked.
    """

    out_channels: int
    modes: int

    @nn.compact
    def __call__(self, x: Float[Array, "b ..."]) -> Float[Array, "b ..."]:
        """Convolve `[b n c]` or `[b h w c]` over the periodic grid."""
        _, *spatial, channels = x.shape
        _check_modes(self.modes, spatial)
        axes = range(1, 1 + len(spatial))
        kept = [2 * self.modes] * (len(spatial) - 1) + [self.modes]
        shape = (*kept, channels, self.out_channels)
        draw = nn.initializers.uniform(1 / (channels * self.out_channels))
        weight = jax.lax.complex(
            self.param("real", draw, shape), self.param("imag", draw, shape)
        )
        freq = jnp.fft.rfftn(x, axes=axes)[..., : self.modes, :]
        if len(spatial) == 1:
            freq = jnp.einsum("bki,kio->bko", freq, weight)
        else:
            low, high = freq[:, : self.modes], freq[:, -self.modes :]
            both = jnp.concatenate([low, high], axis=1)
            both = jnp.einsum("bjki,jkio->bjko", both, weight)
            low, high = jnp.split(both, 2, axis=1)
            gap = (low.shape[0], spatial[0] - 2 * self.modes, *low.shape[2:])
            freq = jnp.concatenate([low, jnp.zeros(gap, low.dtype), high], axis=1)
        # The inverse fills the last axis with zeros up to its full length.
        return jnp.fft.irfftn(freq, s=spatial, axes=axes)


def unit_grid(spatial: Sequence[int]) -> Float[Array, "... d"]:
    """Coordinates from 0 to 1, both ends included: `[n 1]` or `[h w 2]`."""
    axes = [jnp.linspace(0.0, 1.0, n) for n in spatial]
    return jnp.stack(jnp.meshgrid(*axes, indexing="ij"), axis=-1)


def _check_modes(modes, spatial):
    """Refuse frequencies the grid does not hold.

    PyTorch slices would shorten them silently in 1-D and write one corner block over
    the other in 2-D.
    """
    largest = min([*(n // 2 for n in spatial[:-1]), spatial[-1] // 2 + 1])
    if not 1 <= modes <= largest:
        raise errors.InputError(
            f"FNO: modes = {modes}; allowed: 1 to {largest} on the grid "
            f"{tuple(spatial)}, padding included"
        )
