"""Degenerate input to every loss: a finite value and gradient, or a clear error.

One table of calls, one of cases; all pairs are run. A function that is added without a
line in the table fails `test_every_public_function_is_in_the_table`.
"""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recraft_jax.losses import bound, distortion, label_ot, ot, otdd

N, M, KS, KT = 6, 5, 3, 2
# Name: function, arrays by argument (see `problem`), labels by argument, the rest.
PAIR = {"x": "x", "y": "y"}
WEIGHTED = PAIR | {"weights_x": "a", "weights_y": "b"}
LABELS = {"x_labels": "x_labels", "y_labels": "y_labels"}
CLASSES = {"num_classes_x": "ks", "num_classes_y": "kt"}
SAMPLES = {"probs": "probs", "targets": "targets", "weights": "a"}
MEANS = {
    "features": "x",
    "targets": "targets",
    "source_features": "y",
    "source_labels": "source_targets",
}
TABLE = {
    ot.wasserstein1: (WEIGHTED, {}, {}),
    ot.sinkhorn_divergence: (WEIGHTED, {}, {"epsilon": 0.5}),
    ot.self_term: ({"x": "x", "weights": "a"}, {}, {"epsilon": 0.5}),
    ot.half_squared_cost: (PAIR, {}, {}),
    ot.transport_plan: (
        {"cost": "cost", "a": "q_rows", "b": "q_columns"},
        {},
        {"epsilon": 0.5},
    ),
    ot.default_epsilon: (PAIR, {}, {}),
    distortion.joint: (SAMPLES, {}, {}),
    distortion.per_label: (SAMPLES, {}, {}),
    distortion.entropy: ({"p": "q"}, {}, {}),
    distortion.target_given_source: ({"q": "q"}, {}, {}),
    distortion.source_given_target: ({"q": "q", "class_scale": "scale"}, {}, {}),
    distortion.mutual_information: ({"q": "q"}, {}, {}),
    distortion.label_map: ({"q": "q"}, {}, {}),
    distortion.miller_madow: ({"q": "q"}, {}, {"num_samples": 6}),
    distortion.transport_distortion: ({"q": "q", "plan": "plan"}, {}, {}),
    distortion.moving_average: ({"q_ema": "plan", "q_batch": "q"}, {}, {}),
    distortion.negative_sets: (
        {"q": "q", "negatives": "negatives", "class_scale": "scale"},
        {},
        {},
    ),
    distortion.misplaced_negatives: (
        {"first_probs": "probs", "targets": "targets"},
        {},
        {},
    ),
    distortion.prototype_cost: (MEANS, {}, {}),
    distortion.joint_cost: ({"q": "q"}, {}, {}),
    otdd.otdd: (PAIR, LABELS, CLASSES),
    otdd.label_distances: (PAIR, LABELS, CLASSES),
    label_ot.class_cost: (
        {"features": "y", "source_features": "x"},
        {"labels": "y_labels", "source_labels": "x_labels"},
        {"epsilon": 0.5, "num_classes": "kt", "num_source_classes": "ks"},
    ),
    label_ot.self_terms: (
        {"features": "y"},
        {"labels": "y_labels"},
        {"epsilon": 0.5, "num_classes": "kt"},
    ),
}
ON_THE_HOST = {
    bound.exact_wasserstein1: (WEIGHTED, {}, {}),
    bound.exact_coupling: (WEIGHTED, {}, {}),
}
# Of booleans and costs, by construction; of its own tests in test_bound.py.
ELSEWHERE = {distortion.fill_unknown, bound.target_error_bound}
MODULES = ot, distortion, otdd, label_ot, bound


