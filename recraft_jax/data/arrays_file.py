"""Open a file or folder of a scientist's own as named arrays, read where asked for.

| path                       | its names                                               |
|----------------------------|---------------------------------------------------------|
| `.npz`                     | members                                                 |
| `x.npy`                    | `x`, and of `y.npy`, `split.npy`, `group.npy` beside it |
| `.h5`, `.hdf5`, `.he5`     | data sets, `group/name`                                 |
| `.csv`, `.tsv`, `.csv.gz`  | columns; the first line names them                      |
| `.parquet`                 | columns; lists of one length are `[n k]`                |
| folder of a Zarr store     | arrays, `group/name`; versions 2 and 3                  |
| folder of `NAME.npy`       | files                                                   |
| folder of one other format | those of each file, which are joined in name order      |
| `sklearn:digits`           | `x` and `y` of a set that scikit-learn brings along     |

Numbers of `.npy`, of uncompressed members of `.npz`, of HDF5, Zarr and Parquet are
`Rows`; all else is read whole when it is asked for. Scalars are left out. Pickles are
never loaded.
"""

import functools
import hashlib
import os
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from recraft_jax import errors
from recraft_jax.data import arrays_store, arrays_table, rows

X_NAMES = ("x", "X", "data", "images", "inputs", "features")
Y_NAMES = ("y", "Y", "target", "targets", "label", "labels", "class")
SPLIT_NAMES = ("split",)
GROUP_NAMES = ("group", "groups")

SKLEARN = ("digits", "diabetes", "iris", "wine", "breast_cancer")

Array = np.ndarray | rows.Rows


class Arrays(Mapping):
    """Named arrays of a file. Also a context, at whose end the file is closed.

    Attributes:
      path: as it was given.
      is_table: whether names are columns, which can stand side by side.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        readers: Mapping[str, Callable[[], Array]],
        columns: Callable[[Sequence[str]], Array] | None = None,
        close: Callable = lambda: None,
    ):
        """Take what reads each name.

        Args:
          path: of the file.
          readers: name to what gives its array `[n ...]`.
          columns: of tables, names to `[n f]`.
          close: lets the file go.
        """
        self.path, self.is_table = os.fspath(path), columns is not None
        self._readers, self._columns, self._close = dict(readers), columns, close
        self._found: dict[str, Array] = {}

    def __getitem__(self, name: str) -> Array:
        """Return an array, or `Rows` of one that stays in its file.

        Raises:
          InputError: objects instead of numbers or text, or a damaged file.
        """
        if name not in self._found:
            self._found[name] = self._readers[name]()
        return self._found[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._readers)

    def __len__(self) -> int:
        return len(self._readers)

    def columns(self, names: Sequence[str]) -> Array:
        """Columns of numbers of a table, side by side `[n f]`."""
        return self._columns(tuple(names))

    def __enter__(self) -> "Arrays":
        """Return the same."""
        return self

    def __exit__(self, *_) -> None:
        """Close."""
        self.close()

    def close(self) -> None:
        """Let the file go; `Rows` that were handed out open it again when read."""
        self._found.clear()
        self._close()


def open_arrays(path: str | os.PathLike) -> Arrays:
    """Open a file or folder of the table above.

    Raises:
      InputError: there is no such file, it is of another kind or damaged, it holds no
        arrays, or parts of a folder do not fit together.
    """
    text = os.fspath(path)
    if text.startswith("sklearn:"):
        return _sklearn(text)
    path = pathlib.Path(text)
    if not path.exists():
        raise errors.InputError(
            f"{text}: there is no such file; allowed: a file or folder that exists, or "
            f"sklearn: and one of {', '.join(SKLEARN)}"
        )
    found = _folder(path) if path.is_dir() else _file(path)
    if not found:
        raise errors.InputError(f"{text}: holds no arrays; allowed: one or more")
    return found


def sha256(path: str | os.PathLike) -> str:
    """Hash the content of a file; of a folder the names and contents of its files.

    Of a `.npy` with others beside it that are read too, names and contents of these. Of
    `sklearn:NAME`, the values.
    """
    text = os.fspath(path)
    if text.startswith("sklearn:"):
        return sha256_of(_sklearn(text))
    path = pathlib.Path(text)
    if path.is_dir():
        home, files = path, sorted(each for each in path.rglob("*") if each.is_file())
    else:
        home, files = path.parent, [path]
        if _format(path) == ".npy":
            files = sorted(_beside(path).values())
    digest = hashlib.sha256()
    for file in files:
        if path.is_dir() or len(files) > 1:
            name = file.relative_to(home).as_posix()
            digest.update(f"{name}:{file.stat().st_size}\n".encode())
        with file.open("rb") as stream:
            while block := stream.read(1 << 22):
                digest.update(block)
    return digest.hexdigest()


def sha256_of(arrays: Mapping[str, np.ndarray]) -> str:
    """Hash names, types, shapes and values of arrays."""
    digest = hashlib.sha256()
    for name, array in arrays.items():
        digest.update(f"{name}:{array.dtype}{array.shape}\n".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _formats() -> dict[str, Callable[[pathlib.Path], Arrays]]:
    """End of a file's name to what opens the file."""
    hdf5 = functools.partial(_stored, arrays_store.hdf5)
    text = functools.partial(_table, arrays_table.csv)
    return {
        ".npz": functools.partial(_stored, arrays_store.npz),
        ".npy": lambda path: _npys(path, _beside(path)),
        **dict.fromkeys((".h5", ".hdf5", ".he5"), hdf5),
        **dict.fromkeys((".csv", ".csv.gz", ".tsv", ".tsv.gz"), text),
        ".parquet": functools.partial(_table, arrays_table.parquet),
    }


