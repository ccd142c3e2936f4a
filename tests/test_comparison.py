"""Statistics against closed forms, and tables with their exact text."""

import csv
import io
import itertools

import numpy as np
import pytest
from scipy import stats

from recraft_jax import comparison, comparison_stats, comparison_tables, errors

SEEDS = (0, 1)
ORIGIN = {"command": "python -m x --methods=a_b", "cpu": "A CPU, 2 cores", "jobs": 1}


def results(test=0.25, val=0.3, **changes):
    made = {
        "task": "t",
        "method": "m",
        "seed": 0,
        "metric": "error",
        "protocol": "corrected",
        "scale": "quick",
        "preset": "default",
        "backbone_name": "minilm",
        "data": {"name": "t", "sha256": "aa", "train": 80, "val": 20, "test": 40},
        "test": {"best_val": test, "last": test + 0.5},
        "val": {"best": val},
        "baselines": {"mean": 0.9, "linear": 0.35},
        "align": {"fa_before": None, "fa_after": None},
        "seconds": {"total": 40.0, "compile": 10.0, "align": 0.0, "fit": 20.0},
        "params": {"total": 2000, "trained": 1500},
        "versions": {"jax": "0.10"},
        "git": "c0ffee",
    }
    return made | changes


ALIGN = {
    **{"fa_before": 9.0, "fa_after": 3.0, "fld_before": 2.0, "fld_after": 1.5},
    **{"fld_val_before": 2.25, "fld_val_after": 1.75},
}


def run(method, seed=0, task="t", test=0.25, val=0.3, samples=None, **changes):
    """A finished run; fields of `Finished` and of its results by name."""
    fields = ("is_root", "curve", "factor", "omega")
    own = {name: changes.pop(name) for name in fields if name in changes}
    made = results(test, val, method=method, seed=seed, **changes)
    return comparison.Finished(task, method, seed, made, samples, **own)


def summarise(runs, sweep=(), **settings):
    """Of the tasks, methods and seeds that the runs have, in order of appearance."""
    found = {
        name: list(dict.fromkeys(getattr(r, name) for r in runs))
        for name in ("task", "method", "seed")
    }
    names = {"tasks": found["task"], "methods": found["method"], "seeds": found["seed"]}
    return comparison.summarise(runs, sweep, **(names | settings))


# ------------------------------------------------------------------------------- ranks
def test_ranks_share_ties_and_follow_the_metric():
    scores = np.array([[0.1, 0.3, 0.1, 0.2], [0.1, 0.3, 0.1, 0.2], [1.0, np.nan, 2, 3]])
    ranked = comparison_stats.ranks(scores, np.array([False, True, True]))
    np.testing.assert_array_equal(
        ranked, [[1.5, 4, 1.5, 3], [3.5, 1, 3.5, 2], [3, 4, 2, 1]]
    )


@pytest.mark.parametrize("decimals", [8, 1])  # without and with ties
def test_friedman_is_scipys(decimals):
    scores = np.random.default_rng(0).normal(size=(7, 4)).round(decimals)
    ranked = comparison_stats.ranks(scores, np.zeros(7, bool))
    found = stats.friedmanchisquare(*scores.T)
    np.testing.assert_allclose(comparison_stats.friedman(ranked), found, rtol=1e-10)


def test_friedman_of_one_order_is_the_largest_and_of_all_ties_nothing():
    statistic, _ = comparison_stats.friedman(np.tile([1.0, 2.0, 3.0], (5, 1)))
    assert statistic == pytest.approx(5 * 2)  # t (m - 1)
    assert comparison_stats.friedman(np.full((5, 3), 2.0)) == (0.0, 1.0)


def test_nemenyi_has_the_published_values():
    published = {2: 1.960, 3: 2.343, 5: 2.728, 10: 3.164}  # Demsar 2006, table 5
    for num, q in published.items():
        assert comparison_stats.nemenyi_q(num) == pytest.approx(q, abs=1e-3)
    # Demsar's example: 4 classifiers on 14 data sets, 2.569 sqrt(4 * 5 / (6 * 14)).
    assert comparison_stats.critical_difference(4, 14) == pytest.approx(1.25, abs=0.005)


