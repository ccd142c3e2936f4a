"""Swin: attention within shifted windows, patches merged between stages.

Liu et al. 2021, in the layout of Hugging Face's `SwinModel`, with the decoder of
`SwinForMaskedImageModeling` (a 1x1 convolution and pixel shuffle) where a checkpoint
has one. The blocks of a stage are scanned; every second one shifts its windows, which
is a scanned flag. Inputs of any size: pixels are filled up to whole patches, feature
maps to whole windows and to even sides, with zeros at the end, as the original does.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from recraft_jax import errors
from recraft_jax.models import body, convert, layers, patches

SIZES = ("embed_dim", "depths", "num_heads", "window_size")
DEFAULTS = {
    "image_size": 224,
    "patch_size": 4,
    "num_channels": 3,
    "mlp_ratio": 4.0,
    "qkv_bias": True,
    "layer_norm_eps": 1e-5,
    "use_absolute_embeddings": False,
    "encoder_stride": 32,
}
_EMBED_EPS = 1e-5  # of the norms of patches and of merged patches, in every config
_APART = -100.0  # added to the scores of pixels that only the shift brought together

_LAYER = r"(?:swin\.)?encoder\.layers\.(\d+)\.blocks\.(?P<layer>\d+)"
_STAGE = r"(?:swin\.)?encoder\.layers\.(\d+)\.downsample"
_PATCH = r"(?:swin\.)?embeddings\.patch_embeddings\.projection"
_OURS = r"encoder/stage_\1/blocks"
TABLE = (
    convert.Rule(
        rf"{_PATCH}\.weight", "embeddings/patch/kernel", convert.flatten_patch
    ),
    convert.Rule(rf"{_PATCH}\.bias", "embeddings/patch/bias"),
    *convert.norm(r"(?:swin\.)?embeddings\.norm", "embeddings/norm"),
    convert.Rule(
        r"(?:swin\.)?embeddings\.position_embeddings",
        "embeddings/position",
        convert.rows,
    ),
    *(
        rule
        for part in ("query", "key", "value")
        for rule in convert.dense(
            rf"{_LAYER}\.attention\.self\.{part}", rf"{_OURS}/attention/{part}"
        )
    ),
    convert.Rule(
        rf"{_LAYER}\.attention\.self\.relative_position_bias_table",
        rf"{_OURS}/relative_bias",
    ),
    *convert.dense(rf"{_LAYER}\.attention\.output\.dense", rf"{_OURS}/attention/out"),
    *convert.norm(rf"{_LAYER}\.layernorm_before", rf"{_OURS}/attention_norm"),
    *convert.norm(rf"{_LAYER}\.layernorm_after", rf"{_OURS}/mlp_norm"),
    *convert.dense(rf"{_LAYER}\.intermediate\.dense", rf"{_OURS}/mlp/up"),
    *convert.dense(rf"{_LAYER}\.output\.dense", rf"{_OURS}/mlp/down"),
    *convert.norm(rf"{_STAGE}\.norm", r"encoder/stage_\1/merge/norm"),
    convert.Rule(
        rf"{_STAGE}\.reduction\.weight",
        r"encoder/stage_\1/merge/reduce/kernel",
        convert.transpose,
    ),
    *convert.norm(r"(?:swin\.)?layernorm", "encoder/norm"),
    convert.Rule(r"decoder\.0\.weight", "decoder/out/kernel", convert.flatten_patch),
    convert.Rule(r"decoder\.0\.bias", "decoder/out/bias"),
    convert.Rule(rf"{_LAYER}\.attention\.self\.relative_position_index", None),
    convert.Rule(r"(?:swin\.)?embeddings\.mask_token", None),
    convert.Rule(r"classifier\..*", None),
)


class Embeddings(nn.Module):
    """Pixels `[b h w c]` to normalised tokens `[b l d]`."""

    width: int
    patch: int
    side: int  # patches along each side that the position table covers, 0: no table
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, pixels: Float[Array, "b h w c"]) -> Float[Array, "b l d"]:
        """Embed patches; the last row and column are filled up with zeros."""
        dense = layers.Dense(self.width, self.dtype, name="patch")
        tokens = dense(patches.patchify(pixels, self.patch))
        tokens = layers.LayerNorm(_EMBED_EPS, self.dtype, name="norm")(tokens)
        if self.side:
            zeros = nn.initializers.zeros_init()
            table = self.param("position", zeros, (self.side**2, self.width))
            grid = patches.grid(pixels.shape[1:3], self.patch)
            positions = patches.interpolate(table, grid)
            tokens = tokens + positions.astype(tokens.dtype)
        return tokens


class Block(nn.Module):
    """Attention within windows and an MLP, both pre-norm, in the form `nn.scan` wants.

    The residual stays float32.
    """

    num_heads: int
    hidden: int
    window: int
    norm_eps: float
    has_qkv_bias: bool
    dtype: Any

    @nn.compact
    def __call__(self, x, is_shifted):
        """Map `[b h w d]`; `is_shifted` is a flag. Returns it and nothing to stack."""
        b, h, w, d = x.shape
        # A map no larger than a window is one window, and nothing is shifted.
        size = min(self.window, h, w)
        shift = self.window // 2 if min(h, w) > self.window else 0
        rows, columns = (size * n for n in patches.grid((h, w), size))
        y = layers.LayerNorm(self.norm_eps, self.dtype, name="attention_norm")(x)
        y = jnp.pad(y, ((0, 0), (0, rows - h), (0, columns - w), (0, 0)))
        if shift:
            y = jnp.where(is_shifted, jnp.roll(y, (-shift, -shift), (1, 2)), y)
        bias = self.param(
            "relative_bias",
            nn.initializers.zeros_init(),
            ((2 * self.window - 1) ** 2, self.num_heads),
        )[relative_index(size, self.window)].transpose(2, 0, 1)
        if shift:
            bias = bias + is_shifted * shift_mask(rows, columns, size, shift)[:, None]
        windows = patches.patchify(y, size).reshape(b, -1, size**2, d)
        attend = layers.Attention(
            self.num_heads, self.dtype, self.has_qkv_bias, name="attention"
        )
        y = attend(windows, bias).reshape(b, -1, size**2 * d)
        y = patches.unpatchify(y, size, (rows, columns, d))
        if shift:
            y = jnp.where(is_shifted, jnp.roll(y, (shift, shift), (1, 2)), y)
        x = x + y[:, :h, :w].astype(x.dtype)
        y = layers.LayerNorm(self.norm_eps, self.dtype, name="mlp_norm")(x)
        y = layers.Mlp(self.hidden, self.dtype, name="mlp")(y)
        return x + y.astype(x.dtype), None


def relative_index(size: int, window: int) -> np.ndarray:
    """Rows of the bias table `[s s, s s]` for the pairs of pixels of a window.

    The table is that of windows of side `window`; a smaller window reads its middle.
    """
    at = np.stack(np.meshgrid(*[np.arange(size)] * 2, indexing="ij")).reshape(2, -1)
    rows, columns = at[:, :, None] - at[:, None, :] + window - 1
    return rows * (2 * window - 1) + columns


def shift_mask(rows: int, columns: int, size: int, shift: int) -> np.ndarray:
    """Scores `[windows, s s, s s]` that keep pixels apart which only the shift joined.

    After the shift, the last window along an axis holds the old end and, in its last
    `shift` places, the old beginning.
    """

    def region(n):
        at = np.arange(n)
        return (at >= n - size).astype(int) + (at >= n - shift)

    regions = 3 * region(rows)[:, None] + region(columns)
    cells = regions.reshape(rows // size, size, columns // size, size)
    cells = cells.transpose(0, 2, 1, 3).reshape(-1, size**2)
    is_other = cells[:, :, None] != cells[:, None, :]
    return np.where(is_other, np.float32(_APART), np.float32(0))


class Merge(nn.Module):
    """Four neighbours to one token of twice the width."""

    dtype: Any

    @nn.compact
    def __call__(self, x):
        """Map `[b h w d]` to `[b h/2 w/2 2d]`, odd sides filled up with zeros."""
        b, h, w, d = x.shape
        x = jnp.pad(x, ((0, 0), (0, h % 2), (0, w % 2), (0, 0)))
        x = x.reshape(b, (h + 1) // 2, 2, (w + 1) // 2, 2, d)
        # The order of the checkpoints: column, then row within the four.
        x = x.transpose(0, 1, 3, 4, 2, 5).reshape(b, (h + 1) // 2, (w + 1) // 2, 4 * d)
        x = layers.LayerNorm(_EMBED_EPS, self.dtype, name="norm")(x)
        dense = layers.Dense(2 * d, self.dtype, has_bias=False, name="reduce")
        return dense(x).astype(jnp.float32)


class Stage(nn.Module):
    """Blocks, scanned, and the merging of patches after them."""

    depth: int
    block: Mapping[str, Any]
    has_merge: bool

    @nn.compact
    def __call__(self, x):
        """Map `[b h w d]`."""
        stack = layers.scanned(Block, self.depth, in_axes=0)
        is_shifted = jnp.arange(self.depth) % 2 == 1
        x, _ = stack(**self.block, name="blocks")(x, is_shifted)
        return Merge(self.block["dtype"], name="merge")(x) if self.has_merge else x


class Encoder(nn.Module):
    """All stages and the final LayerNorm."""

    depths: Sequence[int]
    blocks: Sequence[Mapping[str, Any]]
    norm_eps: float
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, tokens: Float[Array, "b l d"], grid: tuple[int, int]
    ) -> Float[Array, "b m e"]:
        """Encode tokens that lie on `grid`, row by row."""
        x = tokens.reshape(tokens.shape[0], *grid, -1).astype(jnp.float32)
        last = len(self.depths) - 1
        for index, (depth, block) in enumerate(
            zip(self.depths, self.blocks, strict=True)
        ):
            x = Stage(depth, block, index < last, name=f"stage_{index}")(x)
        x = x.reshape(x.shape[0], -1, x.shape[-1])
        return layers.LayerNorm(self.norm_eps, self.dtype, name="norm")(x)


class Decoder(nn.Module):
    """Hidden states `[b l e]` to pixels: one dense map per token and pixel shuffle."""

    stride: int
    channels: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, hidden, shape: Sequence[int]):
        """Decode to an image of `shape` (rows and columns)."""
        values = self.stride**2 * self.channels
        out = layers.Dense(values, self.dtype, name="out")(hidden)
        return patches.shuffle(out, self.stride, (*shape, self.channels))


def make(
    config: Mapping[str, Any], dtype: Any, *, has_decoder: bool = False
) -> body.Body:
    """Build a Swin without weights from its config.json.

    Args:
      config: of the checkpoint.
      dtype: of the products; LayerNorm statistics, soft-max and the residual stream
        stay float32.
      has_decoder: with the decoder for masked images.
    """
    full = body.check_config(config, DEFAULTS, SIZES)
    width, channels = full["embed_dim"], full["num_channels"]
    depths, heads = full["depths"], full["num_heads"]
    patch, size = body.squares(full)
    if np.ndim(depths) != 1 or np.shape(depths) != np.shape(heads) or not depths:
        raise errors.InputError(
            f"config.json: depths = {depths}, num_heads = {heads}; allowed: lists of "
            "equal length, a number per stage"
        )
    stages = range(len(depths))
    for stage in stages:
        body.check_heads(width * 2**stage, heads[stage])
    stride = patch * 2 ** (len(depths) - 1)
    side = size // patch if full["use_absolute_embeddings"] else 0
    embeddings = Embeddings(width, patch, side, dtype)
    blocks = tuple(
        {
            "num_heads": heads[stage],
            "hidden": int(full["mlp_ratio"] * width * 2**stage),
            "window": full["window_size"],
            "norm_eps": full["layer_norm_eps"],
            "has_qkv_bias": full["qkv_bias"],
            "dtype": dtype,
        }
        for stage in stages
    )
    encoder = Encoder(tuple(depths), blocks, full["layer_norm_eps"], dtype)
    hidden_width = width * 2 ** (len(depths) - 1)
    decoder = Decoder(full["encoder_stride"], channels, dtype)

    def embed(params, pixels):
        body.check_pixels(pixels, channels, patch=1)
        return body.apply(embeddings, params, "embeddings", pixels)

    def encode(params, tokens, grid=None):
        body.check_tokens(tokens, width)
        grid = grid or (math.isqrt(tokens.shape[1]),) * 2
        if math.prod(grid) != tokens.shape[1]:
            raise errors.InputError(
                f"{tokens.shape[1]} tokens do not fill a grid of {grid[0]} x {grid[1]};"
                " allowed: a square number of tokens, or grid=(rows, columns)"
            )
        return body.apply(encoder, params, "encoder", tokens, tuple(grid))

    def decode(params, hidden, shape=None):
        side = math.isqrt(hidden.shape[1]) * full["encoder_stride"]
        return body.apply(decoder, params, "decoder", hidden, shape or (side, side))

    def lend(params, grid):
        lent = {
            "patch/kernel": params["embeddings/patch/kernel"],
            "patch/bias": params["embeddings/patch/bias"],
            "norm/scale": params["embeddings/norm/scale"],
            "norm/bias": params["embeddings/norm/bias"],
        }
        if side:
            table = params["embeddings/position"]
            lent["position"] = patches.interpolate(table, grid)
        return lent

    def init(key):
        square = (full["encoder_stride"],) * 2
        hidden = jnp.zeros((1, 1, hidden_width))
        return body.random_params(
            key,
            full["initializer_range"],
            (embeddings, "embeddings", jnp.zeros((1, patch, patch, channels))),
            (encoder, "encoder", jnp.zeros((1, 1, width)), (1, 1)),
            *([(decoder, "decoder", hidden, square)] if has_decoder else []),
        )

    return body.Body(
        embed=embed,
        encode=encode,
        decode=decode if has_decoder else None,
        lend=lend,
        init=init,
        params={},
        config=full,
        modality="image",
        width=width,
        hidden_width=hidden_width,
        norm_eps=_EMBED_EPS,
        patch=patch,
        stride=stride,
        image_size=size,
    )
