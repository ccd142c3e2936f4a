"""Flat parameter dicts: `{"body/layers/attention/query/kernel": array}`.

Parameters are addressed by their `/`-joined path and by regular expressions on it. What
is trained, frozen, decayed or loaded is said in this one language.
"""

import hashlib
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

Flat = Mapping[str, Any]


def matches(path: str, patterns: Iterable[str]) -> bool:
    """Whether any of the regular expressions matches the whole path."""
    return any(re.fullmatch(pattern, path) for pattern in patterns)


def split(params: Flat, patterns: Iterable[str]) -> tuple[dict, dict]:
    """Split a flat dict into the leaves that match a pattern and the others.

    Raises:
      ValueError: a pattern matches no path (a misspelt freeze must not pass silently).
    """
    patterns = tuple(patterns)
    for pattern in patterns:
        if not any(matches(path, (pattern,)) for path in params):
            raise ValueError(f"pattern {pattern!r} matches none of {sorted(params)}")
    chosen = {path: leaf for path, leaf in params.items() if matches(path, patterns)}
    return chosen, {path: leaf for path, leaf in params.items() if path not in chosen}


def prefixed(params: Flat, prefix: str) -> dict:
    """Put `prefix/` before every path."""
    return {f"{prefix}/{path}": leaf for path, leaf in params.items()}


def under(params: Flat, prefix: str) -> dict:
    """Leaves whose path starts with `prefix/`, with that prefix taken off."""
    start = f"{prefix}/"
    return {p.removeprefix(start): x for p, x in params.items() if p.startswith(start)}


def count(params: Flat) -> int:
    """Number of values in all leaves."""
    return sum(math.prod(leaf.shape) for leaf in params.values())


def digest(arrays: Flat) -> str:
    """Hash the leaves, on the host, with their paths, types and shapes."""
    found = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        array = np.ascontiguousarray(array)
        found.update(f"{name}:{array.dtype}{array.shape}".encode())
        found.update(array)
    return found.hexdigest()


def differences(old: Any, new: Any, path: str = "") -> list[str]:
    """List where two nested dicts of plain values differ, as `path: old -> new`."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        found = []
        for name in sorted({*old, *new}):
            found += differences(
                old.get(name, "absent"),
                new.get(name, "absent"),
                f"{path}.{name}" if path else name,
            )
        return found
    return [] if old == new else [f"{path}: {old!r} -> {new!r}"]
