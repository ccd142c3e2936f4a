"""Peptides: antimicrobial or not, from the sequence of residues; package modlamp.

2,600 antimicrobial peptides of the database APD3 and as many other peptides of UniProt
(Müller et al. 2017). The two are told apart by how they were collected as much as by
what they do: 61 % of the others begin with M, the start of a gene's product, against
1.7 % of the antimicrobial ones, so the first residue is taken away. Sequences whose
next 32 residues are equal are kept once, and not at all where their labels differ.
Others can still be relatives: nothing here measures how alike they are.
"""

import os

import numpy as np
from jaxtyping import Float

from recraft_jax import errors
from recraft_jax.data import draws

RESIDUES = "ACDEFGHIKLMNPQRSTVWY"
NUM_RESIDUES = 32
NUM_CLASSES = 2
TEST_SHARE = 0.2


def load(
    path: str | os.PathLike, *, num_train: int, num_test: int, seed: int
) -> dict[str, dict[str, np.ndarray]]:
    """Read the file and draw a fifth of the peptides for testing, stratified.

    A residue is one of 20 channels. Of longer peptides the first 32 residues (after the
    one taken away) are kept, shorter ones end in zeros, which after standardisation are
    not zero. Lengths differ between the classes, and those below 32 can still be seen.

    Args:
        path: `AMPvsUniProt.csv` of modlamp 4.3.3 (asset `peptides`): a line that begins
            with the number of peptides, then lines `SEQUENCE, label`.
        num_train: See `draws.subsets`.
        num_test: See `draws.subsets`.
        seed: Of the hold-out and of `draws.subsets`.

    Returns:
        `train` and `test`, each with `x` `[n 32 20]` float32, residues in the order of
        their letters, and `y` `[n]` int32, 1 being antimicrobial.

    Raises:
        InputError: A file that cannot be read or holds something else, or more peptides
            wanted than there are.
    """
    if seed < 0:
        raise errors.InputError(f"peptides with data.seed = {seed}; allowed: 0 or more")
    labels = distinct(read(path), NUM_RESIDUES)
    x = np.stack([one_hot(sequence) for sequence in labels])
    y = np.array(list(labels.values()), np.int32)
    order = draws.order(y, seed)
    num_held = round(TEST_SHARE * len(y))
    rows = {"train": np.sort(order[num_held:]), "test": np.sort(order[:num_held])}
    pools = {split: {"x": x[pick], "y": y[pick]} for split, pick in rows.items()}
    return draws.subsets(
        "peptides", pools, num_train=num_train, num_test=num_test, seed=seed
    )


def read(path: str | os.PathLike) -> list[tuple[str, int]]:
    """Return the sequences and labels of the file as they stand there."""
    try:
        with open(path, encoding="ascii") as stream:
            first, *lines = stream.read().splitlines() or [""]
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise errors.InputError(f"{path}: cannot be read ({reason})") from None
    found = []
    for number, line in enumerate(lines, 2):
        sequence, _, label = (part.strip() for part in line.partition(","))
        if (
            len(sequence) < 2
            or set(sequence) - set(RESIDUES)
            or label not in ("0", "1")
        ):
            raise errors.InputError(
                f"{path}: line {number} is {line[:40]!r}; allowed: two or more of "
                f"{RESIDUES}, a comma, and 0 or 1"
            )
        found.append((sequence, int(label)))
    if not found or first.partition(",")[0] != str(len(found)):
        raise errors.InputError(
            f"{path}: begins with {first[:40]!r} before {len(found)} peptides; "
            "allowed: their number, one or more"
        )
    return found


def distinct(peptides: list[tuple[str, int]], num: int) -> dict[str, int]:
    """Take the first residue away; keep each next `num` that have one label."""
    labels: dict[str, set[int]] = {}
    for sequence, label in peptides:
        labels.setdefault(sequence[1 : 1 + num], set()).add(label)
    return {key: found.pop() for key, found in labels.items() if len(found) == 1}


def one_hot(sequence: str) -> Float[np.ndarray, "32 20"]:
    """Return `[32 20]` of up to 32 residues: in order, then zeros."""
    rows = np.zeros((NUM_RESIDUES, len(RESIDUES)), np.float32)
    for place, residue in enumerate(sequence):
        rows[place, RESIDUES.index(residue)] = 1
    return rows