def problem(case):
    """All arrays that the table names, for one degenerate case."""
    rng = np.random.default_rng(0)
    n, m, kt = (1, 1, KT) if case == "one_point" else (N, M, KT)
    kt = 1 if case == "one_target" else kt
    x, y = rng.normal(size=(n, 3)), rng.normal(size=(m, 3)) + 1
    x_labels, y_labels = np.arange(n) % KS, np.arange(m) % kt
    probs = rng.dirichlet(np.ones(KS), size=n)
    a, b = np.ones(n), np.ones(m)
    match case:
        case "one_class":
            x_labels, y_labels = 0 * x_labels + 1, 0 * y_labels + 1
        case "one_sample_of_a_class":
            x_labels, y_labels = (
                np.minimum(np.arange(n), 1),
                np.minimum(np.arange(m), 1),
            )
        case "identical_points":
            x, y = np.ones((n, 3)), np.ones((m, 3))
        case "zero_variance":
            x[:, 1:], y[:, 1:] = 2.0, 2.0
        case "zero_weights":
            a[1:], b[:-1] = 0.0, 0.0
        case "hard_predictions":
            probs = np.eye(KS)[np.minimum(np.arange(n), 1)]
        case "large_values":
            x, y = 1e4 * x, 1e4 * y
    targets = np.eye(kt)[np.arange(n) % kt if case != "one_class" else [1] * n]
    q = probs.T @ (a[:, None] * targets) / a.sum()
    plan = np.outer(q.sum(1), q.sum(0))
    arrays = {
        "x": x,
        "y": y,
        "a": a,
        "b": b,
        "probs": probs,
        "targets": targets,
        "source_targets": np.eye(KS)[np.arange(m) % 2],
        "q": q,
        "q_rows": q.sum(1),
        "q_columns": q.sum(0),
        "plan": plan,
        "negatives": probs.T @ (1 - targets) / n,
        "scale": np.arange(kt) + 0.5,
        "cost": np.where(q > 0, rng.uniform(size=q.shape), np.inf),
    }
    arrays = {name: jnp.asarray(v, jnp.float32) for name, v in arrays.items()}
    labels = {"x_labels": jnp.asarray(x_labels), "y_labels": jnp.asarray(y_labels)}
    return arrays, labels, {"ks": KS, "kt": kt}


CASES = (
    "regular",
    "one_class",
    "one_sample_of_a_class",
    "one_target",
    "one_point",
    "identical_points",
    "zero_variance",
    "zero_weights",
    "hard_predictions",
    "large_values",
)


def name_of(fn):
    return f"{fn.__module__.rpartition('.')[2]}.{fn.__name__}"


def arguments(fn, case):
    """The keyword arguments of a call, as arrays, labels and the rest."""
    arrays, labels, sizes = problem(case)
    of_arrays, of_labels, rest = (TABLE | ON_THE_HOST)[fn]
    return (
        {name: arrays[key] for name, key in of_arrays.items()},
        {name: labels[key] for name, key in of_labels.items()},
        {name: sizes.get(value, value) for name, value in rest.items()},
    )


@functools.cache
def compiled(fn, kt):
    """One program per function: value and gradient in all arrays, labels traced."""
    rest = {
        name: {"ks": KS, "kt": kt}.get(value, value)
        for name, value in TABLE[fn][2].items()
    }

    def loss(arrays, labels):
        out = fn(**arrays, **labels, **rest)
        first = out[0] if isinstance(out, tuple) else out
        total = sum(
            jnp.sum(jnp.where(jnp.isposinf(leaf), 0.0, leaf))  # `joint_cost` has them
            for leaf in jax.tree.leaves(first)
        )
        return total, out

    return jax.jit(jax.value_and_grad(loss, has_aux=True))


def test_every_public_function_is_in_the_table():
    public = {
        fn
        for module in MODULES
        for name, fn in inspect.getmembers(module, inspect.isfunction)
        if fn.__module__ == module.__name__ and not name.startswith("_")
    }
    assert public == TABLE.keys() | ON_THE_HOST.keys() | ELSEWHERE


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("fn", TABLE, ids=name_of)
def test_value_and_gradient_are_finite(fn, case):
    arrays, labels, rest = arguments(fn, case)
    kt = problem(case)[2]["kt"]
    (value, out), grads = compiled(fn, kt)(arrays, labels)
    assert jnp.isfinite(value)
    for leaf in jax.tree.leaves(out):
        is_good = jnp.isfinite(leaf)
        if fn is distortion.joint_cost:
            is_good |= arrays["q"] == 0
        assert jnp.all(is_good)
    for name, grad in grads.items():
        assert jnp.all(jnp.isfinite(grad)), f"gradient in {name}"
    if isinstance(out, tuple) and case != "large_values":
        assert out[1]["converged"]
    if fn.__module__ == distortion.__name__:  # the others run eagerly in their tests
        for got, want in zip(
            jax.tree.leaves(fn(**arrays, **labels, **rest)),
            jax.tree.leaves(out),
            strict=True,
        ):
            np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("case", CASES)
def test_exact_coupling_is_finite(case):
    arrays, _, _ = arguments(bound.exact_coupling, case)
    value, _ = bound.exact_wasserstein1(**arrays)
    rows, columns, mass = bound.exact_coupling(**arrays)
    assert np.isfinite(value) and np.all(np.isfinite(mass)) and np.all(mass > 0)
    for index, name in ((rows, "weights_x"), (columns, "weights_y")):
        want = np.asarray(arrays[name]) / np.sum(arrays[name])
        got = np.bincount(index, mass, minlength=len(want))
        np.testing.assert_allclose(got, want, atol=1e-6)
    if case == "identical_points":
        assert value == 0


