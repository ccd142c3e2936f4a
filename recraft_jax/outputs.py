"""Files of predictions, written block by block: `.npz`, `.h5`, `.csv`.

A file is there whole or not at all: it is written under another name beside its place
and moved there at the end.
"""

import contextlib
import csv
import pathlib
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import h5py
import numpy as np

from recraft_jax import errors

SUFFIXES = (".npz", ".h5", ".csv")
MAX_COLUMNS = 1024  # of a table


class File(NamedTuple):
    """A file that grows.

    Attributes:
      append: takes the next block, `{name: [n ...]}`.
    """

    append: Callable[[Mapping[str, np.ndarray]], None]


def check(path: pathlib.Path) -> None:
    """Refuse a place where no file can be, or one of another kind."""
    if path.suffix not in SUFFIXES:
        raise errors.InputError(
            f"--output={path}; allowed: a file that ends with {', '.join(SUFFIXES)}"
        )
    if not path.parent.is_dir() or path.is_dir():
        raise errors.InputError(
            f"--output={path}; allowed: a file in a folder that exists"
        )


@contextlib.contextmanager
def open_file(
    path: pathlib.Path, num: int, labels: Sequence[str] = ()
) -> Iterator[File]:
    """Open a file for `num` samples.

    Args:
      path: one of `check`; what is there is replaced in the end.
      num: samples of all blocks.
      labels: names of the classes: `prediction` is text then, and in a table their
        probabilities are columns of these names.
    """
    begin = {".npz": _npz, ".h5": _hdf5, ".csv": _csv}[path.suffix]
    with (
        tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder,
        contextlib.ExitStack() as stack,
    ):
        part = pathlib.Path(folder, path.name)
        append = begin(stack, part, num, tuple(labels))
        yield File(lambda block: append(_named(block, labels)))
        stack.close()
        part.replace(path)


def _named(block: Mapping[str, np.ndarray], labels: Sequence[str]):
    """Replace classes by their names."""
    one = block["prediction"]
    if not labels or one.ndim != 1:
        return dict(block)
    return dict(block) | {"prediction": np.array(labels)[one]}


def _npz(stack: contextlib.ExitStack, path: pathlib.Path, num: int, labels) -> Callable:
    """Members are files until the end, when they are put together uncompressed."""
    del labels
    members: dict[str, np.ndarray] = {}
    folder = path.with_name("members")
    folder.mkdir()
    done = 0

    def finish():
        with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
            for name in list(members):
                members.pop(name).flush()
                archive.write(folder / f"{name}.npy", f"{name}.npy")
        shutil.rmtree(folder)

    stack.callback(finish)

    def append(block):
        nonlocal done
        for name, value in block.items():
            if name not in members:
                members[name] = np.lib.format.open_memmap(
                    folder / f"{name}.npy", "w+", value.dtype, (num, *value.shape[1:])
                )
            members[name][done : done + len(value)] = value
        done += len(block["prediction"])

    return append


def _hdf5(stack: contextlib.ExitStack, path: pathlib.Path, num: int, labels):
    file = stack.enter_context(h5py.File(path, "w"))
    if labels:
        file.attrs["labels"] = list(labels)
    done = 0

    def append(block):
        nonlocal done
        for name, value in block.items():
            is_text = value.dtype.kind == "U"
            kind = h5py.string_dtype() if is_text else value.dtype
            if name not in file:
                file.create_dataset(name, (num, *value.shape[1:]), kind)
            value = value.astype(object) if is_text else value
            file[name][done : done + len(value)] = value
        done += len(block["prediction"])

    return append


def _csv(stack: contextlib.ExitStack, path: pathlib.Path, num: int, labels):
    del num
    file = stack.enter_context(path.open("w", newline="", encoding="utf-8"))
    table = csv.writer(file)
    has_header = False

    def append(block):
        nonlocal has_header
        flat = {k: v.reshape(len(v), -1) for k, v in block.items() if k != "values"}
        width = sum(value.shape[1] for value in flat.values())
        if width > MAX_COLUMNS:
            raise errors.InputError(
                f"--output={path.name}: {width} columns; allowed: .npz or .h5 for more "
                f"than {MAX_COLUMNS}"
            )
        if not has_header:
            table.writerow(_header(flat, labels))
            has_header = True
        columns = [
            value[:, i] for value in flat.values() for i in range(value.shape[1])
        ]
        table.writerows(zip(*(column.tolist() for column in columns), strict=True))

    return append


def _header(flat: Mapping[str, np.ndarray], labels: Sequence[str]) -> list[str]:
    """`prediction`, and for several values `NAME:LABEL` or `NAME:NUMBER` each."""
    names = []
    for name, value in flat.items():
        if value.shape[1] == 1:
            names.append(name)
            continue
        is_named = len(labels) == value.shape[1]
        each = labels if is_named else range(value.shape[1])
        names += [f"{name}:{one}" for one in each]
    return names
