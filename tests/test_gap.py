"""Runs that differ in omega: what compares, the gap at one omega, correlations."""

import copy
import json
import math

import numpy as np
import pytest
from scipy import stats

from recraft_jax import errors, gap, report

CONFIG = {
    "task": "darcy16",
    "method": "recraft",
    "seed": 0,
    "fa": {"omega": 0.4, "num_source": 256},
    "stage2": {"freeze_embedder": False, "num_epochs": 8},
    "log": {"every_steps": 50},
    "assets": {"cache": ""},
}
RESULTS = {
    "task": "darcy16",
    "method": "recraft",
    "backbone": "minilm",
    "protocol": "corrected",
    "scale": "demo",
    "metric": "nrmse",
    "seed": 0,
    "test": {"best_val": 0.13, "last": 0.14},
}
HEAD = {
    "task": "darcy16",
    "method": "recraft",
    "backbone": "minilm",
    "backbone_name": "MiniLM",
    "seed": 0,
    "split": "test",
    "predictor": "model",
    "omega": 0.4,
    "num_classes": 10,
    "log_num_classes": math.log(10),
}


def row(step, phase, *, omega=0.4, w1=4.0, entropy=2.0, err_t=1.5):
    fa = omega * w1
    return {
        "step": step,
        "phase": phase,
        "err_t": err_t,
        "err_s": 0.5,
        "w1": w1,
        "fa": fa,
        "fld_entropy": entropy,
        "fld_entropy_corrected": entropy,
        "fld_kl": 0.25,
        "fld": entropy + 0.25,
        "bound": 0.5 + fa + entropy + 0.25,
        "refined": 0.5 + fa + entropy - 0.75,
        "refined_holds": True,
        "source_shift": 0.5,
        "posterior_entropy": 1.0,
        "vacuous": True,
        "omega": omega,
        "delta": 0.0,
        "num_samples": 50,
        "num_points": 50,
        "gap": fa + entropy,
        "holds": True,
    }


@pytest.fixture
def save(tmp_path):
    """Writes a finished run with its bound and returns its folder.

    `config`, `results` and `bound` update the three files; the rest is of `row`.
    """

    def make(name, *, seed=0, config=(), results=(), bound=(), steps=1, **numbers):
        omega = numbers.get("omega", 0.4)
        settings = copy.deepcopy(CONFIG) | {"seed": seed}
        settings["fa"]["omega"] = omega
        rows = [row(0, "align", **(numbers | {"err_t": 3.0}))]
        rows += [row(40 + 50 * i, "fit", **numbers) for i in range(steps)]
        files = {
            "config": settings | dict(config),
            "results": copy.deepcopy(RESULTS) | {"seed": seed} | dict(results),
            "bound": HEAD
            | {"seed": seed, "omega": omega, "checkpoints": rows, "final": rows[-1]}
            | dict(bound),
        }
        folder = tmp_path / name
        folder.mkdir()
        for stem, value in files.items():
            (folder / f"{stem}.json").write_text(json.dumps(value))
        return folder

    return make


def runs(*folders):
    return [gap.read(folder) for folder in folders]


def sweep(save, num=8):
    """Runs whose target error falls with omega, and w1 with it."""
    return [
        save(
            f"omega{i}", omega=0.1 * (i + 1), w1=5.0 - 0.25 * i, err_t=1.5 - 0.05 * i**2
        )
        for i in range(num)
    ]


def test_read_joins_the_three_files(save):
    run = gap.read(save("a", err_t=1.25))
    assert run["final"]["err_t"] == 1.25
    assert (run["name"], run["test"], run["metric"]) == ("a", 0.13, "nrmse")
    assert run["config"]["fa"]["omega"] == 0.4


def test_gap_at_a_common_omega_by_hand(save):
    one, two = runs(
        save("a", omega=0.1, w1=4.0, entropy=2.0),
        save("b", omega=1.0, w1=3.0, entropy=1.5),
    )
    assert gap.at_omega(one, 0.5) == pytest.approx(4.0)
    assert gap.at_omega(two, 0.5) == pytest.approx(3.0)
    (_, own), (name, common) = gap.panels([one, two], 0.5)
    np.testing.assert_allclose(own, [2.4, 4.5])
    np.testing.assert_allclose(common, [4.0, 3.0])
    assert "omega = 0.5 for all runs" in name


def points(n, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=n)
    return x, x + rng.normal(size=n)


