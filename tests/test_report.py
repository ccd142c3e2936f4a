"""Tables made of `results.json` and `config.json`."""

import copy
import json

import pytest

from recraft_jax import errors, report

RESULTS = {
    "task": "advection",
    "method": "recraft",
    "backbone": "minilm",
    "backbone_name": "minilm",
    "protocol": "corrected",
    "scale": "demo",
    "metric": "nrmse",
    "seed": 0,
    "data": {"test": 50, "train": 900, "val": 100, "sha256": "aa"},
    "test": {"best_val": 0.1, "last": 0.5},
    "val": {"best": 0.05},
    "baselines": {"mean": 1.0, "linear": 0.25},
    "align": {
        "fa_before": 9.0,
        "fa_after": 3.0,
        "fld_before": 2.0,
        "fld_after": 1.5,
        "fld_corrected_before": 2.1,
        "fld_corrected_after": 1.6,
    },
    "seconds": {"align": 10.0, "fit": 20.0, "total": 40.0},
}


@pytest.fixture
def save(tmp_path):
    """Writes a finished run and returns its folder."""

    def make(name, freeze=False, best_val=None, **changes):
        results = copy.deepcopy(RESULTS) | changes
        if best_val is not None:
            results["test"]["best_val"] = best_val
        folder = tmp_path / name
        folder.mkdir()
        (folder / "results.json").write_text(json.dumps(results))
        config = {"stage2": {"freeze_embedder": freeze}}
        (folder / "config.json").write_text(json.dumps(config))
        return folder

    return make


def table(folders):
    return report.markdown([report.read(folder) for folder in folders])


def rows(text):
    found = [line for line in text.splitlines() if line.startswith("|")]
    cells = [[c.strip() for c in line.strip("|").split("|")] for line in found]
    assert len({len(row) for row in cells}) == 1  # header, rule and rows agree
    return [row for row in cells if row[0] not in ("method", "---")]


def test_markdown_gives_mean_and_deviation_over_seeds(save):
    folders = [
        save(f"run{seed}", seed=seed, best_val=value)
        for seed, value in ((2, 0.4), (0, 0.1), (1, 0.1))
    ]
    (row,) = rows(table(folders))
    assert row == [
        "recraft",
        "minilm",
        "trained",
        "0, 1, 2",
        "0.2000 ± 0.1732",  # of a sample: sqrt((2 * 0.01 + 0.04) / 2)
        "0.5000 ± 0.0000",
        "0.0500 ± 0.0000",
        "9.000 ± 0.000 -> 3.000 ± 0.000",
        "2.000 ± 0.000 -> 1.500 ± 0.000",
        "10 ± 0",
        "20 ± 0",
        "40 ± 0",
    ]


def test_markdown_of_one_seed_has_no_deviation(save):
    (row,) = rows(table([save("run")]))
    assert row[3:6] == ["0", "0.1000", "0.5000"]
    assert row[7] == "9.000 -> 3.000"


@pytest.mark.parametrize(
    "changes",
    [
        {"protocol": "official"},
        {"task": "darcy"},
        {"scale": "quick"},
        {"data": RESULTS["data"] | {"sha256": "bb"}},
    ],
)
def test_markdown_keeps_what_does_not_compare_in_separate_tables(save, changes):
    folders = [save("a", best_val=0.7), save("b", best_val=0.3, **changes)]
    parts = table(folders).split("| method |")
    assert len(parts) == 3
    found = [
        line.split("|")[5].strip()
        for part in parts
        for line in part.splitlines()
        if "recraft" in line
    ]
    assert sorted(found) == ["0.3000", "0.7000"]
    assert f"`{changes.get('protocol', 'corrected')}` protocol" in table(folders)


@pytest.mark.parametrize(
    "changes",
    [
        {"task": "darcy"},
        {"method": "fa"},
        {"backbone_name": "other"},
        {"scale": "quick"},
        {"freeze": True},
    ],
)
def test_markdown_never_averages_over_settings(save, changes):
    found = rows(table([save("a"), save("b", best_val=0.9, **changes)]))
    assert sorted(row[4] for row in found) == ["0.1000", "0.9000"]


def test_markdown_shows_baselines_once_per_table(save):
    folders = [save("a"), save("b", seed=1), save("c", task="darcy")]
    assert table(folders).count("linear 0.2500, mean 1.0000") == 2


def test_markdown_leaves_alignment_out_where_there_was_none(save):
    align = dict.fromkeys(RESULTS["align"])
    (row,) = rows(table([save("run", method="nft", align=align)]))
    assert row[7:9] == ["-", "-"]


@pytest.mark.parametrize(
    ("method", "freeze", "phi"),
    [
        ("recraft", True, "frozen"),
        ("recraft", False, "trained"),
        ("nft", True, "trained"),  # nothing else would train it
        ("scratch", True, "trained"),
        ("pare", True, "trained"),
        ("orca", True, "frozen"),
    ],
)
def test_read_tells_whether_the_embedder_is_trained(save, method, freeze, phi):
    assert report.read(save("run", method=method, freeze=freeze))["phi"] == phi


def test_what_follows_an_idea_is_not_called_by_its_name(save, capsys, tmp_path):
    folder = save("run", method="mona")
    assert rows(table([folder]))[0][0] == "MoNA-style"
    report.closing(report.read(folder), tmp_path)
    assert "MoNA-style, " in capsys.readouterr().out


@pytest.mark.parametrize("missing", ["results.json", "config.json"])
def test_read_refuses_unfinished_run(save, missing):
    folder = save("run")
    (folder / missing).unlink()
    with pytest.raises(errors.InputError, match="holds no finished run"):
        report.read(folder)


def test_main_prints_the_table(save, capsys):
    assert report.main([str(save("a")), str(save("b", seed=1))]) == 0
    assert rows(capsys.readouterr().out)[0][3] == "0, 1"


@pytest.mark.parametrize("content", [None, '{"task": '])
def test_main_says_in_one_line_that_a_run_is_unfinished(save, capsys, content):
    folder = save("b")
    (folder / "results.json").unlink()
    if content is not None:
        (folder / "results.json").write_text(content)
    assert report.main([str(save("a")), str(folder)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert str(folder) in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("has_alignment", [True, False])
def test_closing_shows_every_predictor(tmp_path, capsys, has_alignment):
    results = copy.deepcopy(RESULTS)
    if not has_alignment:
        results["align"] = dict.fromkeys(results["align"])
    report.closing(results, tmp_path)
    out = capsys.readouterr().out
    values = ("1.0000", "0.2500", "0.5000", "0.1000")  # worst baseline first
    positions = [out.index(value) for value in values]
    assert positions == sorted(positions)
    assert ("9.000 -> 3.000" in out) == has_alignment
    assert "corrected protocol" in out
