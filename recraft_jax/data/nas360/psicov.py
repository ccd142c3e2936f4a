"""PSICOV of NAS-Bench-360: distances between residues of proteins (PDNET's files).

From 57 maps of features predict the distances of the beta carbons (Adhikari 2020). The
3456 proteins of `deepcov.lst` train, the 150 of `psicov.lst` test; CAMEO's are in the
archive, but on neither list. Channels and borders follow the released loaders (PDNET,
NAS-Bench-360, ORCA, which agree but for the training window: 128 in the first two, 512
in ORCA and here).
"""

import os
import pathlib

import numpy as np
from jaxtyping import Float

from recraft_jax import errors
from recraft_jax.data import numpy_pickle, rows

LISTS = {"train": "deepcov", "test": "psicov"}
FOLDERS = ("deepcov", "psicov", "cameo")  # where a protein is in two, the last counts
SIZE = 512
PAD = 5
NUM_CHANNELS = 57
CAP = 16.0  # angstrom, of training targets
FAR = 100.0  # what the released loaders put where there is no protein
NOWHERE = -1.0


def load(
    root: str | os.PathLike, *, masked: bool, random_test_crop: bool, seed: int
) -> dict[str, dict[str, rows.Rows | np.ndarray]]:
    """Find the proteins and their lengths; maps are read when they are asked for.

    A protein of l residues begins at pixel (5, 5) of a frame of l + 10. A frame that is
    larger than 512 is cropped, its rows and its columns by separate draws: a crop need
    not lie on the diagonal. The released code draws at every access; here a protein has
    one crop for each seed.

    Args:
      root: folder with `protein/{deepcov,psicov}.lst`, lines that begin with a name,
        and below `protein/{deepcov,psicov,cameo}` the files `features/<name>.pkl` and
        `distance/<name>-cb.npy`.
      masked: True: y is -1 where there is no distance, and loss and metric must leave
        that out. False, as released: outside of the protein y is 100, which the cap
        makes 16 in training, and 0 where a residue has no coordinates.
      random_test_crop: True, as released: test proteins are cropped at random, too.
        False: their first 512 pixels, 507 residues, are kept.
      seed: of the crops.

    Returns:
      `train` and `test`, each with `x` `[n 512 512 57]` (see `features`), zero outside
      of the protein, `y` `[n 512 512 1]` in angstrom (see `distances`), at most 16 in
      training, and `length` `[n]` int32, the residues of each protein before cropping.

    Raises:
      InputError: a list or file that is not there, cannot be read or holds something
        else; for features when they are read.
    """
    folder = pathlib.Path(root) / "protein"
    if seed < 0:
        raise errors.InputError(f"psicov with data.seed = {seed}; allowed: 0 or more")
    found = {}
    for number, split in enumerate(LISTS):
        is_train = split == "train"
        names = _names(folder / f"{LISTS[split]}.lst")
        paths = [_paths(folder, name, split) for name in names]
        length = np.array([len(distances(path)) for _, path in paths], np.int32)
        found[split] = {
            **_maps(
                paths,
                length,
                _corners(length, is_train or random_test_crop, (seed, number)),
                cap=CAP if is_train else np.inf,
                outside=NOWHERE if masked else min(FAR, CAP if is_train else FAR),
                missing=NOWHERE if masked else 0.0,
            ),
            "length": length,
        }
    return found


def features(
    path: str | os.PathLike,
) -> tuple[Float[np.ndarray, "l 27"], Float[np.ndarray, "3 l l"]]:
    """Read what is known of each residue, and of each pair.

    Of a residue: 3 of `ss` (secondary structure), 22 of `pssm`, `sa` (accessibility)
    and `entropy`. Feature k fills channel 2 k by its value at the column's residue and
    channel 2 k + 1 by that at the row's. Of a pair, channels 54 to 56: `ccmpred`,
    `freecon`, `potential`. Values that are not numbers become 0.
    """
    content = numpy_pickle.load_pickle(path)
    sequence = content["seq"] if _has(content, "seq") else ""
    length = len(sequence) if isinstance(sequence, str | list) else 0
    shapes = {
        "ss": (3, length),
        "pssm": (length, 22),
        **dict.fromkeys(("sa", "entropy"), (length,)),
        **dict.fromkeys(("ccmpred", "freecon", "potential"), (length, length)),
    }
    for key, shape in shapes.items():
        got = np.shape(content[key]) if _has(content, key) else "nothing"
        if got != shape or length == 0:
            raise errors.InputError(
                f"{path}: {key} is {got} with a sequence of {length}; allowed: {shape}"
            )
    content = {key: np.nan_to_num(np.float32(content[key]), nan=0.0) for key in shapes}
    single = (content["ss"].T, content["pssm"], content["sa"], content["entropy"])
    pairs = (content["ccmpred"], content["freecon"], content["potential"])
    return np.column_stack(single), np.stack(pairs)


