"""Task losses against closed forms."""

import jax
import jax.numpy as jnp
import jax.test_util
import numpy as np
import pytest

from recraft_jax.losses import task


def draw(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def test_relative_l2_is_one_ratio_per_sample():
    pred = np.zeros((2, 2, 1), np.float32)
    target = np.float32([[[3.0], [4.0]], [[0.0], [2.0]]])
    pred[0] = target[0] + np.float32([[0.6], [-0.8]])  # error 1, norm 5
    pred[1] = -target[1]
    np.testing.assert_allclose(task.relative_l2(pred, target), [0.2, 2.0], rtol=1e-6)


@pytest.mark.parametrize("shape", [(3, 7), (3, 5, 2), (3, 4, 4, 2)])
def test_relative_l2_flattens_grid_and_channels(shape):
    pred, target = draw(0, *shape), draw(1, *shape)
    want = [
        np.linalg.norm((p - t).ravel()) / np.linalg.norm(t.ravel())
        for p, t in zip(pred, target, strict=True)
    ]
    got = task.relative_l2(pred, target)
    assert got.shape == (3,)
    np.testing.assert_allclose(got, want, rtol=1e-6)


def test_relative_l2_has_no_epsilon():
    pred, target = draw(0, 3, 8), draw(1, 3, 8)
    np.testing.assert_allclose(
        task.relative_l2(pred * 1e-6, target * 1e-6),
        task.relative_l2(pred, target),
        rtol=1e-5,
    )


def test_relative_l2_of_zero_target_is_infinite():
    assert np.isposinf(task.relative_l2(np.ones((1, 3)), np.zeros((1, 3))))[0]


def test_relative_l2_gradient_is_the_unit_error_over_the_norm():
    pred, target = draw(0, 3, 4, 2), draw(1, 3, 4, 2)
    got = jax.grad(lambda p: task.relative_l2(p, target).sum())(pred)
    error = (pred - target).reshape(3, -1)
    norms = np.linalg.norm(error, axis=1) * np.linalg.norm(
        target.reshape(3, -1), axis=1
    )
    np.testing.assert_allclose(
        got.reshape(3, -1), error / norms[:, None], rtol=1e-5, atol=1e-6
    )


def test_relative_l2_gradient_agrees_with_differences():
    # In float32, as the loss is: hence the wide step and the tolerance.
    jax.test_util.check_grads(
        task.relative_l2,
        (draw(0, 3, 4, 2), draw(1, 3, 4, 2)),
        order=1,
        modes=("rev",),
        eps=1e-2,
        atol=2e-3,
        rtol=2e-3,
    )


def test_relative_l2_of_exact_prediction_has_zero_gradient():
    target = draw(1, 3, 6)
    pred = target.copy()
    pred[1] += 1.0
    value, grad = jax.value_and_grad(lambda p: task.relative_l2(p, target).sum())(pred)
    assert np.isfinite(value)
    assert np.all(np.isfinite(grad))
    assert not np.any(grad[np.array([0, 2])])
    assert np.all(grad[1] > 0)


@pytest.mark.parametrize("shape", [(3, 7), (3, 4, 4, 2)])
def test_rmse_is_the_root_of_the_mean_square_of_each_sample(shape):
    pred, target = draw(0, *shape), draw(1, *shape)
    want = np.sqrt(((pred - target) ** 2).reshape(3, -1).mean(1))
    np.testing.assert_allclose(task.rmse(pred, target), want, rtol=1e-6)
    grad = jax.grad(lambda p: task.rmse(p, target).sum())(target)
    np.testing.assert_array_equal(grad, 0)


def test_cross_entropy_is_minus_log_probability_in_nats():
    p = np.float32([[0.5, 0.25, 0.25], [0.1, 0.2, 0.7]])
    got = task.cross_entropy(jnp.log(p) + 3.0, np.int32([1, 2]))
    np.testing.assert_allclose(got, [np.log(4), -np.log(0.7)], rtol=1e-5)


def test_cross_entropy_of_equal_logits_is_log_k():
    got = task.cross_entropy(np.zeros((2, 5)), np.int32([0, 4]))
    np.testing.assert_allclose(got, np.log(5), rtol=1e-6)


def test_cross_entropy_gradient_is_softmax_minus_one_hot():
    logits, labels = draw(0, 4, 3), np.int32([2, 0, 1, 2])
    got = jax.grad(lambda z: task.cross_entropy(z, labels).sum())(logits)
    want = np.exp(logits) / np.exp(logits).sum(1, keepdims=True) - np.eye(3)[labels]
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)
    jax.test_util.check_grads(
        lambda z: task.cross_entropy(z, labels),
        (logits,),
        order=1,
        modes=("rev",),
        eps=1e-2,
        atol=2e-3,
        rtol=2e-3,
    )


def test_cross_entropy_survives_large_logits():
    logits = np.float32([[1000.0, 0.0], [-1000.0, 1000.0]])
    got = task.cross_entropy(logits, np.int32([1, 1]))
    np.testing.assert_allclose(got, [1000.0, 0.0], rtol=1e-6)


