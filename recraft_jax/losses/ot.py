"""Optimal transport between feature clouds: the feature-alignment term and label plans.

Feature alignment (FA, Eq. 5) is a multiple of the 1-Wasserstein distance between source
and target features. Here it is the debiased entropic value of a Sinkhorn solve,

    S_eps(x, y) = OT_eps(x, y) - 1/2 OT_eps(x, x) - 1/2 OT_eps(y, y),
    OT_eps(x, y) = min_P <P, C> + eps KL(P || a b^T),   P 1 = a,   P^T 1 = b,

(Feydy et al., AISTATS 2019), which is 0 for equal clouds and tends to the exact cost as
eps goes to 0. `ott` solves the x-y problems; the x-x problems have one potential only
and use the averaged fixed point of the same paper, which needs a handful of sweeps.

Gradients follow from the envelope theorem: the potential g is a constant, and

    OT_eps = <a, T g> + <b, g>,   (T g)_i = -eps log sum_j b_j exp((g_j - C_ij) / eps)

is differentiated through the cost. Do not take second derivatives. Called eagerly, the
functions refuse points and weights that are not finite, and weights without mass.
Nothing here can raise inside `jit`: there they give a NaN value with `converged` False,
and the caller must look at both.

The file is long because it is the one door to `ott`: next to the public functions it
holds the costs and row blocks that `ott` lacks.
"""

import functools

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int
from ott.geometry import costs, geometry, pointcloud
from ott.problems.linear import linear_problem
from ott.solvers.linear import acceleration, sinkhorn

from recraft_jax.losses import checks

_DENSE_PAIRS = 2**24  # at most 64 MB of float32 per cost matrix, above: row blocks
_BLOCK_PAIRS = 2**21  # pairs per row block; smaller ones slow the columns down
_DIRECT_TERMS = 2**22  # n * m * d up to which differences are taken point by point
_ROUND_OFF = 2e-6  # squared distances below this share of |x|^2 + |y|^2 are rounding
_MEDIAN_POINTS = 512  # points per cloud that the default epsilon looks at
_CHECK_EVERY = 5  # x-y iterations between two error checks
_WARM_UP = 10  # plain x-y iterations before the over-relaxed ones
_MOMENTUM = 1.5  # over-relaxation of the potentials, between 1 (none) and 2
_RELATIVE_EPSILON = 0.005  # default epsilon over the median cost


def _in_float32(fn):
    """Keep the matrix products of `fn` in float32 on accelerators that would not."""

    @functools.wraps(fn)
    def wrapped(*args, **kwargs):
        with jax.default_matmul_precision("float32"):
            return fn(*args, **kwargs)

    return wrapped


