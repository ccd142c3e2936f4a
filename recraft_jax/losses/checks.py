"""Checks of concrete inputs: a clear error where a NaN would come out.

The public functions of this folder call them first. Values that are traced (inside
`jit`, `grad`, `vmap`) cannot be looked at and pass: there a NaN that goes in comes out.
So do arrays of which this process holds a part only. None, for "not given", passes too.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np


def finite_rows(name: str, value: Any) -> None:
    """Refuse NaN and infinities."""
    _rows(name, value, np.isfinite, "every entry must be finite")


def cost_rows(name: str, value: Any) -> None:
    """Refuse NaN, -inf, and a cost without a finite entry; +inf forbids a pair."""
    _rows(name, value, lambda v: v > -np.inf, "every entry must be finite or +inf")
    if _is_visible(value) and not np.any(np.isfinite(jax.device_get(value))):
        raise ValueError(f"{name} must have a finite entry, all are +inf")


def log_rows(name: str, value: Any) -> None:
    """Refuse NaN and +inf; -inf is the logarithm of zero."""
    _rows(name, value, lambda v: v < np.inf, "every entry must be finite or -inf")


def nonnegative_rows(name: str, value: Any) -> None:
    """Refuse NaN, infinities and negative entries."""

    def is_good(v):
        return np.isfinite(v) & (v >= 0)

    _rows(name, value, is_good, "every entry must be finite and nonnegative")


def unit_rows(name: str, value: Any) -> None:
    """Refuse what lies outside [0, 1]."""
    _rows(name, value, lambda v: (v >= 0) & (v <= 1), "every entry must be in [0, 1]")


def weights(name: str, value: Any) -> None:
    """Refuse what is not finite and nonnegative, and weights that are all zero."""
    nonnegative_rows(name, value)
    if _is_visible(value) and not np.any(jax.device_get(value)):
        raise ValueError(f"{name} must not be all zero: one must be positive")


def positive(name: str, value: Any) -> None:
    """Refuse a scalar that is not finite and positive."""
    if _is_visible(value) and not 0 < float(jax.device_get(value)) < np.inf:
        raise ValueError(f"{name} must be positive and finite, got {value!r}")


def _is_visible(value: Any) -> bool:
    """Whether there is a value, and it can be read here."""
    if value is None or isinstance(value, jax.core.Tracer):
        return False
    return getattr(value, "is_fully_addressable", True)


def _rows(name: str, value: Any, is_good: Callable, allowed: str) -> None:
    """Name the first row with an entry that is not good."""
    if not _is_visible(value):
        return
    rows = np.atleast_1d(jax.device_get(value))
    rows = rows.reshape(len(rows), -1)
    is_bad = ~is_good(rows)
    bad = np.flatnonzero(is_bad.any(axis=1))
    if bad.size:
        entry = float(rows[is_bad][0])
        what = "NaN" if np.isnan(entry) else f"{entry:g}"
        raise ValueError(
            f"{name} holds {what} in {bad.size} of {len(rows)} rows, first in row "
            f"{bad[0]}; {allowed}"
        )
