"""Recalibration of the source head (stage 0): slopes of at most tau = omega.

The body is frozen and the head linear, so the gradient of each source logit in u is
computed once per sample, `G_i` `[... k]`, and everything after it is linear algebra:
new logits `logits @ mix + shift` have the loss gradient `G_i mix (p_i - e_i)`. The
recalibrated head is therefore the best matrix scaling (Guo et al. 2017) of the fitted
one under the gradient penalty of `losses/lipschitz.py`, found to convergence, and not a
number of epochs of double back-propagation that may or may not have sufficed.

`rescale` is the closed form: all logits are divided by one number, for which
|grad_u ell| <= sqrt(2) |G_i|_2 proves the condition for all samples but a share delta.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize
from jaxtyping import Array, Float, Int

from recraft_jax.losses import distortion, lipschitz

METHODS = ("none", "penalty", "rescale")
QUANTILES = (0.5, 0.9, 0.95, 1.0)
_RHO_GROWTH = 4.0  # from round to round, until the quantile is below tau
_MAX_ROUNDS = 5


class Settings(NamedTuple):
    """How to recalibrate; see `config.lipschitz`.

    Attributes:
      method: `none`, `penalty` or `rescale`.
      tau: largest slope, in nats per unit of feature distance.
      delta: share of samples that may be steeper.
      rho: weight of the penalty, to begin with.
      u_space: `pooled`, the space of FA, or `mixed`: penalty on token features.
      norm_axis: `sample`, or `tokens` as in the released code.
      grad_divisor: 1, or the batch size of a gradient of the mean loss.
      num_samples: most samples that the penalty, and the report, looks at.
    """

    method: str
    tau: float
    delta: float
    rho: float
    u_space: str
    norm_axis: str
    grad_divisor: float
    num_samples: int


class Samples(NamedTuple):
    """Frozen logits of samples and their gradients.

    Attributes:
      logits: of the fitted head.
      grads: of each logit in u, `[n d k]` (pooled) or `[n l d k]` (tokens).
      labels: true classes.
    """

    logits: Float[Array, "n k"]
    grads: Float[Array, "n ... k"]
    labels: Int[Array, " n"]


def logit_gradients(
    states_of: Callable[[Array], Array],
    tokens: Float[Array, "b l d"],
    kernel: Float[Array, "d k"],
) -> Float[Array, "b l d k"]:
    """Compute the gradient in the tokens of each logit `states_of(tokens) @ kernel`.

    Summed over the tokens of a sample it is the gradient in their mean, moved by moving
    all of them alike.

    Args:
      states_of: tokens to hidden states `[b d]`; samples must not see each other.
      tokens: of text or image alike.
      kernel: of the source head.
    """
    states, vjp = jax.vjp(states_of, tokens)

    def column(weights):
        # One pass serves the whole batch, for samples do not see each other.
        return vjp(jnp.broadcast_to(weights, states.shape))[0]

    return jnp.moveaxis(jax.lax.map(column, kernel.T), 0, -1)


def loss_gradients(
    samples: Samples, mix: Float[Array, "k k"], shift: Float[Array, " k"]
) -> tuple[Float[Array, "n k"], Float[Array, "n ..."]]:
    """Log-probabilities and loss gradients in u under the head `logits mix + shift`."""
    log_probs = jax.nn.log_softmax(samples.logits @ mix + shift)
    gap = jnp.exp(log_probs) - jax.nn.one_hot(samples.labels, mix.shape[1])
    return log_probs, jnp.einsum("n...k,nk->n...", samples.grads, gap @ mix.T)


def recalibrate(
    samples: Samples, settings: Settings
) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    """Find the matrix scaling of the logits with slopes of at most tau.

    Args:
      samples: a set the head was not fitted on: on its own training set the loss is
        flat, and slopes there say little.
      settings: method `penalty` or `rescale`.

    Returns:
      `mix` `[k k]`, `shift` `[k]`, and a dict: `rho` reached, `rounds`, `quantile`, the
      (1 - delta) quantile of the slopes of these samples.
    """
    num_classes = samples.logits.shape[1]
    mix = np.eye(num_classes) * _certain_scale(samples, settings)
    shift = np.zeros(num_classes)
    if settings.method == "rescale":
        found = _quantile(samples, mix, shift, settings)
        return mix, shift, {"rho": None, "rounds": 0, "quantile": found}

    size = num_classes**2

    def unpack(flat):
        return flat[:size].reshape(num_classes, num_classes), flat[size:]

    @jax.jit
    def objective(flat, rho):
        log_probs, norms = _slopes(samples, *unpack(flat), settings)
        true = jnp.take_along_axis(log_probs, samples.labels[:, None], axis=1)
        return -jnp.mean(true) + rho * lipschitz.penalty(norms, settings.tau)

    slope = jax.jit(jax.value_and_grad(objective))

    def evaluate(flat, rho):
        value, grad = slope(jnp.asarray(flat, jnp.float32), rho)
        return float(value), np.asarray(grad, np.float64)

    flat, rho = np.concatenate([mix.ravel(), shift]), settings.rho
    for rounds in range(1, _MAX_ROUNDS + 1):  # noqa: B007, the last one is reported
        flat = scipy.optimize.minimize(
            evaluate, flat, args=(rho,), jac=True, method="L-BFGS-B"
        ).x
        mix, shift = unpack(flat)
        quantile = _quantile(samples, mix, shift, settings)
        if quantile <= settings.tau:
            break
        rho *= _RHO_GROWTH
    return mix, shift, {"rho": rho, "rounds": rounds, "quantile": quantile}


def report(
    samples: Samples, mix: np.ndarray, shift: np.ndarray, settings: Settings
) -> dict[str, Any]:
    """Measure a head on held-out samples: how good, how steep.

    Returns:
      `accuracy`, `log_loss` and `information` (nats), `slope`: quantiles of
      |grad_u ell| per sample in the space of the settings, `delta`: share above tau.
      The slope is the true one, whatever the norm that the penalty uses.
    """
    true_norm = settings._replace(norm_axis="sample", grad_divisor=1.0)
    log_probs, norms = _slopes(samples, mix, shift, true_norm)
    labels = np.asarray(samples.labels)
    one_hot = jax.nn.one_hot(labels, samples.logits.shape[1])
    joint = distortion.joint(jnp.exp(log_probs), one_hot)
    log_probs, norms = np.asarray(log_probs), np.asarray(norms)
    return {
        "accuracy": float((log_probs.argmax(1) == labels).mean()),
        "log_loss": float(-log_probs[np.arange(len(labels)), labels].mean()),
        "information": float(distortion.mutual_information(joint)),
        "slope": {str(q): float(np.quantile(norms, q)) for q in QUANTILES},
        "delta": float((norms > settings.tau).mean()),
    }


def _slopes(samples, mix, shift, settings):
    """Log-probabilities, and gradient norms as the settings define them."""
    mix, shift = jnp.asarray(mix, jnp.float32), jnp.asarray(shift, jnp.float32)
    log_probs, grads = loss_gradients(samples, mix, shift)
    norms = lipschitz.gradient_norms(grads, settings.norm_axis)
    return log_probs, norms / settings.grad_divisor


def _quantile(samples, mix, shift, settings) -> float:
    _, norms = _slopes(samples, mix, shift, settings)
    return float(np.quantile(np.asarray(norms), 1 - settings.delta))


def _certain_scale(samples, settings) -> float:
    """The factor, at most 1, that proves the condition for 1 - delta of the samples."""
    flat = samples.grads.reshape(len(samples.labels), -1, samples.grads.shape[-1])
    gram = np.einsum("nak,nal->nkl", *[np.asarray(flat, np.float64)] * 2)
    largest = np.sqrt(np.linalg.eigvalsh(gram)[:, -1])
    steep = np.sqrt(2) * np.quantile(largest, 1 - settings.delta)
    return float(min(1.0, settings.tau / steep)) if steep > 0 else 1.0