def test_alike_gives_the_largest_groups():
    average = {"d": 4.5, "a": 1.0, "b": 1.6, "c": 2.4}
    assert comparison_stats.alike(average, 1.0) == [["a", "b"], ["b", "c"]]
    assert comparison_stats.alike(average, 1.5) == [["a", "b", "c"]]
    assert comparison_stats.alike(average, 0.5) == []


# --------------------------------------------------------------------------- bootstrap
def test_bootstrap_of_samples_has_the_normal_interval():
    values = np.random.default_rng(0).normal(0.3, 2.0, (1, 400))
    low, high = comparison_stats.interval(comparison_stats.resample(values))
    half = 1.96 * values.std() / 20
    assert (low + high) / 2 == pytest.approx(values.mean(), abs=0.03 * half)
    assert high - low == pytest.approx(2 * half, rel=0.03)


def test_bootstrap_of_seeds_has_the_normal_interval():
    """Samples that agree within a seed leave the variance between seeds."""
    seeds = np.random.default_rng(0).normal(0.0, 1.0, 40)
    drawn = comparison_stats.resample(np.repeat(seeds[:, None], 10, axis=1))
    low, high = comparison_stats.interval(drawn)
    assert high - low == pytest.approx(2 * 1.96 * seeds.std() / 40**0.5, rel=0.04)


def test_bootstrap_adds_both_variances():
    """Seed s, sample n: a_s + b_n, so the variances of the two means add."""
    rng = np.random.default_rng(1)
    a, b = rng.normal(0, 0.5, 30), rng.normal(0, 2.0, 300)
    low, high = comparison_stats.interval(comparison_stats.resample(a[:, None] + b))
    half = 1.96 * (a.var() / 30 + b.var() / 300) ** 0.5
    assert high - low == pytest.approx(2 * half, rel=0.04)


def test_roots_are_taken_of_means_of_samples():
    values = np.random.default_rng(0).uniform(1, 4, (2, 50))
    mean = comparison_stats.resample(values, num=20)
    np.testing.assert_allclose(
        comparison_stats.resample(values, is_root=True, num=20) ** 2, mean
    )
    assert (
        comparison_stats.resample(np.full((1, 9), 4.0), is_root=True, num=3).tolist()
        == [[2.0]] * 3
    )


def test_chunks_change_no_number_but_the_draws(monkeypatch):
    values = np.random.default_rng(0).normal(size=(2, 30))
    monkeypatch.setattr(comparison_stats, "_CHUNK", 90)  # 3 test sets at a time
    found = comparison_stats.resample(values, num=2000)
    assert found.shape == (2000, 2)
    np.testing.assert_allclose(found.std(0), values.std(1) / 30**0.5, rtol=0.06)


@pytest.mark.parametrize(("better", "sign"), [("lower", 1), ("higher", -1)])
@pytest.mark.parametrize("is_root", [False, True])
def test_constant_shift_has_an_interval_without_width(better, sign, is_root):
    rng, shift = np.random.default_rng(0), 0.25
    runs = []
    for seed in SEEDS:
        base = rng.uniform(1, 2, 60) + seed
        # Roots are shifted by a constant where all samples of a seed are equal.
        base = np.full(60, base[0]) if is_root else base
        ours = (base**0.5 - shift) ** 2 if is_root else base - shift
        for method, samples in (("nft", base), ("recraft", ours)):
            score = samples.mean() ** 0.5 if is_root else samples.mean()
            more = {"is_root": is_root, "better": better}
            runs.append(run(method, seed, test=score, samples=samples, **more))
    found = summarise(runs)["tasks"]["t"]["methods"]["recraft"]["difference"]
    expected = [sign * shift] * 3
    np.testing.assert_allclose(
        [found["value"], found["low"], found["high"]], expected, atol=1e-12
    )
    assert found["to"] == "nft" and found["excludes_0"]


def test_equal_methods_do_not_differ():
    samples = np.random.default_rng(0).uniform(size=30)
    runs = [run(m, samples=samples, test=samples.mean()) for m in ("nft", "recraft")]
    found = summarise(runs)["tasks"]["t"]["methods"]["recraft"]["difference"]
    assert (found["low"], found["value"], found["high"]) == (0, 0, 0)
    assert not found["excludes_0"]


