"""Figures: written whole, of the right size, drawing what was given."""

# ruff: noqa: F811  (`save` is a fixture, of test_gap)

import struct
import sys

import numpy as np
import pytest
from test_gap import runs, save, sweep  # noqa: F401

from recraft_jax import errors, plots, report


def size(path):
    """Width and height in the header of a PNG."""
    raw = path.read_bytes()
    assert raw[:8] == b"\x89PNG\r\n\x1a\n" and raw[12:16] == b"IHDR"
    assert raw[-8:-4] == b"IEND"
    return struct.unpack(">II", raw[16:24])


def test_gap_figure_has_a_point_a_run(save):
    found = runs(*sweep(save))
    fig = plots.draw_gap(found, 0.4)
    left, right = fig.axes
    err_t = [run["final"]["err_t"] for run in found]
    for ax, gaps in (
        (left, [run["final"]["gap"] for run in found]),
        (right, [0.4 * run["final"]["w1"] + 2.0 for run in found]),
    ):
        (points,) = ax.collections
        np.testing.assert_allclose(points.get_offsets(), np.column_stack([gaps, err_t]))
        labels = [text.get_text() for text in ax.texts]
        assert labels == [f"{0.1 * (i + 1):g}" for i in range(8)]
    assert "Spearman -1.00" in left.get_title()
    assert "Spearman +1.00" in right.get_title()


def test_gap_figure_colours_by_seed(save):
    folders = [save(f"{s}-{o}", seed=s, omega=o) for s in (0, 1) for o in (0.1, 0.2)]
    for ax in plots.draw_gap(runs(*folders), 0.4).axes:
        colours = [tuple(points.get_facecolor()[0]) for points in ax.collections]
        assert len(set(colours)) == 2
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["seed 0", "seed 1"]


def test_labels_overlap_nothing(save):
    folders = [
        save(f"{i}", omega=0.1 * i, w1=3.0 / (0.1 * i), err_t=1.5 + 0.001 * i)
        for i in range(1, 9)  # at their own omega all in one place
    ]
    folders += [save("far", omega=2.0, w1=4.0, err_t=3.0)]
    fig = plots.draw_gap(runs(*folders[:4], folders[-1]), 0.4)
    boxes = [text.get_window_extent() for text in fig.axes[0].texts]
    for i, one in enumerate(boxes):
        assert not any(one.overlaps(other) for other in boxes[i + 1 :])


def test_bound_figure_stacks_the_terms(save):
    (run,) = runs(save("a", steps=3))
    ax = plots.draw_bound(run).axes[0]
    heights = {
        bars.get_label(): [b.get_height() for b in bars] for bars in ax.containers
    }
    assert [len(v) for v in heights.values()] == [5] * 4  # 4 checkpoints and the last
    np.testing.assert_allclose([v[0] for v in heights.values()], [0.5, 1.6, 2.0, 0.25])
    tops = [bar.get_y() + bar.get_height() for bar in ax.containers[-1]]
    np.testing.assert_allclose(tops, run["final"]["bound"])
    errors_drawn, guessing, _ = ax.lines
    np.testing.assert_allclose(errors_drawn.get_ydata(), [3.0, 1.5, 1.5, 1.5, 1.5])
    np.testing.assert_allclose(guessing.get_ydata(), np.log(10))
    ticks = [tick.get_text().split() for tick in ax.get_xticklabels()]
    assert ticks == [["0", "align"], ["40", "fit"], ["90"], ["140"], ["reported"]]


def test_figures_leave_pyplot_alone(save, monkeypatch):
    """`None` makes an import of it fail, also where another test has loaded it."""
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    plots.draw_bound(*runs(save("a")))


def test_main_draws_the_gap_and_prints_the_table(save, tmp_path, capsys):
    folders = [str(folder) for folder in sweep(save)]
    out = tmp_path / "gap.png"
    assert report.main(["--gap", *folders, f"--out={out}", "--omega=0.3"]) == 0
    text, err = capsys.readouterr()
    assert err == ""
    assert "gap at 0.3" in text and "Spearman" in text and "Pearson" in text
    assert text.rstrip().endswith(f"figure    {out}")
    assert size(out) == (11 * plots.DPI, 5 * plots.DPI)
    assert out.stat().st_size > 20_000
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == ["gap.png", *(f"omega{i}" for i in range(8))]


def test_main_draws_the_bound(save, tmp_path, capsys):
    folder, out = save("a", steps=5), tmp_path / "bound.png"
    assert report.main(["--bound", str(folder), "--out", str(out)]) == 0
    assert capsys.readouterr().out == f"figure    {out}\n"
    width, height = size(out)
    assert width == pytest.approx((3.5 + 0.62 * 7) * plots.DPI, abs=1)
    assert height == 5.4 * plots.DPI


@pytest.mark.parametrize("form", plots.FORMATS)
def test_save_writes_the_format_of_the_name(save, tmp_path, form):
    path = tmp_path / f"figure{form}"
    plots.save(plots.draw_bound(*runs(save("a"))), path)
    start = {".png": b"\x89PNG", ".pdf": b"%PDF", ".svg": b"<?xml"}[form]
    assert path.read_bytes().startswith(start)


def test_save_keeps_the_old_figure_when_it_fails(save, tmp_path, monkeypatch):
    fig = plots.draw_bound(*runs(save("a")))
    path = tmp_path / "figure.png"
    path.write_bytes(b"old")

    def half(file, **_):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(fig, "savefig", half)
    with pytest.raises(errors.InputError, match="cannot be written: No space left"):
        plots.save(fig, path)
    assert path.read_bytes() == b"old"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "figure.png"]


BAD = {
    "no out": (["--gap", "A"], "--gap needs --out=FILE.png"),
    "out of a table": (["A", "--out=x.png"], "--out is for figures"),
    "both": (["--gap", "--bound", "A", "--out=x.png"], "allowed: one of them"),
    "format": (["--gap", "A", "--out=x.jpg"], "--out=x.jpg; allowed: a name that ends"),
    "folder": (["--gap", "A", "--out=no/x.png"], "no folder no; allowed: an existing"),
    "omega": (
        ["--gap", "A", "--out=x.png", "--omega=-1"],
        "--omega=-1.0; allowed: 0 or",
    ),
    "omega of what": (["--bound", "A", "--out=x.png", "--omega=1"], "with --gap"),
    "omega of words": (["--gap", "A", "--out=x.png", "--omega=a"], "invalid float"),
    "two bounds": (["--bound", "A", "B", "--out=x.png"], "--bound with 2 runs"),
    "no run": (["--gap", "--out=x.png"], "required: workdir"),
    "unknown": (["--gapp", "A", "--out=x.png"], "unrecognized arguments: --gapp"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_arguments_get_one_line(save, capsys, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    arguments, message = BAD[name]
    given = {"A": str(save("a")), "B": str(save("b", omega=0.2))}
    assert report.main([given.get(one, one) for one in arguments]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: ") and err.count("\n") == 1
    assert message in err
    assert not (tmp_path / "x.png").exists()
