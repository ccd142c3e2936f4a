"""A task from a scientist's own arrays: what it is, and its splits.

Everything is inferred and everything can be overridden. The rules, first that fits:

| what      | `auto` is                                                                |
|-----------|--------------------------------------------------------------------------|
| `y`       | y, Y, target, targets, label, labels, class; of tables the last column   |
| `x`       | x, X, data, images, inputs, features; of tables every column that is not |
|           | y, split or group; else the only other array                             |
| `split`   | `split`: train, val (valid, validation), test; or 0, 1, 2                |
| `group`   | `group`, `groups`: rows that must not be on two sides                    |
| `channels`| [n f]: none, a series of one channel. [n a b]: last if b <= 16 and b < a |
|           | or b <= 24 and 1.5 b <= a, first if a <= 16 and 4 a <= b, else an image  |
|           | of one channel. [n a b c]: the smaller of a and c, which is 16 or less;  |
|           | last if they are equal                                                   |
| `kind`    | text, bool: classification                                               |
|           | [n] of whole numbers, of up to 20 values and up to n / 2: classification;|
|           | of more, if they are an integer type, go from 0 or 1 without a gap and   |
|           | are up to n / 20: classification                                         |
|           | [n k] of 0 and 1: classification if each row sums to 1, else multilabel  |
|           | the grid of x, perhaps with channels: dense; [n f] to [n f] from 8 on and|
|           | not of tables                                                            |
|           | [n], [n k]: regression                                                   |
| metric,   | error, cross_entropy; label_error, binary_cross_entropy; rmse,           |
| loss      | mean_squared_error; nrmse, relative_l2 (rmse, rmse with a sample of y    |
|           | that is zero everywhere, by which nrmse would divide)                    |
| `scale_x` | column (a mean and deviation for each value) of [n f], else channel      |
| `scale_y` | of fields point, where a model starts at their mean; of numbers channel  |
| `patch`   | the smallest that makes `max_tokens` or fewer                            |

Rows are counted from 0. Arrays are gone through by blocks; `load` keeps them in memory
up to `IN_MEMORY` values, and in their file beyond.
"""

import os
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from recraft_jax.data import (
    arrays_file,
    custom_names,
    custom_rules,
    custom_scan,
    custom_split,
    rows,
)

Array = np.ndarray | rows.Rows
IN_MEMORY = 1 << 28  # values of x and of y: 1 GiB each

_MEASURES = {
    "classification": ("error", "cross_entropy"),
    "multilabel": ("label_error", "binary_cross_entropy"),
    "regression": ("rmse", "mean_squared_error"),
    "dense": ("nrmse", "relative_l2"),
}


class Facts(NamedTuple):
    """Everything that was inferred or asked for.

    Attributes:
      path: as it was given.
      x: names of the inputs: one array, or columns.
      y: names of the targets.
      split: name of the column of splits; empty without.
      group: name of the column of groups; empty without.
      kind: a name in `custom_rules.KINDS`.
      metric: a name in `metrics.METRICS`.
      loss: a name in `losses.task`.
      x_shape: of an input, channels last.
      channels_axis: where they were: `last`, `first`, or `none` if there were none.
      y_shape: of a target; () for classes.
      y_axis: as `channels_axis`, of dense targets.
      num_classes: as in `tasks.Task`.
      labels: names of classes in the order of their numbers; else empty.
      y_dtype: type of the labels, for `custom_labels.decode`.
      scale_x: a kind of `tasks.fit_scale`.
      scale_y: the same.
      patch: of text backbones.
      max_tokens: that `patch` was chosen for.
      num_rows: n.
      has_split: whether the file says the splits.
      has_group: whether the file says groups.
      sha256: see `arrays_file.sha256`.
      notes: what should be looked at.
    """

    path: str
    x: tuple[str, ...]
    y: tuple[str, ...]
    split: str
    group: str
    kind: str
    metric: str
    loss: str
    x_shape: tuple[int, ...]
    channels_axis: str
    y_shape: tuple[int, ...]
    y_axis: str
    num_classes: int
    labels: tuple[str, ...]
    y_dtype: str
    scale_x: str
    scale_y: str
    patch: int
    max_tokens: int
    num_rows: int
    has_split: bool
    has_group: bool
    sha256: str
    notes: tuple[str, ...]


def infer(
    path: str | os.PathLike,
    *,
    x: custom_names.Names = "auto",
    y: custom_names.Names = "auto",
    split: str = "auto",
    group: str = "auto",
    kind: str = "auto",
    channels: str = "auto",
    max_tokens: int = 64,
) -> Facts:
    """Infer a task from a file, after one pass through it.

    Args:
      path: see `arrays_file.open_arrays`.
      x: name of the inputs; of tables also several, with commas.
      y: name of the targets; of tables also several.
      split: name of the column of splits, or `none`.
      group: name of the column of groups, or `none`.
      kind: a name in `custom_rules.KINDS`.
      channels: the axis of x that holds them: `last`, `first` or `none`.
      max_tokens: of text backbones.

    Raises:
      InputError: a file that cannot be read, values that are not finite real numbers, a
        task that is not clear, or one with nothing to learn.
    """
    with arrays_file.open_arrays(path) as arrays:
        found = custom_names.source(
            arrays, os.fspath(path), x=x, y=y, split=split, group=group
        )
        digest = arrays_file.sha256(path)
        return _facts(found, kind, channels, max_tokens, digest)