def test_difference_is_on_the_seeds_of_both():
    runs = [run("nft", s, test=0.4 + s, samples=np.ones(3)) for s in (0, 2)]
    runs += [run("recraft", s, test=0.1 + s, samples=np.ones(3)) for s in (0, 1)]
    found = summarise(runs)["tasks"]["t"]["methods"]["recraft"]["difference"]
    assert found["seeds"] == [0] and found["value"] == pytest.approx(0.3)


def test_runs_without_samples_have_no_interval():
    found = summarise([run("nft", test=0.5), run("recraft", test=0.25)])
    gap = found["tasks"]["t"]["methods"]["recraft"]["difference"]
    assert (gap["value"], gap["low"], gap["excludes_0"]) == (0.25, None, False)


# ----------------------------------------------------------------------------- choices
@pytest.mark.parametrize(
    ("values", "better", "factor"),
    [
        ({0.3: 0.2, 1.0: 0.1, 3.0: 0.3}, "lower", 1.0),
        ({0.3: 0.2, 1.0: 0.1, 3.0: 0.3}, "higher", 3.0),
        ({0.1: 0.2, 3.0: 0.2}, "lower", 3.0),  # a tie: nearest 1, as a ratio
        ({0.5: 0.2, 1.5: 0.2}, "lower", 1.5),
    ],
)
def test_factor_has_the_best_validation_score(values, better, factor):
    assert comparison.choose(values, better) == factor


@pytest.mark.parametrize(("better", "base"), [("lower", "fno"), ("higher", "nft")])
def test_baseline_has_the_best_validation_score_of_the_others(better, base):
    runs = [
        run("recraft", val=0.01, better=better),  # best, or worst, and not considered
        run("nft", val=0.4, test=0.1, better=better),
        run("fno", val=0.2, test=0.9, better=better),
    ]
    assert summarise(runs)["tasks"]["t"]["baseline_method"] == base
    forced = summarise(runs, baseline="recraft")["tasks"]["t"]
    assert forced["baseline_method"] == "recraft"
    assert forced["methods"]["recraft"]["difference"] is None


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"protocol": "official"}, "protocol is 'corrected' of nft seed 0"),
        ({"scale": "demo"}, "'demo' of fno seed 0"),
        ({"data": results()["data"] | {"sha256": "bb"}}, "data sha256 is 'aa'"),
    ],
)
def test_what_does_not_compare_is_refused(changes, named):
    with pytest.raises(errors.InputError, match=named):
        summarise([run("nft"), run("fno", **changes)])
    summarise([run("nft"), run("nft", task="u", **changes), run("nft", seed=1)])


# ------------------------------------------------------------------------------ tables
def grid(better="lower"):
    """Three tasks and three methods, two seeds: recraft first, scratch last."""
    runs = []
    sign = -1 if better == "higher" else 1
    for (i, task), (j, method), seed in itertools.product(
        enumerate(("t_1", "t_2", "t_3")),
        enumerate(("recraft", "nft", "scratch")),
        SEEDS,
    ):
        test = 0.5 + sign * (0.1 * j + 0.01 * i + (0.02 * seed - 0.01))
        extra = {"align": ALIGN} if method == "recraft" else {}
        if method == "recraft":
            extra["seconds"] = results()["seconds"] | {"align": 5.0}
        runs.append(
            run(method, seed, task, test, 0.2 + sign * 0.1 * j, better=better, **extra)
        )
    return runs


def markdown(summary):
    """Rows of every table by its title."""
    parts = comparison_tables.markdown(summary, ORIGIN).split("## Table ")[1:]
    found = {}
    for part in parts:
        lines = part.splitlines()
        rows = [line.strip("| ") for line in lines if line.startswith("|")]
        cells = [[cell.strip() for cell in row.split("|")] for row in rows]
        assert len({len(row) for row in cells if row[0] != "average rank"}) == 1
        found[lines[0].partition(". ")[2]] = [cells[0], *cells[2:]]
    return found


def test_score_table_has_its_text():
    found = markdown(summarise(grid()))["Test scores"]
    assert found[0] == ["task (metric)", "recraft", "nft", "scratch", *BASELINES]
    assert found[1] == [
        "t_1 (error, lower is better)",
        "**0.500 ± 0.014 (2)**",
        "0.600 ± 0.014 (2)",
        "0.700 ± 0.014 (2)",
        *("0.350", "0.900"),
    ]
    assert found[4][:4] == ["average rank", "**1.00**", "2.00", "3.00"]


