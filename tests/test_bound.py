"""The bound on the target error: its theory on random problems, its numbers by hand."""

import json
import math
import pathlib

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from scipy import stats

from recraft_jax.losses import bound

GOLDEN = pathlib.Path(__file__).parent / "golden"
REFUSED = (ValueError, TypeError)  # TypeError: from jaxtyping, where it checks
DRAWS, POINTS, KS, KT = 1000, 7, 4, 3
few = hypothesis.settings(max_examples=15, deadline=None, derandomize=True)


# --- Theory: random discrete problems, all arrays lead with [draws points] ------------


def north_west(a, b):
    """The coupling of a and b that fills cells from one corner: few, and sharp."""
    a_to, b_to = np.cumsum(a, -1)[..., :, None], np.cumsum(b, -1)[..., None, :]
    low = np.maximum(a_to - a[..., :, None], b_to - b[..., None, :])
    return np.maximum(np.minimum(a_to, b_to) - low, 0)


def random_coupling(rng, a, b):
    """A random mixture of sharp couplings, each under its own order of the cells."""
    total = a[..., :, None] * b[..., None, :]
    shares = rng.dirichlet(np.ones(5), size=a.shape[:-1])
    total = total * shares[..., 0][..., None, None]
    for index in range(1, 5):
        i, j = rng.permutation(a.shape[-1]), rng.permutation(b.shape[-1])
        sharp = north_west(a[..., i], b[..., j])
        sharp = sharp[..., np.argsort(i), :][..., np.argsort(j)]
        total = total + shares[..., index][..., None, None] * sharp
    return total


COUPLINGS = {
    "independent": lambda rng, a, b: a[..., :, None] * b[..., None, :],
    "random": random_coupling,
    # A trace of the independent one: the logarithm of Lambda must exist.
    "sharp": lambda rng, a, b: (
        0.999 * north_west(a, b) + 0.001 * a[..., :, None] * b[..., None, :]
    ),
}


def plogq(p, q):
    return np.where(p > 0, p * np.log(np.where(p > 0, q, 1.0)), 0.0)


def problem(seed, calibrated):
    """Marginals over points, oracle and predicted conditionals, points on a line."""
    rng = np.random.default_rng(seed)

    def draw(*shape):
        p = rng.dirichlet(np.full(shape[-1], 0.7), size=shape[:-1]) + 1e-6
        return p / p.sum(-1, keepdims=True)

    oracle_s, oracle_t = draw(DRAWS, POINTS, KS), draw(DRAWS, POINTS, KT)
    predict_s = oracle_s if calibrated else draw(DRAWS, POINTS, KS)
    return {
        "u": np.sort(rng.normal(size=(DRAWS, POINTS)), axis=1),
        "mass_s": draw(DRAWS, POINTS),
        "mass_t": draw(DRAWS, POINTS),
        "oracle_s": oracle_s,
        "oracle_t": oracle_t,
        "predict_s": predict_s,
        "predict_t": draw(DRAWS, POINTS, KT),
        "loss_s": -plogq(oracle_s, predict_s).sum(-1),
        "rng": rng,
    }


