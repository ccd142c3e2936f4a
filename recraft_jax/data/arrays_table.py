"""Columns of CSV and Parquet files as arrays, by pyarrow.

CSV is read whole: eight bytes a number, however it is written. Of Parquet only the row
groups are read in which rows are asked for, the last few of which are kept.
"""

import collections
import functools
import pathlib
from collections.abc import Callable, Sequence

import numpy as np

from recraft_jax import errors
from recraft_jax.data import rows

Array = np.ndarray | rows.Rows
Readers = tuple[dict[str, Callable[[], Array]], Callable[[Sequence[str]], Array]]


def csv(path: pathlib.Path) -> Readers:
    """Read a table of text whose first line names the columns.

    Returns:
      Name to what gives the column `[n]`, and a function of names to `[n f]`.

    Raises:
      InputError: lines of other lengths, no names in the first line, or other
        separators than commas (`.csv`) and tabs (`.tsv`).
    """
    from pyarrow import csv as reader

    is_tabs = path.name.lower().removesuffix(".gz").endswith(".tsv")
    options = reader.ParseOptions(delimiter="\t" if is_tabs else ",")
    table = reader.read_csv(path, parse_options=options)
    _check_names(path, table.column_names, is_tabs)

    def read(name):
        return _values(path, name, table.column(name))

    def columns(names):
        return np.stack([read(name) for name in names], axis=1)

    return {name: functools.partial(read, name) for name in table.column_names}, columns


def parquet(path: pathlib.Path) -> Readers:
    """Open a Parquet file; numbers and lists of them are `Rows`.

    Returns:
      Name to what gives the column `[n]` or `[n k]`, and a function of names to
      `[n f]`.
    """
    from pyarrow import parquet as reader

    with reader.ParquetFile(path) as file:
        names, metadata = file.schema_arrow.names, file.metadata
    _check_names(path, names)
    sizes = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
    starts = np.cumsum([0, *sizes])
    stamp = path.stat().st_mtime_ns

    def group(index, wanted):
        return _group(path, stamp, index, int(starts[index]), wanted)

    def whole(name):
        found = [group(index, (name,))[0] for index in range(len(sizes))]
        return np.concatenate(found) if found else _no_rows(path, name)

    def read(name):
        if not starts[-1]:
            return _no_rows(path, name)
        dtype, shape = _kind(path, name)
        if dtype is None:
            return whole(name)

        def pick_one(index, at):
            (values,) = group(index, (name,))
            if values.shape[1:] != shape:
                raise _ragged(path, name, starts[index], values.shape[1:], shape)
            return values[at]

        pick = functools.partial(_gather, starts, pick_one)
        return rows.Rows(pick, (starts[-1], *shape), dtype)

    def columns(wanted):
        wanted = tuple(wanted)
        kinds = [_kind(path, name)[0] for name in wanted]

        def side_by_side(index, at):
            return np.stack([column[at] for column in group(index, wanted)], axis=1)

        pick = functools.partial(_gather, starts, side_by_side)
        return rows.Rows(pick, (starts[-1], len(wanted)), np.result_type(*kinds))

    return {name: functools.partial(read, name) for name in names}, columns


def _gather(starts: np.ndarray, read: Callable, at: np.ndarray) -> np.ndarray:
    """Collect rows from the groups that begin at `starts`."""
    group = np.searchsorted(starts, at, "right") - 1
    found = None
    for places in rows.grouped(group):
        index = int(group[places[0]])
        part = read(index, at[places] - starts[index])
        if found is None:
            found = np.empty((len(at), *part.shape[1:]), part.dtype)
        elif part.dtype != found.dtype:  # a group without gaps beside one with some
            found = found.astype(np.result_type(found, part))
        found[places] = part
    return found


@functools.lru_cache(maxsize=4)
def _group(path, stamp: int, index: int, start: int, names: tuple[str, ...]) -> tuple:
    """Columns of one row group; `stamp` tells a file from one that replaced it."""
    from pyarrow import parquet as reader

    with reader.ParquetFile(path) as file:
        table = file.read_row_group(index, columns=list(names))
    return tuple(_values(path, name, table.column(name), start) for name in names)


def _no_rows(path: pathlib.Path, name: str) -> np.ndarray:
    from pyarrow import parquet as reader

    kind = reader.read_schema(path).field(name).type
    return np.empty(0, float if _is_number(kind) else str)


def _kind(path: pathlib.Path, name: str) -> tuple[np.dtype | None, tuple[int, ...]]:
    """Type and shape of a sample of a column; no type if it is not of numbers."""
    from pyarrow import parquet as reader
    from pyarrow import types

    with reader.ParquetFile(path) as file:
        kind = file.schema_arrow.field(name).type
        if types.is_list(kind) or types.is_large_list(kind) or _is_fixed_list(kind):
            batch = next(file.iter_batches(batch_size=1, columns=[name]))
            first = _values(path, name, batch.column(0))
            return first.dtype, first.shape[1:]
    if not _is_number(kind):
        return None, ()
    if types.is_decimal(kind):
        return np.dtype(float), ()
    if types.is_null(kind):
        return np.dtype(float), ()
    dtype = np.dtype(kind.to_pandas_dtype())
    if dtype.kind in "biu" and _has_gaps(path, name):
        return np.dtype(float), ()
    return dtype, ()