@_in_float32
def wasserstein1(
    x: Float[Array, "n d"],
    y: Float[Array, "m d"],
    *,
    epsilon: ArrayLike | None = None,
    weights_x: Float[Array, " n"] | None = None,
    weights_y: Float[Array, " m"] | None = None,
    self_x: ArrayLike | None = None,
    self_y: ArrayLike | None = None,
    threshold: float = 1e-3,
    max_iterations: int = 2000,
) -> tuple[Float[Array, ""], dict[str, Array]]:
    """Estimate the 1-Wasserstein distance by a debiased Sinkhorn divergence.

    The cost is the Euclidean distance, so that FA (Eq. 5) is `omega * wasserstein1`.
    The entropic estimate lies below W1 of the two samples: by 0.5 to 2 % at the default
    epsilon, but by 10 to 25 % at ten times that, where the self terms, which grow like
    epsilon log n, no longer cancel.

    Args:
      x: One cloud, one row per point.
      y: The other cloud, in the same space.
      epsilon: Regularisation, in units of distance. None means 0.005 times the median
        x-y distance (the weighted lower median, over at most 512 points of positive
        weight per cloud), but at least 1e-4 times the mean distance, and 1 if all
        points coincide. No gradient flows through it.
      weights_x: Nonnegative weights of x, normalised here; uniform if None. Points of
        weight zero have no influence. The sum must be positive.
      weights_y: Likewise of y.
      self_x: `self_term(x, epsilon=epsilon)[0]`, computed once for a cloud that never
        changes. It is a constant: its gradient in x is then missing. Needs `epsilon`.
      self_y: Likewise of y.
      threshold: Largest l1 error of a marginal (of mass 1) that counts as converged.
      max_iterations: Cap on the iterations of each of the solves.

    Returns:
      The divergence, and a dict: `converged` (every solve), `iterations` and
      `marginal_error` (the worst solve), `epsilon`. Without convergence the value is
      still finite, but biased. The gradient at two points that coincide is zero. Above
      about 4 million coordinates per matrix, distances below a thousandth of the
      radius of the clouds are rounded to zero.
    """
    if epsilon is None and not (self_x is None and self_y is None):
        raise ValueError("self_x and self_y need an explicit epsilon, got None")
    checks.finite_rows("self_x", self_x)
    checks.finite_rows("self_y", self_y)
    x, y, a, b = _inputs(x, y, weights_x, weights_y)
    # Distances do not see the origin; near it they lose fewer digits.
    center = jax.lax.stop_gradient((a @ x + b @ y) / 2)
    x, y = x - center, y - center
    epsilon = _default_epsilon(x, y, a, b) if epsilon is None else _positive(epsilon)
    return _divergence(
        x, y, a, b, epsilon, 1, (self_x, self_y), threshold, max_iterations
    )


@_in_float32
def sinkhorn_divergence(
    x: Float[Array, "n d"],
    y: Float[Array, "m d"],
    *,
    epsilon: ArrayLike,
    weights_x: Float[Array, " n"] | None = None,
    weights_y: Float[Array, " m"] | None = None,
    self_x: ArrayLike | None = None,
    self_y: ArrayLike | None = None,
    threshold: float = 1e-3,
    max_iterations: int = 2000,
) -> tuple[Float[Array, ""], dict[str, Array]]:
    """Compute the debiased Sinkhorn divergence for the cost 1/2 |x - y|^2.

    It runs from 1/2 W2^2 (epsilon to 0) to half the squared distance of the means
    (epsilon to infinity), and is 1/2 |v|^2 for a translation by v at every epsilon. The
    means are split off, S(x, y) = 1/2 |mean x - mean y|^2 + S(centred x, centred y),
    which is exact and spares the solver the translation.

    Args:
      x: One cloud, one row per point.
      y: The other cloud, in the same space.
      epsilon: Regularisation, in units of squared distance. No gradient flows through.
      weights_x: As in `wasserstein1`.
      weights_y: As in `wasserstein1`.
      self_x: `self_term(x, epsilon=epsilon, power=2)[0]`; see `wasserstein1`.
      self_y: Likewise of y.
      threshold: As in `wasserstein1`.
      max_iterations: As in `wasserstein1`.

    Returns:
      The divergence and its diagnostics; see `wasserstein1`.
    """
    checks.finite_rows("self_x", self_x)
    checks.finite_rows("self_y", self_y)
    x, y, a, b = _inputs(x, y, weights_x, weights_y)
    mean_x, mean_y = a @ x, b @ y
    value, info = _divergence(
        x - mean_x,
        y - mean_y,
        a,
        b,
        _positive(epsilon),
        2,
        (self_x, self_y),
        threshold,
        max_iterations,
    )
    return value + jnp.sum((mean_x - mean_y) ** 2) / 2, info