BASELINES = ("[linear]", "[mean]")


def test_higher_metrics_turn_ranks_and_signs_around():
    summary = summarise(grid("higher"))
    found = markdown(summary)
    assert found["Test scores"][1][1] == "**0.500 ± 0.014 (2)**"
    title = "Difference to the baseline method; positive is better for the method"
    assert found[title][1][1:5] == ["nft", "+0.1000 [no samples]", "baseline"] + [
        "-0.1000 [no samples]"
    ]
    # mean 0.9 is above every score here, so it is better than all of them
    assert "On t_1 mean beat every method." in comparison_tables.markdown(
        summary, ORIGIN
    )


def test_one_seed_has_no_spread():
    runs = [r for r in grid() if r.seed == 0]
    text = comparison_tables.markdown(summarise(runs), ORIGIN)
    assert "±" not in text and "0.490 (1)" in text
    assert "standard deviation" not in text
    assert "There is one seed, so intervals know nothing of other seeds." in text
    whole = comparison_tables.markdown(summarise(grid()), ORIGIN)
    assert "2 seeds show 1/2 of the variance over seeds" in whole


def test_difference_table_marks_what_excludes_0():
    rng = np.random.default_rng(0)
    base = rng.uniform(size=50)
    runs = [run("nft", test=base.mean(), samples=base)]
    for method, shift in (("recraft", -0.25), ("fno", rng.normal(0, 0.3, 50))):
        samples = base + shift
        runs.append(run(method, test=samples.mean(), samples=samples, val=0.9))
    (_, row) = markdown(summarise(runs))[
        "Difference to the baseline method; positive is better for the method"
    ]
    assert row[:4] == [
        *("t (error, lower is better)", "nft", "baseline"),
        "+0.2500 [+0.2500, +0.2500] !",
    ]
    assert "!" not in row[4] and "[-" in row[4]


def test_align_and_cost_tables_have_their_text():
    runs = grid()
    runs[0].results["memory"] = {"peak_bytes": 512 * 2**20}
    runs[1].results["memory"] = {"peak_bytes": 256 * 2**20}
    runs = [r._replace(factor=3.0) for r in runs]
    summary = summarise(runs, factors=(1.0, 3.0))
    found = markdown(summary)
    assert found["FA and FLD before and after stage 1"][1] == [
        *("t_1", "recraft", "9.000 ± 0.000 -> 3.000 ± 0.000"),
        "2.000 ± 0.000 -> 1.500 ± 0.000",
        "2.250 ± 0.000 -> 1.750 ± 0.000",
    ]
    assert len(found["FA and FLD before and after stage 1"]) == 1 + 3
    cost = found["Cost and tuning"]
    assert cost[1] == ["t_1", "recraft", "40", "10", "5", "20", "384", "1,500"] + [
        *("2", "3")
    ]
    assert cost[2][6] == "-"
    assert "times 1, 3, on seed 0" in comparison_tables.markdown(summary, ORIGIN)


def test_failed_runs_are_marked_and_not_ranked():
    runs = [
        r
        for r in grid()
        if (r.task, r.method) != ("t_1", "nft") and (r.task, r.seed) != ("t_2", 1)
    ]
    failed = [
        {
            **{"task": "t_1", "method": "nft", "variant": "", "seed": s},
            "reason": "exit code 1: error: loss is nan",
        }
        for s in SEEDS
    ]
    summary = summarise(
        runs, methods=["recraft", "nft", "scratch"], seeds=SEEDS, failed=failed
    )
    found = markdown(summary)["Test scores"]
    assert found[1][2] == "failed"
    assert found[2][1] == "0.500 (1 of 2)"  # and not bold: it lacks a seed
    assert found[4][1] == "**1.00**" and summary["ranks"]["tasks"] == ["t_3"]
    text = comparison_tables.markdown(summary, ORIGIN)
    assert "FAILED: t_1 nft seed 1: exit code 1: error: loss is nan" in text
    assert "ranks are not tested: 1 complete task and 3 methods" in text


def test_nothing_finished_still_has_a_table():
    summary = comparison.summarise(
        [], tasks=["t"], methods=["nft"], seeds=[0], failed=[]
    )
    assert markdown(summary) == {
        "Test scores": [
            ["task (metric)", "nft"],
            ["t", "failed"],
            ["average rank", "-"],
        ]
    }