@pytest.mark.parametrize("calibrated", [True, False])
@pytest.mark.parametrize("predicted", COUPLINGS)
@pytest.mark.parametrize("oracle", COUPLINGS)
def test_theorem_on_random_problems(oracle, predicted, calibrated):
    p = problem(0, calibrated)

    def target_mean(values):
        return (p["mass_t"] * values).sum(-1)

    star = COUPLINGS[oracle](p["rng"], p["oracle_s"], p["oracle_t"])
    plan = COUPLINGS[predicted](p["rng"], p["predict_s"], p["predict_t"])
    for coupling, rows, columns in (
        (star, "oracle_s", "oracle_t"),
        (plan, "predict_s", "predict_t"),
    ):
        np.testing.assert_allclose(coupling.sum(-1), p[rows], atol=1e-12)
        np.testing.assert_allclose(coupling.sum(-2), p[columns], atol=1e-12)
    star_map = star / p["oracle_s"][..., None]
    plan_map = plan / p["predict_s"][..., None]

    err_t = target_mean(-plogq(p["oracle_t"], p["predict_t"]).sum(-1))
    err_s = (p["mass_s"] * p["loss_s"]).sum(-1)
    part_a = target_mean(-plogq(p["oracle_t"], p["predict_t"]).sum(-1) - p["loss_s"])
    part_b = ((p["mass_t"] - p["mass_s"]) * p["loss_s"]).sum(-1)
    np.testing.assert_allclose(err_t - err_s, part_a + part_b, atol=1e-11)

    fld = target_mean(-plogq(star, plan_map).sum((-1, -2)))
    divergence = plogq(star, star_map) - plogq(star, plan_map)
    entropy = target_mean(-plogq(star, star_map).sum((-1, -2)))
    kl = target_mean(divergence.sum((-1, -2)))
    np.testing.assert_allclose(fld, kl + entropy, rtol=1e-9)
    assert np.all(kl >= -1e-12) and np.all(entropy >= -1e-12)

    posterior = star / star.sum(-2, keepdims=True)
    refined = fld - target_mean(-plogq(star, posterior).sum((-1, -2)))
    assert np.all(part_a <= refined + 1e-10)
    assert np.all(refined <= fld + 1e-10)
    if calibrated and oracle == predicted == "independent":
        # The evidence bound is an equality: the posterior is p_s itself.
        np.testing.assert_allclose(part_a, refined, atol=1e-10)


def test_transport_bounds_the_shift_of_the_source_loss():
    """B <= omega W1, and with a smaller constant B <= omega W1 + delta M."""
    p = problem(1, calibrated=False)
    gap = np.abs(p["loss_s"][:, :, None] - p["loss_s"][:, None])
    length = np.abs(p["u"][:, :, None] - p["u"][:, None])
    slope = gap / np.where(length > 0, length, 1.0)
    coupling = north_west(p["mass_s"], p["mass_t"])  # optimal on a sorted line
    w1 = (coupling * length).sum((-1, -2))
    shift = ((p["mass_t"] - p["mass_s"]) * p["loss_s"]).sum(-1)
    assert np.all(shift <= slope.max((-1, -2)) * w1 + 1e-12)
    largest = gap.max((-1, -2))
    for quantile in (0.3, 0.6, 0.9):
        omega = np.quantile(slope, quantile, axis=(-1, -2))
        fails = gap > omega[:, None, None] * length
        delta = (coupling * fails).sum((-1, -2))
        assert np.all(shift <= omega * w1 + delta * largest + 1e-12)


def test_label_map_head_on_random_draws():
    """CE of the head P @ Lambda_bar <= H(Zt|Zs) <= H(Zt), whatever P and labels."""
    rng = np.random.default_rng(2)
    probs = rng.dirichlet(np.full(KS, 0.3), size=(DRAWS, 20))
    one_hot = np.eye(KT)[rng.integers(KT, size=(DRAWS, 20))]
    q = np.swapaxes(probs, 1, 2) @ one_hot / 20
    label_map = q / q.sum(-1, keepdims=True)
    ce = -np.log(((probs @ label_map) * one_hot).sum(-1)).mean(-1)
    forward = -plogq(q, label_map).sum((-1, -2))
    b = q.sum(-2)
    assert np.all(ce <= forward + 1e-12)
    assert np.all(forward <= -plogq(b, b).sum(-1) + 1e-12)


# --- Exact W1 -------------------------------------------------------------------------