@_in_float32
def self_term(
    x: Float[Array, "n d"],
    *,
    epsilon: ArrayLike,
    weights: Float[Array, " n"] | None = None,
    power: int = 1,
    threshold: float = 1e-3,
    max_iterations: int = 2000,
) -> tuple[Float[Array, ""], dict[str, Array]]:
    """Compute OT_eps(x, x), to be cached for a cloud that never changes.

    Args:
      x: The cloud, one row per point.
      epsilon: The epsilon of the divergences that will use the value.
      weights: As in `wasserstein1`.
      power: 1 for `wasserstein1`, 2 for `sinkhorn_divergence`.
      threshold: As in `wasserstein1`.
      max_iterations: As in `wasserstein1`.

    Returns:
      The value and its diagnostics; see `wasserstein1`.
    """
    if power not in (1, 2):
        raise ValueError(f"power must be 1 or 2, got {power!r}")
    checks.weights("weights", weights)
    x, _, a, _ = _inputs(x, x, weights, weights)
    epsilon = _positive(epsilon)
    x = x - jax.lax.stop_gradient(a @ x)
    value, (error, iterations) = _self_ot(
        x, a, epsilon, power, threshold, max_iterations
    )
    return value, _info([error], [iterations], error <= threshold, epsilon)


@_in_float32
def default_epsilon(x: Float[Array, "n d"], y: Float[Array, "m d"]) -> Float[Array, ""]:
    """Compute the epsilon that `wasserstein1` takes for None, with uniform weights.

    For a stream of batches against one cloud it is better constant: then the self term
    of that cloud is constant too.
    """
    return _default_epsilon(*_inputs(x, y, None, None))


@_in_float32
def transport_plan(
    cost: Float[Array, "n m"],
    a: Float[Array, " n"],
    b: Float[Array, " m"],
    *,
    epsilon: ArrayLike,
    threshold: float = 1e-5,
    max_iterations: int = 2000,
) -> tuple[Float[Array, "n m"], dict[str, Array]]:
    """Compute the entropic plan argmin <P, cost> - epsilon H(P), P 1 = a, P^T 1 = b.

    Solved in the log domain, then rounded onto the marginals (Altschuler et al.,
    NeurIPS 2017, Alg. 2), which hold to rounding even if the solver stopped early. The
    gradient in `cost`, `a` and `b` is that of the optimal plan (implicit function
    theorem, one dense solve of size m): meant for label-sized problems.

    Args:
      cost: Finite, or +inf for a pair that must stay empty.
      a: Nonnegative row sums. A zero gives a row of zeros.
      b: Nonnegative column sums, of the same total as a. A zero gives zeros.
      epsilon: Regularisation, in units of cost. No gradient flows through.
      threshold: Largest l1 error of a marginal, before rounding, to be converged.
      max_iterations: Cap on the Sinkhorn iterations.

    Returns:
      The plan, and a dict: `converged`, `iterations`, `marginal_error` (l1, before
      rounding), `epsilon`.
    """
    if cost.shape != (a.size, b.size):
        raise ValueError(
            f"cost {cost.shape} does not fit a {a.shape} and b {b.shape}: "
            "want [n m], [n], [m]"
        )
    checks.cost_rows("cost", cost)
    checks.weights("a", a)
    checks.weights("b", b)
    cost, a, b = (jnp.asarray(v, jnp.float32) for v in (cost, a, b))
    return _plan(cost, a, b, _positive(epsilon), threshold, max_iterations)


@_in_float32
def half_squared_cost(
    x: Float[Array, "n d"], y: Float[Array, "m d"]
) -> Float[Array, "n m"]:
    """Compute the cost 1/2 |x_i - y_j|^2 of all pairs, held densely.

    Exactly zero, with gradient zero, between equal points. Above about 4 million
    coordinates it is taken by a matrix product: keep the origin near the points.
    """
    checks.finite_rows("x", x)
    checks.finite_rows("y", y)
    return _PairCost.for_clouds(2, x, y).all_pairs(x, y)


