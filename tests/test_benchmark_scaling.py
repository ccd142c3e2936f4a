"""Counts of a small step on two devices, and the model of its time, by hand."""

import json

import jax
import pytest

from recraft_jax import benchmark_bodies, benchmark_scaling, mesh

TINY = {
    "vocab_size": 50,
    "max_position_embeddings": 20,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
}
SIZES = {"x_shape": (32, 1), "max_tokens": 8, "batch_size": 4}


@pytest.fixture(scope="module")
def made():
    return benchmark_bodies.make_step("roberta_base", SIZES, TINY)


def test_counts_of_two_devices(made, monkeypatch):
    monkeypatch.setattr(mesh, "MIN_SPLIT_BYTES", 256)
    one = benchmark_scaling.count_step(made, jax.devices()[:1], fsdp=False)
    whole = benchmark_scaling.count_step(made, jax.devices()[:2], fsdp=False)
    split = benchmark_scaling.count_step(made, jax.devices()[:2], fsdp=True)
    weights = sum(leaf.nbytes for leaf in made.state.params.values())
    assert one["collectives"] == {} and one["batch"] == 4
    # Two samples of 8 tokens on each device: products are halved, gradients added up.
    assert whole["flops"] == pytest.approx(one["flops"] / 2, rel=1e-3)
    assert whole["collective_bytes"] == {"all-reduce": weights + 4}
    assert whole["state_bytes"] == one["state_bytes"] > 3 * weights
    assert split["state_bytes"] < 0.6 * whole["state_bytes"]
    assert set(split["collectives"]) == {"all-reduce", "all-gather"}


def test_time_of_a_ring():
    row = {
        "devices": 4,
        "flops": 8e9,
        "collective_bytes": {"all-reduce": 400, "all-gather": 80},
    }
    chip = benchmark_scaling.Accelerator(flops=1e12, link=100.0)
    found = benchmark_scaling.model(row, chip)
    assert found["products"] == pytest.approx(8e9 / 0.4e12)
    # 2 (n - 1) / n of what is added up, (n - 1) / n of what is gathered.
    assert found["sending"] == pytest.approx((2 * 0.75 * 400 + 0.75 * 80) / 100)
    alone = row | {"devices": 1, "collective_bytes": {}}
    assert benchmark_scaling.model(alone, chip)["sending"] == 0


def test_rows_are_written_and_shown(made, monkeypatch, tmp_path, capsys):
    def count(body, devices, per_device, *, fsdp):
        del per_device
        used = jax.devices()[:devices]
        return benchmark_scaling.count_step(made, used, fsdp=fsdp) | {"body": body}

    monkeypatch.setattr(benchmark_scaling, "count", count)
    out = tmp_path / "scaling.json"
    given = ["--body=roberta_base", "--devices=1,2", f"--out={out}"]
    assert benchmark_scaling.main(given) == 0
    rows = json.loads(out.read_text())
    found = [(row["devices"], row["fsdp"]) for row in rows]
    assert found == [(1, False), (2, False), (2, True)]
    printed = capsys.readouterr().out
    assert "TPU v5e" in printed and "all-reduce" in printed


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("--body=bert", "--body=bert; allowed: roberta_base, swin_base"),
        ("--devices=1,0", "--devices=0; allowed: 1, 2, ..."),
        ("--per-device=x", "--per-device=x; allowed: 1, 2, ..."),
        ("--out=/no/such/file.json", "allowed: a file in a folder"),
    ],
)
def test_bad_arguments_get_one_line(given, message, capsys):
    assert benchmark_scaling.main([given]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and message in error