def test_wasserstein_golden():
    data = np.load(GOLDEN / "losses.npz")
    want = json.loads((GOLDEN / "losses.json").read_text())["w1_exact"]
    value, num_points = bound.exact_wasserstein1(data["X"], data["Y"])
    np.testing.assert_allclose(value, want, rtol=1e-6)
    assert num_points == 96
    # 480 repeated points are too many now: the linear program.
    value, _ = bound.exact_wasserstein1(data["X"], data["Y"], max_points=200)
    np.testing.assert_allclose(value, want, rtol=1e-6)


@pytest.mark.parametrize("sizes", [(50, 50), (1, 9), (30, 45), (41, 67), (400, 1200)])
def test_wasserstein_in_one_dimension(sizes):
    rng = np.random.default_rng(0)
    x, y = (rng.normal(size=(n, 1)) for n in sizes)
    value, num_points = bound.exact_wasserstein1(x, 0.3 + 2 * y)
    want = stats.wasserstein_distance(x[:, 0], 0.3 + 2 * y[:, 0])
    np.testing.assert_allclose(value, want, atol=1e-9)
    assert num_points == min(sizes)


def test_wasserstein_weights():
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(12, 1)), rng.normal(size=(15, 1))
    a, b = rng.uniform(size=12), rng.uniform(size=15)
    a[3] = 0
    value, num_points = bound.exact_wasserstein1(x, y, weights_x=a, weights_y=b)
    want = stats.wasserstein_distance(x[:, 0], y[:, 0], a, b)
    np.testing.assert_allclose(value, want, atol=1e-9)
    assert num_points == 11
    x, y, counts = rng.normal(size=(9, 3)), rng.normal(size=(4, 3)), [3.0, 1, 2, 3]
    np.testing.assert_allclose(
        bound.exact_wasserstein1(x, y, weights_y=np.array(counts))[0],
        bound.exact_wasserstein1(x, np.repeat(y, np.int32(counts), axis=0))[0],
        rtol=1e-9,
    )


def test_wasserstein_translation_and_thinning():
    x, shift = np.random.default_rng(2).normal(size=(300, 4)), np.array([3, 0, 4, 0])
    assert bound.exact_wasserstein1(x, x) == (0.0, 300)
    value, _ = bound.exact_wasserstein1(x, x + shift)
    np.testing.assert_allclose(value, 5, rtol=1e-12)
    thinned = bound.exact_wasserstein1(x, x + shift, max_points=100)
    assert thinned == bound.exact_wasserstein1(x, x + shift, max_points=100)
    assert thinned[1] == 100 and abs(thinned[0] - 5) < 1
    assert thinned[0] != bound.exact_wasserstein1(x, x + shift, max_points=100, seed=1)
    # No common multiple, too many pairs: 650 of the larger cloud would not divide.
    value, num_points = bound.exact_wasserstein1(
        x, np.repeat(x + shift, 3, axis=0)[:650], max_points=700
    )
    assert num_points == 300 and abs(value - 5) < 1
    weights = np.linspace(0, 1, 300)  # and too many pairs for weights: draws
    value, num_points = bound.exact_wasserstein1(
        x, x + shift, weights_y=weights, max_points=50
    )
    assert num_points == 50 and abs(value - 5) < 1


def test_wasserstein_thins_to_a_multiple(monkeypatch):
    monkeypatch.setattr(bound, "_PROGRAM_PAIRS", 0)
    y = 2.0 ** np.arange(7)[:, None]
    value, _ = bound.exact_wasserstein1(np.zeros((2, 1)), y, max_points=7)
    assert 127 - round(6 * value) in y  # six of seven points, not two