def _inputs(x, y, weights_x, weights_y):
    """Check shapes and values, promote to float32, normalise the weights."""
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1] or not x.size * y.size:
        raise ValueError(
            f"x and y must be [n d] and [m d], not empty; got {x.shape} and {y.shape}"
        )
    checks.finite_rows("x", x)
    checks.finite_rows("y", y)

    def normalise(name, weights, points):
        if weights is None:
            return jnp.full(points.shape[0], 1 / points.shape[0], jnp.float32)
        if weights.shape != points.shape[:1]:
            raise ValueError(f"{name} {weights.shape} do not fit {points.shape}")
        checks.weights(name, weights)
        weights = jnp.asarray(weights, jnp.float32)
        return weights / jnp.sum(weights)

    x, y = jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.float32)
    a, b = normalise("weights_x", weights_x, x), normalise("weights_y", weights_y, y)
    return x, y, a, b


def _positive(epsilon: ArrayLike) -> Float[Array, ""]:
    """Check an epsilon (a traced one cannot be) and cut its gradient."""
    checks.positive("epsilon", epsilon)
    return jax.lax.stop_gradient(jnp.asarray(epsilon, jnp.float32))


def _info(errors, iterations, converged, epsilon) -> dict[str, Array]:
    """Collect the diagnostics of one or more solves."""
    return {
        "converged": converged,
        "iterations": functools.reduce(jnp.maximum, iterations),
        "marginal_error": functools.reduce(jnp.maximum, errors),
        "epsilon": epsilon,
    }


# Jitted so that calls outside `jit` compile their loops once per shape.
@functools.partial(jax.jit, static_argnames=("power", "max_iterations"))
def _divergence(x, y, a, b, epsilon, power, selves, threshold, max_iterations):
    """Compute S_eps from its three terms; see the module docstring."""
    value, diagnostics = _cross_ot(
        x, y, a, b, epsilon, power, threshold, max_iterations
    )
    solves = [diagnostics]
    for points, weights, cached in ((x, a, selves[0]), (y, b, selves[1])):
        if cached is None:
            term, diagnostics = _self_ot(
                points, weights, epsilon, power, threshold, max_iterations
            )
            solves.append(diagnostics)
        else:
            term = jax.lax.stop_gradient(jnp.asarray(cached, jnp.float32))
        value = value - term / 2
    errors, iterations = zip(*solves, strict=True)
    converged = jnp.max(jnp.stack(errors)) <= threshold
    return value, _info(errors, iterations, converged, epsilon)


def _cross_ot(x, y, a, b, epsilon, power, threshold, max_iterations):
    """Compute OT_eps(x, y), its marginal error and its iterations."""
    n, m = x.shape[0], y.shape[0]
    cost_fn = _PairCost.for_clouds(power, x, y)
    if n * m <= _DENSE_PAIRS:
        cost = cost_fn.all_pairs(x, y)
        geom = geometry.Geometry(cost_matrix=cost, epsilon=epsilon)
    else:
        cost = None
        geom = _BlockCloud(x, y, cost_fn=cost_fn, epsilon=epsilon)
    _, shifted, error, iterations = _solve(geom, a, b, threshold, max_iterations)
    log_b = jnp.log(jnp.where(b > 0, b, 1.0))
    g = jax.lax.stop_gradient(jnp.where(b > 0, shifted - epsilon * log_b, 0.0))
    g = jax.lax.stop_gradient(g - b @ g)  # a constant of order epsilon is left in it
    f = _softmin(g, b, x, y, cost, epsilon, cost_fn)
    return a @ f + b @ g, (error, iterations)


