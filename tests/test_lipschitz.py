"""The Lipschitz condition: penalty, gradients in u, recalibration, the coupling."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recraft_jax.data import text
from recraft_jax.losses import lipschitz as losses
from recraft_jax.methods import lipschitz, text_tower
from recraft_jax.models import pretrained

SETTINGS = lipschitz.Settings(
    method="penalty",
    tau=0.4,
    delta=0.05,
    rho=100.0,
    u_space="pooled",
    norm_axis="sample",
    grad_divisor=1.0,
    num_samples=512,
)


# ----------------------------------------------------------------- norms and penalty
def test_penalty_of_a_constant_gradient():
    """B = 2 samples of N = 4 tokens of C = 3 channels, all 0.5; tau 0.4, rho 100."""
    grads = jnp.full((2, 4, 3), 0.5)
    right = 100 * losses.penalty(losses.gradient_norms(grads), 0.4)
    np.testing.assert_allclose(right, 177.435935, rtol=1e-6)
    released = losses.gradient_norms(grads, "tokens")  # D11: d norms for each sample
    assert released.shape == (2, 3)
    np.testing.assert_allclose(100 * losses.penalty(released, 0.4), 108.0, rtol=1e-6)


def test_gradient_of_the_mean_loss_is_a_batch_size_too_small():
    """D12, with D11: a norm of 1/(4 sqrt(128)) of the right one, on average."""
    grads = jax.random.normal(jax.random.key(0), (64, 50, 128))
    right = losses.gradient_norms(grads).mean()
    released = losses.gradient_norms(grads / 4, "tokens").mean()
    np.testing.assert_allclose(released / right, 0.022, rtol=0.02)


def test_penalty_is_zero_below_tau_and_its_gradient_finite_at_zero():
    assert losses.penalty(jnp.array([0.1, 0.4]), 0.4) == 0
    grad = jax.grad(lambda g: losses.penalty(losses.gradient_norms(g), -1.0))(
        jnp.zeros((2, 3))
    )
    np.testing.assert_array_equal(grad, 0)


@pytest.mark.parametrize(
    ("shape", "axis", "message"),
    [((2, 3), "token", "allowed: sample, tokens"), ((2, 3), "tokens", "b l d")],
)
def test_unknown_axis_is_refused(shape, axis, message):
    with pytest.raises(ValueError, match=message):
        losses.gradient_norms(jnp.zeros(shape), axis)


# --------------------------------------------------------------------- gradients in u
@pytest.fixture(scope="module")
def body(backbone):
    return pretrained.load(backbone)


@pytest.fixture(scope="module")
def head(body):
    rng = np.random.default_rng(0)
    return rng.normal(size=(body.width, 3)).astype(np.float32), np.float32([0, 1, -1])


@pytest.mark.parametrize("level", ["sentence", "token"])
def test_logit_gradients_are_slopes_of_a_shift_of_all_tokens(
    backbone, body, head, level
):
    """Central differences of each logit as the mean of the tokens moves."""
    words = [["who", "is", "man"], ["the", "city", "of", "river", "star"], ["a"]]
    if level == "token":
        encoded = text.encode_words(backbone, words, [["t"] * len(w) for w in words], 9)
    else:
        joined = [" ".join(w) for w in words]
        encoded = text.encode_sentences(backbone, joined, ["x", "y", "x"], 9)
    _, units = text_tower.frozen_units(encoded, body.params, body.embed, body.encode)
    kernel, _ = head
    arguments = encoded, body.params, body.embed, body.encode, kernel, units
    pooled = text_tower.logit_gradients(*arguments, pooled=True)
    tokens = text_tower.logit_gradients(*arguments, pooled=False)
    assert pooled.shape == (len(units.labels), body.width, 3)
    np.testing.assert_allclose(tokens.sum(1), pooled, atol=1e-5)

    def logits(row, shift):
        sentence = units.sample[row]
        ids, mask = encoded.ids[sentence][None], encoded.mask[sentence][None]
        hidden = body.encode(
            body.params, body.embed(body.params, ids) + shift, jnp.asarray(mask)
        )[0]
        if units.position[row] >= 0:
            return hidden[units.position[row]] @ kernel
        return (hidden * mask[0][:, None]).sum(0) / mask.sum() @ kernel

    rng = np.random.default_rng(1)
    for row in range(0, len(units.labels), 2):
        way = rng.normal(size=body.width).astype(np.float32)
        way /= np.linalg.norm(way)
        step = 1e-2 * way
        want = (logits(row, step) - logits(row, -step)) / 2e-2
        np.testing.assert_allclose(pooled[row].T @ way, want, atol=3e-3)


def test_loss_gradients_are_those_of_autodiff(key):
    """Any body will do, images as well: here one without a mask."""
    keys = jax.random.split(key, 5)
    tokens = jax.random.normal(keys[0], (6, 5, 4))
    kernel = jax.random.normal(keys[1], (7, 3))
    inner = jax.random.normal(keys[2], (4, 7))
    labels = jnp.array([0, 1, 2, 2, 1, 0])

    def states_of(tokens):
        return jnp.tanh(tokens @ inner).mean(1)

    samples = lipschitz.Samples(
        logits=states_of(tokens) @ kernel,
        grads=lipschitz.logit_gradients(states_of, tokens, kernel),
        labels=labels,
    )
    mix, shift = jax.random.normal(keys[3], (3, 3)), jax.random.normal(keys[4], (3,))

    def loss(tokens):
        log_probs = jax.nn.log_softmax(states_of(tokens) @ kernel @ mix + shift)
        return -log_probs[jnp.arange(6), labels].sum()

    _, grads = lipschitz.loss_gradients(samples, mix, shift)
    np.testing.assert_allclose(grads, jax.grad(loss)(tokens), atol=1e-5)


# ---------------------------------------------------------------------- recalibration
@pytest.fixture(scope="module")
def samples():
    """Logits that tell the label, but not always, far steeper in u than tau.

    Without errors every slope would vanish with the residual p - e of a sharp head.
    """
    rng = np.random.default_rng(0)
    labels = rng.integers(3, size=200)
    seen = np.where(rng.random(200) < 0.2, rng.integers(3, size=200), labels)
    logits = 4 * np.eye(3)[seen] + rng.normal(size=(200, 3))
    grads = 3 * rng.normal(size=(200, 5, 3))
    return lipschitz.Samples(*(jnp.asarray(v) for v in (logits, grads, labels)))


@pytest.mark.parametrize("method", ["penalty", "rescale"])
def test_recalibrated_head_keeps_the_condition(samples, method):
    settings = SETTINGS._replace(method=method, tau=1.0)
    same = np.eye(3), np.zeros(3)
    before = lipschitz.report(samples, *same, settings)
    mix, shift, info = lipschitz.recalibrate(samples, settings)
    after = lipschitz.report(samples, mix, shift, settings)
    assert before["delta"] > 0.15 and after["delta"] <= settings.delta
    assert after["slope"]["0.95"] <= 1.0 + 1e-3
    assert info["quantile"] <= 1.0 + 1e-3
    assert after["information"] < before["information"]


def test_penalty_beats_the_closed_form(samples):
    losses_of = {}
    for method in ("penalty", "rescale"):
        settings = SETTINGS._replace(method=method, tau=1.0)
        mix, shift, _ = lipschitz.recalibrate(samples, settings)
        losses_of[method] = lipschitz.report(samples, mix, shift, settings)["log_loss"]
    assert losses_of["penalty"] < losses_of["rescale"] - 0.02


def test_smaller_tau_costs_more(samples):
    found = []
    for tau in (0.1, 0.4, 1.0):
        settings = SETTINGS._replace(tau=tau)
        mix, shift, _ = lipschitz.recalibrate(samples, settings)
        found.append(lipschitz.report(samples, mix, shift, settings)["log_loss"])
    assert found[0] > found[1] > found[2]


def test_released_norms_leave_the_penalty_nearly_inactive(samples):
    """D11 and D12 together: slopes stay many times above tau."""
    rng = np.random.default_rng(1)
    tokens = rng.normal(size=(200, 40, 5, 3))
    spread = samples._replace(grads=jnp.asarray(tokens))
    true = SETTINGS._replace(u_space="mixed", tau=1.0)
    released = true._replace(norm_axis="tokens", grad_divisor=4.0)
    slopes = {}
    for name, settings in (("true", true), ("released", released)):
        mix, shift, _ = lipschitz.recalibrate(spread, settings)
        slopes[name] = lipschitz.report(spread, mix, shift, settings)["slope"]["0.95"]
    assert slopes["true"] <= 1.01 and slopes["released"] > 3 * slopes["true"]


def test_linear_head_slope_is_bounded_by_its_norm(samples):
    """|W^T (p - e)| <= sqrt(2) |W|_2 for u itself as the state."""
    rng = np.random.default_rng(2)
    kernel = rng.normal(size=(5, 3))
    linear = samples._replace(grads=jnp.broadcast_to(kernel, (200, 5, 3)))
    _, grads = lipschitz.loss_gradients(linear, jnp.eye(3), jnp.zeros(3))
    probs = np.asarray(jax.nn.softmax(linear.logits))
    gap = probs - np.eye(3)[np.asarray(linear.labels)]
    np.testing.assert_allclose(grads, gap @ kernel.T, atol=1e-5)
    norms = np.linalg.norm(grads, axis=1)
    assert np.all(norms <= np.sqrt(2) * np.linalg.norm(kernel, 2) + 1e-5)


# ----------------------------------------------------------------------- the coupling
def test_slopes_on_a_coupling_done_by_hand():
    """Two pairs, at distances 1 and 2, whose losses differ by 0.2 and 1."""
    x, y = np.array([[0.0], [10.0]]), np.array([[1.0], [12.0]])
    log_ss = np.log(
        [[np.exp(-0.5), 1 - np.exp(-0.5)], [1 - np.exp(-1.5), np.exp(-1.5)]]
    )
    labels = np.array([0, 1])

    def with_entropy(h):
        """A pair of probabilities of entropy h, by bisection."""
        low, high = 1e-9, 0.5
        for _ in range(80):
            p = (low + high) / 2
            entropy = -p * np.log(p) - (1 - p) * np.log(1 - p)
            low, high = (p, high) if entropy < h else (low, p)
        return [p, 1 - p]

    log_st = np.log([with_entropy(0.3), with_entropy(0.5)])
    found = losses.on_coupling(log_ss, labels, x, log_st, y, omega=0.3)
    assert found["delta"] == pytest.approx(0.5)
    assert found["loss_range"] == pytest.approx(1.0, rel=1e-6)
    assert found["slack"] == pytest.approx(0.5, rel=1e-6)
    assert found["omega_95"] == pytest.approx(0.5, rel=1e-6)
    gentle = losses.on_coupling(log_ss, labels, x, log_st, y, omega=0.6)
    assert gentle["delta"] == gentle["slack"] == gentle["loss_range"] == 0


def test_slack_makes_the_shift_of_the_source_loss_hold():
    rng = np.random.default_rng(3)
    for omega in (0.0, 0.2, 2.0):
        log_ss, log_st = (np.log(rng.dirichlet(np.ones(4), 30)) for _ in range(2))
        labels = rng.integers(4, size=30)
        x, y = rng.normal(size=(30, 3)), rng.normal(size=(30, 3)) + 1
        found = losses.on_coupling(log_ss, labels, x, log_st, y, omega=omega)
        source = -log_ss[np.arange(30), labels].mean()
        shift = -(np.exp(log_st) * log_st).sum(1).mean() - source
        distance, _ = losses.bound.exact_wasserstein1(x, y)
        assert shift <= omega * distance + found["slack"] + 1e-9
