"""ViT and DINOv2: patches, a class token, the pre-norm encoder, depth scanned.

Dosovitskiy et al. 2021 and Oquab et al. 2023, in the layout of Hugging Face's
`ViTModel` and `Dinov2Model`. DINOv2 multiplies each branch by a learned scale
(LayerScale) and its giant size has a gated MLP (SwiGLU). Both take images of any size:
learned positions are interpolated to the grid of patches at hand, pixels beyond the
last whole patch are dropped. The final LayerNorm belongs to the body.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from recraft_jax.models import body, convert, layers, patches

SIZES = ("hidden_size", "num_hidden_layers", "num_attention_heads")
DEFAULTS = {
    "image_size": 224,
    "num_channels": 3,
    "qkv_bias": True,
    "use_swiglu_ffn": False,
    "mlp_ratio": 4,
}
VIT_DEFAULTS = {**DEFAULTS, "patch_size": 16, "layer_norm_eps": 1e-12}
DINOV2_DEFAULTS = {
    **DEFAULTS,
    "patch_size": 14,
    "layer_norm_eps": 1e-6,
    "layerscale_value": 1.0,
}


def _table(prefix: str, names: Mapping[str, str]) -> tuple[convert.Rule, ...]:
    """Name table; `names` gives the parts of a layer under the checkpoint's names."""
    top = rf"(?:{prefix}\.)?"
    layer, ours = rf"{top}encoder\.layer\.(?P<layer>\d+)", "encoder/layers"
    dense = {
        **{
            rf"attention\.attention\.{part}": f"attention/{part}"
            for part in ("query", "key", "value")
        },
        r"attention\.output\.dense": "attention/out",
        names["up"]: "mlp/up",
        names["down"]: "mlp/down",
    }
    patch = rf"{top}embeddings\.patch_embeddings\.projection"
    return (
        convert.Rule(rf"{top}embeddings\.cls_token", "embeddings/prefix", convert.rows),
        convert.Rule(
            rf"{top}embeddings\.position_embeddings",
            "embeddings/position",
            convert.rows,
        ),
        convert.Rule(
            rf"{patch}\.weight", "embeddings/patch/kernel", convert.flatten_patch
        ),
        convert.Rule(rf"{patch}\.bias", "embeddings/patch/bias"),
        *(
            rule
            for theirs, path in dense.items()
            for rule in convert.dense(rf"{layer}\.{theirs}", f"{ours}/{path}")
        ),
        *convert.norm(rf"{layer}\.{names['before']}", f"{ours}/attention_norm"),
        *convert.norm(rf"{layer}\.{names['after']}", f"{ours}/mlp_norm"),
        *convert.norm(rf"{top}layernorm", "encoder/norm"),
        convert.Rule(rf"{top}embeddings\.mask_token", None),
        convert.Rule(rf"{top}pooler\..*", None),
        convert.Rule(r"(?:classifier|decoder)\..*", None),
    )


VIT_TABLE = _table(
    "vit",
    {
        "before": "layernorm_before",
        "after": "layernorm_after",
        "up": r"intermediate\.dense",
        "down": r"output\.dense",
    },
)
DINOV2_TABLE = (
    *_table(
        "dinov2",
        {
            "before": "norm1",
            "after": "norm2",
            "up": r"mlp\.(?:fc1|weights_in)",
            "down": r"mlp\.(?:fc2|weights_out)",
        },
    ),
    convert.Rule(
        r"(?:dinov2\.)?encoder\.layer\.(?P<layer>\d+)\.layer_scale1\.lambda1",
        "encoder/layers/attention_layer_scale",
    ),
    convert.Rule(
        r"(?:dinov2\.)?encoder\.layer\.(?P<layer>\d+)\.layer_scale2\.lambda1",
        "encoder/layers/mlp_layer_scale",
    ),
)