@pytest.mark.parametrize("n", [3, 8, 12])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_correlations_equal_scipy(n, seed):
    x, y = points(n, seed)
    y[1] = y[0]  # a tie
    spearman, pearson = gap.correlations(x, y)
    assert spearman.r == pytest.approx(stats.spearmanr(x, y).statistic)
    assert pearson.r == pytest.approx(stats.pearsonr(x, y).statistic)
    assert spearman.num == pearson.num == n


def test_p_counts_all_pairings():
    # Of 4! pairings of 1, 2, 3, 4 one has rank correlation 1 and three have 0.8.
    x = np.array([1.0, 2.0, 3.0, 4.0])
    spearman, pearson = gap.correlations(x, 10 * x)
    assert (spearman.r, pearson.r) == (pytest.approx(1), pytest.approx(1))
    assert spearman.p == pytest.approx(2 / 24)
    assert pearson.p == pytest.approx(2 / 24)
    spearman, _ = gap.correlations(x, np.array([1.0, 2.0, 4.0, 3.0]))
    assert spearman.r == pytest.approx(0.8)
    assert spearman.p == pytest.approx(8 / 24)


@pytest.mark.parametrize("n", [8, 30])
def test_p_is_near_that_of_the_normal_theory(n):
    x, y = points(n, 3)
    _, pearson = gap.correlations(x, y)
    assert pearson.p == pytest.approx(stats.pearsonr(x, y).pvalue, abs=0.05)
    assert gap.correlations(x, y) == gap.correlations(x, y)  # the draw has a seed


@pytest.mark.parametrize(
    ("x", "y", "why"),
    [
        ([1, 2], [1, 2], "too few runs"),
        ([1, 1, 1, 1], [1, 2, 3, 4], "one side is constant"),
        ([1, 2, 3, 4], [2, 2, 2, 2], "one side is constant"),
    ],
)
def test_correlation_may_be_undefined(x, y, why):
    for found in gap.correlations(np.array(x, float), np.array(y, float)):
        assert math.isnan(found.r) and math.isnan(found.p)
        assert gap.say(found) == f"{found.kind} undefined (n = {len(x)}): {why}"


def test_say_is_plain():
    make = gap.Correlation
    assert gap.say(make("Spearman", 8, 0.6, 0.12)) == (
        "Spearman +0.600 (n = 8, p = 0.120): p > 0.05: no evidence of a relation"
    )
    assert "rises with the gap" in gap.say(make("Pearson", 8, 0.9, 0.004))
    assert "falls with the gap" in gap.say(make("Pearson", 8, -0.9, 0.004))
    assert "p < 0.001" in gap.say(make("Pearson", 8, -0.99, 0.0002))
    assert "+0.000" in gap.say(make("Pearson", 8, -1e-9, 1.0))


def test_summary_has_a_row_per_run_and_the_correlations(save):
    text = gap.summary(runs(*reversed(sweep(save))), 0.4)
    lines = [line for line in text.splitlines() if line.startswith("|")]
    cells = [[c.strip() for c in line.strip("|").split("|")] for line in lines]
    assert {len(one) for one in cells} == {13}
    assert [one[0] for one in cells[2:]] == [f"{0.1 * (i + 1):g}" for i in range(8)]
    # omega 0.2: w1 4.75, fa 0.95, gap 2.95, at 0.4 1.9 + 2, bound 0.5 + 2.95 + 0.25
    numbers = "1.4500 0.1300 0.9500 4.7500 2.0000 2.9500 3.9000 3.7000 2.7000".split()
    assert cells[3] == ["0.2", "0", *numbers, "yes", "yes"]
    assert "darcy16, recraft, MiniLM: 8 runs, model predictor on the test split" in text
    assert "holds in 8 of 8 runs" in text and "log K_t = 2.303" in text
    own, common = text.split("err_t against the gap ")[1:]
    assert own.startswith("at each run's own omega (it rises with omega by definition)")
    assert "Spearman -1.000 (n = 8, p < 0.001): the target error falls" in own
    assert common.startswith("at omega = 0.4 for all runs:")
    assert "Spearman +1.000 (n = 8, p < 0.001): the target error rises" in common
    assert "seed 0:" not in text


def test_summary_splits_by_seed(save):
    folders = [
        save(
            f"{seed}-{i}", seed=seed, omega=0.1 * (i + 1), err_t=1 + i * (1 - 2 * seed)
        )
        for seed in (0, 1)
        for i in range(4)
    ]
    text = gap.summary(runs(*folders), 0.4)
    assert "- seed 0: Spearman +1.000 (n = 4, p = 0.083): p > 0.05" in text
    assert "- seed 1: Spearman -1.000 (n = 4, p = 0.083): p > 0.05" in text
    assert "- Spearman +0.000 (n = 8, p = 1.000)" in text


