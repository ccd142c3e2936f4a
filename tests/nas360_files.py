"""Small files in the layout of NAS-Bench-360's own, for tests of its readers.

Each function writes the files of a task under `root` and returns what it wrote.
"""

import gzip
import io
import pickle

import numpy as np


def write_cifar100(root, num_train=12, num_test=8, seed=0):
    """Return `(pixels [n 3072], labels)` of each split."""
    rng = np.random.default_rng(seed)
    folder = root / "cifar-100-python"
    folder.mkdir(parents=True, exist_ok=True)
    found = {}
    for split, num in (("train", num_train), ("test", num_test)):
        pixels = rng.integers(0, 256, (num, 3072), dtype=np.uint8)
        labels = rng.integers(0, 100, num).tolist()
        content = {
            b"filenames": [b"image_%d.png" % row for row in range(num)],
            b"batch_label": b"%s of one" % split.encode(),
            b"fine_labels": labels,
            b"coarse_labels": [label // 5 for label in labels],
            b"data": pixels,
        }
        (folder / split).write_bytes(python_2_pickle(content))
        found[split] = pixels, np.array(labels)
    names = {b"fine_label_names": [b"name"] * 100, b"coarse_label_names": [b"n"] * 20}
    (folder / "meta").write_bytes(python_2_pickle(names))
    return found


def write_spherical(root, num_train=12, num_test=8, seed=0, size=60):
    """Return the dict of the file."""
    rng = np.random.default_rng(seed)
    content = {
        split: {
            "images": rng.integers(0, 256, (num, 3, size, size), dtype=np.uint8),
            "labels": rng.integers(0, 100, num),
        }
        for split, num in (("train", num_train), ("test", num_test))
    }
    raw = pickle.dumps(content, protocol=4)
    (root / "s2_cifar100.gz").write_bytes(gzip.compress(raw, 1))
    return content


def write_ninapro(root, num_train=12, num_val=6, num_test=8, seed=0):
    """Return `(windows [n 52 16], labels)` of each split."""
    rng = np.random.default_rng(seed)
    (root / "ninaPro").mkdir(parents=True, exist_ok=True)
    found = {}
    for split, num in (("train", num_train), ("val", num_val), ("test", num_test)):
        windows = rng.normal(size=(num, 52, 16))
        labels = rng.integers(0, 18, num).astype(np.int8)
        np.save(root / "ninaPro" / f"ninapro_{split}.npy", windows)
        np.save(root / "ninaPro" / f"label_{split}.npy", labels)
        found[split] = windows, labels
    return found


def write_ecg(root, lengths=(1800, 1501, 1300, 1025) * 4, seed=0):
    """Return the dict of the file: recordings of int16, labels N, A, O, ~ in turn."""
    rng = np.random.default_rng(seed)
    recordings = np.empty(len(lengths), object)
    for number, length in enumerate(lengths):
        recordings[number] = rng.integers(-999, 1000, length).astype(np.int16)
    labels = np.array([("N", "A", "O", "~")[n % 4] for n in range(len(lengths))])
    content = {"data": recordings, "label": labels.astype(object)}
    with open(root / "challenge2017.pkl", "wb") as stream:
        pickle.dump(content, stream, protocol=4)
    return content


def write_satellite(root, num_train=24, num_test=12, seed=0):
    """Return the dict of each file."""
    rng = np.random.default_rng(seed)
    found = {}
    for split, num in (("train", num_train), ("test", num_test)):
        labels = np.arange(num) % 24 + 1
        series = rng.normal(100 + 10 * labels[:, None], 20, (num, 46))
        found[split] = {"data": series, "label": labels}
        np.save(root / f"satellite_{split}.npy", found[split], allow_pickle=True)
    return found


def write_deepsea(
    root, num_train=10, num_val=4, num_test=6, seed=0, dtype=np.uint8, save=np.savez
):
    """Return the arrays of the file, `x_train` and so on."""
    rng = np.random.default_rng(seed)
    arrays = {}
    for split, num in (("train", num_train), ("val", num_val), ("test", num_test)):
        bases = rng.integers(0, 4, (num, 1000))
        arrays[f"x_{split}"] = (bases[..., None] == np.arange(4)).astype(dtype)
        arrays[f"y_{split}"] = rng.integers(0, 2, (num, 36)).astype(dtype)
    save(root / "deepsea_filtered.npz", **arrays)
    return arrays


class _Python2(pickle._Pickler):
    """Pickler of protocol 2 that writes bytes and names as Python 2 did."""

    dispatch = dict(pickle._Pickler.dispatch)

    def save_bytes(self, value):
        short = len(value) < 256
        size = len(value).to_bytes(1 if short else 4, "little")
        self.write((pickle.SHORT_BINSTRING if short else pickle.BINSTRING) + size)
        self.write(value)
        self.memoize(value)

    def save_global(self, value, name=None):
        module = value.__module__.replace("numpy._core", "numpy.core")
        name = name or value.__qualname__
        self.write(pickle.GLOBAL + f"{module}\n{name}\n".encode())
        self.memoize(value)

    def save_str(self, value):
        self.save_bytes(value.encode("latin1"))

    dispatch[bytes], dispatch[str] = save_bytes, save_str
    dispatch[type], dispatch[type(save_str)] = save_global, save_global
    dispatch[type(len)] = save_global


def python_2_pickle(value):
    """Bytes of a pickle as Python 2 wrote it: every string is one of bytes."""
    stream = io.BytesIO()
    _Python2(stream, protocol=2).dump(value)
    return stream.getvalue()
