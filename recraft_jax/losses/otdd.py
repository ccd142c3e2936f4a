"""Optimal transport dataset distance: feature alignment of the ORCA baseline.

Long, because it holds the released code's own Sinkhorn schedule beside the distance.

OTDD (Alvarez-Melis and Fusi, NeurIPS 2020) compares labelled clouds with the cost

    d((u, z), (u', z')) = 1/2 |u - u'|^2 + 1/2 D(z, z'),

where D is the debiased Sinkhorn divergence, for the cost |.|^2 (not halved), between
the points of class z and those of class z'. With one label on both sides D is one
constant, added to every x-y pair and to no other: the value is then S + D / 2 for the
divergence S of the features, |v|^2 for a translation by v, and the gradient that of S.

The released code solves every problem, inner and outer, as GeomLoss does (Feydy et al.,
AISTATS 2019): epsilon falls from the squared diameter to its last value by the factor
`_SCALING`^2 a sweep, one averaged sweep each, blur = sqrt(epsilon). That is too short
to converge, and its values lie a few percent below the exact ones. It is the default
here, because published numbers and learning rates belong to it; with a `threshold` the
same sweeps go on to convergence.

Gradients follow from the envelope theorem, as in `ot`. The distances between labels are
constants; `label_ot` has them with a gradient. Do not take second derivatives. All
matrices are held densely. Points that are not finite are refused as in `ot`.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from recraft_jax.losses import checks, ot

_SCALING = 0.5  # of the blur from sweep to sweep, GeomLoss's default
_BLOCK_PAIRS = 2**22  # pairs of points, over the pairs of classes solved together


def otdd(
    x: Float[Array, "n d"],
    x_labels: Int[Array | np.ndarray, " n"],
    y: Float[Array, "m d"],
    y_labels: Int[Array | np.ndarray, " m"],
    *,
    epsilon: ArrayLike = 0.1,
    num_classes_x: int | None = None,
    num_classes_y: int | None = None,
    distances: dict[str, Array] | None = None,
    threshold: ArrayLike | None = None,
    max_iterations: int = 2000,
) -> tuple[Float[Array, ""], dict[str, Array]]:
    """Compute the debiased Sinkhorn divergence for the label-aware cost.

    As in `ot.sinkhorn_divergence` the means are split off, which is exact.

    Args:
      x: One cloud, one row per point.
      x_labels: Its classes, from 0. They are a name space of their own: class 0 of x
        and class 0 of y are as near as their points.
      y: The other cloud, in the same space.
      y_labels: Its classes.
      epsilon: Regularisation of the inner and of the outer problems, in units of
        squared distance: the square of GeomLoss's blur.
      num_classes_x: Number of classes of x, at least the largest label plus 1, which is
        the default; labels traced by `jit` have no default. A class may be empty.
      num_classes_y: Likewise of y.
      distances: Some or all of the matrices of `label_distances`, for labels that do
        not change; the missing ones are computed.
      threshold: None for the released number of sweeps. Otherwise sweeps at the last
        epsilon are added until the l1 errors of all marginals are at most this.
      max_iterations: Cap on the added sweeps, of each problem.

    Returns:
      The distance, and a dict: `converged` (every solve), `iterations` and
      `marginal_error` (l1, of the worst solve), `epsilon`. Without a threshold
      `converged` only says that all values are finite; the error, often several tenths
      then, is reported all the same.
    """
    x, y = _points(x, y)
    known = dict(distances or {})
    if not known.keys() <= {"xy", "xx", "yy"}:
        raise ValueError(f"distances must be of xy, xx, yy; got {sorted(known)}")
    for name, matrix in known.items():
        checks.finite_rows(f"distances[{name!r}]", matrix)
    sizes = (
        _num_classes(x_labels, x, num_classes_x, "x"),
        _num_classes(y_labels, y, num_classes_y, "y"),
    )
    missing = [name for name in ("xy", "xx", "yy") if name not in known]
    solver = _positive(epsilon), _limit(threshold), max_iterations
    found, inner = _label_distances(x, x_labels, y, y_labels, sizes, missing, solver)
    known |= found
    for name, matrix in known.items():
        want = tuple(sizes["xy".index(letter)] for letter in name)
        if matrix.shape != want:
            raise ValueError(f"distances[{name!r}] {matrix.shape} must be {want}")
    labels = {"x": jnp.asarray(x_labels), "y": jnp.asarray(y_labels)}
    halves = {
        name: jax.lax.stop_gradient(matrix)[labels[name[0]][:, None], labels[name[1]]]
        / 2
        for name, matrix in known.items()
    }
    mean_x, mean_y = jnp.mean(x, axis=0), jnp.mean(y, axis=0)
    a, b = (jnp.full(len(points), 1 / len(points), jnp.float32) for points in (x, y))
    value, info = _annealed(
        x - mean_x,
        y - mean_y,
        a,
        b,
        halves,
        _diameter(x, y, a, b),
        *solver,
    )
    value = value + jnp.sum((mean_x - mean_y) ** 2) / 2
    return value, info | {
        "converged": info["converged"] & inner["converged"],
        "iterations": jnp.maximum(info["iterations"], inner["iterations"]),
        "marginal_error": jnp.maximum(info["marginal_error"], inner["marginal_error"]),
    }


def label_distances(
    x: Float[Array, "n d"],
    x_labels: Int[Array | np.ndarray, " n"],
    y: Float[Array, "m d"],
    y_labels: Int[Array | np.ndarray, " m"],
    *,
    epsilon: ArrayLike = 0.1,
    num_classes_x: int | None = None,
    num_classes_y: int | None = None,
    threshold: ArrayLike | None = None,
    max_iterations: int = 2000,
) -> tuple[dict[str, Array], dict[str, Array]]:
    """Compute the divergences D between classes, for the cost |u - u'|^2.

    Labels whose values are known while tracing (NumPy arrays, or closed over by the
    function that `jit` compiles) cost about n m pairs of points a sweep; with traced
    ones every class is padded to all points, so that it is n m pairs per class pair.

    Args:
      x: As in `otdd`.
      x_labels: As in `otdd`.
      y: As in `otdd`.
      y_labels: As in `otdd`.
      epsilon: As in `otdd`.
      num_classes_x: As in `otdd`.
      num_classes_y: As in `otdd`.
      threshold: As in `otdd`.
      max_iterations: As in `otdd`.

    Returns:
      A dict of `xy` [num_classes_x num_classes_y], and `xx` and `yy`, symmetric with a
      zero diagonal, and the diagnostics without `epsilon`; see `otdd`. An empty class
      has distance 0 to all, which no pair of points uses. No gradient flows through.
    """
    x, y = _points(x, y)
    sizes = (
        _num_classes(x_labels, x, num_classes_x, "x"),
        _num_classes(y_labels, y, num_classes_y, "y"),
    )
    names = "xy", "xx", "yy"
    solver = _positive(epsilon), _limit(threshold), max_iterations
    return _label_distances(x, x_labels, y, y_labels, sizes, names, solver)


def _points(x, y):
    """Check shapes and values and promote to float32."""
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1] or not x.size * y.size:
        raise ValueError(
            f"x and y must be [n d] and [m d], not empty; got {x.shape} and {y.shape}"
        )
    checks.finite_rows("x", x)
    checks.finite_rows("y", y)
    return jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.float32)


def _positive(epsilon):
    """Check an epsilon (a traced one cannot be) and cut its gradient."""
    checks.positive("epsilon", epsilon)
    return jax.lax.stop_gradient(jnp.asarray(epsilon, jnp.float32))


def _limit(threshold):
    """Turn the absence of a threshold into one that the first sweeps meet."""
    return jnp.float32(jnp.inf if threshold is None else threshold)


def _num_classes(labels, points, num_classes, name) -> int:
    """Check labels, and count their classes if no number is given."""
    if labels.shape != points.shape[:1]:
        raise ValueError(f"{name}_labels {labels.shape} do not fit {points.shape}")
    if isinstance(labels, jax.core.Tracer):
        if num_classes is None:
            raise ValueError(f"num_classes_{name} is needed: {name}_labels are traced")
        return num_classes
    low, high = int(np.min(labels)), int(np.max(labels))
    if num_classes is None:
        num_classes = high + 1
    if low < 0 or high >= num_classes:
        raise ValueError(
            f"{name}_labels must be in 0..{num_classes - 1}, got {low}..{high}"
        )
    return num_classes


def _label_distances(x, x_labels, y, y_labels, sizes, names, solver):
    """Compute the matrices of the given names; see `label_distances`."""
    x, y = jax.lax.stop_gradient((x, y))
    center = (jnp.mean(x, axis=0) + jnp.mean(y, axis=0)) / 2
    counts = dict(zip("xy", sizes, strict=True))
    pairs = {}
    for name in names:
        shape = counts[name[0]], counts[name[1]]
        is_self = name[0] == name[1]
        grid = np.triu_indices(shape[0], 1) if is_self else np.indices(shape)
        pairs[name] = np.reshape(grid, (2, -1))
    found = {name: jnp.zeros((counts[name[0]], counts[name[1]])) for name in names}
    if not any(pair.size for pair in pairs.values()):
        zero = {"iterations": jnp.int32(0), "marginal_error": jnp.float32(0)}
        return found, {"converged": jnp.array(True)} | zero

    # The classes of y follow those of x, and one call solves all pairs.
    size = max(_class_size(x_labels), _class_size(y_labels))
    classes = jax.tree.map(
        lambda *sides: jnp.concatenate(sides),
        _by_class(x - center, x_labels, sizes[0], size),
        _by_class(y - center, y_labels, sizes[1], size),
    )
    offset = {"x": 0, "y": sizes[0]}
    first, second = np.concatenate(
        [pairs[n] + [[offset[n[0]]], [offset[n[1]]]] for n in names], axis=1
    )
    values, info = _between_classes(
        classes, jnp.asarray(first), jnp.asarray(second), *solver
    )
    ends = np.cumsum([pairs[name].shape[1] for name in names])
    for name, part in zip(names, jnp.split(values, ends[:-1]), strict=True):
        matrix = found[name].at[tuple(pairs[name])].set(part)
        found[name] = matrix + matrix.T if name[0] == name[1] else matrix
    error = jnp.max(info["marginal_error"])
    return found, {
        "converged": jnp.isfinite(error) & (error <= solver[1]),
        "iterations": jnp.max(info["iterations"]),
        "marginal_error": error,
    }


def _class_size(labels) -> int:
    """Count the points of the largest class; all points if labels are traced."""
    if isinstance(labels, jax.core.Tracer):
        return len(labels)
    return int(np.bincount(np.asarray(labels)).max())


def _by_class(
    points: Float[Array, "n d"],
    labels: Int[Array | np.ndarray, " n"],
    num_classes: int,
    size: int,
) -> tuple[Float[Array, "k s d"], Float[Array, "k s"]]:
    """Sort points into classes of one padded size; padding has weight zero."""
    labels = jnp.asarray(labels)
    count = jnp.sum(labels[:, None] == jnp.arange(num_classes), axis=0)
    slot = jnp.arange(size)
    index = (jnp.cumsum(count) - count)[:, None] + slot
    order = jnp.argsort(labels, stable=True)
    grouped = points[order[jnp.minimum(index, len(points) - 1)]]
    weights = (slot < count[:, None]) / jnp.maximum(count, 1)[:, None]
    return grouped, weights.astype(jnp.float32)


@functools.partial(jax.jit, static_argnames="max_iterations")
def _between_classes(classes, first, second, epsilon, threshold, max_iterations):
    """Compute the divergences of the classes `first` to the classes `second`."""

    def between(pair):
        (u, a), (v, b) = (jax.tree.map(lambda v, k=k: v[k], classes) for k in pair)
        is_empty = (jnp.sum(a) == 0) | (jnp.sum(b) == 0)
        # An empty class stands for its first, foreign, point: anything finite will do.
        a, b = (jnp.where(jnp.sum(w) > 0, w, jnp.eye(1, len(w))[0]) for w in (a, b))
        mean_u, mean_v = (
            jnp.sum(w[:, None] * points, axis=0) for points, w in ((u, a), (v, b))
        )
        # |.|^2 at epsilon is twice 1/2 |.|^2 at epsilon / 2.
        value, info = _annealed(
            u - mean_u,
            v - mean_v,
            a,
            b,
            {},
            _diameter(u, v, a, b) / jnp.sqrt(2.0),
            epsilon / 2,
            threshold,
            max_iterations,
        )
        value = 2 * value + jnp.sum((mean_u - mean_v) ** 2)
        error = jnp.where(is_empty, 0.0, info["marginal_error"])
        return jnp.where(is_empty, 0.0, value), info | {"marginal_error": error}

    size = classes[1].shape[1]
    batch_size = max(1, min(len(first), _BLOCK_PAIRS // size**2))
    return jax.lax.map(between, (first, second), batch_size=batch_size)


def _diameter(x, y, a, b) -> Float[Array, ""]:
    """Compute the diagonal of the box around the points of positive weight."""
    points = jax.lax.stop_gradient(jnp.concatenate([x, y]))
    is_kept = (jnp.concatenate([a, b]) > 0)[:, None]
    high = jnp.max(jnp.where(is_kept, points, -jnp.inf), axis=0)
    low = jnp.min(jnp.where(is_kept, points, jnp.inf), axis=0)
    return jnp.linalg.norm(high - low)


@functools.partial(jax.jit, static_argnames="max_iterations")
def _annealed(x, y, a, b, extra, diameter, epsilon, threshold, max_iterations):
    """Compute the divergence for 1/2 |.|^2 plus constants by averaged sweeps.

    Args:
      x: One cloud.
      y: The other cloud.
      a: Weights of x, of sum 1.
      b: Weights of y, of sum 1.
      extra: Constants to add to the costs `xy`, `xx`, `yy`; zero if left out.
      diameter: Square root of the first epsilon.
      epsilon: The last epsilon.
      threshold: Largest marginal error to stop at; infinity for no added sweep.
      max_iterations: Cap on the added sweeps.

    Returns:
      The divergence and its diagnostics; see `otdd`.
    """
    fixed_x, fixed_y = jax.lax.stop_gradient((x, y))

    def cost(points, others, name):
        return ot.half_squared_cost(points, others) + extra.get(name, 0.0)

    log_a, log_b = (jnp.where(w > 0, jnp.log(w), -jnp.inf) for w in (a, b))

    def softmin(epsilon, costs, potentials):
        """One half sweep for each of x-y, y-x, x-x, y-y."""
        f, g, own_f, own_g = potentials
        inputs = ((log_b, g), (log_a, f), (log_a, own_f), (log_b, own_g))
        return tuple(
            -epsilon * jax.nn.logsumexp(log_w + (h - c) / epsilon, axis=1)
            for c, (log_w, h) in zip(costs, inputs, strict=True)
        )

    def marginal_error(epsilon, old, new):
        """Row sums of the plan of `old` are weight exp((old - new) / epsilon)."""
        errors = [
            jnp.sum(jnp.where(w > 0, w * jnp.abs(jnp.expm1((u - v) / epsilon)), 0.0))
            for w, u, v in zip((a, b, a, b), old, new, strict=True)
        ]
        return jnp.max(jnp.stack(errors))

    xy = cost(fixed_x, fixed_y, "xy")
    constants = xy, xy.T, cost(fixed_x, fixed_x, "xx"), cost(fixed_y, fixed_y, "yy")
    fall = 2 * jnp.log(_SCALING)
    num_sweeps = 2 + jnp.ceil(jnp.maximum(jnp.log(epsilon / diameter**2) / fall, 0.0))
    num_sweeps = jnp.where(jnp.isfinite(num_sweeps), num_sweeps, 2.0)

    def epsilon_at(step):
        start = jnp.where(jnp.isfinite(diameter), diameter**2, epsilon)
        return jnp.maximum(start * jnp.exp(fall * jnp.maximum(step - 1, 0)), epsilon)

    def proceed(state):
        _, error, step = state
        is_added = (error > threshold) & (step < num_sweeps + max_iterations)
        return (step < num_sweeps) | is_added

    def body(state):
        old, _, step = state
        now = epsilon_at(step)
        new = softmin(now, constants, old)
        error = marginal_error(now, old, new)
        return (
            tuple((u + v) / 2 for u, v in zip(old, new, strict=True)),
            error,
            step + 1,
        )

    zeros = tuple(jnp.zeros(len(w), jnp.float32) for w in (a, b, a, b))
    start = softmin(epsilon_at(jnp.int32(0)), constants, zeros)
    potentials, _, steps = jax.lax.while_loop(
        proceed, body, (start, jnp.float32(jnp.inf), jnp.int32(0))
    )
    # The gradient in x comes from f and own_f alone, that in y from g and own_g.
    costs = (
        cost(x, fixed_y, "xy"),
        cost(fixed_x, y, "xy").T,
        cost(x, fixed_x, "xx"),
        cost(y, fixed_y, "yy"),
    )
    last = softmin(epsilon, costs, potentials)
    error = marginal_error(epsilon, potentials, jax.lax.stop_gradient(last))
    f, g, own_f, own_g = last
    value = jnp.sum(a * (f - own_f)) + jnp.sum(b * (g - own_g))
    info = {
        "converged": jnp.isfinite(value) & (error <= threshold),
        "iterations": steps,
        "marginal_error": error,
        "epsilon": epsilon,
    }
    return value, info