def _is_number(kind) -> bool:
    from pyarrow import types

    return (
        types.is_integer(kind)
        or types.is_floating(kind)
        or types.is_boolean(kind)
        or types.is_decimal(kind)
        or types.is_null(kind)
    )


def _is_fixed_list(kind) -> bool:
    from pyarrow import types

    return types.is_fixed_size_list(kind)


def _has_gaps(path: pathlib.Path, name: str) -> bool:
    """Whether a column of whole numbers lacks values, which makes floats of it."""
    from pyarrow import parquet as reader

    with reader.ParquetFile(path) as file:
        for index in range(file.metadata.num_row_groups):
            column = file.read_row_group(index, columns=[name]).column(name)
            if column.null_count:
                return True
    return False


def _check_names(path, names: Sequence[str], is_tabs: bool = False) -> None:
    twice = [name for name, num in collections.Counter(names).items() if num > 1]
    if twice:
        raise errors.InputError(
            f"{path}: column {twice[0]!r} is there twice; allowed: a name once"
        )
    if path.suffix != ".parquet" and all(_is_float(name) for name in names):
        raise errors.InputError(
            f"{path}: the first line holds numbers, {', '.join(names[:3])}; allowed: "
            "the names of the columns in the first line"
        )
    other = ";" if ";" in names[0] else "," if is_tabs else "\t"
    if len(names) == 1 and other in names[0]:
        raise errors.InputError(
            f"{path}: one column {names[0][:40]!r}, as if separated by {other!r}; "
            "allowed: commas in .csv, tabs in .tsv"
        )


def _is_float(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _values(path, name: str, column, start: int = 0, each: int = 1) -> np.ndarray:
    """Turn a column into an array.

    Args:
      path: for messages.
      name: of the column, for messages.
      column: of pyarrow, from row `start` on.
      start: number of its first row.
      each: items of it to a row, inside lists of lists.

    Returns:
      Numbers, NaN where there are none; text; or times.

    Raises:
      InputError: lists of unequal lengths, text that is missing, or other things.
    """
    import pyarrow
    from pyarrow import compute, types

    kind = column.type
    if isinstance(column, pyarrow.ChunkedArray):
        column = column.combine_chunks()
    if types.is_dictionary(kind):
        column = compute.cast(column, kind.value_type)
        return _values(path, name, column, start, each)
    if types.is_list(kind) or types.is_large_list(kind) or _is_fixed_list(kind):
        length = _one_length(path, name, column, start, each)
        flat = _values(path, name, compute.list_flatten(column), start, each * length)
        return flat.reshape(len(column), length, *flat.shape[1:])
    if types.is_string(kind) or types.is_large_string(kind) or types.is_binary(kind):
        return _text(path, name, column, start, each)
    if types.is_decimal(kind) or types.is_null(kind):
        column = compute.cast(column, pyarrow.float64())
    elif types.is_timestamp(kind) or types.is_date(kind) or types.is_duration(kind):
        return column.to_numpy(zero_copy_only=False)
    elif not _is_number(kind):
        raise errors.InputError(
            f"{path}: column {name!r} is of type {kind}; allowed: numbers, text, or "
            "lists of numbers"
        )
    if column.null_count and not types.is_floating(kind):
        column = compute.cast(column, pyarrow.float64(), safe=False)
    return column.to_numpy(zero_copy_only=False)


def _one_length(path, name: str, column, start: int, each: int) -> int:
    from pyarrow import compute

    lengths = compute.fill_null(compute.list_value_length(column), 0)
    lengths = lengths.to_numpy(zero_copy_only=False)
    first = int(lengths[0]) if len(lengths) else 0
    bad = np.flatnonzero(lengths != first)
    if len(bad):
        row = start + bad[0] // each
        raise _ragged(path, name, row, lengths[bad[:1]], lengths[:1])
    return first


def _ragged(path, name: str, row: int, length, first) -> errors.InputError:
    length, first = (" x ".join(map(str, sizes)) for sizes in (length, first))
    return errors.InputError(
        f"{path}: column {name!r} holds lists of unequal lengths, first in row {row} "
        f"(from 0) with {length} instead of {first}; allowed: lists padded to one "
        "length"
    )


def _text(path, name: str, column, start: int, each: int) -> np.ndarray:
    if column.null_count:
        row = int(np.asarray(column.is_null()).argmax()) // each
        raise errors.InputError(
            f"{path}: column {name!r} is empty in row {start + row} (from 0); allowed: "
            "a value in every row"
        )
    coded = column.dictionary_encode()  # few different ones, as a rule
    words = [
        w if isinstance(w, str) else w.decode() for w in coded.dictionary.to_pylist()
    ]
    return np.array(words, str)[coded.indices.to_numpy(zero_copy_only=False)]