@functools.partial(jax.jit, static_argnames=("power", "max_iterations"))
def _self_ot(x, a, epsilon, power, threshold, max_iterations):
    """Compute OT_eps(x, x) by g <- (g + T g) / 2, its marginal error and iterations."""
    n = x.shape[0]
    cost_fn = _PairCost.for_clouds(power, x, x)
    cost = cost_fn.all_pairs(x, x) if n * n <= _DENSE_PAIRS else None
    fixed_x, fixed_a, fixed_cost = jax.lax.stop_gradient((x, a, cost))

    def proceed(state):
        _, error, step = state
        return (step < max_iterations) & (error > threshold)

    def body(state):
        g, _, step = state
        new = _softmin(g, fixed_a, fixed_x, fixed_x, fixed_cost, epsilon, cost_fn)
        # The row sums of the plan of (g, g) are a exp((g - T g) / epsilon).
        error = jnp.sum(fixed_a * jnp.abs(jnp.expm1((g - new) / epsilon)))
        return (g + new) / 2, error, step + 1

    start = jnp.zeros(n, jnp.float32), jnp.float32(jnp.inf), jnp.int32(0)
    g, error, iterations = jax.lax.while_loop(proceed, body, start)
    f = _softmin(g, a, x, x, cost, epsilon, cost_fn)
    return a @ (f + g), (error, iterations)