def test_ranks_of_the_grid_are_tested():
    found = summarise(grid())["ranks"]
    assert found["friedman"]["statistic"] == pytest.approx(6)
    assert found["friedman"]["p"] == pytest.approx(np.exp(-3))  # chi^2 of 2
    assert found["critical_difference"] == pytest.approx(
        2.3437 * (12 / 18) ** 0.5, 1e-4
    )
    assert found["alike"] == [["recraft", "nft"], ["nft", "scratch"]]


def test_header_names_several_commits():
    runs = grid()
    assert "Commit: c0ffee." in "\n".join(
        comparison_tables.header(summarise(runs), ORIGIN)
    )
    runs[0].results["git"] = "decaf"
    lines = comparison_tables.header(summarise(runs), ORIGIN)
    assert lines[0] == "Command: python -m x --methods=a_b"
    assert "Commit: 2 different ones: c0ffee, decaf." in lines[4]
    assert lines[5] == "CPU: A CPU, 2 cores; 1 run at a time."


def test_curves_are_means_at_common_steps():
    runs = [
        run("nft", 0, curve=[(5, 0.4), (10, 0.2)]),
        run("nft", 1, curve=[(5, 0.6), (10, 0.4), (15, 0.1)]),
    ]
    curve = summarise(runs)["tasks"]["t"]["methods"]["nft"]["curve"]
    assert curve["steps"] == [5, 10]
    np.testing.assert_allclose(curve["mean"], [0.5, 0.3])


def test_sweep_has_mean_and_range():
    sweep = [
        run("recraft", s, test=0.1 * w + s, omega=w) for w in (1, 0.1) for s in SEEDS
    ]
    first, second = summarise([run("recraft")], sweep)["omega"]["t"]
    assert (first["omega"], second["omega"]) == (0.1, 1)
    assert (second["low"], second["high"]) == pytest.approx((0.1, 1.1))
    assert second["mean"] == pytest.approx(0.6) and second["seeds"] == [0, 1]


# ------------------------------------------------------------------------- other forms
@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("t_1 95 %", r"t\_1 95 \%"),
        ("a & b # c $ {d}", r"a \& b \# c \$ \{d\}"),
        ("1 ± 2 -> 3", r"1 $\pm$ 2 $\to$ 3"),
        (
            "p < 0.1 ~ ^ \\",
            r"p $<$ 0.1 \textasciitilde{} \textasciicircum{} "
            r"\textbackslash{}",
        ),
    ],
)
def test_latex_escapes(text, escaped):
    assert comparison_tables.escape(text) == escaped


def test_latex_has_the_rows_of_the_table():
    text = comparison_tables.latex(summarise(grid()), ORIGIN)
    lines = text.splitlines()
    assert lines[0] == "% Command: python -m x --methods=a_b"
    row = r"t\_1 (error, lower is better) & \textbf{0.500 $\pm$ 0.014 (2)} & "
    row += r"0.600 $\pm$ 0.014 (2) & 0.700 $\pm$ 0.014 (2) & 0.350 & 0.900 \\"
    assert row in lines
    body = "\n".join(line for line in lines if not line.startswith("%"))
    bare = body.replace(r"\_", "").replace(r"\%", "").replace(r"\#", "")
    assert "_" not in bare and "%" not in bare and "#" not in bare
    assert body.count("{") == body.count("}")
    widths = {line.count(" & ") for line in lines if line.startswith(("t\\_", "aver"))}
    assert widths <= {5, 4, 9} and body.count(r"\begin{tabular}") == 4


def test_csv_has_a_row_for_each_method_and_baseline():
    rows = list(
        csv.DictReader(io.StringIO(comparison_tables.csv_text(summarise(grid()))))
    )
    assert len(rows) == 3 * (3 + 2)
    first = rows[0]
    assert first["task"] == "t_1" and first["kind"] == "method"
    assert float(first["test_mean"]) == pytest.approx(0.5)
    assert first["seeds"] == "0 1" and float(first["rank"]) == 1
    assert float(first["difference"]) == pytest.approx(0.1)
    assert float(first["fld_val_after"]) == 1.75
    assert rows[3] | {"kind": "baseline", "method": "linear"} == rows[3]
    assert rows[3]["test_mean"] == "0.35"
