"""Figures of fields: panels of what was given, bad folders refused."""

import json

import numpy as np
import pytest

from recraft_jax import errors, field_plots, report

RESULTS = {
    "task": "burgers",
    "method": "recraft",
    "backbone_name": "minilm",
    "metric": "nrmse",
    "protocol": "corrected",
    "seed": 0,
    "test": {"best_val": 0.1234},
}


@pytest.fixture
def run(tmp_path):
    """`arrays -> workdir` of a finished run that left these fields."""

    def make(**arrays):
        np.savez(tmp_path / "fields.npz", **arrays)
        (tmp_path / "results.json").write_text(json.dumps(RESULTS))
        config = {"stage2": {"freeze_embedder": False}}
        (tmp_path / "config.json").write_text(json.dumps(config))
        return tmp_path

    return make


def lines(num=2, channels=1):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, num, 8, channels))
    course = {
        "course_values": rng.normal(size=(num, 5, 8, channels)),
        "course_times": 0.25 * np.arange(5),
        "course_coords": (np.arange(8) + 0.5) / 8,
        "course_frame": np.asarray(2),
    }
    return {"x": x, "y": y, "pred": y + 0.5, **course}


def maps(x_channels, y_channels):
    rng = np.random.default_rng(0)
    x, y = (rng.normal(size=(3, 4, 6, c)) for c in (x_channels, y_channels))
    return {"x": x, "y": y, "pred": y + 0.1}


def panels(fig):
    """Axes that are not colour bars."""
    return [ax for ax in fig.axes if ax.get_label() != "<colorbar>"]


def test_lines_show_course_curves_and_error():
    fields = lines()
    axes = panels(field_plots.draw(fields, RESULTS))
    assert len(axes) == 6
    course, curves, error = axes[3:]  # of the second sample
    np.testing.assert_allclose(
        course.collections[0].get_array().reshape(5, 8),
        fields["course_values"][1, ..., 0],
    )
    assert "t = 0.5" in course.get_title()
    drawn = {line.get_label(): line.get_ydata() for line in curves.get_lines()}
    for name, side in (("input", "x"), ("target", "y"), ("prediction", "pred")):
        np.testing.assert_array_equal(drawn[name], fields[side][1, :, 0])
    np.testing.assert_allclose(error.get_lines()[0].get_ydata(), 0.5)
    share = 0.5 * np.sqrt(8) / np.linalg.norm(fields["y"][1])
    assert f"{share:.3g}" in error.get_title()


def test_lines_without_a_course_have_two_panels():
    fields = {k: v for k, v in lines().items() if not k.startswith("course")}
    assert len(panels(field_plots.draw(fields, RESULTS))) == 4


def test_maps_show_target_and_prediction_on_one_scale():
    fields = maps(1, 1)
    axes = panels(field_plots.draw(fields, RESULTS))
    assert len(axes) == 12
    images = [ax.get_images()[0] for ax in axes[:4]]
    for image, side in zip(images, ("x", "y", "pred"), strict=False):
        np.testing.assert_allclose(image.get_array(), fields[side][0, ..., 0])
    assert images[1].get_clim() == images[2].get_clim()
    np.testing.assert_allclose(images[3].get_array(), 0.1)
    np.testing.assert_allclose(images[3].get_clim(), (-0.1, 0.1))


@pytest.mark.parametrize(("x_channels", "y_channels"), [(1, 2), (4, 4)])
def test_each_channel_has_a_row(x_channels, y_channels):
    axes = panels(field_plots.draw(maps(x_channels, y_channels), RESULTS))
    assert len(axes) == 16
    assert axes[4].axison == (x_channels > 1)  # no second input channel, no panel


@pytest.mark.parametrize("arrays", [lines(1, 3), maps(1, 1)])
def test_command_writes_into_the_workdir(arrays, run, capsys):
    workdir = run(**arrays)
    assert report.main(["--fields", str(workdir)]) == 0
    content = (workdir / "fields.png").read_bytes()
    assert content.startswith(b"\x89PNG") and len(content) > 10_000
    assert str(workdir / "fields.png") in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--fields", "{run}", "{run}"], "--fields with 2 runs; allowed: one"),
        (["--fields", "--gap", "{run}"], "--gap and --fields; allowed: one of them"),
        (["--fields", "--omega=1", "{run}"], "--omega=1.0; allowed: with --gap"),
        (["--fields", "{run}", "--out={run}/a.bmp"], "a name that ends with .png"),
        (["--fields", "{run}/none"], "holds no finished run"),
    ],
)
def test_bad_arguments_get_one_line(arguments, message, run, capsys):
    workdir = run(**maps(1, 1))
    code = report.main([a.replace("{run}", str(workdir)) for a in arguments])
    err = capsys.readouterr().err
    assert code == 2 and message in err and err.count("\n") == 1
    assert not (workdir / "fields.png").exists()


def test_runs_without_fields_are_refused(run):
    workdir = run(**maps(1, 1))
    (workdir / "fields.npz").write_bytes(b"PK half a file")
    with pytest.raises(errors.InputError, match="cannot be read"):
        field_plots.read(workdir)
    (workdir / "fields.npz").unlink()
    with pytest.raises(errors.InputError, match="tasks that predict fields"):
        field_plots.read(workdir)
