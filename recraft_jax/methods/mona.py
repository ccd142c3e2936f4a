"""MoNA-style stage 1: an embedder after whose lesson the body still knows the source.

Ma et al., "Learning Modality Knowledge Alignment for Cross-Modality Transfer" (2024).
The target task teaches the inner parameters theta (`mona.inner`) for one step of plain
gradient descent, and that lesson depends on the embedder phi. The outer loss asks how
well the body, so taught, still tells apart classes of labelled source samples:

    theta'    = theta - inner_lr * grad_theta L(theta, phi)          target batch
    f         = normalised mean hidden state at theta'               source batch
    L_align   = mean of |f_i - f_j|^2 over pairs of one class
    L_uniform = log mean of exp(-2 |f_i - f_j|^2) over all pairs
    minimise    lam (L_align + L_uniform) + L(theta, phi)

The gradient in phi is the exact one of both levels, second derivatives included. The
gradient in theta is that of L alone: theta takes the same lesson for good, by the
optimiser of stage 1; with `mona.reset` every round begins at the pretrained theta.

No code of the authors is public, hence "-style": the formulas follow the paper's idea,
its step sizes are not known. Teaching the whole model would be dear, so `mona.inner`
names theta: by default the head and the norms of the body.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
from jaxtyping import Array, Bool, Float, Int

from recraft_jax import errors, phase, tree
from recraft_jax.methods import fit

INNER = r"head/.*|body/.*norm/(?:scale|bias)"  # default of `mona.inner`: all bodies


def phases(
    config: ml_collections.ConfigDict,
    model: Any,
    loss: Callable,
    *,
    target: phase.Target,
    fit_steps: int,
) -> list[phase.Phase]:
    """Stage 1 and stage 2 of `mona`."""
    del target
    return [
        align_phase(config, model, loss),
        fit.fit_phase(
            config,
            model,
            loss,
            num_steps=fit_steps,
            freeze_embedder=config.stage2.freeze_embedder,
        ),
    ]


def align_phase(
    config: ml_collections.ConfigDict, model: Any, loss: Callable
) -> phase.Phase:
    """Build stage 1.

    Args:
      config: the run's config; reads `mona` and `stage1`.
      model: `apply` and `encode` of the target model.
      loss: `(pred, y) -> [b]`.

    Raises:
      InputError: a batch without a pair, or (when traced) inner parameters outside of
        body and head.
    """
    section = config.mona
    if config.stage1.batch_size < 2:
        raise errors.InputError(
            f"stage1.batch_size = {config.stage1.batch_size} with method mona, which "
            "compares samples; allowed: 2 or more"
        )

    def loss_fn(params, stats, batch, key, step):
        del key, step
        theta, rest = tree.split(params, (section.inner,))
        outside = [path for path in theta if not path.startswith(("body/", "head/"))]
        if outside:
            raise errors.InputError(
                f"mona.inner = {section.inner!r} matches {outside[0]}; allowed: "
                "parameters of body and head"
            )

        def task_loss(theta):
            pred, _ = model.apply(rest | theta, batch["x"])
            return loss(pred, batch["y"]).mean()

        # The outer loss must not move theta, which all its steps start from.
        start = jax.lax.stop_gradient(theta)
        slope = jax.grad(task_loss)(start)
        taught = {path: x - section.inner_lr * slope[path] for path, x in start.items()}
        f = source_features(
            model, rest | taught, batch["source_tokens"], batch["source_mask"]
        )
        align, uniform = pair_terms(f, batch["source_label"])
        inner = task_loss(theta)
        return section.lam * (align + uniform) + inner, (
            stats,
            {"mona_align": align, "mona_uniform": uniform, "inner_loss": inner},
        )

    return phase.Phase(
        name="align",
        stage="align",
        loss_fn=loss_fn,
        trainable=("embedder/.*", *(() if section.reset else (section.inner,))),
        num_steps=config.stage1.num_steps,
        optim=config.stage1.optim,
        stream="paired",
        batch_size=config.stage1.batch_size,
    )


def source_features(
    model: Any,
    params: dict[str, jax.Array],
    tokens: Float[Array, "b ls d"],
    mask: Bool[Array, "b ls"],
) -> Float[Array, "b e"]:
    """Mean hidden states of source samples, of norm 1.

    Bodies that merge tokens have fewer hidden states than `mask` has entries; they read
    images, which have no padding.
    """
    hidden = model.encode(params, tokens, mask)
    weight = jnp.ones(hidden.shape[:2], jnp.float32)
    if mask.shape == weight.shape:
        weight = mask.astype(jnp.float32)
    mean = (hidden * weight[..., None]).sum(1) / weight.sum(1, keepdims=True)
    return mean / jnp.sqrt(jnp.sum(mean**2, axis=1, keepdims=True) + 1e-12)


def pair_terms(
    f: Float[Array, "b e"], labels: Int[Array, " b"]
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Compute `L_align` and `L_uniform` over the pairs i < j of a batch.

    Without two samples of one class `L_align` is 0.
    """
    square = jnp.sum((f[:, None] - f[None]) ** 2, axis=-1)
    first, second = jnp.triu_indices(len(f), k=1)
    square = square[first, second]
    is_same = labels[first] == labels[second]
    align = jnp.sum(square * is_same) / jnp.maximum(is_same.sum(), 1)
    return align, jnp.log(jnp.mean(jnp.exp(-2 * square)))