# --- Refused --------------------------------------------------------------------------

# Bad entries by what an argument may hold; everything else must be finite.
NONNEGATIVE = {
    *("weights", "weights_x", "weights_y", "a", "b"),
    *("probs", "first_probs", "targets", "source_labels"),
    *("p", "q", "q_ema", "q_batch", "plan", "negatives"),
}
CALLS = [
    (fn, name)
    for fn, (arrays, _, _) in (TABLE | ON_THE_HOST).items()
    for name in arrays
]


@pytest.mark.parametrize(
    ("fn", "name"), CALLS, ids=[f"{name_of(fn)}-{name}" for fn, name in CALLS]
)
def test_bad_rows_are_named(fn, name):
    arrays, labels, rest = arguments(fn, "regular")
    bad = {np.nan: "NaN", -np.inf: "-inf"}
    bad |= {} if name == "cost" else {np.inf: "inf"}
    bad |= {-0.25: "-0.25"} if name in NONNEGATIVE else {}
    for entry, word in bad.items():
        at = (1,) * arrays[name].ndim
        changed = arrays | {name: arrays[name].at[at].set(entry)}
        match = rf"{name} holds {word} in 1 of {len(arrays[name])} rows, first in row 1"
        with pytest.raises(ValueError, match=match):
            fn(**changed, **labels, **rest)


@pytest.mark.parametrize(
    ("fn", "name"),
    [
        (fn, name)
        for fn, name in CALLS
        if name.startswith("weights") or name in ("a", "b")
    ],
)
def test_weights_without_mass_are_refused(fn, name):
    arrays, labels, rest = arguments(fn, "regular")
    with pytest.raises(ValueError, match=f"{name} must not be all zero"):
        fn(**arrays | {name: 0 * arrays[name]}, **labels, **rest)


@pytest.mark.parametrize(
    ("fn", "changes", "match"),
    [
        (ot.wasserstein1, {"epsilon": 1.0, "self_x": np.nan}, "self_x"),
        (ot.sinkhorn_divergence, {"self_y": jnp.float32(np.inf)}, "self_y"),
        (ot.sinkhorn_divergence, {"epsilon": jnp.float32(0)}, "epsilon"),
        (ot.self_term, {"epsilon": np.nan}, "epsilon"),
        (ot.transport_plan, {"epsilon": np.inf}, "epsilon"),
        (ot.transport_plan, {"cost": jnp.full((KS, KT), np.inf)}, "cost must have"),
        (otdd.otdd, {"epsilon": -1.0}, "epsilon"),
        (otdd.otdd, {"distances": {"xy": jnp.full((KS, KT), np.nan)}}, "distances"),
        (label_ot.class_cost, {"epsilon": 0.0}, "epsilon"),
        (label_ot.class_cost, {"labels": np.full(M, KT)}, "^labels must be in 0..1"),
        (label_ot.class_cost, {"source_labels": np.full(N, -1)}, "source_labels"),
        (label_ot.class_cost, {"labels": np.zeros(2, int)}, "labels"),
        (distortion.miller_madow, {"num_samples": 0}, "num_samples"),
        (distortion.negative_sets, {"q": jnp.zeros((KS, KT))}, "q must not be all"),
        (distortion.negative_sets, {"negatives": jnp.ones((KS, 5))}, "negatives"),
        (distortion.source_given_target, {"class_scale": jnp.ones(5)}, "class_scale"),
        (distortion.per_label, {"targets": jnp.full((N, KT), 1.5)}, "in .0, 1."),
        (distortion.misplaced_negatives, {"targets": jnp.full((N, 2), 2.0)}, "in .0,"),
        (distortion.joint, {"probs": jnp.zeros((0, KS))}, "probs"),
        (distortion.prototype_cost, {"features": jnp.ones((N, 1))}, "width"),
    ],
)
def test_other_refusals(fn, changes, match):
    arrays, labels, rest = arguments(fn, "regular")
    with pytest.raises((ValueError, TypeError), match=f"{match}|Type-check error"):
        fn(**(arrays | labels | rest | changes))


@pytest.mark.parametrize("fn", TABLE, ids=name_of)
def test_nan_under_jit_comes_out(fn):
    """Nothing can raise there: the value is NaN and `converged` False."""
    arrays, labels, _ = arguments(fn, "regular")
    for name, array in arrays.items():
        changed = arrays | {name: array.at[(1,) * array.ndim].set(np.nan)}
        (value, out), _ = compiled(fn, KT)(changed, labels)
        assert jnp.isnan(value), name
        if isinstance(out, tuple):
            assert not out[1]["converged"], name
