"""Which rows of a scientist's own data train and which test."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int, Shaped

from recraft_jax import errors
from recraft_jax.data import custom_names, draws, tasks

WORDS = {
    **{"train": "train", "val": "val", "test": "test"},
    **{"valid": "val", "validation": "val"},
    **{"0": "train", "1": "val", "2": "test"},
}


Picks = dict[str, Int[np.ndarray, " m"]]


class Draw(NamedTuple):
    """How rows are drawn; see `custom.load`."""

    protocol: str
    val_frac: float
    test_frac: float
    seed: int
    num_samples: int
    num_test: int


def rows(
    found: custom_names.Source,
    draw: Draw,
    group: Int[np.ndarray, " n"] | None,
    codes: Int[np.ndarray, " n"] | None,
) -> tuple[Picks, str]:
    """Choose the rows of `train`, `test` and perhaps `val`, ascending.

    Args:
      found: the arrays.
      draw: how.
      group: of each row.
      codes: class of each row.

    Returns:
      Rows of each split, and how they were chosen in words.

    Raises:
      InputError: splits that cannot be made.
    """
    if draw.protocol not in ("corrected", "official"):
        raise errors.InputError(
            f"protocol {draw.protocol!r}; allowed: corrected, official"
        )
    if draw.seed < 0:
        raise errors.InputError(f"data.split_seed = {draw.seed}; allowed: 0 or more")
    if found.split is not None:
        name = found.names[2]
        picks, how = given(found.split, found.path, name), f"as {name} says"
        if draw.protocol == "official" and "val" in picks:
            picks["train"] = np.union1d(picks["train"], picks.pop("val"))
    else:
        picks = drawn(
            *(len(found.x), draw.test_frac, draw.seed, found.path),
            group=group,
            labels=codes,
        )
        how = "at random" if codes is None else "at random, stratified by class"
        how = f"{how if group is None else 'by whole groups'}, seed {draw.seed}"
    for split, field in (("train", "num_samples"), ("test", "num_test")):
        at, num = picks.get(split, np.arange(0)), getattr(draw, field)
        if num < 0:
            raise errors.InputError(f"data.{field} = {num}; allowed: 0 (all) or more")
        if 0 < num < len(at):
            order = draws.order(at * 0.0 if codes is None else codes[at], draw.seed)
            picks[split] = at[np.sort(order[:num])]
    return picks, how


def validating(
    picks: Picks,
    draw: Draw,
    group: Int[np.ndarray, " n"] | None,
    codes: Int[np.ndarray, " n"] | None,
) -> Picks | None:
    """Places within the training rows that `tasks.split_task` holds out and leaves.

    None if it holds nothing out.
    """
    if "val" in picks or draw.protocol == "official":
        return None
    at = picks["train"]
    return tasks.hold_out(
        *(len(at), draw.val_frac, draw.seed),
        None if group is None else group[at],
        None if codes is None else codes[at],
    )


def notes(
    picks: Picks,
    group: Int[np.ndarray, " n"] | None,
    codes: Int[np.ndarray, " n"] | None,
    labels: Sequence[str],
) -> tuple[str, ...]:
    """Say which groups are on two sides, and which classes do not train."""
    found = []
    num = 0 if group is None else crossing(group, picks)
    if num:
        found.append(f"{num} of {len(np.unique(group))} groups are on two sides")
    if codes is not None:
        trained = np.isin(np.arange(len(labels)), codes[picks["train"]])
        if not trained.all():
            names = [labels[code] for code in np.flatnonzero(~trained)]
            found.append(
                f"{len(names)} of {len(labels)} classes have no training sample: "
                f"{custom_names.few(names)}"
            )
    return tuple(found)


def given(values: Shaped[np.ndarray, " n"], path: str, name: str) -> Picks:
    """Rows of each split that a column says, in their order.

    Args:
      values: train, val (valid, validation) or test, in any case; or 0, 1 or 2.
      path: for messages.
      name: of the column, for messages.

    Raises:
      InputError: another word, or no row that trains or tests.
    """
    words, index = np.unique(values, return_inverse=True)
    found = {split: np.zeros(len(values), bool) for split in tasks.SPLITS}
    for code, word in enumerate(words):
        text = word.decode(errors="replace") if isinstance(word, bytes) else str(word)
        split = WORDS.get(text.strip().lower().removesuffix(".0"))
        if split is None:
            row = int((index == code).argmax())
            raise errors.InputError(
                f"{path}: {name} is {text!r} in row {row} (from 0); allowed: train, "
                f"val (valid, validation), test, or 0, 1, 2; data.split=none leaves it"
            )
        found[split] |= index == code
    rows = {split: np.flatnonzero(held) for split, held in found.items() if held.any()}
    for split in ("train", "test"):
        if split not in rows:
            raise errors.InputError(
                f"{path}: {name} has no row of {split}; allowed: rows of train and of "
                "test, and of val if there is a validation split"
            )
    return rows


def drawn(
    num: int,
    test_frac: float,
    seed: int,
    path: str,
    *,
    group: Int[np.ndarray, " n"] | None = None,
    labels: Int[np.ndarray, " n"] | None = None,
) -> Picks:
    """Hold rows out for testing: whole groups, else shares of classes, else any.

    Args:
      num: rows.
      test_frac: share of them that tests; 0 leaves no test split.
      seed: of the draw.
      path: for messages.
      group: of each row.
      labels: class of each row; of each, one row at least trains.

    Raises:
      InputError: another share, one row, or one group.
    """
    if not 0 <= test_frac < 1:
        raise errors.InputError(
            f"data.test_frac = {test_frac}; allowed: 0 up to but not 1"
        )
    if not test_frac:
        return {"train": np.arange(num)}
    if num < 2:
        raise errors.InputError(
            f"{path}: {num} row, which cannot train and test; allowed: two or more"
        )
    if group is not None and (group == group[0]).all():
        raise errors.InputError(
            f"{path}: all {num} rows are of one group, which cannot be split; allowed: "
            "two groups or more (data.group=none leaves groups aside)"
        )
    rows = tasks.hold_out(num, test_frac, seed, group, labels)
    return {"train": rows["train"], "test": rows["val"]}


def joined(
    first: Int[np.ndarray, " n"] | None, second: Int[np.ndarray, " n"]
) -> Int[np.ndarray, " n"]:
    """Number the finest groups that neither of two groupings takes apart."""
    found = np.unique(second, return_inverse=True)[1]
    if first is None:
        return found
    keys = [np.unique(first, return_inverse=True)[1], found]
    while True:
        before = found
        for key in keys:
            lowest = np.full(key.max() + 1, len(found))
            np.minimum.at(lowest, key, found)
            found = lowest[key]
        if (found == before).all():
            return np.unique(found, return_inverse=True)[1]


def crossing(group: Int[np.ndarray, " n"], rows: Mapping[str, np.ndarray]) -> int:
    """Count the groups that have rows in two splits or more."""
    sides = [np.unique(group[found]) for found in rows.values()]
    _, counts = np.unique(np.concatenate(sides), return_counts=True)
    return int((counts > 1).sum())