def test_binary_cross_entropy_is_minus_log_probability_in_nats():
    p = np.float32([[0.5, 0.25, 0.1], [0.9, 0.2, 0.7]])
    y = np.float32([[1, 0, 1], [0, 0, 1]])
    logits = np.log(p) - np.log(1 - p)
    got = task.binary_cross_entropy(logits, y)
    want = [np.log([2, 4 / 3, 10]).mean(), np.log([10, 1.25, 1 / 0.7]).mean()]
    np.testing.assert_allclose(got, want, rtol=1e-5)
    got = task.binary_cross_entropy(logits, y, pos_weight=3.0)
    want = [
        (3 * np.log(2) + np.log(4 / 3) + 3 * np.log(10)) / 3,
        (np.log(10) + np.log(1.25) + 3 * np.log(1 / 0.7)) / 3,
    ]
    np.testing.assert_allclose(got, want, rtol=1e-5)


def test_binary_cross_entropy_gradient_is_sigmoid_minus_target():
    logits, y = draw(0, 4, 3), np.float32(draw(1, 4, 3) > 0)
    weight = 2.5
    got = jax.grad(lambda z: task.binary_cross_entropy(z, y, weight).sum())(logits)
    sigmoid = 1 / (1 + np.exp(-logits))
    want = ((1 - y) * sigmoid - weight * y * (1 - sigmoid)) / 3
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


def test_binary_cross_entropy_survives_large_logits():
    logits, y = np.float32([[1000.0, -1000.0]]), np.float32([[0.0, 0.0]])

    def loss(z, y):
        return task.binary_cross_entropy(z, y).sum()

    for target, want, slope in ((y, 500.0, [0.5, 0.0]), (1 - y, 500.0, [0.0, -0.5])):
        value, grad = jax.value_and_grad(loss)(logits, target)
        np.testing.assert_allclose(value, want, rtol=1e-6)
        np.testing.assert_allclose(grad, [slope], atol=1e-7)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_losses_compute_in_float32(dtype):
    pred, target = draw(0, 2, 300).astype(dtype), draw(1, 2, 300).astype(dtype)
    exact = task.relative_l2(pred.astype(np.float32), target.astype(np.float32))
    got = task.relative_l2(jnp.asarray(pred), jnp.asarray(target))
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, exact, rtol=1e-6)
    labels = np.int32([0, 7])
    got = task.cross_entropy(jnp.asarray(pred), labels)
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(
        got, task.cross_entropy(pred.astype(np.float32), labels), rtol=1e-6
    )
    y = np.float32(target > 0)
    got = task.binary_cross_entropy(jnp.asarray(pred), y.astype(dtype))
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(
        got, task.binary_cross_entropy(pred.astype(np.float32), y), rtol=1e-6
    )


def test_mean_squared_error_is_in_units_of_the_scale():
    pred = np.float32([[1.0, 4.0], [0.0, 0.0]])
    y = np.float32([[3.0, 1.0], [0.0, 2.0]])
    got = task.mean_squared_error(pred, y, scale=np.float32([2.0, 0.5]))
    np.testing.assert_allclose(got, [(1 + 36) / 2, 16 / 2], rtol=1e-6)
    np.testing.assert_allclose(task.mean_squared_error(pred, y), [6.5, 2.0], rtol=1e-6)


# ------------------------------------------------------------ targets judged in places
def test_judged_squared_error_leaves_out_what_is_below_0():
    pred = jnp.float32([[[1.0], [5.0]], [[2.0], [3.0]], [[4.0], [4.0]]])
    target = jnp.float32([[[3.0], [-1.0]], [[0.0], [6.0]], [[-1.0], [-1.0]]])
    found = task.judged_squared_error(pred, target)
    np.testing.assert_allclose(found, [4.0, (4.0 + 9.0) / 2, 0.0])
    grad = jax.grad(lambda p: task.judged_squared_error(p, target).sum())(pred)
    np.testing.assert_allclose(grad[..., 0], [[-4, 0], [2, -3], [0, 0]])


@pytest.mark.parametrize("counts", [False, True])
def test_judged_cross_entropy_is_that_of_the_judged_points(counts):
    z = np.float32([[[0.3], [-2.0], [1.5]], [[4.0], [0.2], [0.0]]])
    y = np.float32([[[1.0], [0.0], [-1.0]], [[-1.0], [-1.0], [1.0]]])
    each = -np.log(np.where(y > 0, 1 / (1 + np.exp(-z)), 1 / (1 + np.exp(z))))
    if counts:  # logit 0 and target 0: log 2
        want = np.where(y < 0, np.log(2), each).mean((1, 2))
    else:
        want = [(each[0, 0, 0] + each[0, 1, 0]) / 2, each[1, 2, 0]]
    found = task.judged_cross_entropy(z, y, counts_ignored=counts)
    np.testing.assert_allclose(found, want, rtol=1e-6)
    grad = jax.grad(lambda z: task.judged_cross_entropy(z, y).sum())(jnp.asarray(z))
    assert (np.asarray(grad)[y < 0] == 0).all() and (np.asarray(grad)[y >= 0]).all()
