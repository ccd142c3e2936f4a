"""What a run says: `metrics.jsonl`, one console line per log step, a progress bar.

Process 0 writes, the others are silent. `metrics.jsonl` is the source of truth; the
console shows the same numbers.
"""

import contextlib
import io
import json
import logging
import os
import tempfile
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import rich.console
import rich.progress

from recraft_jax import hosts, paths

_NOT_SHOWN = ("sinkhorn", "grad_norm", "source_collapsed")  # in metrics.jsonl only


class Writer:
    """Log lines of one run; use as a context manager."""

    def __init__(self, workdir: paths.Path, total_steps: int):
        """Open `workdir/metrics.jsonl` for appending.

        Args:
          workdir: must exist.
          total_steps: optimiser steps of the run, for progress and ETA.
        """
        self._path = workdir / "metrics.jsonl"
        self._total = total_steps
        self._is_first = hosts.is_first()
        self._console = rich.console.Console(highlight=False, soft_wrap=True)
        self._clock = (time.monotonic(), None)
        self._bar = None
        if self._is_first and self._console.is_terminal:
            self._bar = rich.progress.Progress(
                rich.progress.TextColumn("{task.description}"),
                rich.progress.BarColumn(),
                rich.progress.MofNCompleteColumn(),
                rich.progress.TimeRemainingColumn(),
                console=self._console,
                transient=True,
            )
            self._task = self._bar.add_task("", total=total_steps)

    def __enter__(self):
        """Show the progress bar, when there is one."""
        if self._bar:
            self._bar.start()
        return self

    def __exit__(self, *_):
        """Take the progress bar away."""
        if self._bar:
            self._bar.stop()

    def rewind(self, step: int) -> None:
        """Drop lines beyond the step a run resumes at, and a half-written last one."""
        if not self._is_first or not self._path.exists():
            return
        kept = []
        for line in self._path.read_text().splitlines():
            with contextlib.suppress(ValueError):
                if json.loads(line)["step"] <= step:
                    kept.append(line + "\n")
        write_atomically(self._path, "".join(kept))

    def scalars(self, step: int, phase: str, values: Mapping[str, float]) -> None:
        """Append one line of `metrics.jsonl` and show it."""
        if not self._is_first:
            return
        values = {name: float(value) for name, value in values.items()}
        line = json.dumps({"step": step, "phase": phase, **values}, allow_nan=True)
        if paths.is_local(self._path):
            with self._path.open("a", encoding="utf-8") as file:
                file.write(line + "\n")
        else:  # what is in a bucket cannot grow
            before = self._path.read_text() if self._path.exists() else ""
            self._path.write_text(f"{before}{line}\n")
        shown = "  ".join(
            f"{name} {values[name]:.4g}"
            for name in sorted(values, key=lambda name: (name != "loss", name))
            if not name.startswith(_NOT_SHOWN)
        )
        self.text(
            f"{phase:<6} {step:>6}/{self._total} {100 * step // self._total:>3}%"
            f"  ETA {self._eta(step)}  {shown}"
        )

    def progress(self, step: int, phase: str) -> None:
        """Move the progress bar; free when there is none."""
        if self._bar:
            self._bar.update(self._task, completed=step, description=phase)

    def text(self, line: str) -> None:
        """Print a line above the progress bar."""
        if self._is_first:
            self._console.print(line, markup=False)

    def _eta(self, step: int) -> str:
        """Time left at the speed since this process began; phases differ in speed."""
        start, first = self._clock
        if first is None:
            self._clock = (time.monotonic(), step)
            return "-:--"
        done = max(step - first, 1)
        left = round((time.monotonic() - start) / done * (self._total - step))
        return f"{left // 60}:{left % 60:02d}"


def say(line: str) -> None:
    """Print a line before there is a `Writer`."""
    if hosts.is_first():
        print(line, flush=True)


def write_atomically(path: paths.Path, content: str | bytes) -> None:
    """Write a file so that it is there whole or not at all."""
    data = content.encode() if isinstance(content, str) else content
    if not paths.is_local(path):  # buckets have whole objects only
        path.write_bytes(data)
        return
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException as error:
        if isinstance(error, OSError) and error.filename is None:
            error.filename = str(path)  # a full disk does not say where
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise


def write_json(path: paths.Path, value: Any) -> None:
    """Write JSON atomically, indented for readers."""
    write_atomically(path, json.dumps(value, indent=2, sort_keys=True) + "\n")


def write_npz(path: paths.Path, **arrays: Any) -> None:
    """Write arrays atomically as `.npz`, without pickles."""
    write_atomically(path, npz(**arrays))


def npz(**arrays: Any) -> bytes:
    """Make the content of an `.npz` file, without pickles."""
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


def set_up_logging() -> None:
    """Show warnings as `warning: text` on stderr, ours and those of other libraries.

    Orbax is left out: it logs each failed save several times over, and the failure
    itself reaches us as an exception.
    """
    root = logging.getLogger()
    if not any(isinstance(handler, _OneLineHandler) for handler in root.handlers):
        root.addHandler(_OneLineHandler())


class _OneLineHandler(logging.StreamHandler):
    def __init__(self):
        super().__init__()
        self.setLevel(logging.WARNING)

    def filter(self, record):
        return "orbax" not in record.pathname

    def format(self, record):
        return f"{record.levelname.lower()}: {record.getMessage()}"
