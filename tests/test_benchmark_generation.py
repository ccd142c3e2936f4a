"""Benchmark of generation: what one case measures, bad arguments."""

import pytest

from recraft_jax import benchmark_generation as benchmark


@pytest.mark.parametrize("mode", ["compat", "accurate"])
def test_a_case_measures_a_batch(mode):
    row = benchmark.solve("advection", mode, 16, 2, repeats=1)
    named = {"task": "advection", "mode": mode, "nx": 16, "batch": 2}
    assert named.items() <= row.items()
    product = row["seconds_per_sample"] * row["samples_per_second"]
    assert product == pytest.approx(1)
    assert row["seconds_per_sample"] > 0 and row["peak_bytes"] > 1e7
    assert row["compile_seconds"] >= 0


BAD = {
    "task": ("--tasks=advektion", "--tasks=advektion; allowed: advection, burgers"),
    "mode": ("--modes=fast", "--modes=fast; allowed: compat, accurate"),
    "batches": ("--batches=1,0", "--batches=1,0; allowed: 1,8,64 and so on"),
    "repeats": ("--repeats=0", "--repeats=0 --nx=0; allowed: 1 or more, and 0"),
    "out": ("--out=no/such.json", "--out=no/such.json; allowed: a file in a folder"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_arguments_get_one_line(name, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    argument, message = BAD[name]
    assert benchmark.main([argument]) == 2
    err = capsys.readouterr().err
    assert message in err and err.startswith("error: ") and err.count("\n") == 1
    assert not list(tmp_path.iterdir())
