"""FSD50K of NAS-Bench-360: which of 200 kinds of sound a clip holds.

Clips of 0.3 to 30 s (Fonseca et al. 2022) come as chunks of one second, each half a
second after the one before. Features and augmentation follow the released loaders
(NAS-Bench-360 and ORCA, after fsd50k-pytorch), which draw anew whenever they load.
"""

import csv
import functools
import json
import os
import pathlib
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from recraft_jax import errors
from recraft_jax.data import rows
from recraft_jax.data.nas360 import mel

LISTS = {"train": "tr.csv", "val": "val.csv", "test": "eval.csv"}
COLUMNS = ("files", "labels", "ext")
MASK_PROB = 0.5
MOST_NOISE = 0.5
SHAPE = (mel.NUM_MELS, mel.NUM_FRAMES + 1, 1)


class Clip(NamedTuple):
    """A recording: its number, the files of its chunks, and its labels."""

    number: int
    chunks: list[pathlib.Path]
    labels: str


def load(
    root: str | os.PathLike, *, mix_prob: float, augment: bool, seed: int
) -> dict[str, dict[str, rows.Rows | np.ndarray]]:
    """Read the lists; sound is read when it is asked for.

    A training clip is one sample: a chunk that is drawn from its chunks, masked with
    probability 0.5 (`mel.masked`), and mixed with noise with probability `mix_prob`:
    `(1 - a) x + a noise` in decibels, a from U(0, 0.5), the noise being the spectrogram
    of a whole file of noise, less its own mean, masked with probability 0.5 and cut to
    101 frames. All is drawn once for each seed and clip. The spectrograms of noise are
    kept once they are made, up to 0.8 GB for the 6 hours of MUSAN.

    In `val` and `test` every chunk is a sample. A column of zeros, the mean, follows
    the 101 frames everywhere. Files shorter than a second are repeated, so the released
    padding of short spectrograms, by wrapping or by a constant, never takes place.

    Args:
      root: folder with `fsd/chunks/{tr,val,eval}.csv` of the columns files, labels
        (joined by commas) and ext (the clip's number), `fsd/chunks/lbl_map.json` of
        labels to 0, 1, ..., wavs at 22,050 Hz, and `fsd/noise_22050/*.wav`. Paths in
        the lists may be of another machine: their end that is found in `fsd` counts.
      mix_prob: 0.75 in NAS-Bench-360 and ORCA, 0.82 in RECRAFT.
      augment: False leaves out masks and noise; the chunk is drawn all the same.
      seed: of all draws.

    Returns:
      `train`, `val` and `test`, each with `x` `[n 96 102 1]` (see `mel.spectrogram`),
      `y` `[n 200]` float32 of 0 and 1, and `group` `[n]` int32, the clip's number;
      ordered by clip, then by file name.

    Raises:
      InputError: a value that is not allowed, a file that is not there, cannot be read
        or holds something else, or packages that are missing; for sound when it is
        read.
    """
    folder = pathlib.Path(root) / "fsd"
    if not 0 <= mix_prob <= 1:
        raise errors.InputError(f"fsd50k with mix_prob = {mix_prob}; allowed: 0 to 1")
    if seed < 0:
        raise errors.InputError(f"fsd50k with data.seed = {seed}; allowed: 0 or more")
    mel.require()
    places = _label_map(folder / "chunks" / "lbl_map.json")
    noise = None
    if augment and mix_prob > 0:
        noise = _noise(folder / "noise_22050")
    found = {}
    for split, name in LISTS.items():
        clips = _clips(folder, folder / "chunks" / name)
        if split == "train":
            read = functools.partial(
                _training_sample, clips, seed, augment, mix_prob, noise
            )
        else:
            clips = [clip._replace(chunks=[c]) for clip in clips for c in clip.chunks]
            read = functools.partial(_sample, clips)
        found[split] = {
            "x": rows.Rows.one_by_one(read, (len(clips), *SHAPE)),
            "y": _targets(clips, places, folder / "chunks" / name),
            "group": np.array([clip.number for clip in clips], np.int32),
        }
    return found


def _sample(clips: list[Clip], row: int) -> Float[np.ndarray, "96 102 1"]:
    (path,) = clips[row].chunks
    values = mel.spectrogram(mel.read_audio(path))
    if values.shape[1] != mel.NUM_FRAMES:
        raise errors.InputError(
            f"{path}: {values.shape[1]} frames; allowed: chunks of up to one second, "
            f"{mel.NUM_FRAMES} frames"
        )
    return _padded(values)


