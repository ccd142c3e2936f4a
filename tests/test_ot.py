"""Optimal transport against closed forms, exact solvers, golden values, differences."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from scipy import optimize, spatial, stats

from recraft_jax.losses import ot

GOLDEN = pathlib.Path(__file__).parent / "golden"
SHAPE_ERRORS = ValueError, TypeError  # the second from jaxtyping, when it checks
WANT = json.loads((GOLDEN / "losses.json").read_text())


def clouds(seed=0, n=32, m=32, d=4, shift=0.5):
    """Draw two clouds; one shape nearly everywhere, so that it compiles once."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, d))
    y = 1.3 * rng.normal(size=(m, d)) + shift
    return jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.float32)


def golden_clouds():
    data = np.load(GOLDEN / "losses.npz")
    return jnp.asarray(data["X"]), jnp.asarray(data["Y"])


def halfsq(x, y, epsilon=0.3, **kwargs):
    return ot.sinkhorn_divergence(x, y, epsilon=epsilon, **kwargs)


BOTH = pytest.mark.parametrize("divergence", [ot.wasserstein1, halfsq])


def check_slope(loss, x, grad, size=1e-2, rtol=1e-2):
    """Compare with central differences along random directions.

    The losses run in float32 (relative rounding 1e-6 or so) whatever the setting of
    x64, hence the large step; the solvers get a small threshold.
    """
    for seed in range(3):
        step = np.random.default_rng(seed).normal(size=x.shape)
        step = jnp.asarray(step / np.linalg.norm(step), jnp.float32)
        want = (loss(x + size * step) - loss(x - size * step)) / (2 * size)
        scale = 0.1 * float(jnp.linalg.norm(grad))
        np.testing.assert_allclose(
            jnp.sum(grad * step), want, rtol=rtol, atol=rtol * scale
        )