def _solve(
    geom: geometry.Geometry,
    a: Float[Array, " n"],
    b: Float[Array, " m"],
    threshold: ArrayLike,
    max_iterations: int,
) -> tuple[Float[Array, " n"], Float[Array, " m"], Float[Array, ""], Int[Array, ""]]:
    """Run log-domain Sinkhorn; no gradient flows through.

    A few plain iterations, then over-relaxed ones (about three times faster near the
    solution, but without a guarantee), then plain ones again from the better of the two
    results, which end after one check if the over-relaxed ones converged.

    Returns:
      Potentials with P = exp((f_i + g_j - C_ij) / epsilon), -inf at zero weights; the
      l1 error of the second marginal (the first is exact); the iterations.
    """
    geom, a, b = jax.lax.stop_gradient((geom, a, b))
    problem = linear_problem.LinearProblem(geom, a=a, b=b)

    def run(start, momentum, cap):
        solver = sinkhorn.Sinkhorn(
            threshold=threshold,
            inner_iterations=_CHECK_EVERY,
            max_iterations=cap,
            momentum=acceleration.Momentum(value=momentum),
        )
        out = solver(problem, init=start)
        potentials, errors = jax.lax.stop_gradient(((out.f, out.g), out.errors))
        num_checks = jnp.sum(errors != -1)
        steps = jnp.minimum(num_checks * _CHECK_EVERY, cap)
        return potentials, errors[num_checks - 1], steps

    half = -(-max_iterations // 2)
    plain, plain_error, warm_steps = run(None, 1.0, _WARM_UP)
    fast, fast_error, fast_steps = run(plain, _MOMENTUM, half)
    start = jax.tree.map(
        lambda new, old: jnp.where(fast_error < plain_error, new, old), fast, plain
    )
    (f, g), error, steps = run(start, 1.0, half)
    return f, g, error, warm_steps + fast_steps + steps


def _softmin(
    g: Float[Array, " m"],
    b: Float[Array, " m"],
    x: Float[Array, "n d"],
    y: Float[Array, "m d"],
    cost: Float[Array, "n m"] | None,
    epsilon: Float[Array, ""],
    cost_fn: "_PairCost",
) -> Float[Array, " n"]:
    """Compute T g of the module docstring, without `cost` by row blocks."""

    def softmin(cost_rows):
        gap = jnp.where(b > 0, g - cost_rows, -jnp.inf)
        top = jax.lax.stop_gradient(jnp.max(gap, axis=-1, keepdims=True))
        scaled = (gap - top) / epsilon
        # For large epsilon the sum is nearly 1, and its rounding matters.
        below_one = jnp.expm1(scaled) @ b
        is_near = below_one > -0.5
        log_sum = jnp.where(
            is_near,
            jnp.log1p(jnp.where(is_near, below_one, 0.0)),
            jnp.log(jnp.exp(scaled) @ b),
        )
        return -top[..., 0] - epsilon * log_sum

    return _map_rows(softmin, x, y, cost, cost_fn)


def _map_rows(fn, x, y, cost, cost_fn):
    """Apply `fn` to the rows of the cost, kept or made block by block."""
    if cost is not None:
        return fn(cost)
    # Checkpointed: the backward pass would otherwise keep every block.
    point_fn = jax.checkpoint(lambda point: fn(cost_fn.all_pairs(point[None], y)[0]))
    return jax.lax.map(point_fn, x, batch_size=max(1, _BLOCK_PAIRS // y.shape[0]))


@jax.tree_util.register_pytree_node_class
class _PairCost(costs.CostFn):
    """Euclidean distance (power 1) or half its square (power 2).

    Unlike the costs of `ott` it takes all pairs by one matrix product, unless `direct`,
    and is exactly zero, with gradient zero, between equal points either way.
    """

    def __init__(self, power: int, direct: bool):
        super().__init__()
        self.power, self.direct = power, direct

    @classmethod
    def for_clouds(cls, power: int, x: Array, y: Array) -> "_PairCost":
        """Take differences point by point, which is exact, while that is cheap."""
        return cls(power, x.size * y.shape[0] <= _DIRECT_TERMS)

    def __call__(self, x, y):
        return self.all_pairs(x[None], y[None])[0, 0]

    def all_pairs(self, x, y):
        """Compute the costs `[n, m]` of `[n, d]` against `[m, d]`."""
        if self.direct:
            square = jnp.sum((x[:, None] - y) ** 2, axis=-1)
        else:
            norms = jnp.sum(x**2, axis=-1)[:, None] + jnp.sum(y**2, axis=-1)
            square = norms - 2 * x @ y.T
            # `not <` keeps a NaN.
            square = jnp.where(square < _ROUND_OFF * norms, 0.0, square)
        if self.power == 2:
            return square / 2
        safe = jnp.where(square == 0, 1.0, square)
        return jnp.where(square == 0, 0.0, jnp.sqrt(safe))

    def tree_flatten(self):
        """Flatten to no arrays: both fields are static."""
        return (), (self.power, self.direct)

    @classmethod
    def tree_unflatten(cls, aux_data, children):
        """Invert `tree_flatten`."""
        del children
        return cls(*aux_data)


@jax.tree_util.register_pytree_node_class
class _BlockCloud(pointcloud.PointCloud):
    """A point cloud that never holds its cost matrix.

    Stands for `batch_size` in `ott` 0.6, which uses a function that jax 0.10 removed.
    """

    def apply_lse_kernel(self, f, g, eps, vec=None, axis=0):
        """Compute eps logsumexp((f - C) / eps) per column, or with g per row."""
        if vec is not None:
            raise ValueError("a weighted kernel is not supported")
        potential, x, y = (f, self.y, self.x) if axis == 0 else (g, self.x, self.y)

        def lse(cost_rows):
            return eps * jax.nn.logsumexp((potential - cost_rows) / eps, axis=-1)

        out = _map_rows(lse, x, y, None, self.cost_fn)
        return out, jnp.ones_like(out)


@jax.jit
def _default_epsilon(x, y, a, b) -> Float[Array, ""]:
    """Compute the default epsilon; see `wasserstein1` for the edges."""
    x, y, a, b = jax.lax.stop_gradient((x, y, a, b))
    (x, a), (y, b) = _some_points(x, a), _some_points(y, b)
    cost = _PairCost.for_clouds(1, x, y).all_pairs(x, y)
    mass = a[:, None] * b
    total = jnp.sum(mass)

    def halve(_, bounds):
        low, high = bounds
        middle = (low + high) / 2
        is_high = a @ (cost <= middle).astype(jnp.float32) @ b >= total / 2
        return jnp.where(is_high, low, middle), jnp.where(is_high, middle, high)

    # Bisection: sorting all pairs would cost more than the transport problem.
    top = jnp.max(jnp.where(mass > 0, cost, 0.0))
    _, median = jax.lax.fori_loop(0, 24, halve, (jnp.zeros_like(top), top))
    mean = jnp.sum(mass * cost) / total
    return jnp.where(
        mean == 0, 1.0, jnp.maximum(_RELATIVE_EPSILON * median, 1e-4 * mean)
    )


def _some_points(x, a):
    """Pick evenly at most `_MEDIAN_POINTS` points of positive weight."""
    if x.shape[0] <= _MEDIAN_POINTS:
        return x, a
    order = jnp.argsort(a <= 0, stable=True)
    picks = jnp.arange(_MEDIAN_POINTS) * jnp.sum(a > 0) // _MEDIAN_POINTS
    return x[order[picks]], a[order[picks]]


@functools.partial(jax.jit, static_argnames="max_iterations")
def _plan(cost, a, b, epsilon, threshold, max_iterations):
    """Solve, attach the implicit gradient, round; see `transport_plan`."""
    finite = jnp.where(jnp.isposinf(cost), -jnp.inf, cost)
    cost = jnp.where(jnp.isposinf(cost), jnp.max(finite) + 100 * epsilon, cost)
    geom = geometry.Geometry(cost_matrix=cost, epsilon=epsilon)
    f, g, error, iterations = _solve(geom, a, b, threshold, max_iterations)
    f, g = jnp.where(a > 0, f, 0.0), jnp.where(b > 0, g, 0.0)
    present = (a > 0)[:, None] & (b > 0)

    def from_potentials(f, g):
        exponent = jnp.where(present, f[:, None] + g - cost, -jnp.inf)
        return jnp.exp(exponent / epsilon)

    df, dg = _implicit_step(from_potentials(f, g), a, b, epsilon)
    plan = from_potentials(f + df, g + dg)
    plan = plan + jax.lax.stop_gradient(_round_to_marginals(plan, a, b) - plan)
    return plan, _info([error], [iterations], error <= threshold, epsilon)


def _implicit_step(plan, a, b, epsilon):
    """Compute a zero step of the potentials that has the gradient of the solution.

    The potentials (f, g) solve F = (P 1 - a, P^T 1 - b) = 0, whose Jacobian is H =
    [diag(a), P; P^T, diag(b)] / epsilon. Then -H^+ F, minus its own value, is zero and
    has the derivative that the implicit function theorem gives.
    """
    fixed = jax.lax.stop_gradient(plan)
    row, column = jnp.sum(fixed, axis=1), jnp.sum(fixed, axis=0)
    inverse_row = jnp.where(row > 0, 1 / jnp.where(row > 0, row, 1.0), 0.0)
    # Eliminate f. The ones fill the null space (potentials shifted against each other),
    # empty columns get a unit pivot, the ridge keeps nearly split plans solvable.
    schur = jnp.diag(column) - (fixed * inverse_row[:, None]).T @ fixed
    scale = jnp.max(column)
    pivot = jnp.where(column > 0, 1e-6 * column, scale)
    full = schur + jnp.diag(pivot) + jnp.outer(column, column) / scale
    row_gap, column_gap = jnp.sum(plan, axis=1) - a, jnp.sum(plan, axis=0) - b
    dg = -jnp.linalg.solve(full, column_gap - fixed.T @ (inverse_row * row_gap))
    df = -inverse_row * (row_gap + fixed @ dg)
    step = epsilon * df, epsilon * dg
    return jax.tree.map(lambda v: v - jax.lax.stop_gradient(v), step)


def _round_to_marginals(plan, a, b):
    """Scale a plan below its marginals, then spread the missing mass."""

    def shrink(goal, mass):
        return jnp.minimum(1.0, goal / jnp.where(mass > 0, mass, 1.0))

    plan = plan * shrink(a, jnp.sum(plan, axis=1))[:, None]
    plan = plan * shrink(b, jnp.sum(plan, axis=0))
    row_gap, column_gap = a - jnp.sum(plan, axis=1), b - jnp.sum(plan, axis=0)
    missing = jnp.sum(row_gap)
    spread = row_gap[:, None] * column_gap / jnp.where(missing > 0, missing, 1.0)
    return plan + jnp.where(missing > 0, spread, 0.0)