def _training_sample(
    clips: list[Clip],
    seed: int,
    augment: bool,
    mix_prob: float,
    noise: Callable[[np.random.Generator], np.ndarray] | None,
    row: int,
) -> Float[np.ndarray, "96 102 1"]:
    clip = clips[row]
    rng = np.random.default_rng((seed, clip.number))
    path = clip.chunks[rng.integers(len(clip.chunks))]
    values = _drawn(mel.spectrogram(mel.read_audio(path)), augment, rng)
    if noise is not None and rng.random() < mix_prob:
        other = _drawn(noise(rng), augment, rng)
        share = np.float32(rng.uniform(0, MOST_NOISE))
        values = (1 - share) * values + share * other
    return _padded(values)


def _drawn(
    values: Float[np.ndarray, "96 t"], augment: bool, rng: np.random.Generator
) -> Float[np.ndarray, "96 101"]:
    """Mask by chance, then cut 101 frames by chance."""
    if augment and rng.random() < MASK_PROB:
        values = mel.masked(values, rng)
    first = rng.integers(values.shape[1] - mel.NUM_FRAMES + 1)
    return values[:, first : first + mel.NUM_FRAMES]


def _padded(values: Float[np.ndarray, "96 101"]) -> Float[np.ndarray, "96 102 1"]:
    return np.pad(values, ((0, 0), (0, 1)))[..., None]


def _noise(folder: pathlib.Path) -> Callable[[np.random.Generator], np.ndarray]:
    """Return what draws a file of noise and gives its spectrogram."""
    paths = sorted(folder.glob("*.wav"))
    if not paths:
        raise errors.InputError(
            f"{folder}: no noise to mix with; allowed: one or more .wav, or mix_prob 0"
        )
    read = functools.cache(lambda path: mel.spectrogram(mel.read_audio(path)))
    return lambda rng: read(paths[rng.integers(len(paths))])


def _clips(folder: pathlib.Path, place: pathlib.Path) -> list[Clip]:
    """Group the lines of a list by clip, in order of the clips' numbers."""
    clips: dict[int, Clip] = {}
    skip = None
    for number, line in enumerate(_lines(place), 2):
        if not line["ext"].isdecimal() or int(line["ext"]) >= 2**31:
            raise errors.InputError(
                f"{place}: line {number}: ext is {line['ext']!r}; allowed: a number"
            )
        parts = pathlib.PurePosixPath(line["files"]).parts
        skip = _skip(folder, place, parts) if skip is None else skip
        clip = clips.setdefault(
            int(line["ext"]), Clip(int(line["ext"]), [], line["labels"])
        )
        if clip.labels != line["labels"]:
            raise errors.InputError(
                f"{place}: line {number}: clip {clip.number} has labels "
                f"{line['labels']!r} after {clip.labels!r}; allowed: the same"
            )
        clip.chunks.append(folder.joinpath(*parts[skip:]))
    if not clips:
        raise errors.InputError(f"{place}: no chunks; allowed: one or more")
    return [
        clips[key]._replace(chunks=sorted(clips[key].chunks)) for key in sorted(clips)
    ]


def _skip(folder: pathlib.Path, place: pathlib.Path, parts: tuple[str, ...]) -> int:
    """How many parts of the lists' paths are of the machine that made them."""
    for skip in range(len(parts)):
        if folder.joinpath(*parts[skip:]).is_file():
            return skip
    raise errors.InputError(
        f"{place}: no file {'/'.join(parts)!r}, nor any end of this path below "
        f"{folder}; allowed: paths of chunks"
    )


def _lines(place: pathlib.Path) -> list[dict[str, str]]:
    try:
        with open(place, newline="", encoding="utf-8") as stream:
            found = list(csv.DictReader(stream, strict=True))
    except (OSError, ValueError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise errors.InputError(f"{place}: cannot be read ({reason})") from None
    for number, line in enumerate(found, 2):
        if any(line.get(name) is None for name in COLUMNS):
            raise errors.InputError(
                f"{place}: line {number} has {line}; allowed: {', '.join(COLUMNS)}"
            )
    return found


def _targets(
    clips: list[Clip], places: dict[str, int], list_path: pathlib.Path
) -> Float[np.ndarray, "n k"]:
    found = np.zeros((len(clips), len(places)), np.float32)
    for row, clip in enumerate(clips):
        for label in clip.labels.split(","):
            if label not in places:
                raise errors.InputError(
                    f"{list_path}: clip {clip.number} has label {label!r}; allowed: "
                    f"the {len(places)} of lbl_map.json"
                )
            found[row, places[label]] = 1
    return found


def _label_map(path: pathlib.Path) -> dict[str, int]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        is_right = sorted(found.values()) == list(range(len(found))) != []
    except (OSError, ValueError, TypeError, AttributeError) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise errors.InputError(f"{path}: cannot be read ({reason})") from None
    if not is_right:
        raise errors.InputError(f"{path}: allowed: labels with 0, 1, ... each once")
    return found
