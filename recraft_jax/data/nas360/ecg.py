"""ECG: is the beat of a heart normal, from a piece of a recording of one electrode.

8,528 recordings of 9 to 61 s at 300 Hz (PhysioNet/CinC challenge 2017, Clifford et al.
2017): normal, atrial fibrillation, other rhythm, too noisy to tell. NAS-Bench-360 cuts
them into windows of 1000 steps, more of them the rarer the class is.
"""

import math
import pathlib

import numpy as np
from jaxtyping import Float, Int, Real

from recraft_jax import errors
from recraft_jax.data import numpy_pickle, rows
from recraft_jax.data.nas360 import checked

CLASSES = ("N", "A", "O", "~")
STRIDES = (500, 83, 250, 25)  # of a window's start to the next, by class
WINDOW = 1000
TEST_SHARE = 0.1


def load(root: pathlib.Path) -> dict[str, dict[str, "np.ndarray | rows.Rows"]]:
    """Read `challenge2017.pkl` under the root and cut windows.

    As released: each recording less its own mean is divided by its own deviation (over
    n, in float64). A tenth of the recordings, drawn with a fixed seed, is for testing.
    Windows begin at 0, S, 2S, ... below the recording's length less 1000, so one that
    would end with the recording is left out, and a recording of 1000 steps or fewer has
    none. S depends on the class, of test recordings too: the shares of the classes
    among test windows are not those among recordings.

    Windows stand in the order of the recordings after the draw. The released code
    shuffles them (in ORCA and RECRAFT those for testing too) with a seed of the run;
    that is left to whoever reads. A recording of one value becomes 0 instead of NaN.

    Args:
        root: The folder with the files of all tasks.

    Returns:
        `train` and `test`, each with `x` `[n 1000 1]` float32, a view of the recordings
        that is copied when it is asked for, `y` `[n]` int32 in 0..3 (N, A, O, ~) and
        `group` `[n]` int32, the number of the recording in the file.

    Raises:
        InputError: A file that cannot be read or holds something else, or a split
            without windows.
    """
    path = root / "challenge2017.pkl"
    recordings, classes = _read(path)
    lengths = np.array([len(each) for each in recordings])
    flat = np.empty(max(lengths.sum(), WINDOW), np.float32)
    first = np.cumsum(lengths) - lengths
    for start, recording in zip(first, recordings, strict=True):
        flat[start : start + len(recording)] = standardised(recording)
    found = {}
    for split, numbers in split_recordings(len(recordings)).items():
        strides = np.array(STRIDES)[classes[numbers]]
        group, start = starts(lengths[numbers], strides)
        if len(start) == 0:
            raise errors.InputError(
                f"{path}: no recording of {split} is longer than {WINDOW} steps; "
                "allowed: at least one"
            )
        group = numbers[group]
        found[split] = {
            "x": _windows(flat, first[group] + start),
            "y": classes[group],
            "group": group.astype(np.int32),
        }
    return found


def standardised(recording: Real[np.ndarray, " t"]) -> Float[np.ndarray, " t"]:
    """Take a recording's mean away and divide by its deviation, in float64."""
    centred = recording - np.mean(recording, dtype=np.float64)
    if (recording == recording[:1]).all():
        return np.zeros(len(recording))
    return centred / np.std(recording, dtype=np.float64)


def split_recordings(num: int) -> dict[str, Int[np.ndarray, " n"]]:
    """Return the numbers of the recordings of each split, in the order of the draw.

    What scikit-learn's `train_test_split(test_size=0.1, random_state=0)` draws: the
    first tenth, rounded up, of a permutation is for testing.
    """
    order = np.random.RandomState(0).permutation(num)
    num_test = math.ceil(TEST_SHARE * num)
    return {"train": order[num_test:], "test": order[:num_test]}


def starts(
    lengths: Int[np.ndarray, " n"], strides: Int[np.ndarray, " n"]
) -> tuple[Int[np.ndarray, " windows"], Int[np.ndarray, " windows"]]:
    """Return recording and start of each window: `range(0, length - 1000, stride)`."""
    counts = np.maximum(-(-(lengths - WINDOW) // strides), 0)
    recording = np.repeat(np.arange(len(lengths)), counts)
    place = np.arange(len(recording)) - np.repeat(np.cumsum(counts) - counts, counts)
    return recording, place * strides[recording]


def _windows(flat: np.ndarray, start: np.ndarray) -> rows.Rows:
    views = np.lib.stride_tricks.sliding_window_view(flat, WINDOW)
    return rows.Rows(lambda at: views[start[at], :, None], (len(start), WINDOW, 1))


def _read(path: pathlib.Path) -> tuple[np.ndarray | list, np.ndarray]:
    content = numpy_pickle.load_pickle(path)
    recordings = checked.entry(path, content, "data")
    labels = checked.entry(path, content, "label")
    for name, values in (("data", recordings), ("label", labels)):
        if not isinstance(values, np.ndarray | list) or len(values) == 0:
            raise errors.InputError(
                f"{path}: {name} is {type(values).__name__}; allowed: an array with "
                "one recording or label or more"
            )
    if len(recordings) != len(labels):
        raise errors.InputError(
            f"{path}: {len(recordings)} recordings with {len(labels)} labels; allowed: "
            "as many"
        )
    for number, recording in enumerate(recordings):
        name = f"recording {number}"
        checked.check_array(path, name, recording, (None,))
        checked.check_finite(path, recording, name)
        label = labels[number]
        if not isinstance(label, str) or label not in CLASSES:
            shown = repr(label)[:40] if isinstance(label, str) else type(label).__name__
            raise errors.InputError(
                f"{path}: label {shown} of {name}; allowed: {', '.join(CLASSES)}"
            )
    classes = np.array([CLASSES.index(each) for each in labels], np.int32)
    return recordings, classes
