"""BERT: token embeddings and the post-norm encoder, depth scanned.

Devlin et al. 2019, in the layout of Hugging Face's `BertModel`: learned positions, one
token type, erf GELU, LayerNorm after each residual sum (epsilon 1e-12). Dropout is left
out: every method here runs the body without it. The pooler is not part of the body.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from recraft_jax.models import convert

TABLE = (
    convert.Rule(
        r"(?:bert\.)?embeddings\.word_embeddings\.weight", "embeddings/word/embedding"
    ),
    convert.Rule(
        r"(?:bert\.)?embeddings\.position_embeddings\.weight",
        "embeddings/position/embedding",
    ),
    convert.Rule(
        r"(?:bert\.)?embeddings\.token_type_embeddings\.weight",
        "embeddings/type/embedding",
    ),
    convert.Rule(r"(?:bert\.)?embeddings\.LayerNorm\.weight", "embeddings/norm/scale"),
    convert.Rule(r"(?:bert\.)?embeddings\.LayerNorm\.bias", "embeddings/norm/bias"),
    *(
        rule
        for source, target in (
            (r"attention\.self\.query", "attention/query"),
            (r"attention\.self\.key", "attention/key"),
            (r"attention\.self\.value", "attention/value"),
            (r"attention\.output\.dense", "attention/out"),
            (r"intermediate\.dense", "mlp/up"),
            (r"output\.dense", "mlp/down"),
        )
        for rule in (
            convert.Rule(
                rf"(?:bert\.)?encoder\.layer\.(\d+)\.{source}\.weight",
                f"encoder/layers/{target}/kernel",
                convert.transpose,
            ),
            convert.Rule(
                rf"(?:bert\.)?encoder\.layer\.(\d+)\.{source}\.bias",
                f"encoder/layers/{target}/bias",
            ),
        )
    ),
    *(
        convert.Rule(
            rf"(?:bert\.)?encoder\.layer\.(\d+)\.{source}\.LayerNorm\.{theirs}",
            f"encoder/layers/{target}/{ours}",
        )
        for source, target in (
            (r"attention\.output", "attention_norm"),
            ("output", "mlp_norm"),
        )
        for theirs, ours in (("weight", "scale"), ("bias", "bias"))
    ),
    convert.Rule(r"(?:bert\.)?embeddings\.position_ids", None),
    convert.Rule(r"(?:bert\.)?pooler\..*", None),
    convert.Rule(r"cls\..*", None),
)


class Embeddings(nn.Module):
    """Token ids `[b l]` to normalised tokens `[b l d]`."""

    vocab_size: int
    max_positions: int
    num_types: int
    width: int
    norm_eps: float
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, ids: Int[Array, "b l"]) -> Float[Array, "b l d"]:
        """Sum word, position and first-type embeddings, then normalise."""
        words = nn.Embed(self.vocab_size, self.width, name="word")(ids)
        positions = nn.Embed(self.max_positions, self.width, name="position")
        types = nn.Embed(self.num_types, self.width, name="type")
        first_type = types(jnp.zeros((), jnp.int32))
        tokens = words + positions(jnp.arange(ids.shape[1])) + first_type
        return layer_norm(self.norm_eps, self.dtype, "norm")(tokens)


class Attention(nn.Module):
    """Multi-head self-attention."""

    num_heads: int
    dtype: Any

    @nn.compact
    def __call__(self, x, bias):
        """Attend; `bias` is added to the scores, broadcast to `[b heads l l]`."""
        b, l, d = x.shape
        heads = (b, l, self.num_heads, d // self.num_heads)
        query, key, value = (
            nn.Dense(d, dtype=self.dtype, name=name)(x).reshape(heads)
            for name in ("query", "key", "value")
        )
        scores = jnp.einsum("blhc,bmhc->bhlm", query, key) / heads[-1] ** 0.5
        # The softmax is taken in float32 whatever the body's dtype.
        weights = jax.nn.softmax(scores.astype(jnp.float32) + bias).astype(self.dtype)
        mixed = jnp.einsum("bhlm,bmhc->blhc", weights, value).reshape(b, l, d)
        return nn.Dense(d, dtype=self.dtype, name="out")(mixed)


class Mlp(nn.Module):
    """Two dense layers with an exact (erf) GELU between them."""

    hidden: int
    dtype: Any

    @nn.compact
    def __call__(self, x):
        """Map `[b l d]` to `[b l d]`."""
        up = nn.Dense(self.hidden, dtype=self.dtype, name="up")(x)
        up = jax.nn.gelu(up, approximate=False)
        return nn.Dense(x.shape[-1], dtype=self.dtype, name="down")(up)


class Layer(nn.Module):
    """One post-norm layer, in the form `nn.scan` wants."""

    num_heads: int
    hidden: int
    norm_eps: float
    dtype: Any

    @nn.compact
    def __call__(self, x, bias):
        """Return the new tokens and nothing to stack."""
        attended = Attention(self.num_heads, self.dtype, name="attention")(x, bias)
        x = layer_norm(self.norm_eps, self.dtype, "attention_norm")(x + attended)
        out = Mlp(self.hidden, self.dtype, name="mlp")(x)
        return layer_norm(self.norm_eps, self.dtype, "mlp_norm")(x + out), None


class Encoder(nn.Module):
    """`num_layers` identical layers, scanned: parameters carry a leading layer axis."""

    num_layers: int
    num_heads: int
    hidden: int
    norm_eps: float
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, tokens: Float[Array, "b l d"], mask: Bool[Array, "b l"] | None = None
    ) -> Float[Array, "b l d"]:
        """Encode tokens; positions where `mask` is False are not attended to."""
        bias = jnp.zeros((1, 1, 1, 1), jnp.float32)
        if mask is not None:
            lowest = jnp.finfo(jnp.float32).min
            bias = jnp.where(mask[:, None, None, :], 0.0, lowest)
        layers = nn.scan(
            Layer,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=nn.broadcast,
            length=self.num_layers,
        )
        hidden, _ = layers(
            self.num_heads, self.hidden, self.norm_eps, self.dtype, name="layers"
        )(tokens.astype(self.dtype), bias)
        return hidden


def layer_norm(eps: float, dtype: Any, name: str) -> nn.LayerNorm:
    """LayerNorm with the two-pass variance that PyTorch uses."""
    return nn.LayerNorm(epsilon=eps, dtype=dtype, use_fast_variance=False, name=name)
