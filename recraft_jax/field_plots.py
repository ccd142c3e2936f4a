"""Fields of a finished run: what went in, what was asked, what came out.

Fields on a line are curves, beside the whole solution over time where it is known;
fields on a plane are maps, target and prediction on one scale.
"""

import pathlib
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib import figure

from recraft_jax import errors, plots

MAX_ROWS = 4  # samples times channels
_SIDES = {"x": "input", "y": "target", "pred": "prediction"}
_STYLES = {
    "x": {"color": "0.6", "linestyle": "--"},
    "y": {"color": "#0072B2", "linewidth": 2.2},
    "pred": {"color": "#D55E00", "linewidth": 1.2},
}


def read(workdir: pathlib.Path) -> dict[str, np.ndarray]:
    """Read the fields a run left: `x`, `y`, `pred` `[k ... c]`, of some also a course.

    Raises:
      InputError: the run predicts no fields, or its file cannot be read.
    """
    path = workdir / "fields.npz"
    if not path.exists():
        raise errors.InputError(
            f"{workdir} holds no fields.npz; allowed: finished runs of tasks that "
            "predict fields"
        )
    try:
        with np.load(path, allow_pickle=False) as file:
            return dict(file)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise errors.InputError(f"{path} cannot be read: {error}") from None


def draw(fields: Mapping[str, np.ndarray], results: Mapping[str, Any]) -> figure.Figure:
    """Draw one row for each sample and channel.

    Args:
      fields: of `read`.
      results: of `report.read`.
    """
    rows = _rows(fields)
    is_line = fields["y"].ndim == 3
    has_course = is_line and "course_values" in fields
    columns = (2 + has_course) if is_line else 4
    fig = plots.new_figure(*((4.2 * columns, 2.6) if is_line else (3.2 * 4, 2.8)))
    fig.set_size_inches(fig.get_figwidth(), fig.get_figheight() * len(rows) + 0.6)
    grid = fig.subplots(len(rows), columns, squeeze=False)
    for axes, (sample, channel) in zip(grid, rows, strict=True):
        if is_line:
            if has_course:
                _draw_course(fig, axes[0], fields, sample, channel)
            _draw_line(axes[-2:], fields, sample, channel)
        else:
            _draw_maps(fig, axes, fields, sample, channel)
        axes[0].set_ylabel(
            f"sample {sample}, channel {channel}\n{axes[0].get_ylabel()}".strip()
        )
    name = f"{results['task']}, {results['method']}, {results['backbone_name']}"
    score = f"test {results['metric']} {results['test']['best_val']:.4f}"
    fig.suptitle(
        f"{name}: {score}, seed {results['seed']}, {results['protocol']} protocol",
        fontsize=11,
    )
    return fig


def _rows(fields: Mapping[str, np.ndarray]) -> list[tuple[int, int]]:
    """Samples and channels to show, samples first."""
    num, channels = len(fields["y"]), fields["y"].shape[-1]
    pairs = [(sample, c) for sample in range(num) for c in range(channels)]
    return pairs[: max(MAX_ROWS, channels)]


def _sides(fields, sample: int, channel: int) -> dict[str, np.ndarray]:
    """Input, target and prediction of a row; an input without this channel is left."""
    return {
        side: fields[side][sample, ..., channel]
        for side in _SIDES
        if fields[side].shape[-1] > channel
    }


def _error(values: Mapping[str, np.ndarray]) -> tuple[np.ndarray, str]:
    error = values["pred"] - values["y"]
    scale = np.linalg.norm(values["y"])
    share = np.linalg.norm(error) / scale if scale else np.inf
    return error, f"error, relative L2 {share:.3g}"


def _draw_line(axes, fields, sample: int, channel: int) -> None:
    values = _sides(fields, sample, channel)
    cells = len(values["y"])
    coords = fields.get("course_coords")
    if coords is None or len(coords) != cells:
        coords = np.arange(cells)
    for side, curve in values.items():
        axes[0].plot(coords, curve, label=_SIDES[side], **_STYLES[side])
    axes[0].legend(fontsize=8)
    error, title = _error(values)
    axes[1].plot(coords, error, color="#D55E00", linewidth=1)
    axes[1].axhline(0, color="0.7", linewidth=1, zorder=0)
    axes[1].set_title(title, fontsize=9)
    for ax in axes:
        ax.set_xlabel("x")
        ax.grid(alpha=0.3)


def _draw_course(fig, ax, fields, sample: int, channel: int) -> None:
    """Draw the solution over space and time, with the time of the target."""
    values = fields["course_values"][sample]
    channel = min(channel, values.shape[-1] - 1)
    image = ax.pcolormesh(
        fields["course_coords"],
        fields["course_times"],
        values[..., channel],
        shading="nearest",
        cmap="viridis",
    )
    when = fields["course_times"][fields["course_frame"]]
    ax.axhline(when, color="white", linestyle="--", linewidth=1.2)
    ax.set_title(f"solution; target at t = {when:g}", fontsize=9)
    ax.set_xlabel("x")
    ax.set_ylabel("t")
    fig.colorbar(image, ax=ax)


def _draw_maps(fig, axes, fields, sample: int, channel: int) -> None:
    values = _sides(fields, sample, channel)
    error, title = _error(values)
    low = min(values["y"].min(), values["pred"].min())
    high = max(values["y"].max(), values["pred"].max())
    for ax, side in zip(axes, _SIDES, strict=False):
        if side not in values:
            ax.set_axis_off()
            continue
        # The input is often another quantity (a coefficient) and has its own scale.
        limits = {} if side == "x" else {"vmin": low, "vmax": high}
        image = ax.imshow(values[side], cmap="viridis", **limits)
        ax.set_title(_SIDES[side], fontsize=9)
        fig.colorbar(image, ax=ax, shrink=0.8)
    most = np.abs(error).max() or 1.0
    image = axes[3].imshow(error, cmap="RdBu_r", vmin=-most, vmax=most)
    axes[3].set_title(title, fontsize=9)
    fig.colorbar(image, ax=axes[3], shrink=0.8)
    for ax in axes:
        ax.set_xticks([])
        ax.set_yticks([])
