"""Open, check and write HDF5 files in the layout of PDEBench.

Values are read where they are asked for: opening a file of 10 GB reads a few kilobytes.
"""

import os
import pathlib
from collections.abc import Iterable, Mapping, Sequence

import h5py
import numpy as np

from recraft_jax import errors
from recraft_jax.data import pdebench_layout
from recraft_jax.data.pdebench_layout import LAYOUTS, Layout


class File:
    """An open file of one task whose layout has been checked.

    Attributes:
      path: of the file.
      layout: of the task.
      nx: cells of each spatial axis.
      num: samples.
    """

    def __init__(self, path: str | os.PathLike, task: str):
        """Open a file and check names, shapes, types and attributes.

        Raises:
          InputError: no such task or file, a truncated file, another task's file, or
            other shapes than the task has.
        """
        self.layout = _layout(task)
        self.path, self.task = pathlib.Path(path), task
        if not self.path.is_file():
            raise errors.InputError(
                f"{path}: there is no such file; allowed: {self.layout.file} of "
                f"doi:10.18419/darus-2986, or one that `python -m recraft_jax.generate "
                f"--task={task}` made"
            )
        try:
            self._file = h5py.File(self.path, "r")
        except OSError as error:
            raise self._broken(error) from None
        try:
            self._keys = sorted(self._file)
            self._check_names()
            self.num, self.nx = self._check_shapes()
            self._check_attributes()
        except (OSError, RuntimeError, LookupError, AttributeError) as error:
            self.close()
            raise self._broken(error) from None
        except errors.InputError:
            self.close()
            raise

    def __enter__(self):
        """Return the file."""
        return self

    def __exit__(self, *_):
        """Close the file."""
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def read(self, field: str, rows: slice, frame: int | None) -> np.ndarray:
        """Read one frame of a field, float32 `[n ...space, c]` or `[n ...space]`.

        Args:
          field: a data set, `data` of grouped files.
          rows: samples, in the order of the file; of sorted group names.
          frame: time index, None for a field without time.

        Raises:
          InputError: the values cannot be read, are not finite, or are all zero in one
            sample, as in files copied in part.
        """
        at = () if frame is None else (frame,)
        try:
            if self.layout.is_grouped:
                stored = [self._file[key][field] for key in self._keys[rows]]
                for one in stored:
                    self._check_one(one, self.layout.sample_shape(field, self.nx))
                values = np.stack([one[at] for one in stored])
            else:
                values = self._file[field][(rows, *at)]
        except (OSError, RuntimeError, KeyError) as error:
            raise self._broken(error) from None
        self._check_values(values, field, rows, frame)
        return values

    def _check_values(self, values, field, rows, frame) -> None:
        flat = values.reshape(len(values), -1)
        for bad, what in (
            (~np.isfinite(flat).all(axis=1), "values that are not finite"),
            (~flat.any(axis=1), "nothing but zeros, as if copied in part,"),
        ):
            if bad.any():
                first = int(bad.argmax()) + (rows.start or 0)
                name = self._keys[first] if self.layout.is_grouped else first
                when = "" if frame is None else f" at frame {frame}"
                raise errors.InputError(
                    f"{self.path}: {field}{when} has {what} in {bad.sum()} of "
                    f"{len(bad)} samples, first in {name}; allowed: finite fields"
                )

    def _check_names(self) -> None:
        """Tell another task's file from this one's."""
        layout = self.layout
        if layout.is_grouped:
            is_right = bool(self._keys) and all(
                key.isdecimal() and isinstance(self._file[key], h5py.Group)
                for key in self._keys
            )
            want = "groups named by seeds, 0000 and so on"
        else:
            want = ", ".join(sorted(layout.data_sets(1)))
            is_right = self._keys == sorted(layout.data_sets(1))
        if not is_right:
            shown = ", ".join(self._keys[:6]) or "nothing"
            raise errors.InputError(
                f"{self.path} holds {shown}{self._guess()}; allowed for task "
                f"{self.task}: {want}"
            )

    def _guess(self) -> str:
        found = [
            name
            for name, other in LAYOUTS.items()
            if not other.is_grouped and sorted(other.data_sets(1)) == self._keys
        ]
        return f" (a file of task {' or '.join(found)}?)" if found else ""

    def _check_shapes(self) -> tuple[int, int]:
        """Check every data set's shape and type; returns samples and cells."""
        layout = self.layout
        if layout.is_grouped:
            num = len(self._keys)
            nx = self._file[self._keys[0]]["data"].shape[-2]
            # Opening 10,000 groups takes seconds: the others are checked when read.
            ends = {self._keys[0], self._keys[-1]}
            for key in sorted(ends):
                group = self._file[key]
                self._check_one(group["data"], layout.sample_shape("data", nx))
                for name, values in layout.coordinates(nx).items():
                    self._check_one(group["grid"][name], values.shape)
            return num, nx
        num, nx = (self._file[next(iter(layout.fields))].shape[i] for i in (0, -1))
        for field in layout.fields:
            shape = (num, *layout.sample_shape(field, nx))
            self._check_one(self._file[field], shape)
        for name, values in layout.coordinates(nx).items():
            self._check_one(self._file[name], values.shape)
        return num, nx

    def _check_one(self, found: h5py.Dataset, shape: Sequence[int]) -> None:
        if found.shape != tuple(shape) or found.dtype != np.float32:
            raise errors.InputError(
                f"{self.path}: {found.name} is {found.dtype} {list(found.shape)}; "
                f"allowed for task {self.task}: float32 {list(shape)}"
            )

    def _check_attributes(self) -> None:
        """Tell equations apart whose files have the same shapes."""
        names, wanted = set(self._file.attrs), set(self.layout.attrs)
        if names and wanted and not names & wanted:
            raise errors.InputError(
                f"{self.path}: attributes {', '.join(sorted(names))}; allowed for task "
                f"{self.task}: {', '.join(sorted(wanted))}"
            )
        for name, value in self.layout.attrs.items():
            found = self._file.attrs.get(name)
            if found is not None and not np.allclose(found, value):
                raise errors.InputError(
                    f"{self.path}: attribute {name} is {found}; allowed for task "
                    f"{self.task}: {value}"
                )

    def _broken(self, error: Exception) -> errors.InputError:
        return errors.InputError(
            f"{self.path} cannot be read ({error}); allowed: a whole HDF5 file. A "
            "download that stopped early looks like this; the published file has md5 "
            f"{self.layout.md5}"
        )