class Embeddings(nn.Module):
    """Pixels `[b h w c]` to tokens `[b 1+l d]`, the class token first."""

    width: int
    patch: int
    side: int  # patches along each side of the images it was trained on
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, pixels: Float[Array, "b h w c"]) -> Float[Array, "b l d"]:
        """Embed whole patches and add positions, interpolated to their grid."""
        rows, columns = (n // self.patch for n in pixels.shape[1:3])
        pixels = pixels[:, : rows * self.patch, : columns * self.patch]
        dense = layers.Dense(self.width, self.dtype, name="patch")
        tokens = dense(patches.patchify(pixels, self.patch))
        zeros = nn.initializers.zeros_init()
        prefix = self.param("prefix", zeros, (1, self.width))
        table = self.param("position", zeros, (1 + self.side**2, self.width))
        positions = patches.interpolate(table[1:], (rows, columns))
        first = jnp.broadcast_to(
            prefix + table[:1], (tokens.shape[0], *prefix.shape)
        ).astype(tokens.dtype)
        return jnp.concatenate([first, tokens + positions.astype(tokens.dtype)], axis=1)


class GatedMlp(nn.Module):
    """SwiGLU: `down(silu(gate) * up)`, both from one product."""

    hidden: int
    dtype: Any

    @nn.compact
    def __call__(self, x):
        """Map `[... d]` to `[... d]`."""
        both = layers.Dense(2 * self.hidden, self.dtype, name="up")(x)
        gate, up = jnp.split(both, 2, axis=-1)
        out = layers.Dense(x.shape[-1], self.dtype, name="down")
        return out(jax.nn.silu(gate) * up)


class Layer(nn.Module):
    """One pre-norm layer, in the form `nn.scan` wants; the residual stays float32."""

    num_heads: int
    hidden: int
    norm_eps: float
    dtype: Any
    has_qkv_bias: bool
    is_gated: bool
    layer_scale: float | None  # initial value, None for none

    @nn.compact
    def __call__(self, x, _):
        """Return the new tokens and nothing to stack."""
        attend = layers.Attention(
            self.num_heads, self.dtype, self.has_qkv_bias, name="attention"
        )
        mlp = (GatedMlp if self.is_gated else layers.Mlp)(
            self.hidden, self.dtype, name="mlp"
        )
        for name, branch in (("attention", attend), ("mlp", mlp)):
            norm = layers.LayerNorm(self.norm_eps, self.dtype, name=f"{name}_norm")
            out = branch(norm(x))
            if self.layer_scale is not None:
                start = nn.initializers.constant(self.layer_scale)
                out = out * self.param(f"{name}_layer_scale", start, (x.shape[-1],))
            x = x + out.astype(x.dtype)
        return x, None


class Encoder(nn.Module):
    """`num_layers` identical layers, scanned, and the final LayerNorm."""

    num_layers: int
    layer: Mapping[str, Any]
    norm_eps: float
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, tokens: Float[Array, "b l d"]) -> Float[Array, "b l d"]:
        """Encode tokens."""
        stack = layers.scanned(Layer, self.num_layers)
        hidden, _ = stack(**self.layer, name="layers")(tokens.astype(jnp.float32), None)
        return layers.LayerNorm(self.norm_eps, self.dtype, name="norm")(hidden)


def make_vit(config: Mapping[str, Any], dtype: Any) -> body.Body:
    """Build a ViT without weights from its config.json.

    Args:
      config: of the checkpoint.
      dtype: of the products; LayerNorm statistics, soft-max and the residual stream
        stay float32.
    """
    full = body.check_config(config, VIT_DEFAULTS, (*SIZES, "intermediate_size"))
    return _build(full, full["intermediate_size"], None, dtype)


def make_dinov2(config: Mapping[str, Any], dtype: Any) -> body.Body:
    """Build a DINOv2 without weights from its config.json; arguments as `make_vit`."""
    full = body.check_config(config, DINOV2_DEFAULTS, SIZES)
    hidden = int(full["hidden_size"] * full["mlp_ratio"])
    if full["use_swiglu_ffn"]:  # two thirds, rounded up to a multiple of 8
        hidden = (int(hidden * 2 / 3) + 7) // 8 * 8
    return _build(full, hidden, full["layerscale_value"], dtype)


def _build(full: Mapping[str, Any], hidden: int, layer_scale, dtype: Any) -> body.Body:
    width, channels = full["hidden_size"], full["num_channels"]
    eps = full["layer_norm_eps"]
    patch, size = body.squares(full)
    body.check_heads(width, full["num_attention_heads"])
    embeddings = Embeddings(width, patch, size // patch, dtype)
    layer = {
        "num_heads": full["num_attention_heads"],
        "hidden": hidden,
        "norm_eps": eps,
        "dtype": dtype,
        "has_qkv_bias": full["qkv_bias"],
        "is_gated": full["use_swiglu_ffn"],
        "layer_scale": layer_scale,
    }
    encoder = Encoder(full["num_hidden_layers"], layer, eps, dtype)

    def embed(params, pixels):
        body.check_pixels(pixels, channels, patch)
        return body.apply(embeddings, params, "embeddings", pixels)

    def encode(params, tokens):
        body.check_tokens(tokens, width)
        return body.apply(encoder, params, "encoder", tokens)

    def lend(params, grid):
        table = params["embeddings/position"]
        return {
            "patch/kernel": params["embeddings/patch/kernel"],
            "patch/bias": params["embeddings/patch/bias"],
            "position": patches.interpolate(table[1:], grid),
            "prefix": params["embeddings/prefix"] + table[:1],
        }

    def init(key):
        return body.random_params(
            key,
            full["initializer_range"],
            (embeddings, "embeddings", jnp.zeros((1, patch, patch, channels))),
            (encoder, "encoder", jnp.zeros((1, 1, width))),
        )

    return body.Body(
        embed=embed,
        encode=encode,
        decode=None,
        lend=lend,
        init=init,
        params={},
        config=full,
        modality="image",
        width=width,
        hidden_width=width,
        num_prefix=1,
        patch=patch,
        stride=patch,
        image_size=size,
    )
