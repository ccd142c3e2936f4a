"""What a run writes: metrics by line, files whole or not at all."""

import json
import os
import stat

import numpy as np
import pytest

from recraft_jax import writer


def lines(workdir):
    text = (workdir / "metrics.jsonl").read_text()
    assert text == "" or text.endswith("\n")
    return [json.loads(line) for line in text.splitlines()]


def write_steps(workdir, steps):
    with writer.Writer(workdir, total_steps=100) as log:
        for step in steps:
            log.scalars(step, "fit", {"loss": step / 10})


def test_scalars_append_lines_with_step_and_phase(tmp_path):
    with writer.Writer(tmp_path, total_steps=100) as log:
        log.scalars(10, "align", {"loss": np.float32(0.5), "grad_norm": 2})
        log.scalars(20, "fit", {"loss": 0.25})
    assert lines(tmp_path) == [
        {"step": 10, "phase": "align", "loss": 0.5, "grad_norm": 2.0},
        {"step": 20, "phase": "fit", "loss": 0.25},
    ]


def test_scalars_are_on_disk_before_the_run_ends(tmp_path):
    log = writer.Writer(tmp_path, total_steps=100)
    log.scalars(10, "fit", {"loss": 0.5})
    assert len(lines(tmp_path)) == 1


def test_scalars_keep_values_that_are_not_finite(tmp_path):
    with writer.Writer(tmp_path, total_steps=100) as log:
        log.scalars(10, "fit", {"loss": np.nan, "val": np.inf})
    (line,) = lines(tmp_path)
    assert np.isnan(line["loss"])
    assert line["val"] == np.inf


def test_scalars_show_progress_and_loss_first(tmp_path, capsys):
    with writer.Writer(tmp_path, total_steps=200) as log:
        values = {"acc": 0.5, "loss": 0.12345, "grad_norm": 9, "sinkhorn_error": 9}
        log.scalars(50, "fit", values)
    (shown,) = capsys.readouterr().out.splitlines()
    assert "50/200" in shown
    assert " 25%" in shown
    assert shown.endswith("loss 0.1235  acc 0.5")


def test_reopened_writer_appends(tmp_path):
    write_steps(tmp_path, [10, 20])
    write_steps(tmp_path, [30])
    assert [line["step"] for line in lines(tmp_path)] == [10, 20, 30]


@pytest.mark.parametrize(
    ("step", "kept"), [(0, []), (10, [10]), (25, [10, 20]), (99, [10, 20, 30])]
)
def test_rewind_drops_later_lines(tmp_path, step, kept):
    write_steps(tmp_path, [10, 20, 30])
    writer.Writer(tmp_path, total_steps=100).rewind(step)
    assert lines(tmp_path) == [
        {"step": s, "phase": "fit", "loss": s / 10} for s in kept
    ]


@pytest.mark.parametrize(
    "half", ['{"step": 30, "pha', "{", '{"step": 5, "loss": 0.', "\0"]
)
def test_rewind_drops_a_half_written_last_line(tmp_path, half):
    write_steps(tmp_path, [10, 20])
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write(half)
    log = writer.Writer(tmp_path, total_steps=100)
    log.rewind(40)
    log.scalars(50, "fit", {"loss": 0.0})
    assert [line["step"] for line in lines(tmp_path)] == [10, 20, 50]


def test_rewind_of_a_fresh_run_writes_nothing(tmp_path):
    writer.Writer(tmp_path, total_steps=100).rewind(0)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", ["text ±\n", b"\x00\xff"])
def test_write_atomically_replaces_content(tmp_path, content):
    path = tmp_path / "file"
    path.write_text("old")
    writer.write_atomically(path, content)
    raw = content.encode() if isinstance(content, str) else content
    assert path.read_bytes() == raw
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


@pytest.mark.parametrize("function", ["replace", "fsync"])
@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_failed_write_leaves_old_content_alone(tmp_path, monkeypatch, function, error):
    path = tmp_path / "file"
    path.write_text("old")

    def fail(*_):
        raise error("full")

    monkeypatch.setattr(os, function, fail)
    with pytest.raises(error):
        writer.write_atomically(path, "new")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_write_atomically_never_shows_a_part(tmp_path, monkeypatch):
    path = tmp_path / "file"
    path.write_text("old")
    replace = os.replace

    def check(source, target):
        assert path.read_text() == "old"
        with open(source) as file:
            assert file.read() == "new"
        replace(source, target)

    monkeypatch.setattr(os, "replace", check)
    writer.write_atomically(path, "new")
    assert path.read_text() == "new"


def test_write_json_round_trips(tmp_path):
    value = {"b": [1, 2.5, None], "a": {"nested": True}}
    writer.write_json(tmp_path / "file.json", value)
    text = (tmp_path / "file.json").read_text()
    assert json.loads(text) == value
    assert text.index('"a"') < text.index('"b"')
    assert text.endswith("}\n")