def from_arrays(
    X: Any,
    y: Any,
    *,
    group: Any = None,
    split: Any = None,
    kind: str = "auto",
    channels: str = "auto",
    max_tokens: int = 64,
) -> tuple[Facts, custom_names.Source]:
    """Infer a task from arrays in memory.

    Args:
      X: inputs `[n ...]`: an array, lists of lists, or a data frame.
      y: targets.
      group: of each row.
      split: of each row.
      kind: as in `infer`.
      channels: as in `infer`.
      max_tokens: as in `infer`.

    Returns:
      The facts, and the arrays for `load`, in place of a path.

    Raises:
      InputError: as `infer`, and lists of unequal lengths.
    """
    given = {"x": X, "y": y, "split": split, "group": group}
    arrays = {k: custom_names.plain(v, k) for k, v in given.items() if v is not None}
    found = custom_names.source(arrays, "arrays", x="x", y="y")
    names = tuple(str(name) for name in getattr(X, "columns", ()))
    found = found._replace(columns=names if found.x.ndim == 2 else ())
    digest = arrays_file.sha256_of(arrays)
    return _facts(found, kind, channels, max_tokens, digest), found


def load(
    path: str | os.PathLike | custom_names.Source,
    facts: Facts | Mapping[str, Any],
    *,
    protocol: str,
    val_frac: float,
    test_frac: float = 0.2,
    split_seed: int,
    num_samples: int = 0,
    num_test: int = 0,
    keep_duplicates_together: bool = False,
) -> tuple[dict[str, dict[str, Array]], dict[str, Any]]:
    """Read the rows of each split.

    A column of splits is followed. Without one, `test_frac` of the rows is held out
    for testing: whole groups if there are groups, else the same share of each class,
    else any. The rows of a smaller draw are among those of a larger one.

    Args:
      path: as for `infer`, or the arrays of `from_arrays`.
      facts: of `infer`, or arguments for it.
      protocol: `corrected`; or `official`, in which validation rows of a column train.
      val_frac: share of the training rows that `tasks.split_task` will hold out, for
        the report: what is returned still has them among those that train.
      test_frac: share of the rows that tests; 0 leaves no test split.
      split_seed: of all draws.
      num_samples: rows that train or are held out of these, at most; 0 is all.
        Validation rows of a column are all kept.
      num_test: rows that test, at most; 0 is all.
      keep_duplicates_together: whether equal inputs are one group.

    Returns:
      `train`, `test` if there is one, and `val` if a column says it, each with `x`
      float32 channels last and `y`: int32 classes, or float32. `train` has `group` too
      if there are groups. And a report: `rows` of each split in the file; `sizes` of
      all three splits; `how` they were made; `stratify`, for `tasks.split_task`;
      `duplicates`, the samples of a split that are copies of training samples; `notes`.

    Raises:
      InputError: a split that cannot be made, or values that are not finite.
    """
    if not isinstance(facts, Facts):
        facts = infer(path, **facts)
    draw = custom_split.Draw(
        protocol, val_frac, test_frac, split_seed, num_samples, num_test
    )
    if isinstance(path, custom_names.Source):
        return _load(path, facts, draw, keep_duplicates_together)
    with arrays_file.open_arrays(path) as arrays:
        names = {key: getattr(facts, key) for key in ("x", "y")}
        names |= {key: getattr(facts, key) or "none" for key in ("split", "group")}
        found = custom_names.source(arrays, os.fspath(path), **names)
        return _load(found, facts, draw, keep_duplicates_together)