ODD = {
    "task": {
        "config": {"task": "other"},
        "results": {"task": "other"},
        "bound": {"task": "other"},
    },
    "method": {
        "config": {"method": "fa"},
        "results": {"method": "fa"},
        "bound": {"method": "fa"},
    },
    "split": {"bound": {"split": "val"}},
    "predictor": {"bound": {"predictor": "label_map"}},
    "backbone": {"bound": {"backbone": "other"}},
    "protocol": {"results": {"protocol": "official"}},
    "scale": {"results": {"scale": "quick"}},
    "stage2.num_epochs": {"config": {"stage2": {"num_epochs": 9}}},
    "fa.num_source": {"config": {"fa": {"omega": 0.2, "num_source": 8}}},
}


@pytest.mark.parametrize("name", ODD)
def test_runs_that_do_not_compare_are_refused(save, tmp_path, capsys, name):
    folders = [save("a"), save("b", omega=0.2, **ODD[name])]
    with pytest.raises(errors.InputError, match=f"runs a and b do not .*{name}: "):
        gap.check_comparable(runs(*folders))
    out = tmp_path / "out.png"
    assert report.main(["--gap", *map(str, folders), f"--out={out}"]) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("\n") == 1
    assert said.err.startswith("error: ")
    assert not out.exists()


def test_runs_may_differ_in_omega_seed_and_where(save):
    folders = [
        save("a"),
        save("b", omega=0.2),
        save("c", seed=1, config={"assets": {"cache": "x"}, "log": {"every_steps": 1}}),
    ]
    gap.check_comparable(runs(*folders))


def test_a_run_given_twice_is_refused(save):
    with pytest.raises(
        errors.InputError, match="a and b both have omega 0.4 and seed 0"
    ):
        gap.check_comparable(runs(save("a"), save("b")))


@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_number_that_is_not_finite_is_refused(save, value):
    with pytest.raises(errors.InputError, match="run a: err_t is (inf|nan) at step 40"):
        gap.check_comparable(runs(save("a", err_t=value)))


def test_gap_asks_only_for_a_finite_end(save, capsys, tmp_path):
    folder, out = save("a"), tmp_path / "out.png"
    bound = json.loads((folder / "bound.json").read_text())
    bound["checkpoints"][0]["err_t"] = math.inf
    (folder / "bound.json").write_text(json.dumps(bound))
    gap.check_comparable(runs(folder))
    assert report.main(["--bound", str(folder), f"--out={out}"]) == 2
    assert "err_t is inf at step 0" in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize("missing", ["results.json", "config.json", "bound.json"])
def test_read_refuses_missing_file(save, missing):
    folder = save("a")
    (folder / missing).unlink()
    with pytest.raises(errors.InputError, match=f"{missing}: No such file") as info:
        gap.read(folder)
    command = f"`python -m recraft_jax.evaluate --workdir={folder} --bound` makes it"
    assert (command in str(info.value)) == (missing == "bound.json")


def _drop(bound):
    del bound["final"]["w1"]


def _text(bound):
    bound["checkpoints"][0]["err_t"] = "one"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda b: b.update(task="advection"), "another run: task is 'advection'"),
        (lambda b: b.update(seed=3), "another run: seed is 3"),
        (lambda b: b.pop("split"), "has no 'split'"),
        (lambda b: b.pop("final"), "no checkpoints or no final"),
        (lambda b: b.update(checkpoints=[1]), "checkpoint 0 is int"),
        (_drop, "final has no 'w1'"),
        (_text, "checkpoint 0: err_t is 'one'"),
    ],
)
def test_read_refuses_other_bounds(save, change, message):
    folder = save("a")
    path = folder / "bound.json"
    bound = json.loads(path.read_text())
    change(bound)
    path.write_text(json.dumps(bound))
    with pytest.raises(errors.InputError, match=message) as info:
        gap.read(folder)
    assert "`python -m recraft_jax.evaluate" in str(info.value)
    assert "\n" not in str(info.value)


@pytest.mark.parametrize("content", ["{", "[1]"])
def test_read_refuses_damaged_bound(save, content):
    folder = save("a")
    (folder / "bound.json").write_text(content)
    with pytest.raises(errors.InputError, match="evaluate --workdir"):
        gap.read(folder)
