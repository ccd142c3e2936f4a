"""BERT: token embeddings and the post-norm encoder, depth scanned.

Devlin et al. 2019, in the layout of Hugging Face's `BertModel`: learned positions, one
token type, LayerNorm after each residual sum (epsilon 1e-12). The pooler is not part of
the body.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from recraft_jax import errors, tree
from recraft_jax.models import body, convert, layers

DEFAULTS = {"layer_norm_eps": 1e-12, "type_vocab_size": 2}
SIZES = (
    "vocab_size",
    "max_position_embeddings",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
)


def table(prefix: str) -> tuple[convert.Rule, ...]:
    """Name table of a checkpoint whose task models put `prefix.` before the names."""
    top = rf"(?:{prefix}\.)?"
    layer = rf"{top}encoder\.layer\.(?P<layer>\d+)"
    return (
        *(
            convert.Rule(
                rf"{top}embeddings\.{theirs}_embeddings\.weight",
                f"embeddings/{ours}/embedding",
            )
            for theirs, ours in (
                ("word", "word"),
                ("position", "position"),
                ("token_type", "type"),
            )
        ),
        *convert.norm(rf"{top}embeddings\.LayerNorm", "embeddings/norm"),
        *(
            rule
            for part in ("query", "key", "value")
            for rule in convert.dense(
                rf"{layer}\.attention\.self\.{part}", f"encoder/layers/attention/{part}"
            )
        ),
        *convert.dense(
            rf"{layer}\.attention\.output\.dense", "encoder/layers/attention/out"
        ),
        *convert.norm(
            rf"{layer}\.attention\.output\.LayerNorm", "encoder/layers/attention_norm"
        ),
        *convert.dense(rf"{layer}\.intermediate\.dense", "encoder/layers/mlp/up"),
        *convert.dense(rf"{layer}\.output\.dense", "encoder/layers/mlp/down"),
        *convert.norm(rf"{layer}\.output\.LayerNorm", "encoder/layers/mlp_norm"),
        convert.Rule(rf"{top}embeddings\.(?:position|token_type)_ids", None),
        convert.Rule(rf"{top}pooler\..*", None),
        convert.Rule(r"(?:cls|lm_head|classifier|qa_outputs)\..*", None),
    )


TABLE = table("bert")


class Embeddings(nn.Module):
    """Token ids `[b l]` to normalised tokens `[b l d]`."""

    vocab_size: int
    max_positions: int
    num_types: int
    width: int
    norm_eps: float
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, ids: Int[Array, "b l"], rows: Int[Array, "..."]
    ) -> Float[Array, "b l d"]:
        """Sum word, position (table `rows`) and first-type embeddings, normalise."""
        words = nn.Embed(self.vocab_size, self.width, name="word")(ids)
        positions = nn.Embed(self.max_positions, self.width, name="position")
        types = nn.Embed(self.num_types, self.width, name="type")
        first_type = types(jnp.zeros(1, jnp.int32))  # broadcast
        tokens = words + positions(rows) + first_type
        return layers.LayerNorm(self.norm_eps, self.dtype, name="norm")(tokens)


class Layer(nn.Module):
    """One post-norm layer, in the form `nn.scan` wants."""

    num_heads: int
    hidden: int
    norm_eps: float
    dtype: Any

    @nn.compact
    def __call__(self, x, bias):
        """Return the new tokens and nothing to stack."""
        attend = layers.Attention(self.num_heads, self.dtype, name="attention")
        mlp = layers.Mlp(self.hidden, self.dtype, name="mlp")
        for name, branch in (("attention", lambda x: attend(x, bias)), ("mlp", mlp)):
            norm = layers.LayerNorm(self.norm_eps, self.dtype, name=f"{name}_norm")
            x = norm(x + branch(x))
        return x, None


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
        stack = layers.scanned(Layer, self.num_layers)
        hidden, _ = stack(
            self.num_heads, self.hidden, self.norm_eps, self.dtype, name="layers"
        )(tokens.astype(self.dtype), bias)
        return hidden


def make(config: Mapping[str, Any], dtype: Any) -> body.Body:
    """Build a BERT without weights from its config.json.

    Args:
      config: of the checkpoint.
      dtype: of the products; LayerNorm statistics and soft-max stay float32.
    """
    full = body.check_config(config, DEFAULTS, SIZES)
    return build(full, dtype, lambda ids: jnp.arange(ids.shape[1]), first_row=0)


def build(full: Mapping[str, Any], dtype: Any, rows_of, *, first_row: int) -> body.Body:
    """Build a body of BERT's shape.

    Args:
      full: a complete config.
      dtype: of the products.
      rows_of: ids `[b l]` to rows of the position table, `[l]` or `[b l]`.
      first_row: of the position table: those before belong to no position.
    """
    width, eps = full["hidden_size"], full["layer_norm_eps"]
    positions = full["max_position_embeddings"] - first_row
    body.check_heads(width, full["num_attention_heads"])
    kind = full.get("position_embedding_type", "absolute")
    if kind != "absolute":
        raise errors.InputError(
            f"config.json: position_embedding_type = {kind!r}; allowed: absolute"
        )
    embeddings = Embeddings(
        vocab_size=full["vocab_size"],
        max_positions=full["max_position_embeddings"],
        num_types=full["type_vocab_size"],
        width=width,
        norm_eps=eps,
        dtype=dtype,
    )
    encoder = Encoder(
        num_layers=full["num_hidden_layers"],
        num_heads=full["num_attention_heads"],
        hidden=full["intermediate_size"],
        norm_eps=eps,
        dtype=dtype,
    )

    def embed(params, ids):
        body.check_ids(ids, positions)
        return body.apply(embeddings, params, "embeddings", ids, rows_of(ids))

    def encode(params, tokens, mask=None):
        body.check_tokens(tokens, width)
        return body.apply(encoder, params, "encoder", tokens, mask)

    def lend(params, grid: Sequence[int]):
        native = tree.under(params, "embeddings")
        (length,) = grid
        return {
            "norm/scale": native["norm/scale"],
            "norm/bias": native["norm/bias"],
            "position": native["position/embedding"][first_row:][:length],
        }

    def init(key: jax.Array):
        ids, tokens = jnp.zeros((1, 1), jnp.int32), jnp.zeros((1, 1, width))
        return body.random_params(
            key,
            full["initializer_range"],
            (embeddings, "embeddings", ids, rows_of(ids)),
            (encoder, "encoder", tokens),
        )

    return body.Body(
        embed=embed,
        encode=encode,
        decode=None,
        lend=lend,
        init=init,
        params={},
        config=full,
        modality="text",
        width=width,
        hidden_width=width,
        positions=positions,
        norm_eps=eps,
    )
