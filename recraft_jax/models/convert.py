"""Apply a table of names to the tensors of a PyTorch checkpoint, strictly.

Every tensor is used or listed as ignored; every parameter is filled. Anything else is
an error that names both lists: weights are never loaded by half.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging

from recraft_jax import errors

_MAX_NAMES = 6


class Rule(NamedTuple):
    r"""One line of a name table.

    Attributes:
      source: regular expression on the checkpoint's tensor name. A group `layer` is a
        number: those tensors are stacked along a new first axis in its order.
      target: parameter path, or None for a tensor that is left aside on purpose. `\1`
        stands for the first group of `source`.
      transform: from the PyTorch layout to ours (`transpose` for Linear weights).
    """

    source: str
    target: str | None
    transform: Callable[[np.ndarray], np.ndarray] = np.asarray


def transpose(weight: np.ndarray) -> np.ndarray:
    """Turn PyTorch's Linear layout `[out in]` into `[in out]`."""
    return weight.T


def flatten_patch(weight: np.ndarray) -> np.ndarray:
    """Turn a convolution over whole patches `[d c p p]` into `[p p c, d]`."""
    return weight.transpose(2, 3, 1, 0).reshape(-1, weight.shape[0])


def rows(table: np.ndarray) -> np.ndarray:
    """Take the leading axis of one off a table `[1 l d]`."""
    return table.squeeze(0)


def dense(source: str, target: str) -> tuple[Rule, Rule]:
    """Rules of a Linear layer; names as regular expression and path."""
    return (
        Rule(rf"{source}\.weight", f"{target}/kernel", transpose),
        Rule(rf"{source}\.bias", f"{target}/bias"),
    )


def norm(source: str, target: str) -> tuple[Rule, Rule]:
    """Rules of a LayerNorm; TensorFlow's names for its parts occur in old files."""
    return (
        Rule(rf"{source}\.(?:weight|gamma)", f"{target}/scale"),
        Rule(rf"{source}\.(?:bias|beta)", f"{target}/bias"),
    )


def apply_table(
    tensors: Mapping[str, np.ndarray],
    table: Sequence[Rule],
    like: Mapping[str, jax.ShapeDtypeStruct],
    *,
    where: str,
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Rename, transpose and stack checkpoint tensors into a flat parameter dict.

    Args:
      tensors: checkpoint tensors by name.
      table: rules; exactly one must match each tensor.
      like: shape and dtype of every parameter wanted, by path.
      where: the checkpoint, for messages.

    Returns:
      Parameters by path, and the sorted names of ignored tensors.

    Raises:
      InputError: a tensor without a rule or for the same place as another, a parameter
        left empty, or a wrong shape or type.
    """
    found: dict[str, dict[int, np.ndarray]] = {}
    stacked: set[str] = set()
    ignored, unknown, problems = [], [], []
    for name, tensor in tensors.items():
        hits = [(r, m) for r in table if (m := re.fullmatch(r.source, name))]
        if len(hits) != 1:
            unknown.append(name)
            continue
        rule, match = hits[0]
        if rule.target is None:
            ignored.append(name)
            continue
        target = match.expand(rule.target)
        layer = match.groupdict().get("layer")
        if layer is not None:
            stacked.add(target)
        if not jnp.issubdtype(tensor.dtype, jnp.floating):
            problems.append(f"{name} is {tensor.dtype}, wanted a float")
        try:
            value = rule.transform(tensor)
        except ValueError:
            problems.append(f"{name} is {tensor.shape}, an impossible shape")
            continue
        layers = found.setdefault(target, {})
        if layers.setdefault(int(layer or 0), value) is not value:
            problems.append(f"{name} fills {target} a second time")
    params = {}
    for path, layers in found.items():
        if path not in like:
            problems.append(f"no parameter {path}")
            continue
        try:
            ordered = [layers[i] for i in range(len(layers))]
            value = np.stack(ordered) if path in stacked else ordered[0]
        except (KeyError, ValueError):
            problems.append(f"{path} has layers {sorted(layers)} of unequal shape")
            continue
        if value.shape != like[path].shape:
            problems.append(f"{path} is {value.shape}, wanted {like[path].shape}")
            continue
        params[path] = np.ascontiguousarray(value, dtype=like[path].dtype)
    missing = sorted(set(like) - set(found))
    if unknown or missing or problems:
        raise errors.InputError(
            f"{where} does not fit its config.json: tensors without a place "
            f"{_shortened(sorted(unknown))}; parameters left empty "
            f"{_shortened(missing)}; {_shortened(problems)}"
        )
    return params, sorted(ignored)


def _shortened(names: list[str]) -> str:
    """Show a list on one line; the log has the whole of a long one."""
    if len(names) <= _MAX_NAMES:
        return str(names)
    logging.error("in full: %s", names)
    return f"{names[:_MAX_NAMES]} and {len(names) - _MAX_NAMES} more"