@pytest.mark.parametrize(
    ("x", "y", "options"),
    [
        (np.zeros((2, 3)), np.zeros((2, 2)), {}),
        (np.zeros((0, 3)), np.zeros((2, 3)), {}),
        (np.zeros(3), np.zeros((2, 3)), {}),
        (np.full((1, 3), np.nan), np.zeros((2, 3)), {}),
        (np.full((1, 3), np.inf), np.zeros((2, 3)), {}),
        (np.zeros((2, 3)), np.zeros((2, 3)), {"max_points": 0}),
        (np.zeros((2, 3)), np.zeros((2, 3)), {"weights_x": np.zeros(2)}),
        (np.zeros((2, 3)), np.zeros((2, 3)), {"weights_y": np.ones(3)}),
        (np.zeros((2, 3)), np.zeros((2, 3)), {"weights_y": np.array([1.0, -1.0])}),
    ],
)
def test_wasserstein_refuses(x, y, options):
    with pytest.raises(REFUSED):
        bound.exact_wasserstein1(x, y, **options)


@pytest.mark.parametrize(
    "case", ["equal", "multiple", "program", "weights", "zero_weight", "thinned"]
)
def test_coupling_is_the_plan_of_the_distance(case):
    rng = np.random.default_rng(3)
    n, m = {"multiple": (4, 12), "program": (41, 67), "thinned": (50, 60)}.get(
        case, (20, 20)
    )
    x, y, options = rng.normal(size=(n, 3)), rng.normal(size=(m, 3)) + 1, {}
    a, b = np.full(n, 1 / n), np.full(m, 1 / m)
    if "weight" in case:
        a, b = rng.dirichlet(np.ones(n)), rng.dirichlet(np.ones(m))
        a[3] = 0 if case == "zero_weight" else a[3]
        a /= a.sum()
        options = {"weights_x": 3 * a, "weights_y": b}
    options |= {"max_points": 30} if case == "thinned" else {}
    rows, columns, mass = bound.exact_coupling(x, y, **options)
    assert rows.shape == columns.shape == mass.shape
    assert np.all(mass > 0)
    np.testing.assert_allclose(mass.sum(), 1, rtol=1e-12)
    want, num_points = bound.exact_wasserstein1(x, y, **options)
    lengths = np.linalg.norm(x[rows] - y[columns], axis=1)
    np.testing.assert_allclose(mass @ lengths, want, rtol=1e-12)
    if case == "thinned":
        assert len(np.unique(rows)) == len(np.unique(columns)) == num_points == 30
        np.testing.assert_allclose(mass, 1 / 30, rtol=1e-12)
        return
    np.testing.assert_allclose(np.bincount(rows, mass, n), a, atol=1e-9)
    np.testing.assert_allclose(np.bincount(columns, mass, m), b, atol=1e-9)
    if case == "zero_weight":
        assert 3 not in rows and num_points == 19


def test_coupling_of_a_shuffled_translation_finds_the_partners():
    rng = np.random.default_rng(4)
    x, order = rng.normal(size=(30, 4)), rng.permutation(30)
    rows, columns, _ = bound.exact_coupling(x, x[order] + 0.01)
    np.testing.assert_array_equal(rows, order[columns])


# --- target_error_bound ---------------------------------------------------------------

LOG2 = math.log(2)


def by_hand(**changes):
    """Two source labels, two target labels; each number below can be done on paper."""
    probs_s = np.array([[0.8, 0.2], [0.8, 0.2], [0.2, 0.8], [0.2, 0.8]])
    case = {
        "target_log_probs": np.log([[0.9, 0.1], [0.6, 0.4], [0.5, 0.5], [0.1, 0.9]]),
        "target_labels": np.array([0, 0, 1, 1]),
        "target_source_log_probs": np.log(probs_s),
        "source_log_probs": np.log([[0.9, 0.1], [0.3, 0.7]]),
        "source_labels": np.array([0, 1]),
        "source_features": np.array([[0.0, 0.0], [3.0, 4.0]]),
        "target_features": np.array([[0.0, 0.0], [0.0, 0.0], [3.0, 4.0], [3.0, 5.0]]),
        "omega": 0.4,
    }
    return case | changes


def entropy(*p):
    return -sum(v * math.log(v) for v in p if v > 0)


