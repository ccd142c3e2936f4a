"""FA, the alignment term of stage 1, in its forms.

    w1                 W1(U_s, U_t), Euclidean cost (Eq. 5)
    w2sq_half          S, 1/2 W2^2 entropic at 0.1: what the released code descends (D8)
    otdd_single_label  S + d / 2, its value: a label distance d with one label on both
                       sides, a constant without gradient (D7)

All are debiased Sinkhorn divergences. d is the divergence of the same clouds for the
cost |.|^2 at 0.1, twice that for 1/2 |.|^2 at 0.05, so d / 2 needs no solver of its own
(`losses/otdd.py` has the released solver, which stops before it has converged).

The source cloud never changes, and so neither does its self term, the largest of the
three problems of a divergence: `leaves` computes it once. For that epsilon must be
constant; it is taken from the source cloud alone.
"""

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from absl import logging

from recraft_jax import mesh
from recraft_jax.losses import ot

KINDS = ("w1", "w2sq_half", "otdd_single_label")
_RELEASED_EPSILON = 0.1


def leaves(
    section: ml_collections.ConfigDict, features: np.ndarray
) -> dict[str, np.ndarray]:
    """Compute what the term needs of the source cloud, as frozen parameters.

    Args:
      section: `config.fa`: `kind` and `epsilon` (0 for 0.005 times the median distance
        within the source cloud, or 0.1 for the released kinds).
      features: the source cloud `[n d]`.

    Returns:
      Scalars under `source/fa/`.
    """
    features = jnp.asarray(features)
    if section.epsilon > 0:
        epsilon = section.epsilon
    elif section.kind == "w1":
        epsilon = float(ot.default_epsilon(features, features))
    else:
        epsilon = _RELEASED_EPSILON
    found = {"epsilon": epsilon}
    power = 1 if section.kind == "w1" else 2
    problems = {"self_term": epsilon}
    if section.kind == "otdd_single_label":
        problems["inner_self_term"] = epsilon / 2
    for name, value in problems.items():
        term, info = ot.self_term(features, epsilon=value, power=power)
        if not info["converged"]:
            logging.warning(
                "the self term of the source features stopped at a marginal error of "
                "%.1e",
                info["marginal_error"],
            )
        found[name] = term
    return {f"source/fa/{name}": np.float32(value) for name, value in found.items()}


def term(
    kind: str, params: dict[str, jax.Array], u: jax.Array, weights: jax.Array
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Compute FA of a batch against the whole source cloud.

    Args:
      kind: one of `KINDS`.
      params: hold `source/features` and `leaves`.
      u: target features `[b d]`.
      weights: of the batch `[b]`, of sum 1.

    Returns:
      The term, and metrics: `fa`, `sinkhorn_converged`, `sinkhorn_error`.
    """
    source, epsilon = params["source/features"], params["source/fa/epsilon"]
    u, weights = mesh.gathered((u, weights))
    divergence = ot.wasserstein1 if kind == "w1" else ot.sinkhorn_divergence
    fa, info = divergence(
        source,
        u,
        epsilon=epsilon,
        weights_y=weights,
        self_x=params["source/fa/self_term"],
    )
    solves = [info]
    if kind == "otdd_single_label":
        half_label_distance, inner = ot.sinkhorn_divergence(
            source,
            jax.lax.stop_gradient(u),
            epsilon=epsilon / 2,
            weights_y=weights,
            self_x=params["source/fa/inner_self_term"],
        )
        fa += jax.lax.stop_gradient(half_label_distance)
        solves.append(inner)
    converged = jnp.stack([solve["converged"] for solve in solves])
    errors = jnp.stack([solve["marginal_error"] for solve in solves])
    return fa, {
        "fa": fa,
        "sinkhorn_converged": jnp.all(converged).astype(jnp.float32),
        "sinkhorn_error": jnp.max(errors),
    }
