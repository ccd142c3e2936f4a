"""The files of NAS-Bench-360's ten tasks: names, where they come from, what is there.

A table of facts, and what compares a folder with it. Sizes and addresses are those that
the benchmark's authors publish; they publish no hashes.
"""

import hashlib
import pathlib
from collections.abc import Iterator
from typing import NamedTuple

from recraft_jax import errors

BUCKET = "https://pde-xd.s3.amazonaws.com"
DRIVE = "https://drive.google.com/drive/folders/1OOp6UrCiP79mTIkCrUdjjHWDo8K0bJUw"
NOTE = f"""\
The authors' README says that the files at {BUCKET}
have moved to {DRIVE}.
They publish no hashes. CIFAR-100's page has the MD5 of cifar-100-python.tar.gz, which
is eb9058c3a382ffc7106e4002c42a8d85. So the hashes here say whether two copies are the
same, and not whether they are what was published."""
CIFAR = "https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz"
AUDIO = f"{BUCKET}/audio/audio.zip"
PROTEIN = f"{BUCKET}/protein.zip"
COSMIC = f"{BUCKET}/cosmic/deepCR.ACS-WFC"
COSMIC_LISTS = "made by preprocess_cosmic.py of github.com/sjunhongshen/ORCA"
_CHUNK = 1 << 20


class File(NamedTuple):
    """One file, or the files that fit a pattern.

    Attributes:
      path: under the root; with `*` a pattern of `pathlib`, of many files.
      source: where it is published, or how it is made.
      published: its size, or that of the archive it is in, as published.
      least: how many files must fit a pattern.
    """

    path: str
    source: str
    published: str
    least: int = 1


class Found(NamedTuple):
    """What is there of a `File`.

    Attributes:
      num_files: 0 if it is missing.
      num_bytes: of all.
      sha256: of the file; of many, of the text that `sha256sum` prints of them, in the
        order of their paths from the root: `HASH  PATH` a line. Empty if missing.
      is_complete: whether there are as many as there must be.
    """

    num_files: int
    num_bytes: int
    sha256: str
    is_complete: bool


def _ninapro() -> tuple[File, ...]:
    return tuple(
        File(
            f"ninaPro/{name}_{split}.npy", f"{BUCKET}/ninapro/{name}_{split}.npy", size
        )
        for split in ("train", "val", "test")
        for name, size in (("ninapro", "30 MB together"), ("label", "30 MB together"))
    )


def tasks() -> dict[str, tuple[File, ...]]:
    """Return the files of each task, under the names that the readers look for."""
    return {
        "cifar100": tuple(
            File(f"cifar-100-python/{name}", CIFAR, "161 MB, archive")
            for name in ("train", "test", "meta")
        ),
        "spherical": (
            File("s2_cifar100.gz", f"{BUCKET}/spherical/s2_cifar100.gz", "272 MB"),
        ),
        "darcy_flow": tuple(
            File(name, f"{BUCKET}/{name}", "1.6 GB")
            for name in (
                "piececonst_r421_N1024_smooth1.mat",
                "piececonst_r421_N1024_smooth2.mat",
            )
        ),
        "psicov": tuple(
            File(f"protein/{name}", PROTEIN, "1.1 GB, archive", least)
            for name, least in (
                ("deepcov.lst", 1),
                ("deepcov/features/*.pkl", 3456),
                ("deepcov/distance/*-cb.npy", 3456),
                ("psicov.lst", 1),
                ("psicov/features/*.pkl", 150),
                ("psicov/distance/*-cb.npy", 150),
            )
        ),
        "cosmic": (
            File("cosmic/train_dirs.npy", COSMIC_LISTS, ""),
            File(
                "cosmic/npy_train/f435w/*/*/*.npy",
                *(f"{COSMIC}.train.tar", "6.5 GB, archive", 4830),
            ),
            File("cosmic/test_dirs.npy", COSMIC_LISTS, ""),
            File(
                "cosmic/npy_test/f435w/*/*/*.npy",
                *(f"{COSMIC}.test.tar", "2.0 GB, archive", 420),
            ),
        ),
        "ninapro": _ninapro(),
        "fsd50k": tuple(
            File(f"fsd/{name}", AUDIO, "24 GB, archive")
            for name in (
                *("chunks/tr.csv", "chunks/val.csv", "chunks/eval.csv"),
                *("chunks/lbl_map.json", "noise_22050/*.wav", "**/*.wav"),
            )
        ),
        "ecg": (
            File("challenge2017.pkl", f"{BUCKET}/ECG/challenge2017.pkl", "150 MB"),
        ),
        "satellite": tuple(
            File(
                f"satellite_{split}.npy", f"{BUCKET}/satellite/satellite_{split}.npy", s
            )
            for split, s in (("train", "322 MB"), ("test", "35 MB"))
        ),
        "deepsea": (
            File(
                "deepsea_filtered.npz",
                *(f"{BUCKET}/deepsea/deepsea_filtered.npz", "860 MB"),
            ),
        ),
    }


def look(root: pathlib.Path, file: File) -> Found:
    """Look for a file of the table and hash what is there, a piece at a time.

    Raises:
        InputError: A file that cannot be read.
    """
    paths = sorted(_paths(root, file), key=lambda path: path.as_posix())
    if not paths:
        return Found(0, 0, "", False)
    hashes, num_bytes = [], 0
    for path in paths:
        digest, size = _hash(path)
        hashes.append(f"{digest}  {path.relative_to(root).as_posix()}\n")
        num_bytes += size
    if "*" in file.path:
        digest = hashlib.sha256("".join(hashes).encode()).hexdigest()
    return Found(len(paths), num_bytes, digest, len(paths) >= file.least)


def _paths(root: pathlib.Path, file: File) -> Iterator[pathlib.Path]:
    found = root.glob(file.path) if "*" in file.path else [root / file.path]
    return (path for path in found if path.is_file())


def _hash(path: pathlib.Path) -> tuple[str, int]:
    digest, size = hashlib.sha256(), 0
    try:
        with open(path, "rb") as stream:
            while piece := stream.read(_CHUNK):
                digest.update(piece)
                size += len(piece)
    except OSError as error:
        raise errors.InputError(f"{path}: cannot be read ({error.strerror})") from None
    return digest.hexdigest(), size