class TestValues:
    def test_wasserstein1_golden(self):
        x, y = golden_clouds()
        value, info = ot.wasserstein1(x, y)
        np.testing.assert_allclose(value, WANT["w1_exact"], rtol=1e-2)
        assert info["converged"] and info["marginal_error"] <= 1e-3
        median = np.median(spatial.distance.cdist(x, y))
        np.testing.assert_allclose(info["epsilon"], 0.005 * median, rtol=1e-3)
        value, _ = ot.wasserstein1(x, y, epsilon=0.05)
        np.testing.assert_allclose(value, WANT["sinkdiv_p1_blur0.05"], rtol=1e-3)

    @pytest.mark.parametrize("epsilon", [0.1, 1.0])
    def test_sinkhorn_divergence_golden(self, epsilon):
        x, y = golden_clouds()
        (value, info), grad = jax.value_and_grad(halfsq, has_aux=True)(x, y, epsilon)
        name = f"sinkdiv_halfsq_eps{epsilon}"
        np.testing.assert_allclose(value, WANT[name], rtol=5e-3)
        norm = jnp.linalg.norm(grad)
        np.testing.assert_allclose(norm, WANT[f"{name}_gradnorm"], rtol=5e-2)
        assert info["converged"]

    @pytest.mark.parametrize("seed", range(3))
    def test_wasserstein1_against_assignment(self, seed):
        x, y = clouds(seed, n=40, m=40, d=3, shift=1.0)
        cost = spatial.distance.cdist(x, y)
        exact = cost[optimize.linear_sum_assignment(cost)].mean()
        value, info = ot.wasserstein1(x, y, epsilon=0.01)
        np.testing.assert_allclose(value, exact, rtol=1e-2)
        assert info["converged"] and value < exact

    def test_wasserstein1_on_the_line(self):
        rng = np.random.default_rng(0)
        x, y = rng.normal(size=25), rng.normal(size=35) + 1
        a, b = rng.uniform(0.1, 1, 25), rng.uniform(0.1, 1, 35)
        exact = stats.wasserstein_distance(x, y, a, b)
        value, _ = ot.wasserstein1(
            jnp.asarray(x)[:, None],
            jnp.asarray(y)[:, None],
            epsilon=2e-3,
            weights_x=jnp.asarray(a),
            weights_y=jnp.asarray(b),
        )
        np.testing.assert_allclose(value, exact, rtol=1e-2)

    def test_half_squared_tends_to_exact(self):
        x, y = clouds(1, n=30, m=30)
        cost = spatial.distance.cdist(x, y, "sqeuclidean") / 2
        exact = cost[optimize.linear_sum_assignment(cost)].mean()
        np.testing.assert_allclose(halfsq(x, y, 0.02)[0], exact, rtol=1e-2)

    @pytest.mark.parametrize("epsilon", [0.05, 0.5, 10.0])
    def test_translation(self, epsilon):
        x, _ = clouds()
        shift = jnp.array([1.0, -2.0, 0.0, 0.5])
        half = jnp.sum(shift**2) / 2
        value, grad = jax.value_and_grad(lambda v: halfsq(x, x + v, epsilon)[0])(shift)
        np.testing.assert_allclose(value, half, rtol=1e-5)
        np.testing.assert_allclose(grad, shift, rtol=1e-4, atol=1e-4)

    def test_translation_wasserstein1(self):
        x, _ = clouds()
        shift = jnp.array([1.0, -2.0, 0.0, 0.5])
        value, info = ot.wasserstein1(x, x + shift)
        np.testing.assert_allclose(value, jnp.linalg.norm(shift), rtol=2e-3)
        far, _ = ot.wasserstein1(x + 1e3, x + 1e3 + shift)
        np.testing.assert_allclose(far, value, rtol=1e-3)

    def test_large_epsilon_limit(self):
        x, y = clouds()
        half = jnp.sum((x.mean(0) - y.mean(0)) ** 2) / 2
        np.testing.assert_allclose(halfsq(x, y, 1e4)[0], half, rtol=1e-3)

    @BOTH
    def test_symmetric_permutable_and_zero_at_equality(self, divergence):
        x, y = clouds()
        value, _ = divergence(x, y, epsilon=0.3, threshold=1e-5)
        swapped, _ = divergence(y, x, epsilon=0.3, threshold=1e-5)
        shuffled, _ = divergence(x[::-1], y, epsilon=0.3, threshold=1e-5)
        np.testing.assert_allclose([swapped, shuffled], value, rtol=1e-4)
        assert value > 0.1
        same, grad = jax.value_and_grad(lambda x: divergence(x, y[::-1])[0])(y)
        np.testing.assert_allclose(same, 0, atol=1e-4)
        np.testing.assert_allclose(grad, 0, atol=1e-4)

    def test_weight_is_repetition_and_zero_weight_is_absence(self):
        divergence = ot.wasserstein1
        x, y = clouds()
        want, _ = divergence(jnp.concatenate([x, x[:7]]), y, threshold=1e-5)
        padded = jnp.concatenate([x, jnp.full((7, 4), 50.0)])
        weights = jnp.ones(39).at[:7].set(2.0).at[32:].set(0.0)
        value, info = divergence(padded, y, weights_x=weights, threshold=1e-5)
        np.testing.assert_allclose(value, want, rtol=1e-4)
        assert info["converged"]
        swapped, _ = divergence(y, padded, weights_y=weights, threshold=1e-5)
        np.testing.assert_allclose(swapped, want, rtol=1e-4)
        grad = jax.grad(lambda x: divergence(x, y, weights_x=weights)[0])(padded)
        np.testing.assert_array_equal(grad[32:], 0)
        assert jnp.all(jnp.isfinite(grad)) and jnp.any(grad != 0)

    def test_default_epsilon_of_large_clouds(self):
        x, y = clouds(0, n=700, m=32)
        a, b = jnp.ones(700).at[::2].set(0.0), jnp.ones(32)
        median = np.median(spatial.distance.cdist(x[1::2], y))
        got = ot._default_epsilon(x, y, a, b)
        np.testing.assert_allclose(got, 0.005 * median, rtol=1e-2)

    def test_not_converged_is_reported(self):
        x, y = clouds(shift=3.0)
        value, info = ot.wasserstein1(x, y, epsilon=1e-3, max_iterations=20)
        assert not info["converged"] and info["marginal_error"] > 1e-3
        assert jnp.isfinite(value) and info["iterations"] <= 30
        value, info = jax.jit(ot.wasserstein1)(x.at[0, 0].set(jnp.nan), y)
        assert jnp.isnan(value) and not info["converged"]


class TestGradients:
    @BOTH
    @pytest.mark.parametrize("argument", [0, 1])
    def test_points(self, divergence, argument):
        points = list(clouds(2))

        def loss(z):
            points[argument] = z
            return divergence(*points, epsilon=0.3, threshold=1e-5)[0]

        z = points[argument]
        check_slope(loss, z, jax.grad(loss)(z))

    def test_weights(self):
        x, y = clouds(3)
        weights = jnp.asarray(np.random.default_rng(0).uniform(0.5, 1, 32))

        def loss(weights):
            return halfsq(x, y, weights_x=weights, threshold=1e-5)[0]

        check_slope(loss, weights, jax.grad(loss)(weights))

    @BOTH
    @pytest.mark.parametrize(
        "case", ["point", "points", "same_points", "flat", "shared"]
    )
    def test_degenerate_clouds(self, divergence, case):
        x, y = clouds(4)
        x, y = {
            "point": (x[:1], y[:1]),
            "points": (jnp.tile(x[:1], (32, 1)), y),
            "same_points": (jnp.tile(x[:1], (32, 1)), jnp.tile(x[:1], (32, 1))),
            "flat": (x.at[:, 1:].set(0.0), y.at[:, 1:].set(0.0)),
            "shared": (x, jnp.concatenate([x[:16], y[:16]])),
        }[case]
        (value, info), grad = jax.jit(jax.value_and_grad(divergence, has_aux=True))(
            x, y
        )
        assert jnp.isfinite(value) and jnp.all(jnp.isfinite(grad)) and info["converged"]
        if case == "same_points":
            np.testing.assert_allclose(value, 0, atol=1e-6)
            np.testing.assert_allclose(grad, 0, atol=1e-6)
        if case == "point":
            distance = jnp.linalg.norm(x - y)
            want = distance if divergence is ot.wasserstein1 else distance**2 / 2
            np.testing.assert_allclose(value, want, rtol=1e-5)


