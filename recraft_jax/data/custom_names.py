"""Choose inputs, targets, splits and groups among named arrays, and check their types.

`custom` has the rules as a table.
"""

import difflib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from recraft_jax import errors
from recraft_jax.data import arrays_file, rows

NONE, AUTO = "none", "auto"

Array = np.ndarray | rows.Rows
Names = str | Sequence[str]


class Source(NamedTuple):
    """Arrays of a file by their part in the task.

    Attributes:
      path: of the file, for messages.
      x: inputs `[n ...]`.
      y: targets `[n ...]`.
      split: of each row, or None.
      group: of each row, 0 and up, or None.
      names: of x, y, split and group in the file; the last two may be empty.
      columns: names of the values of x if they are columns of a table.
    """

    path: str
    x: Array
    y: Array
    split: np.ndarray | None
    group: np.ndarray | None
    names: tuple[tuple[str, ...], tuple[str, ...], str, str]
    columns: tuple[str, ...]


def source(
    arrays: Mapping[str, Array],
    path: str,
    *,
    x: Names = AUTO,
    y: Names = AUTO,
    split: str = AUTO,
    group: str = AUTO,
) -> Source:
    """Choose arrays by name and check that they fit together.

    Args:
      arrays: of `arrays_file.open_arrays`, or a dict.
      path: for messages.
      x: a name, several columns of a table (also with commas), or `auto`.
      y: the same.
      split: a name, `none` or `auto`.
      group: the same.

    Raises:
      InputError: a name that is not there or not clear, types that are not numbers,
        unequal lengths, or no rows.
    """
    is_table = getattr(arrays, "is_table", False)
    split = _one(arrays, path, "split", split, arrays_file.SPLIT_NAMES)
    group = _one(arrays, path, "group", group, arrays_file.GROUP_NAMES)
    free = [name for name in arrays if name not in (split, group)]
    y_names = _several(arrays, path, "y", y, arrays_file.Y_NAMES, is_table)
    x_names = _several(arrays, path, "x", x, arrays_file.X_NAMES, is_table)
    if not y_names and is_table:
        y_names = tuple(name for name in free if name not in x_names)[-1:]
    if is_table and (x == AUTO and (not x_names or arrays[x_names[0]].ndim == 1)):
        x_names = tuple(name for name in free if name not in y_names)
    if not x_names:
        others = [name for name in free if name not in y_names]
        x_names = tuple(others) if len(others) == 1 else ()
    for side, found, known in (
        ("y", y_names, arrays_file.Y_NAMES),
        ("x", x_names, arrays_file.X_NAMES),
    ):
        if not found:
            raise errors.InputError(
                f"{path}: which array is {side} is not clear from "
                f"{few(list(arrays), 20)}; allowed: {', '.join(known)}, or a name as "
                f"data.{side}"
            )
    both = [name for name in x_names if name in (*y_names, split, group)]
    if both:
        raise errors.InputError(
            f"{path}: {both[0]!r} is in x and also y, split or group; allowed: one"
        )
    found = Source(
        path,
        _values(arrays, path, "x", x_names, is_table),
        _values(arrays, path, "y", y_names, is_table),
        _whole(arrays, split),
        _whole(arrays, group),
        (x_names, y_names, split, group),
        x_names if is_table and arrays[x_names[0]].ndim == 1 else (),
    )
    return _fitted(found)


