"""DeepSEA: which of 36 marks of chromatin a stretch of the human genome carries.

1000 bases with what was measured around the middle 200 (Zhou & Troyanskaya 2015). NAS-
Bench-360 keeps 36 of the 919 marks: 71,753 stretches to train on, 2,490 to validate,
149,400 to test. The released code trains on training and validation stretches together.
"""

import math
import pathlib
import zipfile

import numpy as np
from jaxtyping import UInt8

from recraft_jax import errors
from recraft_jax.data import rows

LENGTH = 1000
NUM_BASES = 4
NUM_LABELS = 36
BLOCK_BYTES = 1 << 22


def load(root: pathlib.Path) -> dict[str, dict[str, "np.ndarray | rows.Rows"]]:
    """Read `deepsea_filtered.npz` under the root.

    Whatever their type in the file, values are read in blocks and kept as one bit each.

    Args:
        root: The folder with the files of all tasks.

    Returns:
        `train`, `val` and `test`, each with `x` `[n 1000 4]` float32, one channel a
        base, 0 or 1, made from its bits when it is asked for, and `y` `[n 36]` float32
        of 0 and 1.

    Raises:
        InputError: A file that cannot be read or holds something else.
    """
    path = root / "deepsea_filtered.npz"
    shapes = {"x": (LENGTH, NUM_BASES), "y": (NUM_LABELS,)}
    found = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for split in ("train", "val", "test"):
                x, y = (
                    _bits(archive, f"{name}_{split}", shape)
                    for name, shape in shapes.items()
                )
                if len(x) != len(y):
                    raise ValueError(f"{len(x)} x_{split} with {len(y)} y_{split}")
                found[split] = {
                    "x": _unpacked(x, shapes["x"]),
                    "y": _unpacked(y, shapes["y"])[:],
                }
    except Exception as error:  # a damaged file can raise nearly anything
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise errors.InputError(
            f"{path}: not a readable archive of x_ and y_ of train, val and test, "
            f"[n 1000 4] and [n 36] of 0 and 1 ({reason})"
        ) from None
    return found


def _bits(
    archive: zipfile.ZipFile, name: str, shape: tuple[int, ...]
) -> UInt8[np.ndarray, "n bytes"]:
    """Read a member of an `.npz` block by block, one bit a value."""
    with archive.open(f"{name}.npy") as stream:
        version = np.lib.format.read_magic(stream)
        header = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }[version]
        found, is_fortran, dtype = header(stream)
        if found[1:] != shape or is_fortran or dtype.kind not in "biuf":
            raise ValueError(f"{name} is {found} of {dtype}, rows first: {is_fortran}")
        values = math.prod(shape)
        step = max(BLOCK_BYTES // (values * dtype.itemsize), 1)
        packed = []
        for start in range(0, found[0], step):
            num = min(step, found[0] - start)
            raw = stream.read(num * values * dtype.itemsize)
            block = np.frombuffer(raw, dtype).reshape(num, values)
            is_one = block == 1
            if not (is_one | (block == 0)).all():
                row = start + (~(is_one | (block == 0))).any(axis=1).argmax()
                raise ValueError(f"{name} has others than 0 and 1 in row {row}")
            packed.append(np.packbits(is_one, axis=1))
        if not packed or stream.read(1):  # which compares the check sum
            raise ValueError(f"{name} is empty or longer than its header says")
    return np.concatenate(packed)


def _unpacked(packed: np.ndarray, shape: tuple[int, ...]) -> rows.Rows:
    count = math.prod(shape)

    def read(at):
        bits = np.unpackbits(packed[at], axis=1, count=count)
        return bits.reshape(-1, *shape).astype(np.float32)

    return rows.Rows(read, (len(packed), *shape))