def describe(facts: Facts, report: Mapping[str, Any]) -> str:
    """Say what was inferred, a fact a line, with the field that overrides it."""
    *grid, channels = facts.x_shape
    shape = " x ".join(map(str, grid))
    where = {"last": "on the last axis", "first": "on the first axis", "none": "added"}
    tokens = custom_rules.num_tokens(facts.x_shape, facts.patch)
    sizes = {split: f"{num} samples" for split, num in report["sizes"].items()}
    is_drawn = not facts.has_split
    lines = [
        ("data", f"{facts.path}, {facts.num_rows} rows", "data.path"),
        ("sha256", facts.sha256, ""),
        ("x", f"{shape} values of {custom_names.few(facts.x)}", "data.x"),
        ("channels", f"{channels}, {where[facts.channels_axis]}", "data.channels"),
        ("y", custom_names.few(facts.y), "data.y"),
        ("task", _task(facts), "data.kind"),
        ("loss", facts.loss, "data.loss" if facts.kind == "dense" else ""),
        ("metric", facts.metric, "data.metric"),
        ("scale of x", facts.scale_x, "data.scale_x"),
        ("scale of y", facts.scale_y, "data.scale_y" if facts.y_shape else ""),
        ("patch", f"{facts.patch}, for {tokens} tokens", "embedder.patch"),
        ("groups", facts.group or "none", "data.group"),
        ("split", report["how"], "data.split"),
        ("train", sizes["train"], "data.num_samples"),
        ("val", sizes["val"], "data.val_frac" if is_drawn else "data.split"),
        ("test", sizes["test"], "data.test_frac" if is_drawn else "data.num_test"),
    ]
    for split, num in report["duplicates"].items():
        are = "samples are copies" if num > 1 else "sample is a copy"
        text = f"{num} {split} {are} of training samples"
        lines += [("note", text, "data.keep_duplicates_together")] if num else []
    lines += [("note", text, "") for text in (*facts.notes, *report["notes"])]
    width = max(len(name) for name, _, _ in lines) + 2
    return "\n".join(
        f"{name:{width}}{text}" + (f" ({field})" if field else "")
        for name, text, field in lines
    )


def _facts(
    found: custom_names.Source, kind: str, channels: str, max_tokens: int, digest: str
) -> Facts:
    x_names, y_names, split, group = found.names
    x_shape, x_axis = custom_rules.layout(found.x.shape, channels, found.path)
    seen = custom_scan.scan(found.x, found.path, "x", found.columns)
    made = custom_rules.targets(found, kind, x_shape, x_axis)
    metric, loss = _MEASURES[made.kind]
    if made.has_zeros:
        metric = loss = "rmse"
    return Facts(
        path=found.path,
        x=x_names,
        y=y_names,
        split=split,
        group=group,
        kind=made.kind,
        metric=metric,
        loss=loss,
        x_shape=x_shape,
        channels_axis=x_axis,
        y_shape=made.shape,
        y_axis=made.axis,
        num_classes=made.num_classes,
        labels=made.labels,
        y_dtype=made.dtype,
        scale_x="column" if found.x.ndim == 2 else "channel",
        scale_y={"dense": "point", "regression": "channel"}.get(made.kind, "none"),
        patch=custom_rules.patch(x_shape, max_tokens),
        max_tokens=max_tokens,
        num_rows=len(found.x),
        has_split=bool(split),
        has_group=bool(group),
        sha256=digest,
        notes=custom_rules.notes(found, seen, made),
    )


def _load(
    found: custom_names.Source,
    facts: Facts,
    draw: custom_split.Draw,
    keep_duplicates_together: bool,
) -> tuple[dict, dict]:
    group, codes = found.group, None
    if facts.kind == "classification":
        codes = custom_rules.codes(found, facts.labels)
    if keep_duplicates_together:
        seen = custom_scan.scan(found.x, found.path, "x", found.columns)
        group = custom_split.joined(
            group, np.unique(seen.hashes, return_inverse=True)[1]
        )
    picks, how = custom_split.rows(found, draw, group, codes)
    held = custom_split.validating(picks, draw, group, codes)
    num = sum(map(len, picks.values()))
    is_small = num * max(np.prod(facts.x_shape), np.prod(facts.y_shape)) <= IN_MEMORY
    arrays, hashes = {}, {}
    for split, at in picks.items():
        x, seen = custom_scan.read(
            *(found.x, found.path, "x", found.columns, at),
            *(facts.x_shape, facts.channels_axis, is_small),
        )
        hashes[split] = seen.hashes
        arrays[split] = {"x": x}
        if codes is None:
            arrays[split]["y"], _ = custom_scan.read(
                *(found.y, found.path, "y", (), at),
                *(facts.y_shape, facts.y_axis, is_small),
            )
        else:
            arrays[split]["y"] = codes[at]
    if group is not None:
        arrays["train"]["group"] = group[picks["train"]]
    if held is not None:
        hashes |= {split: hashes["train"][at] for split, at in held.items()}
    sizes = {split: len(found) for split, found in hashes.items()}
    # Of `official`, the test split validates.
    sizes = {"train": 0, "val": sizes.get("test", 0), "test": 0} | sizes
    report = {
        "rows": picks,
        "sizes": sizes,
        "how": how,
        "stratify": codes is not None and group is None,
        "duplicates": {
            split: custom_scan.num_copies(hashes[split], hashes["train"])
            for split in ("val", "test")
            if split in hashes
        },
        "notes": custom_split.notes(picks, group, codes, facts.labels),
    }
    return arrays, report


def _task(facts: Facts) -> str:
    words = {"classification": "classes", "multilabel": "labels"}
    if facts.kind in words:
        names = custom_names.few(facts.labels)
        return f"{facts.kind}, {facts.num_classes} {words[facts.kind]}: {names}"
    values = "value" if facts.y_shape == (1,) else "values"
    return f"{facts.kind}, {' x '.join(map(str, facts.y_shape))} {values} each"
