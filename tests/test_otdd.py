"""The label-aware distance against released values, closed forms and differences."""

import functools
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from recraft_jax.losses import ot, otdd

GOLDEN = pathlib.Path(__file__).parent / "golden"
SHAPE_ERRORS = ValueError, TypeError  # the second from jaxtyping, when it checks
WANT = json.loads((GOLDEN / "losses.json").read_text())
SHIFT = np.array([1.0, -2.0, 0.0, 0.5], np.float32)
LABELS_X = np.arange(24) % 3
LABELS_Y = np.arange(20) % 2


def clouds(seed=0):
    """Draw two clouds whose classes lie apart."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(24, 4)) + 2 * np.eye(4)[LABELS_X]
    y = 1.3 * rng.normal(size=(20, 4)) - 2 * np.eye(4)[LABELS_Y] + 0.5
    return jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.float32)


def golden():
    data = np.load(GOLDEN / "losses.npz")
    names = "X", "x_labels", "Y", "y_labels"
    x, x_labels, y, y_labels = (data[name] for name in names)
    return jnp.asarray(x), x_labels, jnp.asarray(y), y_labels


def entropic(cost, epsilon):
    """Plain Sinkhorn in float64, uniform weights."""
    n, m = cost.shape
    g = np.zeros(m)
    for _ in range(400):
        f = -epsilon * special.logsumexp((g - cost) / epsilon - np.log(m), axis=1)
        g = -epsilon * special.logsumexp((f - cost.T) / epsilon - np.log(n), axis=1)
    return f.mean() + g.mean()


def debiased(xy, xx, yy, epsilon):
    return entropic(xy, epsilon) - entropic(xx, epsilon) / 2 - entropic(yy, epsilon) / 2


def squares(x, y):
    return np.sum((np.asarray(x, float)[:, None] - np.asarray(y, float)) ** 2, axis=-1)


def square_divergence(x, y, epsilon):
    return debiased(squares(x, y), squares(x, x), squares(y, y), epsilon)


class TestGolden:
    def test_labels(self):
        value, info = otdd.otdd(*golden())
        np.testing.assert_allclose(value, WANT["otdd_labels"], rtol=3e-3)
        assert info["converged"] and info["iterations"] < 20

    def test_single_label(self):
        x, x_labels, y, y_labels = golden()
        value, _ = otdd.otdd(x, 0 * x_labels, y, 0 * y_labels)
        np.testing.assert_allclose(value, WANT["otdd_single_label"], rtol=1e-4)


class TestClosedForms:
    @pytest.mark.parametrize("threshold", [None, 1e-4])
    @pytest.mark.parametrize("offset", [0.0, 300.0])
    def test_translation_is_the_full_square(self, threshold, offset):
        x, _ = clouds()
        x = x + offset
        one = 0 * LABELS_X

        def loss(v):
            return otdd.otdd(x, one, x + v, one, threshold=threshold)

        (value, info), grad = jax.value_and_grad(loss, has_aux=True)(jnp.array(SHIFT))
        np.testing.assert_allclose(value, np.sum(SHIFT**2), rtol=1e-3)
        np.testing.assert_allclose(grad, SHIFT, atol=1e-3)
        assert info["converged"]

    def test_translation_of_labelled_clouds(self):
        """Each class has |v|^2 to its image and more to others: below |v|^2."""
        x, _ = clouds()
        args = x, LABELS_X, x + SHIFT, LABELS_X
        limits = {"epsilon": 0.5, "threshold": 1e-3}
        distances, info = otdd.label_distances(*args, **limits)
        square = np.sum(SHIFT**2)
        np.testing.assert_allclose(jnp.diag(distances["xy"]), square, rtol=1e-4)
        np.testing.assert_allclose(distances["xx"], distances["yy"], atol=1e-3)
        assert info["converged"]
        value, _ = otdd.otdd(*args, **limits)
        assert 0.5 * square < value <= square * 1.001

    def test_single_label_is_plain_divergence_plus_half_a_constant(self):
        x, y = clouds()
        one, two = 0 * LABELS_X, 0 * LABELS_Y
        limits = {"epsilon": 0.5, "threshold": 1e-4}
        value, info = otdd.otdd(x, one, y, two, **limits)
        plain, _ = ot.sinkhorn_divergence(x, y, **limits)
        want = plain + square_divergence(x, y, 0.5) / 2
        np.testing.assert_allclose(value, want, rtol=1e-3)
        assert info["converged"] and info["marginal_error"] <= 1e-4

    def test_against_explicit_costs(self):
        x, y = clouds()
        limits = {"epsilon": 0.5, "threshold": 1e-4}
        sides = {"x": (x, LABELS_X), "y": (y, LABELS_Y)}
        got, _ = otdd.label_distances(x, LABELS_X, y, LABELS_Y, **limits)
        costs = {}
        for name in ("xy", "xx", "yy"):
            (u, first), (v, second) = sides[name[0]], sides[name[1]]
            want = np.array(
                [
                    [
                        square_divergence(u[first == k], v[second == l], 0.5)
                        for l in range(second.max() + 1)
                    ]
                    for k in range(first.max() + 1)
                ]
            )
            np.testing.assert_allclose(got[name], want, rtol=1e-3, atol=1e-3)
            costs[name] = squares(u, v) / 2 + want[np.ix_(first, second)] / 2
        value, _ = otdd.otdd(x, LABELS_X, y, LABELS_Y, **limits)
        want = debiased(costs["xy"], costs["xx"], costs["yy"], 0.5)
        np.testing.assert_allclose(value, want, rtol=1e-3)

    def test_symmetric_permutable_and_zero_at_equality(self):
        x, y = clouds()
        value, _ = otdd.otdd(x, LABELS_X, y, LABELS_Y)
        swapped, _ = otdd.otdd(y, LABELS_Y, x, LABELS_X)
        order = np.random.default_rng(0).permutation(len(x))
        shuffled, _ = otdd.otdd(x[order], LABELS_X[order], y, LABELS_Y)
        renamed, _ = otdd.otdd(x, 2 - LABELS_X, y, 1 - LABELS_Y)
        np.testing.assert_allclose([swapped, shuffled, renamed], value, rtol=1e-4)
        same, _ = otdd.otdd(x, LABELS_X, x[order], LABELS_X[order])
        np.testing.assert_allclose(same, 0, atol=1e-3)
        crossed, _ = otdd.otdd(x, LABELS_X, x, np.sort(LABELS_X))
        assert crossed > 0.1


class TestGradients:
    @pytest.mark.parametrize("argument", [0, 1])
    def test_points(self, argument):
        points = list(clouds(2))
        distances, _ = otdd.label_distances(
            points[0], LABELS_X, points[1], LABELS_Y, threshold=1e-4
        )

        @jax.jit
        def loss(z):
            points[argument] = z
            x, y = points
            labels = {"distances": distances, "threshold": 1e-4}
            return otdd.otdd(x, LABELS_X, y, LABELS_Y, epsilon=0.3, **labels)[0]

        z, size = points[argument], 1e-2
        grad = jax.grad(loss)(z)
        scale = float(jnp.linalg.norm(grad))
        for seed in range(3):
            step = np.random.default_rng(seed).normal(size=z.shape)
            step = jnp.asarray(step / np.linalg.norm(step), jnp.float32)
            want = (loss(z + size * step) - loss(z - size * step)) / (2 * size)
            np.testing.assert_allclose(
                jnp.sum(grad * step), want, rtol=2e-2, atol=2e-3 * scale
            )

    def test_label_distances_are_constants(self):
        x, y = clouds()
        distances, _ = otdd.label_distances(x, LABELS_X, y, LABELS_Y)
        grads = [
            jax.grad(lambda x, d=d: otdd.otdd(x, LABELS_X, y, LABELS_Y, distances=d)[0])
            for d in (None, distances, {"xx": distances["xx"]})
        ]
        want = grads[0](x)
        assert jnp.any(want != 0)
        for grad in grads[1:]:
            np.testing.assert_allclose(grad(x), want, atol=1e-6)
        slope = jax.grad(
            lambda x: jnp.sum(otdd.label_distances(x, LABELS_X, y, LABELS_Y)[0]["xy"])
        )(x)
        np.testing.assert_array_equal(slope, 0)

    def test_single_label_has_the_gradient_of_the_plain_divergence(self):
        x, y = clouds()
        one, two = 0 * LABELS_X, 0 * LABELS_Y
        limits = {"epsilon": 0.5, "threshold": 1e-4}
        got = jax.grad(lambda x: otdd.otdd(x, one, y, two, **limits)[0])(x)
        want = jax.grad(
            lambda x: ot.sinkhorn_divergence(x, y, epsilon=0.5, threshold=1e-5)[0]
        )(x)
        np.testing.assert_allclose(got, want, atol=1e-4)
        # The released sweeps stop early, but the constant plays no part there either.
        zero = {"xy": jnp.zeros((1, 1))}
        early, plain = (
            jax.grad(lambda x, d=d: otdd.otdd(x, one, y, two, distances=d)[0])(x)
            for d in (None, zero)
        )
        np.testing.assert_allclose(early, plain, atol=1e-5)


@pytest.mark.parametrize("case", ["empty", "single", "points", "same_points", "one"])
def test_degenerate_input(case):
    x, y = clouds(4)
    tile = jnp.tile(x[:1], (24, 1))
    x, x_labels, y, y_labels, sizes = {
        "empty": (x, 2 * (LABELS_X > 0), y, LABELS_Y + 1, (4, 4)),
        "single": (x, np.minimum(np.arange(24), 1), y, LABELS_Y, (2, 2)),
        "points": (tile, LABELS_X, y, LABELS_Y, (3, 2)),
        "same_points": (tile, LABELS_X, tile, LABELS_X, (3, 3)),
        "one": (x[:1], LABELS_X[:1], y[:1], LABELS_Y[:1], (1, 1)),
    }[case]
    loss = functools.partial(
        otdd.otdd,
        x_labels=x_labels,
        y_labels=y_labels,
        num_classes_x=sizes[0],
        num_classes_y=sizes[1],
    )
    (value, info), grads = jax.value_and_grad(
        lambda x, y: loss(x, y=y), (0, 1), has_aux=True
    )(x, y)
    assert jnp.isfinite(value) and info["converged"] and value > -1e-4
    assert all(jnp.all(jnp.isfinite(grad)) for grad in grads)
    if case == "same_points":
        np.testing.assert_allclose(value, 0, atol=1e-5)
    if case == "one":
        np.testing.assert_allclose(value, jnp.sum((x - y) ** 2), rtol=1e-5)
        np.testing.assert_allclose(grads[0], x - y, rtol=1e-5)
    if case == "empty":  # as if the empty classes were not there
        want, _ = otdd.otdd(x, x_labels // 2, y, LABELS_Y)
        np.testing.assert_allclose(value, want, rtol=1e-5)


class TestForms:
    def test_traced_labels(self):
        x, y = clouds()
        want, _ = otdd.otdd(x, LABELS_X, y, LABELS_Y)
        loss = jax.jit(
            functools.partial(otdd.otdd, num_classes_x=3, num_classes_y=2),
        )
        value, _ = loss(x, jnp.asarray(LABELS_X), y, jnp.asarray(LABELS_Y))
        np.testing.assert_allclose(value, want, rtol=1e-5)
        with pytest.raises(ValueError, match="num_classes_x"):
            jax.jit(otdd.otdd)(x, LABELS_X, y, LABELS_Y)

    def test_not_converged_is_reported(self):
        x, y = clouds()
        one, two = 0 * LABELS_X, 0 * LABELS_Y
        limits = {"threshold": 1e-5, "max_iterations": 2}
        value, info = otdd.otdd(x, one, y, two, **limits)
        assert jnp.isfinite(value) and not info["converged"]
        assert info["marginal_error"] > 1e-5
        nan = jax.jit(lambda x: otdd.otdd(x, one, y, two))
        value, info = nan(x.at[0, 0].set(jnp.nan))
        assert jnp.isnan(value) and not info["converged"]

    def test_bad_arguments(self):
        x, y = clouds()
        with pytest.raises(ValueError, match="epsilon"):
            otdd.otdd(x, LABELS_X, y, LABELS_Y, epsilon=0.0)
        for bad in ({"num_classes_x": 2}, {"num_classes_y": 1}):
            with pytest.raises(ValueError, match="labels must be in"):
                otdd.otdd(x, LABELS_X, y, LABELS_Y, **bad)
        for bad in ({"xy": jnp.zeros((2, 3))}, {"yx": jnp.zeros((2, 3))}):
            with pytest.raises(ValueError, match="distances"):
                otdd.otdd(x, LABELS_X, y, LABELS_Y, distances=bad)
        for x_labels, points in ((LABELS_X[:3], y), (LABELS_X, y[:, :2])):
            with pytest.raises(SHAPE_ERRORS):
                otdd.otdd(x, x_labels, points, LABELS_Y)