def _format(path: pathlib.Path) -> str:
    """End of the file's name if it is one of `_formats`, else nothing."""
    name = path.name.lower()
    return next((end for end in _formats() if name.endswith(end)), "")


def _file(path: pathlib.Path) -> Arrays:
    end, known = _format(path), _formats()
    if not end:
        raise errors.InputError(
            f"{path}: unknown kind of file {path.suffix!r}; allowed: "
            f"{', '.join(known)}, a folder of one of them, or a Zarr folder"
        )
    return arrays_store.guarded(path, "", functools.partial(known[end], path))


def _stored(read: Callable, path: pathlib.Path) -> Arrays:
    readers, close = read(path)
    return Arrays(path, readers, close=close)


def _table(read: Callable, path: pathlib.Path) -> Arrays:
    readers, columns = read(path)
    guarded = {
        name: functools.partial(arrays_store.guarded, path, f"column {name!r}", reader)
        for name, reader in readers.items()
    }
    return Arrays(path, guarded, columns)


def _npys(path: pathlib.Path, files: Mapping[str, pathlib.Path]) -> Arrays:
    readers = {}
    for name, file in files.items():
        readers |= arrays_store.npy(file, name)
    return Arrays(path, readers)


def _beside(path: pathlib.Path) -> dict[str, pathlib.Path]:
    """Names and files of a `.npy` and of what belongs to it in its folder."""
    others = X_NAMES if path.stem in Y_NAMES else Y_NAMES
    # A file system may take X.npy and x.npy for one file.
    there = {file.name for file in path.parent.iterdir()}
    return {path.stem: path} | {
        name: path.with_name(f"{name}.npy")
        for name in (*others, *SPLIT_NAMES, *GROUP_NAMES)
        if f"{name}.npy" in there
    }


def _sklearn(path: str) -> Arrays:
    name = path.removeprefix("sklearn:")
    if name not in SKLEARN:
        raise errors.InputError(
            f"{path}: there is no such set; allowed: sklearn: and one of "
            f"{', '.join(SKLEARN)}"
        )
    from sklearn import datasets

    found = getattr(datasets, f"load_{name}")()
    x = found.images if name == "digits" else found.data
    return Arrays(path, {"x": lambda: x, "y": lambda: found.target})


def _folder(path: pathlib.Path) -> Arrays:
    if arrays_store.is_zarr(path):
        read = functools.partial(_stored, arrays_store.zarr, path)
        return arrays_store.guarded(path, "", read)
    parts: dict[str, list[pathlib.Path]] = {}
    for file in sorted(path.iterdir()):
        if file.is_file() and not file.name.startswith(".") and _format(file):
            parts.setdefault(_format(file), []).append(file)
    if len(parts) != 1:
        held = " and ".join(sorted(parts)) or "none of these"
        raise errors.InputError(
            f"{path}: the folder holds {held}; allowed: files of one of "
            f"{', '.join(_formats())}, or a Zarr store"
        )
    ((end, files),) = parts.items()
    if end == ".npy":
        return _npys(path, {file.stem: file for file in files})
    return _joined(path, [_file(file) for file in files])


def _joined(path: pathlib.Path, parts: Sequence[Arrays]) -> Arrays:
    """The same names of several files, one after the other."""
    first = parts[0]
    for part in parts[1:]:
        if set(part) != set(first):
            raise errors.InputError(
                f"{part.path}: holds {', '.join(part)}; allowed: the names of "
                f"{first.path}, {', '.join(first)}"
            )

    def read(name):
        return _join(parts, [part[name] for part in parts], name)

    def columns(names):
        return _join(parts, [part.columns(names) for part in parts], "the columns")

    return Arrays(
        path,
        {name: functools.partial(read, name) for name in first},
        columns if first.is_table else None,
        lambda: [part.close() for part in parts],
    )


def _join(parts: Sequence[Arrays], arrays: Sequence[Array], name: str) -> Array:
    first = arrays[0]
    is_number = first.dtype.kind in arrays_store.NUMBERS
    for part, array in zip(parts, arrays, strict=True):
        is_same = array.shape[1:] == first.shape[1:]
        if not is_same or (array.dtype.kind in arrays_store.NUMBERS) != is_number:
            raise errors.InputError(
                f"{part.path}: {name}: {array.dtype} {array.shape}; allowed: as in "
                f"{parts[0].path}, {first.dtype} {first.shape} for any first size"
            )
    # The first part's type may not hold the values of the others.
    dtype = np.result_type(*(array.dtype for array in arrays))
    return rows.joined(*(_as_type(array, dtype) for array in arrays))


def _as_type(array: Array, dtype: np.dtype) -> Array:
    if isinstance(array, rows.Rows):
        return rows.Rows(lambda at: array[at], array.shape, dtype)
    return array.astype(dtype, copy=False)