def write(
    path: pathlib.Path,
    task: str,
    nx: int,
    keys: Sequence[int],
    parts: Iterable[Mapping[str, np.ndarray]],
) -> None:
    """Write a whole file, part by part, under its name only when it is complete.

    Args:
      path: of the file.
      task: whose layout it gets.
      nx: cells of each spatial axis.
      keys: of the samples; group names of grouped files.
      parts: float32 arrays by field, samples in order along the first axis.
    """
    layout = _layout(task)
    partial = path.with_name(f".{path.name}.partial")
    coordinates = layout.coordinates(nx)
    try:
        with h5py.File(partial, "w") as file:
            file.attrs.update({k: np.float64(v) for k, v in layout.attrs.items()})
            if not layout.is_grouped:
                for name in layout.fields:
                    shape = (len(keys), *layout.sample_shape(name, nx))
                    file.create_dataset(name, shape, np.float32)
                for name, values in coordinates.items():
                    file[name] = values
            done = 0
            for part in parts:
                stop = done + len(next(iter(part.values())))
                if layout.is_grouped:
                    for key, data in zip(keys[done:stop], part["data"], strict=True):
                        group = file.create_group(f"{key:04d}")
                        group.create_dataset(
                            "data", data=data, compression=layout.compression
                        )
                        for name, values in coordinates.items():
                            group[f"grid/{name}"] = values
                else:
                    for name in layout.fields:
                        file[name][done:stop] = part[name]
                done = stop
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _layout(task: str) -> Layout:
    if task not in LAYOUTS:
        raise errors.InputError(
            f"task {task!r}; allowed: {', '.join(pdebench_layout.LAYOUTS)}"
        )
    return LAYOUTS[task]