def few(names: Sequence[str], most: int = 5) -> str:
    """List the first names and count the others."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def plain(values: Any, name: str) -> np.ndarray:
    """Make an array of numbers or text of lists or of what is like an array.

    Raises:
      InputError: ragged lists, mixed types, or whole numbers beyond 64 bits.
    """
    try:
        array = np.asarray(values)
    except ValueError:
        array = np.empty((), object)
    if array.dtype != object:
        if array.dtype.kind == "f" and isinstance(values, list | tuple):
            _check_big(values, name)
        return array
    flat = array.reshape(-1).tolist()
    if array.ndim and all(isinstance(each, str) for each in flat):
        return array.astype(str)
    if array.ndim and all(isinstance(each, bool | int | float) for each in flat):
        _check_big(flat, name)
        return array.astype(np.float64)
    raise errors.InputError(
        f"arrays: {name} holds objects, as ragged lists do; samples need padding to "
        "one shape; allowed: arrays of numbers or text"
    )


# Names.


def _one(arrays, path: str, role: str, given: str, known: Sequence[str]) -> str:
    if given == NONE:
        return ""
    if given == AUTO:
        return next((name for name in known if name in arrays), "")
    if given not in arrays:
        raise _unknown(arrays, path, role, given)
    return given


def _several(arrays, path, role, given: Names, known, is_table) -> tuple[str, ...]:
    if given == AUTO:
        name = next((name for name in known if name in arrays), "")
        return (name,) if name else ()
    if isinstance(given, str):
        is_list = is_table and given not in arrays
        given = [part.strip() for part in given.split(",")] if is_list else [given]
    for name in given:
        if name not in arrays:
            raise _unknown(arrays, path, role, name)
    return tuple(given)


def _unknown(arrays, path: str, role: str, given: str) -> errors.InputError:
    near = difflib.get_close_matches(given, list(arrays), 1, 0.5)
    hint = f", the nearest is {near[0]!r}" if near else ""
    return errors.InputError(
        f"{path}: data.{role} = {given!r} is not there{hint}; allowed: "
        f"{few(list(arrays), 20)}"
    )


# Values.


def _values(arrays, path, side: str, names: tuple[str, ...], is_table: bool) -> Array:
    """Array of a name, or columns side by side."""
    is_text_allowed = side == "y" and len(names) == 1
    for name in names:
        array = arrays[name]
        what = f"column {name!r}" if is_table else name
        kind = array.dtype.kind
        if kind in "US" and is_text_allowed or kind in "biuf":
            if len(names) > 1 and array.ndim > 1:
                raise errors.InputError(
                    f"{path}: {what} holds lists of shape {array.shape[1:]} beside "
                    f"other columns; allowed: numbers, or this one as data.{side}"
                )
            continue
        held = {"U": "text", "S": "text", "M": "times", "m": "times"}.get(kind)
        held = "complex numbers" if kind == "c" else held or f"{array.dtype}"
        if kind in "US" and len(array):
            held += f", {str(array[0])!r} in row 0"
        raise errors.InputError(
            f"{path}: {what} holds {held}; allowed: real numbers"
            + (f" (data.{side} names the columns to use)" if is_table else "")
        )
    if is_table and len(names) > 1 or (side == "x" and array.ndim == 1 and is_table):
        return arrays.columns(names)
    return arrays[names[0]]


def _whole(arrays, name: str) -> np.ndarray | None:
    return np.asarray(arrays[name][:]) if name else None


def _fitted(found: Source) -> Source:
    path, (*_, split, group) = found.path, found.names
    sizes = {"x": len(found.x), "y": len(found.y)}
    for name, array in ((split, found.split), (group, found.group)):
        if array is not None:
            sizes[name] = len(array)
            if array.ndim != 1 or (array.dtype.kind == "f" and np.isnan(array).any()):
                raise errors.InputError(
                    f"{path}: {name} has shape {array.shape} or lacks values; allowed: "
                    "one value a row"
                )
    if len(set(sizes.values())) > 1:
        held = ", ".join(f"{name} has {num}" for name, num in sizes.items())
        raise errors.InputError(
            f"{path}: unequal lengths, {held}; allowed: as many rows of each"
        )
    if not sizes["x"]:
        raise errors.InputError(f"{path}: x has 0 rows; allowed: one or more")
    if found.group is None:
        return found
    return found._replace(group=np.unique(found.group, return_inverse=True)[1])


def _check_big(values: Sequence, name: str) -> None:
    """Refuse whole numbers that became floats, in which some are equal."""
    if all(type(each) is int for each in values) and len(values):
        raise errors.InputError(
            f"arrays: {name} holds whole numbers that no type of 64 bits has; allowed: "
            "int64, uint64, or text"
        )