def test_general_predictor_by_hand():
    got = bound.target_error_bound(**by_hand())
    err_s, h = -(math.log(0.9) + math.log(0.7)) / 2, entropy(0.8, 0.2)
    want = {
        "err_t": -(math.log(0.9) + math.log(0.6) + math.log(0.5) + math.log(0.9)) / 4,
        "err_s": err_s,
        "w1": 0.25,
        "fa": 0.1,
        "fld_entropy": h,
        "fld_entropy_corrected": h + (4 - 2) / 8,
        "fld_kl": 0.0,  # err_t = 0.354 is below H(Zt|Zs) = 0.500
        "fld": h,
        "bound": err_s + 0.1 + h,
        "posterior_entropy": h,
        "refined": err_s + 0.1,
        "source_shift": h - err_s,
        "refined_holds": False,  # B = 0.269 > FA = 0.1: and indeed refined < err_t
        "vacuous": True,
        "omega": 0.4,
        "delta": 0.0,
        "num_samples": 4,
        "num_points": 2,
    }
    assert got.keys() == want.keys()
    for name, value in want.items():
        assert type(got[name]) is type(value), name
        np.testing.assert_allclose(got[name], value, atol=1e-6, err_msg=name)


def test_worse_predictor_than_the_label_map():
    log_probs = np.log(np.tile([0.5, 0.5], (4, 1)))
    got = bound.target_error_bound(**by_hand(target_log_probs=log_probs))
    h = entropy(0.8, 0.2)
    np.testing.assert_allclose(got["fld_kl"], LOG2 - h, atol=1e-6)
    np.testing.assert_allclose([got["fld"], got["err_t"]], LOG2, atol=1e-6)


def test_label_map_head_by_hand():
    case = by_hand()
    head = np.array([[0.7, 0.3], [0.4, 0.6]])  # p_t(right label): .64, .64, .54, .54
    probs = np.exp(case["target_source_log_probs"]) @ head
    got = bound.target_error_bound(
        **case | {"target_log_probs": np.log(probs)}, label_map=head
    )
    # Lambda_bar is [[.8, .2], [.2, .8]], q(z) is one half.
    kl = 0.8 * math.log(0.8 / 0.7) + 0.2 * math.log(0.2 / 0.3)
    kl = (kl + 0.2 * math.log(0.2 / 0.4) + 0.8 * math.log(0.8 / 0.6)) / 2
    np.testing.assert_allclose(got["fld_kl"], kl, atol=1e-6)
    np.testing.assert_allclose(got["fld"], entropy(0.8, 0.2) + kl, atol=1e-6)
    err_t = -(math.log(0.64) + math.log(0.54)) / 2
    np.testing.assert_allclose(got["err_t"], err_t, atol=1e-6)
    assert got["err_t"] <= got["fld"] <= got["bound"]
    with pytest.raises(ValueError, match="not that head"):
        bound.target_error_bound(**case, label_map=head)
    for bad in (head.T, head[:1], head - 0.5):
        with pytest.raises(REFUSED, match="label_map"):
            bound.target_error_bound(**case, label_map=bad)


def test_delta_adds_its_share():
    plain = bound.target_error_bound(**by_hand())
    slack = bound.target_error_bound(**by_hand(delta=0.1, loss_range=2.0))
    for name in ("bound", "refined"):
        np.testing.assert_allclose(slack[name] - plain[name], 0.2, atol=1e-9)
    assert slack["refined_holds"] and slack["refined"] >= slack["fld"]


def test_vacuous_both_ways():
    sure = np.log([[0.99, 0.01], [0.01, 0.99]])
    case = by_hand(
        target_log_probs=sure[[0, 0, 1, 1]],
        target_source_log_probs=sure[[0, 0, 1, 1]],
        source_log_probs=sure,
    )
    got = bound.target_error_bound(**case)
    assert got["bound"] < LOG2 and not got["vacuous"]
    got = bound.target_error_bound(**case | {"omega": 4.0})
    assert got["bound"] > LOG2 and got["vacuous"]


