"""RoBERTa: BERT's encoder behind an embedding with positions of its own.

Liu et al. 2019, in the layout of Hugging Face's `RobertaModel`: LayerNorm epsilon 1e-5,
one token type, and positions that skip padding: the first row in use is the one after
that of the padding token, so a table of 514 rows serves 512 tokens.
"""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Int

from recraft_jax import errors
from recraft_jax.models import bert, body

DEFAULTS = {"layer_norm_eps": 1e-5, "type_vocab_size": 1, "pad_token_id": 1}
TABLE = bert.table("roberta")


def position_rows(ids: Int[Array, "b l"], pad: int) -> Int[Array, "b l"]:
    """Rows of the position table: a count of the tokens so far; padding has `pad`."""
    is_token = (ids != pad).astype(jnp.int32)
    return jnp.cumsum(is_token, axis=1) * is_token + pad


def make(config: Mapping[str, Any], dtype: Any) -> body.Body:
    """Build a RoBERTa without weights from its config.json; arguments as `bert`."""
    full = body.check_config(config, DEFAULTS, bert.SIZES)
    pad, rows = full["pad_token_id"], full["max_position_embeddings"]
    if not isinstance(pad, int) or not 0 <= pad < rows - 1:
        raise errors.InputError(
            f"config.json: pad_token_id = {pad}; allowed: 0 to {rows - 2}, so that "
            f"max_position_embeddings = {rows} leaves positions for tokens"
        )
    return bert.build(
        full, dtype, lambda ids: position_rows(ids, pad), first_row=pad + 1
    )
