"""The rules by which chosen arrays become the inputs and targets of a task.

`custom` has them as a table. Here arrays keep their own types and layout.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from recraft_jax import errors
from recraft_jax.data import custom_labels, custom_names, custom_scan, rows

KINDS = ("dense", "classification", "multilabel", "regression")
CHANNELS = ("auto", "last", "first", "none")
MOST_CHANNELS = 16
MORE_CHANNELS = 24  # of a series half as long again
FEW_CLASSES = 20
LEAST_GRID = 8  # points of `[n f]` to `[n f]` from which it is a field to a field
NONE, AUTO = custom_names.NONE, custom_names.AUTO

Array = np.ndarray | rows.Rows


class Targets(NamedTuple):
    """What the targets are.

    Attributes:
      kind: a name in `KINDS`.
      shape: of one target; with channels last for dense ones.
      axis: where channels of dense ones are: `last`, `first` or `none`.
      num_classes: for classification and multi-label, else 0.
      labels: names of classes.
      dtype: of labels as they are in the file.
      has_zeros: whether a sample of dense targets is nothing but zeros.
      num_constant: values of a target that are equal in all rows.
      singles: classes of one sample.
    """

    kind: str
    shape: tuple[int, ...]
    axis: str = NONE
    num_classes: int = 0
    labels: tuple[str, ...] = ()
    dtype: str = ""
    has_zeros: bool = False
    num_constant: int = 0
    singles: tuple[str, ...] = ()


def layout(
    shape: tuple[int, ...], channels: str, path: str
) -> tuple[tuple[int, ...], str]:
    """Say how samples `[n ...]` are laid out: their shape with channels last, and axis.

    Args:
      shape: with n.
      channels: `last`, `first`, `none` (there is no axis for them) or `auto`.
      path: for messages.

    Raises:
      InputError: five axes or more, or no way to tell which one holds the channels.
    """
    if channels not in CHANNELS:
        raise errors.InputError(
            f"data.channels = {channels!r}; allowed: {', '.join(CHANNELS)}"
        )
    each = shape[1:]
    text = "(n, " + ", ".join(map(str, each)) + ")"
    if len(each) > 3 or 0 in each:
        raise errors.InputError(
            f"{path}: x has shape {text}; allowed: (n, features), (n, points, "
            "channels), (n, height, width) and (n, height, width, channels)"
        )
    if len(each) < 2:
        if channels in ("last", "first"):
            raise errors.InputError(
                f"{path}: x has shape {text}, without an axis for channels; allowed: "
                "data.channels=none or auto"
            )
        return (each[0] if each else 1, 1), NONE
    axis = _channels_axis(each) if channels == AUTO else channels
    if not axis or (axis == NONE and len(each) == 3):
        raise errors.InputError(
            f"{path}: x has shape {text}, in which no axis is known to be channels; "
            "allowed: data.channels=first or last"
        )
    if axis == NONE:
        return (*each, 1), NONE
    return (each if axis == "last" else (*each[1:], each[0])), axis


def patch(x_shape: tuple[int, ...], max_tokens: int) -> int:
    """Smallest patch that cuts a sample into `max_tokens` or fewer."""
    if max_tokens < 1:
        raise errors.InputError(f"max_tokens = {max_tokens}; allowed: 1 or more")
    sizes = range(1, max(x_shape[:-1]) + 1)
    return next(size for size in sizes if num_tokens(x_shape, size) <= max_tokens)


def num_tokens(x_shape: tuple[int, ...], size: int) -> int:
    """Count the patches of a sample; the last of an axis may reach over the edge."""
    return math.prod(math.ceil(n / size) for n in x_shape[:-1])


def targets(
    found: custom_names.Source, kind: str, x_shape: tuple[int, ...], x_axis: str
) -> Targets:
    """Say what the targets are, after a pass through them.

    Args:
      found: by `custom_names.source`.
      kind: a name in `KINDS`, or `auto`.
      x_shape: of an input, channels last.
      x_axis: where the channels of inputs were.

    Raises:
      InputError: targets that are not of the kind, or of none.
    """
    if kind not in (AUTO, *KINDS):
        raise errors.InputError(
            f"data.kind = {kind!r}; allowed: auto, {', '.join(KINDS)}"
        )
    y, is_text = found.y, found.y.dtype.kind in "US"
    flat = np.asarray(y[:]).reshape(-1) if y.size == len(y) and y.ndim < 3 else None
    if is_text and (kind not in (AUTO, "classification") or flat is None):
        raise errors.InputError(
            f"{found.path}: y holds text of shape {y.shape} with data.kind={kind}; "
            "allowed: numbers, or text of shape (n,) for classification"
        )
    if is_text or (kind == "classification" and flat is not None):
        return _classes(found, flat)
    names = found.names[1]
    seen = custom_scan.scan(
        y, found.path, "y", names if len(names) > 1 else (), is_hashed=False
    )
    num_constant, num = int(seen.constant.sum()), y.size // len(y)
    grid, axis = _grid(found, x_shape, x_axis)
    is_binary = _is_binary(y)
    is_one_hot = is_binary and y.ndim == 2 and num > 1 and _is_one_hot(y)
    if kind == AUTO:
        kind = _kind(found, flat, is_binary, is_one_hot, grid)
    if kind == "classification" and (flat is not None or is_one_hot):
        return _classes(found, flat)
    if kind == "multilabel" and is_binary and y.ndim < 3:
        labels = names if len(names) == num > 1 else tuple(map(str, range(num)))
        made = Targets(kind, (num,), num_classes=num, labels=labels)
    elif kind == "regression" and y.ndim < 3:
        made = Targets(kind, (num,))
    elif kind == "dense" and grid:
        made = Targets(kind, grid, axis, has_zeros=_has_zeros(y))
    else:
        raise _unfit(found, kind, x_shape)
    return made._replace(num_constant=num_constant)


def codes(found: custom_names.Source, labels: Sequence[str]) -> np.ndarray:
    """Classes `[n]` int32 of labels or one-hot rows, numbered as in `labels`."""
    if found.y.size == len(found.y):
        flat = np.asarray(found.y[:]).reshape(-1)
        return custom_labels.encode_labels(flat, labels, found.path)[0]
    return _one_hot_codes(found.y)


def inputs(
    values: Any, x_shape: tuple[int, ...], axis: str
) -> Float[np.ndarray, "n ..."]:
    """Bring new inputs, laid out as those of a task, to `[n *x_shape]` float32.

    Args:
      values: an array, lists of lists, or a data frame.
      x_shape: of an input, channels last.
      axis: where channels are in `values`: `last`, `first` or `none`.

    Raises:
      InputError: another shape, or values that are not finite numbers.
    """
    raw = custom_names.plain(values, "x")
    *grid, channels = x_shape
    want = {"last": x_shape, "first": (channels, *grid), "none": tuple(grid)}[axis]
    if raw.ndim == 1 and x_shape == (1, 1):
        raw = raw.reshape(-1, 1)
    if raw.ndim == 0 or raw.shape[1:] != want or raw.dtype.kind not in "biuf":
        raise errors.InputError(
            f"arrays: x is {raw.dtype} of shape {raw.shape}; allowed: numbers of shape "
            f"(n, {', '.join(map(str, want))})"
        )
    at = np.arange(len(raw))
    return custom_scan.read(raw, "arrays", "x", (), at, x_shape, axis)[0]


def notes(
    found: custom_names.Source, seen: custom_scan.Seen, made: Targets
) -> tuple[str, ...]:
    """Say what should be looked at.

    Args:
      found: the arrays.
      seen: of all inputs.
      made: of `targets`.
    """
    said = []
    num, total = int(seen.constant.sum()), seen.constant.size
    if num and found.columns:
        names = [found.columns[at] for at in np.flatnonzero(seen.constant)]
        said.append(
            f"{num} of {total} columns of x are constant: {custom_names.few(names)}"
        )
    elif num:
        said.append(f"{num} of {total} values of x are constant")
    if found.columns:
        names = [found.columns[at] for at in np.flatnonzero(seen.counting)]
        said += [f"column {name!r} counts the rows, as an index does" for name in names]
    num = len(found.x) - len(np.unique(seen.hashes))
    if num:
        said.append(f"{num} of {len(found.x)} rows of x are copies of earlier rows")
    if made.num_constant:
        total = max(int(np.prod(made.shape)), 1)
        said.append(f"{made.num_constant} of {total} values of y are constant")
    if made.singles:
        said.append(
            f"{len(made.singles)} of {made.num_classes} classes have one sample, which "
            f"trains: {custom_names.few(made.singles)}"
        )
    if made.has_zeros:
        said.append("a sample of y is zero everywhere, so errors are not relative")
    return tuple(said)


def _channels_axis(each: tuple[int, ...]) -> str:
    first, last = each[0], each[-1]
    if len(each) == 2:
        is_narrow = last <= MORE_CHANNELS and 1.5 * last <= first
        if is_narrow or (last <= MOST_CHANNELS and last < first):
            return "last"
        return "first" if first <= MOST_CHANNELS and first * 4 <= last else NONE
    if min(first, last) > MOST_CHANNELS:
        return ""
    return "last" if last <= first else "first"


def _grid(
    found: custom_names.Source, x_shape, x_axis: str
) -> tuple[tuple[int, ...], str]:
    """Shape of dense targets and where their channels are; () if they are not dense."""
    grid, each = x_shape[:-1], found.y.shape[1:]
    if found.columns or math.prod(grid) < 2:
        return (), NONE
    if each == grid:
        return (*grid, 1), NONE
    is_first, is_last = (each[1:] == grid, each[:-1] == grid)
    if len(each) == len(grid) + 1 and (is_first or is_last):
        if is_last and not (is_first and x_axis == "first"):
            return each, "last"
        return (*grid, each[0]), "first"
    return (), NONE


def _is_binary(y: Array) -> bool:
    return all(((block == 0) | (block == 1)).all() for block in rows.blocks(y))


def _is_one_hot(y: Array) -> bool:
    return all((block.sum(axis=1) == 1).all() for block in rows.blocks(y))


def _one_hot_codes(y: Array) -> np.ndarray:
    found = [block.argmax(axis=1) for block in rows.blocks(y)]
    return np.concatenate(found).astype(np.int32)


def _has_zeros(y: Array) -> bool:
    blocks = (block.reshape(len(block), -1) for block in rows.blocks(y))
    return any((block == 0).all(axis=1).any() for block in blocks)


def _unfit(found: custom_names.Source, kind: str, x_shape) -> errors.InputError:
    allowed = {
        "classification": "(n,), or (n, k) with a single 1 in each row",
        "multilabel": "(n, k) of 0 and 1",
        "regression": "(n,) or (n, k)",
        "dense": f"(n, {', '.join(map(str, x_shape[:-1]))}), the grid of x, and "
        "perhaps channels",
        "": "(n,), (n, k), or the grid of x",
    }[kind]
    asked = f" with data.kind={kind}" if kind else ""
    return errors.InputError(
        f"{found.path}: y has shape {found.y.shape}{asked}; allowed: {allowed}"
    )


def _kind(
    found: custom_names.Source, flat, is_binary: bool, is_one_hot: bool, grid
) -> str:
    y = found.y
    if flat is not None:
        return "classification" if _are_classes(flat) else "regression"
    if y.ndim == 2 and is_binary and y.shape[1] > 1:
        return "classification" if is_one_hot else "multilabel"
    if grid and (found.x.ndim > 2 or y.ndim > 2 or grid[0] >= LEAST_GRID):
        return "dense"
    return "regression" if y.ndim == 2 else ""


def _are_classes(y: np.ndarray) -> bool:
    if y.dtype.kind in "USb":
        return True
    values = np.unique(y)
    if y.dtype.kind == "f" and (values != np.round(values)).any():
        return False
    if len(values) <= FEW_CLASSES:
        return len(values) <= max(2, len(y) // 2)
    # More are classes if they are numbered without a gap, as amounts seldom are.
    is_numbered = values[0] in (0, 1) and int(values[-1] - values[0]) == len(values) - 1
    return y.dtype.kind in "iu" and is_numbered and len(values) <= len(y) // 20


def _classes(found: custom_names.Source, flat: np.ndarray | None) -> Targets:
    names, dtype = found.names[1], "int64"
    if flat is None:
        codes, num = _one_hot_codes(found.y), found.y.shape[1]
        labels = names if len(names) == num else tuple(map(str, range(num)))
        dtype = "str" if len(names) == num else dtype
    else:
        codes, labels = custom_labels.encode_labels(flat, path=found.path)
        dtype = flat.dtype.str
    counts = np.bincount(codes, minlength=len(labels))
    if (counts > 0).sum() == 1:
        raise errors.InputError(
            f"{found.path}: y has a single class, {labels[codes[0]]!r}; allowed: two "
            "or more"
        )
    if counts.max() == 1:
        raise errors.InputError(
            f"{found.path}: every class has one sample; allowed: two or more of some "
            "class (data.kind=regression takes whole numbers as amounts)"
        )
    singles = tuple(labels[code] for code in np.flatnonzero(counts == 1))
    return Targets(
        "classification",
        (),
        num_classes=len(labels),
        labels=labels,
        dtype=dtype,
        singles=singles,
    )
