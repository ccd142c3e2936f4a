"""Figures of comparisons draw the numbers of the summary."""

import itertools

import numpy as np
import pytest
from test_comparison import grid, run, summarise

from recraft_jax import comparison_plots, plots


def bars(ax):
    return [patch.get_height() for patch in ax.patches]


def test_scores_have_a_bar_a_method_and_a_line_a_baseline():
    fig = comparison_plots.draw_scores(summarise(grid()))
    assert [ax.get_title() for ax in fig.axes] == [
        f"t_{i}, lower is better" for i in (1, 2, 3)
    ]
    np.testing.assert_allclose(bars(fig.axes[0]), [0.5, 0.6, 0.7])
    labels = [t.get_text() for t in fig.axes[0].get_legend().get_texts()]
    assert labels == ["linear 0.35", "mean 0.9"]
    segments = [c.get_segments()[0] for c in fig.axes[0].collections]
    assert len(segments) == 3
    deviation = np.std([0.49, 0.51], ddof=1)
    np.testing.assert_allclose(segments[0][:, 1], [0.5 - deviation, 0.5 + deviation])


def test_scores_of_one_seed_have_no_error_bar_and_leave_out_far_baselines():
    far = {"mean": 47.0, "linear": 0.3}
    runs = [run("nft", baselines=far), run("fno", baselines=far)]
    ax = comparison_plots.draw_scores(summarise(runs)).axes[0]
    assert len(ax.patches) == 2 and not ax.collections
    labels = [t.get_text() for t in ax.get_legend().get_texts()]
    assert labels == ["linear 0.3", "mean 47, off scale"]
    assert ax.get_ylim()[1] < 1


def test_failed_methods_are_named():
    summary = summarise([run("nft")], methods=["nft", "fno"])
    ax = comparison_plots.draw_scores(summary).axes[0]
    assert [text.get_text() for text in ax.texts] == ["  failed"]
    assert [t.get_text() for t in ax.get_xticklabels()] == ["nft", "fno"]


def test_curves_have_a_line_a_method():
    runs = [
        run(method, seed, curve=[(5, 0.4 + seed), (10, 0.2 + seed)])
        for method, seed in itertools.product(("nft", "fno"), (0, 1))
    ]
    ax = comparison_plots.draw_curves(summarise(runs)).axes[0]
    assert [line.get_label() for line in ax.lines] == ["nft", "fno"]
    np.testing.assert_allclose(ax.lines[0].get_xydata(), [[5, 0.9], [10, 0.7]])


@pytest.mark.parametrize("num_seeds", [1, 2])
def test_omega_has_its_range_over_seeds(num_seeds):
    sweep = [
        run("recraft", seed, test=omega + seed, omega=omega)
        for omega in (0.1, 1.0)
        for seed in range(num_seeds)
    ]
    ax = comparison_plots.draw_omega(summarise([run("recraft")], sweep)).axes[0]
    mean = (num_seeds - 1) / 2
    np.testing.assert_allclose(
        ax.lines[0].get_xydata(), [[0.1, 0.1 + mean], [1.0, 1.0 + mean]]
    )
    assert ax.get_xscale() == "log" and len(ax.collections) == num_seeds - 1


def test_ranks_have_bars_over_those_that_do_not_differ():
    summary = summarise(grid())
    ax = comparison_plots.draw_ranks(summary).axes[0]
    assert "Friedman p = 0.050" in ax.get_title()
    groups = [line for line in ax.lines if line.get_linewidth() == 4]
    ends = [line.get_xdata() for line in groups]
    np.testing.assert_allclose(ends, [(0.97, 2.03), (1.97, 3.03)])
    texts = [text.get_text().strip() for text in ax.texts]
    assert {"recraft 1.00", "nft 2.00", "scratch 3.00", "CD 1.91"} <= set(texts)


def test_ranks_say_when_they_are_not_tested(tmp_path):
    summary = summarise([r for r in grid() if r.task != "t_3"])
    fig = comparison_plots.draw_ranks(summary)
    assert "not tested: 2 complete tasks and 3 methods" in fig.axes[0].get_title()
    assert not [line for line in fig.axes[0].lines if line.get_linewidth() == 4]
    path = tmp_path / "ranks.png"
    plots.save(fig, path)
    assert path.read_bytes().startswith(b"\x89PNG")
    nothing = summarise([run("nft")], seeds=[0, 1])  # no task is complete
    assert comparison_plots.draw_ranks(nothing).axes[0].get_title()