def distances(path: str | os.PathLike) -> Float[np.ndarray, "l l"]:
    """Read distances in angstrom, NaN where there is none.

    Those below 1 become 1. The diagonal becomes the mean of its neighbours in the row,
    at both ends the one neighbour, in the precision of the file (float16 in PDNET's).
    """
    content = numpy_pickle.load_array(path)
    try:
        length, _, stored = content
        found = np.array(stored)
        is_right = found.shape == (length, length) and found.dtype.kind == "f"
    except (TypeError, ValueError):
        is_right = False
    if not is_right or length < 2:
        raise errors.InputError(
            f"{path}: not a protein's distances; allowed: length l of 2 or more, "
            "sequence, distances [l l]"
        )
    found[~np.isfinite(found)] = np.nan
    found[found < 1] = 1
    before, after = np.diagonal(found, -1)[:-1], np.diagonal(found, 1)[1:]
    mean = (before + after) / 2
    mean = np.where(np.isnan(before), after, np.where(np.isnan(after), before, mean))
    inner = np.arange(1, length - 1)
    mean = np.where(np.isnan(mean), 1, mean)
    found[inner, inner] = np.where(np.isnan(found[inner, inner]), np.nan, mean)
    found[0, 0], found[-1, -1] = found[0, 1], found[-1, -2]
    return found.astype(np.float32)


def _maps(
    paths: list,
    length: np.ndarray,
    corners: np.ndarray,
    *,
    cap: float,
    outside: float,
    missing: float,
) -> dict[str, rows.Rows]:
    def read_x(row):
        single, pairs = features(paths[row][0])
        if len(single) != length[row]:
            raise errors.InputError(
                f"{paths[row][0]}: {len(single)} residues, {length[row]} in "
                f"{paths[row][1]}; allowed: as many"
            )
        maps = np.zeros((SIZE, SIZE, NUM_CHANNELS), np.float32)
        (into_r, of_r), (into_c, of_c) = (
            _window(c, len(single)) for c in corners[row].tolist()
        )
        inside = maps[into_r, into_c]
        num = 2 * single.shape[1]
        inside[..., 0:num:2] = single[of_c]
        inside[..., 1:num:2] = single[of_r, None]
        inside[..., num:] = pairs[:, of_r, of_c].transpose(1, 2, 0)
        return maps

    def read_y(row):
        known = np.minimum(distances(paths[row][1]), cap)
        maps = np.full((SIZE, SIZE, 1), outside, np.float32)
        (into_r, of_r), (into_c, of_c) = (
            _window(c, len(known)) for c in corners[row].tolist()
        )
        known = known[of_r, of_c]
        maps[into_r, into_c, 0] = np.where(np.isnan(known), missing, known)
        return maps

    return {
        "x": rows.Rows.one_by_one(read_x, (len(paths), SIZE, SIZE, NUM_CHANNELS)),
        "y": rows.Rows.one_by_one(read_y, (len(paths), SIZE, SIZE, 1)),
    }


def _corners(length: np.ndarray, is_random: bool, seed: tuple) -> np.ndarray:
    """First row and column `[n 2]` of the crops in their frames."""
    spare = np.maximum(length + 2 * PAD - SIZE, 0)
    if not is_random:
        return np.zeros((len(length), 2), int)
    draws = [np.random.default_rng((*seed, row)) for row in range(len(length))]
    return np.array(
        [rng.integers(0, most + 1, 2) for rng, most in zip(draws, spare, strict=True)]
    )


def _window(corner: int, length: int) -> tuple[slice, slice]:
    """Pixels of the crop that a protein fills, and its residues that fill them."""
    start = corner - PAD  # residue, if there is one, of the first pixel
    first, last = max(start, 0), min(start + SIZE, length)
    return slice(first - start, last - start), slice(first, last)


def _names(path: pathlib.Path) -> list[str]:
    try:
        lines = path.read_text(encoding="ascii").splitlines()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise errors.InputError(f"{path}: cannot be read ({reason})") from None
    names = [line.split()[0] for line in lines if line.strip()]
    if not names:
        raise errors.InputError(f"{path}: empty; allowed: a protein a line")
    return names


def _paths(folder: pathlib.Path, name: str, split: str) -> list[pathlib.Path]:
    """Files of features and distances of a protein."""
    found = []
    for place in (f"features/{name}.pkl", f"distance/{name}-cb.npy"):
        there = [folder / each / place for each in FOLDERS]
        there = [path for path in there if path.is_file()]
        if not there:
            raise errors.InputError(
                f"{folder}: no {place} of protein {name} of {LISTS[split]}.lst; "
                f"allowed: in {', '.join(FOLDERS)}"
            )
        found.append(there[-1])
    return found


def _has(content, key: str) -> bool:
    return isinstance(content, dict) and key in content