class TestPlan:
    @pytest.fixture(autouse=True)
    def problem(self):
        rng = np.random.default_rng(0)
        self.cost = jnp.asarray(rng.uniform(size=(6, 5)), jnp.float32)
        a, b = rng.dirichlet(np.ones(6)), rng.dirichlet(np.ones(5))
        a[2], b[4] = 0, 0
        self.a = jnp.asarray(a / a.sum(), jnp.float32)
        self.b = jnp.asarray(b / b.sum(), jnp.float32)
        self.mix = jnp.asarray(rng.normal(size=(6, 5)), jnp.float32)

    @pytest.mark.parametrize("epsilon", [1.0, 0.05, 0.005])
    def test_marginals_and_zero_weights(self, epsilon):
        plan, info = ot.transport_plan(self.cost, self.a, self.b, epsilon=epsilon)
        np.testing.assert_allclose(plan.sum(1), self.a, atol=1e-6)
        np.testing.assert_allclose(plan.sum(0), self.b, atol=1e-6)
        np.testing.assert_array_equal(plan[2], 0)
        np.testing.assert_array_equal(plan[:, 4], 0)
        assert jnp.all(plan >= 0) and info["converged"]

    def test_form_of_the_entropic_plan(self):
        """Since cost + epsilon log P = f_i + g_j, its mixed differences vanish."""
        plan, _ = ot.transport_plan(self.cost, self.a, self.b, epsilon=0.3)
        keep = np.ix_([0, 1, 3, 4, 5], range(4))
        s = np.asarray(self.cost + 0.3 * jnp.log(plan))[keep]
        np.testing.assert_allclose(s - s[:1] - s[:, :1] + s[0, 0], 0, atol=1e-5)

    def test_limits(self):
        independent, _ = ot.transport_plan(self.cost, self.a, self.b, epsilon=1e4)
        np.testing.assert_allclose(independent, jnp.outer(self.a, self.b), atol=1e-5)
        weights = jnp.full(6, 1 / 6)
        cost = self.cost @ self.mix.T
        sharp, _ = ot.transport_plan(cost, weights, weights, epsilon=0.01)
        rows, columns = optimize.linear_sum_assignment(cost)
        np.testing.assert_allclose(sharp[rows, columns], 1 / 6, atol=1e-3)

    def test_cost_minus_log_joint_gives_the_joint(self):
        q = jnp.array([[0.3, 0.1, 0.0], [0.0, 0.0, 0.0], [0.05, 0.25, 0.3]])
        plan, info = ot.transport_plan(-jnp.log(q), q.sum(1), q.sum(0), epsilon=1.0)
        np.testing.assert_allclose(plan, q, atol=1e-6)
        assert info["converged"]

    def test_rounding_when_stopped_early(self):
        plan, info = ot.transport_plan(
            self.cost, self.a, self.b, epsilon=0.002, max_iterations=1
        )
        assert not info["converged"] and info["marginal_error"] > 1e-3
        np.testing.assert_allclose(plan.sum(0), self.b, atol=1e-6)
        np.testing.assert_allclose(plan.sum(1), self.a, atol=1e-6)

    @pytest.mark.parametrize("epsilon", [0.5, 0.1, 0.03])
    @pytest.mark.parametrize("argument", ["cost", "a", "b"])
    def test_gradients(self, epsilon, argument):
        inputs = {"cost": self.cost, "a": self.a, "b": self.b}
        start = inputs[argument]

        def loss(z):
            if argument != "cost":  # stay among weights of the same sum and support
                z = jnp.where(start > 0, z, 0.0)
                z = z / jnp.sum(z)
            moved = inputs | {argument: z}
            plan, _ = ot.transport_plan(**moved, epsilon=epsilon, threshold=1e-6)
            return jnp.sum(plan * self.mix)

        check_slope(loss, start, jax.jit(jax.grad(loss))(start), size=3e-3, rtol=2e-2)