def test_zero_probability_of_a_label_makes_the_bound_infinite():
    with np.errstate(divide="ignore"):
        log_probs = np.log([[1.0, 0.0], [0.0, 1.0], [0.5, 0.5], [0.1, 0.9]])
    got = bound.target_error_bound(**by_hand(target_log_probs=log_probs))
    assert got["err_t"] == got["fld_kl"] == got["bound"] == math.inf and got["vacuous"]
    # A sample of weight zero does not count, not even by an infinite loss.
    weights = np.array([1.0, 0.0, 1.0, 1.0])
    got = bound.target_error_bound(
        **by_hand(target_log_probs=log_probs, weights=weights)
    )
    assert math.isfinite(got["bound"])


@pytest.mark.parametrize("case", ["one_target", "one_class", "one_sample"])
def test_degenerate_samples_are_finite(case):
    changes = {
        "one_target": {
            "target_log_probs": np.zeros((4, 1)),
            "target_labels": np.zeros(4, int),
        },
        "one_class": {"target_labels": np.ones(4, int)},
        "one_sample": {
            name: by_hand()[name][:1]
            for name in by_hand()
            if name.startswith(("target", "source"))
        },
    }[case]
    got = bound.target_error_bound(**by_hand(**changes))
    assert all(math.isfinite(value) for value in got.values())
    np.testing.assert_allclose(got["fld_entropy"], 0, atol=1e-6)
    assert got["err_t"] <= got["bound"] + 1e-6
    if case == "one_target":
        assert got["err_t"] == got["fld"] == 0 and got["vacuous"]


ROWS = ("target_log_probs", "target_source_log_probs", "source_log_probs")


@pytest.mark.parametrize("name", [*ROWS, "source_features", "target_features"])
def test_nan_rows_are_named(name):
    case = by_hand()
    case[name] = case[name].copy()
    case[name][1, 0] = np.nan
    with pytest.raises(ValueError, match=f"{name} holds NaN in 1 .* row 1"):
        bound.target_error_bound(**case)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"target_log_probs": np.ones((4, 2))}, "must hold log-probabilities"),
        ({"target_log_probs": np.zeros((4, 0))}, "samples classes"),
        ({"target_labels": np.array([0, 1, 2, 0])}, "0..1, got 2"),
        ({"target_labels": np.array([0, 1, -1, 0])}, "0..1, got -1"),
        ({"target_labels": np.zeros(4)}, "4 integers"),
        ({"source_labels": np.zeros(3, int)}, "2 integers"),
        ({"target_features": np.zeros((3, 2))}, "as many rows"),
        ({"source_features": np.zeros((3, 2))}, "fit the source features"),
        ({"source_log_probs": np.full((2, 3), -np.log(3))}, "same classes"),
        ({"source_features": np.zeros((2, 5))}, "different dimension"),
        ({"omega": -0.1}, "omega"),
        ({"omega": math.nan}, "omega"),
        ({"delta": 1.5}, "delta"),
        ({"delta": 0.1}, "loss_range"),
        ({"loss_range": -1.0}, "loss_range"),
        ({"weights": np.ones(3)}, "weights"),
        ({"weights": np.array([1, 1, 1, np.nan])}, "weights"),
    ],
)
def test_refuses(changes, match):
    with pytest.raises(REFUSED, match=f"{match}|Type-check error"):
        bound.target_error_bound(**by_hand(**changes))


# --- Properties -----------------------------------------------------------------------

TARGET = (
    "target_log_probs",
    "target_labels",
    "target_source_log_probs",
    "target_features",
)
seeds = st.integers(0, 2**32 - 1)


