"""Stage 1 of RECRAFT: learn the embedder phi by feature alignment plus distortion.

The bound (the paper's Theorem 7): target error <= source error + omega * W1 + FLD.
Stage 1 minimises the two terms that depend on phi, jointly:

    loss = omega * FA + lambda * FLD
    FA   = W1(source features, target features), token means, debiased Sinkhorn (Eq. 5)
    FLD  = H(Z_t | Z_s) = H(Z_t) - I(Z_s; Z_t) of the joint of frozen source predictions
           and target (pseudo-)labels (Eq. 7 at the best global label map)

Gradients pass through the frozen body and source head; only the embedder moves. `fa`
and `fld` are the same phase with one weight set to zero, and then that term costs
nothing.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import ml_collections

from recraft_jax import phase
from recraft_jax.losses import distortion, ot
from recraft_jax.methods import fit, source


def phases(
    config: ml_collections.ConfigDict,
    apply: Callable,
    loss: Callable,
    *,
    num_classes: int,
    fit_steps: int,
) -> list[phase.Phase]:
    """Stage 1 and stage 2 of `recraft`, `fa` and `fld`."""
    return [
        align_phase(config, apply, num_classes=num_classes),
        fit.fit_phase(
            config,
            apply,
            loss,
            num_steps=fit_steps,
            freeze_embedder=config.stage2.freeze_embedder,
        ),
    ]


def features(params, apply: Callable, x):
    """Pooled target features `[b d]` and source log-probabilities `[b k]` of inputs."""
    _, out = apply(params, x)
    log_probs = source.predict(params, out["hidden"].mean(1))
    return out["tokens"].mean(1), log_probs


def align_phase(
    config: ml_collections.ConfigDict,
    apply: Callable,
    *,
    num_classes: int,
) -> phase.Phase:
    """Build stage 1 over class-balanced batches with importance weights.

    Args:
      config: the run's config; reads `fa`, `fld` and `stage1`.
      apply: `(params, x) -> (pred, out)`.
      num_classes: K_t, number of (pseudo-)labels.
    """
    omega, weight = config.fa.omega, config.fld.weight

    def loss_fn(params, stats, batch, key, step):
        del step
        u, log_probs = features(params, apply, batch["x"])
        loss, metrics = 0.0, {}
        if omega > 0:
            bank = params["source/features"]
            num = min(config.fa.num_source, len(bank))
            picks = jax.random.choice(key, len(bank), (num,), replace=False)
            fa, info = ot.wasserstein1(u, bank[picks], weights_x=batch["weight"])
            loss += omega * fa
            metrics |= {
                "fa": fa,
                "sinkhorn_converged": info["converged"].astype(jnp.float32),
                "sinkhorn_error": info["marginal_error"],
            }
        if weight > 0:
            targets = jax.nn.one_hot(batch["label"], num_classes)
            q = distortion.joint(jnp.exp(log_probs), targets, batch["weight"])
            fld = distortion.target_given_source(q)
            loss += weight * fld
            source_entropy = distortion.entropy(q.sum(1))
            metrics |= {"fld": fld, "source_entropy": source_entropy}
        return loss, (stats, metrics)

    return phase.Phase(
        name="align",
        loss_fn=loss_fn,
        trainable=("embedder/.*",),
        num_steps=config.stage1.num_steps,
        optim=config.stage1.optim,
        stream="balanced",
        batch_size=config.stage1.batch_size,
    )