class TestForms:
    """The same numbers from blocks, products, caches, shards and half precision."""

    @pytest.mark.parametrize("power", [1, 2])
    def test_cached_self_terms(self, power):
        x, y = clouds(6)
        divergence = {1: ot.wasserstein1, 2: halfsq}[power]
        want, _ = divergence(x, y, epsilon=0.3)
        self_x, info = ot.self_term(x, epsilon=0.3, power=power)
        self_y, _ = ot.self_term(y, epsilon=0.3, power=power)
        assert info["converged"] and not np.isclose(self_x, self_y, rtol=1e-3)
        cached = {"self_x": self_x} if power == 1 else {"self_y": self_y}
        value, _ = divergence(x, y, epsilon=0.3, **cached)
        np.testing.assert_allclose(value, want, rtol=1e-5)
        if power == 1:
            return
        with_cache, without = (
            jax.grad(lambda x, kw=kw: divergence(x, y, epsilon=0.3, **kw)[0])(x)
            for kw in ({"self_y": self_y}, {})
        )
        np.testing.assert_allclose(with_cache, without, atol=1e-6)

    def test_self_term_of_a_point_and_of_distant_points(self):
        value, _ = ot.self_term(jnp.ones((1, 3)), epsilon=0.1)
        np.testing.assert_allclose(value, 0, atol=1e-7)
        value, _ = ot.self_term(100 * jnp.eye(5), epsilon=0.1)
        np.testing.assert_allclose(value, 0.1 * np.log(5), rtol=1e-5)

    def test_half_precision_input(self):
        x, y = clouds(8)
        low = ot.wasserstein1(x.astype(jnp.bfloat16), y.astype(jnp.bfloat16))[0]
        assert low.dtype == jnp.float32
        np.testing.assert_allclose(low, ot.wasserstein1(x, y)[0], rtol=1e-2)

    def test_bad_arguments(self):
        x, y = clouds()
        for arguments in ({"epsilon": 0.0}, {"epsilon": -1}, {"self_x": 0.1}):
            with pytest.raises(ValueError, match="epsilon"):
                ot.wasserstein1(x, y, **arguments)
        for bad in (y[:, :1], y[:0], y[0]):
            with pytest.raises(SHAPE_ERRORS):
                ot.wasserstein1(x, bad)
        with pytest.raises(SHAPE_ERRORS):
            ot.wasserstein1(x, y, weights_x=jnp.ones(45))
        with pytest.raises(ValueError, match="power"):
            ot.self_term(x, epsilon=1.0, power=3)
        with pytest.raises(SHAPE_ERRORS):
            ot.transport_plan(jnp.ones((2, 3)), jnp.ones(3), jnp.ones(2), epsilon=1.0)

    @pytest.mark.slow
    def test_blocks_and_products(self, monkeypatch):
        x, y = clouds(5)

        def run():
            loss = jax.value_and_grad(
                lambda x, y: ot.wasserstein1(x, y, epsilon=0.3)[0], (0, 1)
            )
            return loss(x, y)

        want, want_grads = run()
        jax.clear_caches()  # the limits below are read while tracing
        for name, limit in (("_DENSE_PAIRS", 10), ("_DIRECT_TERMS", 0)):
            monkeypatch.setattr(ot, name, limit)
            monkeypatch.setattr(ot, "_BLOCK_PAIRS", 300)
            value, grads = run()
            np.testing.assert_allclose(value, want, rtol=1e-5)
            for got, grad in zip(grads, want_grads, strict=True):
                np.testing.assert_allclose(got, grad, atol=1e-5)
            jax.clear_caches()

    @BOTH
    def test_blocks_never_hold_the_cost(self, divergence):
        n, m, d = 50_000, 2_048, 4
        x, y = (jax.ShapeDtypeStruct((num, d), jnp.float32) for num in (n, m))

        def loss(x, y):
            return divergence(x, y, epsilon=1.0, self_x=0.0, self_y=0.0)[0]

        step = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))
        memory = step.lower(x, y).compile().memory_analysis()
        assert memory.temp_size_in_bytes < n * m * 4 / 3

    def test_sharded(self):
        assert len(jax.devices()) > 1, "conftest.py asks for two"
        mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,))
        x, y = clouds(7, n=32, m=44)
        loss = jax.jit(jax.value_and_grad(ot.wasserstein1, has_aux=True))
        (want, _), want_grad = loss(x, y)
        split = jax.device_put((x, y), NamedSharding(mesh, P("data")))
        (value, info), grad = loss(*split)
        np.testing.assert_allclose(value, want, rtol=1e-5)
        np.testing.assert_allclose(grad, want_grad, atol=1e-5)
        assert info["converged"]
