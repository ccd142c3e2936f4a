"""PaRe, patch replacement: target samples in which source tokens stand in for some.

Cai et al., "Enhancing Cross-Modal Fine-Tuning with Gradually Intermediate Modality
Generation" (2024). There is no stage 1. A gate shared by both modalities scores tokens,
and the k best of a source sample replace the k worst of a target sample of N tokens;
the mixture must predict both, and k falls over the run (a curriculum from easy to pure
target data). With lam = k / N the loss of a sample is

    L(out, y) + weight * [(1 - lam) L(out_mix, y) + lam L_s(source_head(hidden_mix), z)]

For the first `relaxed_frac` of the steps the choice is random: Gumbel noise is added to
log g of source tokens and to log (1 - g) of the target tokens that may have to go. The
forward pass takes the k highest, the backward pass k successive soft-maxes (Xie and
Ermon 2019), so the gate learns. Afterwards the choice is the plain ranking, and the
gate has no gradient (the decay of its kernel scales all scores alike).

As released, dense tasks predict masks of another image set through their own head;
here the class of the source sample is predicted for all kinds of tasks. The released
code also draws the N - k target tokens to keep rather than the k to replace (the same
without noise), and replaces the best target tokens once the choice is deterministic,
which `legacy.pare_replace_highest` brings back.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
from jaxtyping import Array, Float, Int

from recraft_jax import errors, phase
from recraft_jax.losses import task as task_losses
from recraft_jax.methods import fit

_NEVER = -1e9  # key of padding: finite, so that no gradient is NaN


def init(target: phase.Target, key: jax.Array) -> dict[str, jax.Array]:
    """Draw the gate `[d 1]` and the source head `[e ks]`; scores begin with size 1."""
    gate_key, head_key = jax.random.split(key)
    lecun = jax.nn.initializers.lecun_normal()
    num_classes = target.num_source_classes
    return {
        "gate/kernel": lecun(gate_key, (target.width, 1)),
        "gate/bias": jnp.zeros(1),
        "source_head/kernel": lecun(head_key, (target.hidden_width, num_classes)),
        "source_head/bias": jnp.zeros(num_classes),
    }


def phases(
    config: ml_collections.ConfigDict,
    model: Any,
    loss: Callable,
    *,
    target: phase.Target,
    fit_steps: int,
) -> list[phase.Phase]:
    """The one phase of `pare`; it trains the embedder, as `nft` does.

    Raises:
      InputError: a share outside 0 to 1, or a temperature that is not positive.
    """
    section = config.pare
    for name in ("begin_frac", "end_frac", "relaxed_frac"):
        if not 0 <= section[name] <= 1:
            raise errors.InputError(f"pare.{name} = {section[name]}; allowed: 0 to 1")
    if section.temperature <= 0:
        raise errors.InputError(
            f"pare.temperature = {section.temperature}; allowed: above 0"
        )
    num_tokens = target.num_tokens
    begin, end = (
        round(share * num_tokens) for share in (section.begin_frac, section.end_frac)
    )
    max_count = max(begin, end)
    relaxed_steps = round(section.relaxed_frac * fit_steps)
    sign = 1 if config.legacy.pare_replace_highest else -1

    def choose(params, tokens, batch, count, key, step):
        valid = batch["source_mask"]
        source_odds, odds = (
            log_odds(params, x) for x in (batch["source_tokens"], tokens)
        )

        def relaxed():
            source_noise, noise = (
                jax.random.gumbel(k, x.shape)
                for k, x in zip(jax.random.split(key), (valid, odds), strict=True)
            )
            take = jax.nn.log_sigmoid(source_odds) + source_noise
            drop = jax.nn.log_sigmoid(-odds) + noise
            return tuple(
                relaxed_top_k(keys, count, max_count, section.temperature)
                for keys in (jnp.where(valid, take, _NEVER), drop)
            )

        def fixed():
            take = top_k(jnp.where(valid, source_odds, _NEVER), count)
            return take, top_k(sign * odds, count)

        return jax.lax.cond(step < relaxed_steps, relaxed, fixed)

    def loss_fn(params, stats, batch, key, step):
        y = batch["y"]
        tokens = model.embed(params, batch["x"])
        count = replaced_count(begin, end, step, fit_steps)
        count = jnp.minimum(count, batch["source_mask"].sum(1))
        take, drop = choose(params, tokens, batch, count, key, step)
        mixed = mix(tokens, batch["source_tokens"], take, drop)
        pred, _ = model.forward_from_tokens(params, tokens)
        pred_mixed, out = model.forward_from_tokens(params, mixed)
        hidden = out["hidden"].mean(1)
        logits = hidden @ params["source_head/kernel"] + params["source_head/bias"]
        task_loss, mixed_loss = loss(pred, y), loss(pred_mixed, y)
        source_loss = task_losses.cross_entropy(logits, batch["source_label"])
        lam = count / num_tokens
        both = (1 - lam) * mixed_loss + lam * source_loss
        return (task_loss + section.weight * both).mean(), (
            stats,
            {
                "num_replaced": count.astype(jnp.float32).mean(),
                "task_loss": task_loss.mean(),
                "mixed_loss": mixed_loss.mean(),
                "source_loss": source_loss.mean(),
            },
        )

    return [
        phase.Phase(
            name="fit",
            stage="fit",
            loss_fn=loss_fn,
            trainable=(
                fit.trainable(config.stage2.trainable, freeze_embedder=False),
                "(?:gate|source_head)/.*",
            ),
            num_steps=fit_steps,
            optim=config.stage2.optim,
            stream="paired",
            batch_size=config.stage2.batch_size,
            select=True,
        )
    ]


def log_odds(params: dict, tokens: Float[Array, "b l d"]) -> Float[Array, "b l"]:
    """Score tokens: the gate is g = sigmoid of this, the order is the same."""
    return (tokens @ params["gate/kernel"] + params["gate/bias"])[..., 0]


def replaced_count(begin: int, end: int, step: Int[Array, ""], num_steps: int):
    """Tokens to replace at a step: from `begin` down to `end` at the last, floored."""
    return begin + (end - begin) * step // max(num_steps - 1, 1)


def top_k(scores: Float[Array, "b l"], count: Int[Array, " b"]) -> Float[Array, "b l"]:
    """Mark the `count` highest scores of each row by 1; ties go to the left."""
    ranks = jnp.argsort(jnp.argsort(-scores, axis=1), axis=1)  # both sorts are stable
    return (ranks < count[:, None]).astype(scores.dtype)


def relaxed_top_k(
    keys: Float[Array, "b l"],
    count: Int[Array, " b"],
    max_count: int,
    temperature: float,
) -> Float[Array, "b l"]:
    """`top_k` with the gradient of `soft_top_k`."""
    soft = soft_top_k(keys, count, max_count, temperature)
    return top_k(keys, count) + (soft - jax.lax.stop_gradient(soft))


def soft_top_k(
    keys: Float[Array, "b l"],
    count: Int[Array, " b"],
    max_count: int,
    temperature: float,
) -> Float[Array, "b l"]:
    """Sum `count` successive soft-maxes, each with the share already chosen taken out.

    Args:
      keys: finite.
      count: soft-maxes of each row, of sum 1 each, at most `max_count`.
      max_count: soft-maxes that are computed.
      temperature: of the soft-maxes; towards 0 this is `top_k`.
    """
    tiny = jnp.finfo(keys.dtype).tiny

    # Without the checkpoint the graph keeps several arrays of every iteration.
    @jax.checkpoint
    def one(carry, index):
        keys, chosen = carry
        share = jax.nn.softmax(keys / temperature, axis=1)
        keys += jnp.log(jnp.maximum(1 - share, tiny))
        return (keys, chosen + share * (index < count)[:, None]), None

    start = keys, jnp.zeros_like(keys)
    (_, chosen), _ = jax.lax.scan(one, start, jnp.arange(max_count))
    return chosen


def mix(
    tokens: Float[Array, "b l d"],
    source_tokens: Float[Array, "b ls d"],
    take: Float[Array, "b ls"],
    drop: Float[Array, "b l"],
) -> Float[Array, "b l d"]:
    """Put the source tokens of `take`, in order, at the positions of `drop`.

    Both are zeros and equally many ones in each row; gradients reach them as weights.
    """
    in_order = jnp.argsort(take < 0.5, axis=1)  # stable: taken ones first, in order
    nth = jnp.cumsum(drop > 0.5, axis=1) - 1
    at = jnp.take_along_axis(in_order, jnp.clip(nth, 0, take.shape[1] - 1), axis=1)
    weight = jnp.take_along_axis(take, at, axis=1)[..., None]
    placed = weight * jnp.take_along_axis(source_tokens, at[..., None], axis=1)
    drop = drop[..., None]
    return ((1 - drop) * tokens + drop * placed).astype(tokens.dtype)