def random_case(seed, is_label_map=False):
    """Sizes are fixed, so that JAX compiles once."""
    rng = np.random.default_rng(seed)

    def simplex(rows, k):
        return rng.dirichlet(np.full(k, rng.uniform(0.2, 3)), size=rows) + 1e-9

    def log(p):
        return np.log(p / p.sum(1, keepdims=True))

    log_st, head = log(simplex(12, KS)), np.exp(log(simplex(KS, KT)))
    log_t = np.log(np.exp(log_st) @ head) if is_label_map else log(simplex(12, KT))
    return {
        "target_log_probs": log_t,
        "target_labels": rng.integers(KT, size=12),
        "target_source_log_probs": log_st,
        "source_log_probs": log(simplex(8, KS)),
        "source_labels": rng.integers(KS, size=8),
        "source_features": rng.normal(size=(8, 3)),
        "target_features": rng.normal(size=(12, 3)) + rng.normal(size=3),
        "omega": rng.uniform(0, 1),
        "label_map": head if is_label_map else None,
    }


def assert_close(got, want, names=None):
    for name in names or want:
        np.testing.assert_allclose(
            got[name], want[name], rtol=1e-5, atol=2e-6, err_msg=name
        )


@few
@hypothesis.given(seeds, st.booleans())
def test_what_always_holds(seed, is_label_map):
    case = random_case(seed, is_label_map)
    got = bound.target_error_bound(**case)
    for name in ("err_t", "err_s", "fa", "fld_entropy", "fld_kl", "posterior_entropy"):
        assert got[name] >= 0, name
    assert got["err_t"] <= got["fld"] + 2e-6
    log_st = case["target_source_log_probs"]
    rows = -(np.exp(log_st) * log_st).sum(1)
    np.testing.assert_allclose(got["refined"], got["bound"] - rows.mean())
    np.testing.assert_allclose(got["source_shift"], rows.mean() - got["err_s"])
    np.testing.assert_allclose(got["fld"], got["fld_entropy"] + got["fld_kl"])
    np.testing.assert_allclose(got["bound"], got["err_s"] + got["fa"] + got["fld"])
    if got["refined_holds"]:
        assert got["fld"] <= got["refined"] + 1e-9
    assert got["vacuous"] == (got["bound"] > math.log(KT))


@few
@hypothesis.given(seeds, st.booleans())
def test_the_order_of_samples_does_not_matter(seed, is_label_map):
    case = random_case(seed, is_label_map)
    order = np.random.default_rng(seed).permutation(12)
    moved = case | {name: case[name][order] for name in TARGET}
    order = np.random.default_rng(seed).permutation(8)
    moved |= {name: v[order] for name, v in case.items() if name.startswith("source")}
    assert_close(bound.target_error_bound(**moved), bound.target_error_bound(**case))


@few
@hypothesis.given(seeds, st.permutations([1, 1, 2, 2, 3, 3]))
def test_weights_count_samples(seed, counts):
    """12 samples of which some repeat, against their distinct ones with weights."""
    case = random_case(seed)
    distinct = {name: case[name][:6] for name in TARGET}
    repeated = {name: np.repeat(v, counts, axis=0) for name, v in distinct.items()}
    want = bound.target_error_bound(**case | repeated)
    weights = 0.37 * np.array(counts)
    got = bound.target_error_bound(**case | distinct, weights=weights)
    own = ("fld_entropy_corrected", "num_samples", "num_points")
    assert_close(got, want, want.keys() - set(own))


@few
@hypothesis.given(seeds)
def test_wasserstein_is_a_distance(seed):
    rng = np.random.default_rng(seed)
    x, y, z = (rng.normal(size=(n, 3)) + rng.normal(size=3) for n in (6, 9, 7))
    xy, yx, yz, xz = (
        bound.exact_wasserstein1(*pair)[0] for pair in ((x, y), (y, x), (y, z), (x, z))
    )
    np.testing.assert_allclose(xy, yx, rtol=1e-9)
    assert 0 <= xz <= xy + yz + 1e-9
    assert xy >= np.linalg.norm(x.mean(0) - y.mean(0)) - 1e-9
