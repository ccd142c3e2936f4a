"""Small files in the official layouts of NAS-Bench-360, for tests.

Each writer puts one task below `root` and returns what it wrote.
"""

import csv
import json
import pickle

import numpy as np
import scipy.io
import soundfile


def write_darcy_flow(root, *, num_train=4, num_test=2, nodes=21, seed=0):
    """Smooth made-up pressures below random coefficients: not a solution."""
    rng = np.random.default_rng(seed)
    line = np.sin(np.pi * np.linspace(0, 1, nodes))
    line[-1] = 0
    wrote = {}
    for split, number, num in (("train", 1, num_train), ("test", 2, num_test)):
        coeff = rng.choice([4.0, 12.0], (num, nodes, nodes))
        size = rng.uniform(0.01, 0.02, (num, 1, 1))
        wrote[split] = {"coeff": coeff, "sol": size * line[:, None] * line**2}
        name = f"piececonst_r421_N1024_smooth{number}.mat"
        scipy.io.savemat(root / name, wrote[split])
    return wrote


def protein(rng, length):
    """Features and distances of a random chain, in the types of PDNET's files."""
    maps = {key: (length, length) for key in ("ccmpred", "freecon", "potential")}
    shapes = {"ss": (3, length), "pssm": (length, 22), "sa": length, "entropy": length}
    features = {
        key: rng.normal(size=shape).astype(np.float32)
        for key, shape in (shapes | maps).items()
    }
    features["seq"] = "".join(rng.choice(list("ACDEFGHIKL"), length))
    steps = rng.normal(size=(length, 3))
    places = np.cumsum(3.8 * steps / np.linalg.norm(steps, axis=1)[:, None], axis=0)
    far = np.linalg.norm(places[:, None] - places, axis=-1).astype(np.float16)
    return features, far


def write_protein(folder, name, features, far):
    """One protein below `protein/deepcov`, for example."""
    for kind in ("features", "distance"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    with open(folder / "features" / f"{name}.pkl", "wb") as file:
        pickle.dump(features, file, protocol=4)
    array = np.empty(3, object)  # what numpy once made of such a tuple
    array[:] = [len(far), features["seq"], far]
    np.save(folder / "distance" / f"{name}-cb.npy", array)


def write_psicov(root, *, train_lengths=(30, 34, 40, 27), test_lengths=(31, 36)):
    """Proteins `T0`, `T1`, ... of deepcov and `P0`, ... of psicov."""
    rng = np.random.default_rng(1)
    wrote = {}
    for split, place, letter, lengths in (
        ("train", "deepcov", "T", train_lengths),
        ("test", "psicov", "P", test_lengths),
    ):
        wrote[split] = [protein(rng, length) for length in lengths]
        names = [f"{letter}{number}" for number in range(len(lengths))]
        for name, content in zip(names, wrote[split], strict=True):
            write_protein(root / "protein" / place, name, *content)
        lines = [f"{n} {length}\n" for n, length in zip(names, lengths, strict=True)]
        (root / "protein" / f"{place}.lst").write_text("".join(lines))
    return wrote


def write_cosmic(root, *, num_train=6, num_test=3):
    """Images of two visits in training, one in testing, with levels of the sky."""
    rng = np.random.default_rng(2)
    wrote = {}
    for split, num, visits in (
        ("train", num_train, ("10760/2", "13737/3")),
        ("test", num_test, ("9490/a3",)),
    ):
        paths, wrote[split] = [], []
        for number in range(num):
            visit = visits[number % len(visits)]
            folder = root / "cosmic" / f"npy_{split}" / "f435w" / visit
            folder.mkdir(parents=True, exist_ok=True)
            sky = np.array([20.0, 35.0, 50.0]) + len(visit)
            np.save(folder / "sky.npy", sky)
            exposure = number % 3 + 1
            image = rng.normal(100, 5, (256, 256))
            masks = rng.random((2, 256, 256)) < [[[0.05]], [[0.02]]]
            image[masks[0]] += 200
            content = np.stack([image, *masks]).astype(np.float32)
            name = f"{exposure}_{number}.npy"
            np.save(folder / name, content)
            paths.append(f"./cosmic/npy_{split}/f435w/{visit}/{name}")
            wrote[split].append((content, sky[exposure - 1]))
        np.save(root / "cosmic" / f"{split}_dirs.npy", paths)
    return wrote


def tone(rng, seconds):
    """A tone in noise, as 16-bit numbers, at 22,050 Hz."""
    time = np.arange(int(22050 * seconds)) / 22050
    wave = np.sin(2 * np.pi * rng.uniform(100, 8000) * time)
    return np.int16(5000 * wave + 2000 * rng.normal(size=len(time)))


def write_fsd50k(root, *, num_train=6, num_val=2, num_test=3, num_noise=2):
    """Clips of one to three chunks with one or two of 200 labels, and noise.

    The lists name the chunks by absolute paths of another machine. Sound is returned as
    numbers in -1..1, by split and clip, noise by file.
    """
    rng = np.random.default_rng(3)
    folder = root / "fsd"
    for name in ("chunks", "noise_22050", "dev_chunks", "eval_chunks"):
        (folder / name).mkdir(parents=True)
    (folder / "chunks" / "lbl_map.json").write_text(
        json.dumps({f"Sound_{k}": k for k in range(200)})
    )
    wrote = {"noise": []}
    for number in range(num_noise):
        wave = tone(rng, 1.2 + 0.1 * number)
        soundfile.write(folder / "noise_22050" / f"n{number}.wav", wave, 22050)
        wrote["noise"].append(wave / np.float32(32768))
    clip = 90
    for split, name, place, num in (
        ("train", "tr", "dev_chunks", num_train),
        ("val", "val", "dev_chunks", num_val),
        ("test", "eval", "eval_chunks", num_test),
    ):
        wrote[split], lines = {}, []
        for number in range(num):
            clip += 5
            labels = [f"Sound_{clip}", "Sound_7"][: 1 + number % 2]
            chunks = []
            for chunk in range(1 + number % 3):
                wave = tone(rng, 1)
                path = f"{place}/{clip}_{chunk:04d}.wav"
                soundfile.write(folder / path, wave, 22050)
                chunks.append(wave / np.float32(32768))
                lines.append((f"/media/fsd50k/{path}", ",".join(labels), clip))
            wrote[split][clip] = (chunks, labels)
        with open(folder / "chunks" / f"{name}.csv", "w", newline="") as stream:
            table = csv.writer(stream)
            table.writerow(("files", "labels", "ext"))
            table.writerows(lines[row] for row in rng.permutation(len(lines)))
    return wrote
