"""What is BERT's own; `test_bodies.py` holds all families against PyTorch."""

import pathlib

import jax.numpy as jnp
import numpy as np

from recraft_jax.models import pretrained

GOLDEN = pathlib.Path(__file__).parent / "golden" / "bert"


def test_masked_positions_do_not_matter():
    body = pretrained.load(GOLDEN)
    with np.load(GOLDEN / "golden.npz") as file:
        tokens = jnp.asarray(file["in_tokens"])
    mask = jnp.arange(tokens.shape[1]) < 9
    mask = jnp.broadcast_to(mask, tokens.shape[:2])
    full = body.encode(body.params, tokens, mask)
    short = body.encode(body.params, tokens[:, :9])
    np.testing.assert_allclose(full[:, :9], short, rtol=0, atol=1e-5)
