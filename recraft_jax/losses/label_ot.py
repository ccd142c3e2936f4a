"""Class-conditional transport cost between source and target labels, with a gradient.

The cost of `ot.transport_plan` between label z and label z' is, as in `otdd`, the
debiased Sinkhorn divergence between the points of the classes for the cost |.|^2,

    D = |mean_z - mean_z'|^2 + OT(z, z') - 1/2 OT(z, z) - 1/2 OT(z', z'),

the OT of the centred classes. `otdd.label_distances` has the same numbers, as constants
and for labels known while tracing. Here labels may be traced, and the gradient is that
of the envelope theorem: potentials are constants (see `ot`).

A point takes part in the problems of its own class only, once per class of the other
side. So all pairs of classes share one matrix of the n m costs, the potentials are
`[n kt]` and `[m ks]`, and a sweep over all pairs takes n m exponentials, not n m ks kt.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from recraft_jax.losses import checks, distortion, ot

_FALL = 4.0  # epsilon over the one of the next sweep, until it is the last


def class_cost(
    features: Float[Array, "n d"],
    labels: Int[Array | np.ndarray, " n"],
    source_features: Float[Array, "m d"],
    source_labels: Int[Array | np.ndarray, " m"],
    *,
    epsilon: ArrayLike,
    num_classes: int,
    num_source_classes: int,
    source_self: Float[Array, " ks"] | None = None,
    threshold: ArrayLike = 1e-3,
    max_iterations: int = 200,
) -> tuple[Float[Array, "ks kt"], dict[str, Array]]:
    """Compute the Sinkhorn divergences between source classes and target classes.

    Args:
      features: Target features, one row per point.
      labels: Their classes, from 0. A traced label out of range is a point of no class.
      source_features: Source features, in the same space.
      source_labels: Their classes, with names of their own.
      epsilon: Regularisation, in units of squared distance. At a twentieth of the cost
        between classes about ten sweeps are enough; at a thousandth the cap is met. No
        gradient flows through.
      num_classes: Number of target classes kt.
      num_source_classes: Number of source classes ks.
      source_self: `self_terms` of the source at this epsilon, computed once for a
        source that never changes. They are constants: their gradient in
        `source_features` is then missing.
      threshold: Largest l1 error of a marginal, of any problem, to be converged.
      max_iterations: Cap on the sweeps at `epsilon`, after those at larger ones.

    Returns:
      The cost, and a dict: `converged` (every problem), `iterations`, `marginal_error`
      (of the worst), `epsilon`. Without convergence the cost is finite, but biased. A
      class without points is at the mean cost of the pairs that have points (0 if there
      is none), as a constant: it draws nothing and repels nothing.
    """
    shapes = features.shape, source_features.shape
    if features.ndim != 2 or source_features.ndim != 2 or shapes[0][1] != shapes[1][1]:
        raise ValueError(f"features must be [n d] and [m d], got {shapes}")
    if not features.size * source_features.size:
        raise ValueError(f"features must not be empty, got {shapes}")
    checks.finite_rows("features", features)
    checks.finite_rows("source_features", source_features)
    checks.positive("epsilon", epsilon)
    _check_labels("labels", labels, features, num_classes)
    _check_labels("source_labels", source_labels, source_features, num_source_classes)
    if source_self is not None and source_self.shape != (num_source_classes,):
        raise ValueError(
            f"source_self must be [{num_source_classes}], got {source_self.shape}"
        )
    return _class_cost(
        jnp.asarray(source_features, jnp.float32),
        jax.nn.one_hot(source_labels, num_source_classes),
        jnp.asarray(features, jnp.float32),
        jax.nn.one_hot(labels, num_classes),
        source_self,
        jax.lax.stop_gradient(jnp.asarray(epsilon, jnp.float32)),
        threshold,
        max_iterations,
    )


def self_terms(
    features: Float[Array, "n d"],
    labels: Int[Array | np.ndarray, " n"],
    *,
    epsilon: ArrayLike,
    num_classes: int,
    extra: Float[Array, "n n"] | None = None,
    threshold: ArrayLike = 1e-3,
    max_iterations: int = 200,
) -> tuple[Float[Array, " k"], dict[str, Array]]:
    """Compute OT(z, z) of all classes, to be cached for points that never change.

    Args:
      features: One row per point.
      labels: As in `class_cost`.
      epsilon: As in `class_cost`.
      num_classes: As in `class_cost`.
      extra: Symmetric constants to add to the cost |.|^2 of pairs of points.
      threshold: As in `class_cost`.
      max_iterations: As in `class_cost`.

    Returns:
      The terms, 0 for a class without points, and diagnostics; see `class_cost`.
    """
    checks.finite_rows("features", features)
    checks.finite_rows("extra", extra)
    checks.positive("epsilon", epsilon)
    _check_labels("labels", labels, features, num_classes)
    epsilon = jax.lax.stop_gradient(jnp.asarray(epsilon, jnp.float32))
    members = jax.nn.one_hot(labels, num_classes)
    with jax.default_matmul_precision("float32"):
        points, _, _ = _centre(jnp.asarray(features, jnp.float32), members)
        terms, (error, iterations) = _self_ot(
            points, members, epsilon, threshold, max_iterations, extra
        )
    return terms, {
        "converged": error <= threshold,
        "iterations": iterations,
        "marginal_error": error,
        "epsilon": epsilon,
    }


def _check_labels(name, labels, points, num_classes):
    """Check the shape of labels and, if they are not traced, their range."""
    if labels.shape != points.shape[:1]:
        raise ValueError(f"{name} {labels.shape} do not fit {points.shape}")
    if isinstance(labels, jax.core.Tracer):
        return
    low, high = int(np.min(labels)), int(np.max(labels))
    if low < 0 or high >= num_classes:
        raise ValueError(f"{name} must be in 0..{num_classes - 1}, got {low}..{high}")


@functools.partial(jax.jit, static_argnames="max_iterations")
def _class_cost(x, members_x, y, members_y, own_x, epsilon, threshold, max_iterations):
    """Compute `class_cost` from one-hot labels, x the source."""
    with jax.default_matmul_precision("float32"):
        x, mean_x, has_x = _centre(x, members_x)
        y, mean_y, has_y = _centre(y, members_y)
        limits = epsilon, threshold, max_iterations
        cross, solve_cross = _cross_ot(x, members_x, y, members_y, *limits)
        own_y, solve_y = _self_ot(y, members_y, *limits)
        solves = [solve_cross, solve_y]
        if own_x is None:
            own_x, solve_x = _self_ot(x, members_x, *limits)
            solves.append(solve_x)
        else:
            own_x = jax.lax.stop_gradient(jnp.asarray(own_x, jnp.float32))
    between = jnp.sum((mean_x[:, None] - mean_y) ** 2, axis=-1)
    cost = between + cross - own_x[:, None] / 2 - own_y / 2
    errors, iterations = zip(*solves, strict=True)
    error = functools.reduce(jnp.maximum, errors)
    return distortion.fill_unknown(cost, has_x[:, None] & has_y), {
        "converged": error <= threshold,
        "iterations": functools.reduce(jnp.maximum, iterations),
        "marginal_error": error,
        "epsilon": epsilon,
    }


def _centre(points, members):
    """Subtract from each point the mean of its class."""
    count = jnp.sum(members, axis=0)
    means = members.T @ points / jnp.maximum(count, 1.0)[:, None]
    return points - members @ means, means, count > 0


def _squares(x, y):
    """Compute the costs |x_i - y_j|^2."""
    return 2 * ot.half_squared_cost(x, y)


def _own(potential, members):
    """Spread potentials per class `[m k]` to the points `[n]` of the classes: `[n m]`.

    A gather by class would do too; this one needs no label of a point of no class.
    """
    return members @ potential.T


def _means(values, members):
    """Average over the points of each class: `[n ...]` to `[k ...]`, 0 if empty."""
    count = jnp.maximum(jnp.sum(members, axis=0), 1.0)
    return members.T @ values / count.reshape(-1, *[1] * (values.ndim - 1))


def _softmin(shifted, members, epsilon):
    """Compute -epsilon log mean_{j in z'} exp(-shifted_ij / epsilon), 0 if z' is empty.

    Args:
      shifted: Costs minus the potential of the columns, `[n m]`.
      members: Classes of the columns, one-hot, `[m k]`.
      epsilon: Regularisation.

    Returns:
      The soft minimum over each class, `[n k]`.
    """
    count = jnp.sum(members, axis=0)
    is_empty = count == 0
    labels = jnp.where(jnp.any(members > 0, axis=1), jnp.argmax(members, axis=1), -1)
    low = jax.ops.segment_min(
        jax.lax.stop_gradient(shifted).T, labels, num_segments=len(count)
    ).T
    low = jnp.where(is_empty, 0.0, low)
    scaled = (low[:, labels] - shifted) / epsilon
    scaled = jnp.where(labels < 0, 0.0, scaled)
    share = jnp.exp(scaled) @ members / jnp.maximum(count, 1.0)
    return jnp.where(
        is_empty, 0.0, low - epsilon * jnp.log(jnp.where(is_empty, 1.0, share))
    )


def _sweeps(update, start, diameter, epsilon, threshold, max_iterations):
    """Repeat `update` with falling epsilon, then at the last one until it converged.

    Args:
      update: (state, epsilon) -> (state, marginal error).
      start: First state.
      diameter: The largest cost: the first epsilon.
      epsilon: The last epsilon.
      threshold: Error to stop at.
      max_iterations: Cap on the sweeps at the last epsilon.

    Returns:
      The state, and the last error and the number of sweeps.
    """
    fall = jnp.log(_FALL)
    ratio = jnp.maximum(diameter / epsilon, 1.0)
    num_falling = jnp.where(
        jnp.isfinite(ratio), jnp.ceil(jnp.log(ratio) / fall), 0.0
    ).astype(jnp.int32)

    def proceed(carry):
        _, error, step = carry
        is_added = (error > threshold) & (step < num_falling + max_iterations)
        return (step < num_falling) | is_added

    def body(carry):
        state, _, step = carry
        now = jnp.maximum(diameter * jnp.exp(-fall * step), epsilon)
        state, error = update(state, jnp.where(step < num_falling, now, epsilon))
        return state, error, step + 1

    carry = start, jnp.float32(jnp.inf), jnp.int32(0)
    state, error, steps = jax.lax.while_loop(proceed, body, carry)
    return state, (error, steps)


def _cross_ot(x, members_x, y, members_y, epsilon, threshold, max_iterations):
    """Compute OT(z, z') for all pairs of classes, `[ks kt]`."""
    cost = _squares(x, y)
    fixed = jax.lax.stop_gradient(cost)

    def to_x(g, cost, epsilon):
        return _softmin(cost - _own(g, members_x), members_y, epsilon)

    def update(g, epsilon):
        f = to_x(g, fixed, epsilon)
        new = _softmin(fixed.T - _own(f, members_y), members_x, epsilon)
        # The plan of (f, g) has the column sums b exp((g - new) / epsilon).
        error = jnp.max(_means(jnp.abs(jnp.expm1((g - new) / epsilon)), members_y))
        return new, error

    start = jnp.zeros((len(y), members_x.shape[1]))
    g, diagnostics = _sweeps(
        update, start, jnp.max(fixed), epsilon, threshold, max_iterations
    )
    # One more half sweep: the first marginal is then exact, and carries the gradient.
    f = to_x(g, cost, epsilon)
    return _means(f, members_x) + _means(g, members_y).T, diagnostics


@functools.partial(jax.jit, static_argnames="max_iterations")
def _self_ot(x, members, epsilon, threshold, max_iterations, extra=None):
    """Compute OT(z, z) for all classes, `[k]`, by g <- (g + T g) / 2."""
    cost = _squares(x, x)
    if extra is not None:
        cost = cost + jax.lax.stop_gradient(jnp.asarray(extra, jnp.float32))
    fixed = jax.lax.stop_gradient(cost)

    def step(g, cost, epsilon):
        return jnp.sum(members * _softmin(cost - g, members, epsilon), axis=1)

    def update(g, epsilon):
        new = step(g, fixed, epsilon)
        error = jnp.max(_means(jnp.abs(jnp.expm1((g - new) / epsilon)), members))
        return (g + new) / 2, error

    g, diagnostics = _sweeps(
        update, jnp.zeros(len(x)), jnp.max(fixed), epsilon, threshold, max_iterations
    )
    return _means(step(g, cost, epsilon) + g, members), diagnostics
