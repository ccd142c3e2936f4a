"""Cost against size: the fit, and the command with a sweep that costs nothing."""

import json

import numpy as np
import pytest
import scipy.stats

from recraft_jax import benchmark_sizes

CALL = (
    "facts = lambda: {'peak_bytes': 100 * %d + 7, 'baseline': 7}; "
    "measure.serve({'step': lambda: None, 'facts': facts})"
)
FAKE = {
    name: benchmark_sizes.Sweep((1, 2, 4), name, lambda size: ("measure", CALL % size))
    for name in ("one", "two")
}


def test_fit_of_a_power_law():
    sizes = np.array([1.0, 3.0, 10.0, 50.0])
    constant, exponent, error = benchmark_sizes.fit(sizes, 2 * sizes**1.5)
    np.testing.assert_allclose((constant, exponent), (2, 1.5), rtol=1e-9)
    assert error < 1e-6


def test_fit_of_noise_is_that_of_scipy():
    rng = np.random.default_rng(0)
    sizes = np.array([64.0, 128.0, 256.0, 512.0])
    costs = sizes**1.2 * np.exp(0.1 * rng.standard_normal(4))
    constant, exponent, error = benchmark_sizes.fit(sizes, costs)
    want = scipy.stats.linregress(np.log(sizes), np.log(costs))
    np.testing.assert_allclose(exponent, want.slope)
    np.testing.assert_allclose(error, want.stderr)
    np.testing.assert_allclose(np.log(constant), want.intercept)


def test_command(tmp_path, capsys):
    out, drawn = tmp_path / "sizes.json", tmp_path / "sizes.png"
    argv = [f"--out={out}", f"--figure={drawn}", "--only=two", "--repeats=1"]
    assert benchmark_sizes.main(argv, FAKE) == 0
    rows = json.loads(out.read_text())
    assert [(r["name"], r["size"], r["bytes"]) for r in rows] == [
        ("two", 1, 100),
        ("two", 2, 200),
        ("two", 4, 400),
    ]
    assert all(row["seconds"] > 0 for row in rows)
    assert "bytes size^1.00 +- 0.00" in capsys.readouterr().out
    assert drawn.stat().st_size > 1000


@pytest.mark.parametrize("name", benchmark_sizes.SWEEPS)
def test_sweeps_are_calls(name):
    sweep = benchmark_sizes.SWEEPS[name]
    calls = [sweep.call(size) for size in sweep.sizes]
    assert len(set(calls)) == len(sweep.sizes)
    for module, call in calls:
        compile(call, module, "eval")
        assert call.startswith(f"{module}.serve(")


@pytest.mark.parametrize(
    ("argv", "allowed"),
    [
        (["--only=speed"], "source, tokens"),
        (["--repeats=0"], "1, 2"),
        (["--out=no/such/x.json"], "folder"),
        (["--figure=x.txt"], ".png"),
    ],
)
def test_bad_arguments(argv, allowed, capsys):
    assert benchmark_sizes.main(argv) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1
    assert allowed in err.split("allowed: ")[1]
