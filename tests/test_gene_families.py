"""Gene families: one-hot bases by hand, splits that keep beginnings together."""

import numpy as np
import pytest

from recraft_jax import assets, errors
from recraft_jax.data import gene_families, tasks

NUM_GROUPS = 60


def sequences(seed=0):
    """Groups of 1 to 4 sequences with one beginning; some are equal, some are short."""
    rng = np.random.default_rng(seed)
    found = []
    for group in range(NUM_GROUPS):
        prefix = "".join(rng.choice(list("ACGT"), 64))
        for copy in range(1 + group % 4):
            rest = "".join(rng.choice(list("ACGTN"), 10 * (copy % 3)))
            found.append((prefix + rest, group % 7))
    return found


def save(folder, found):
    path = folder / "gene_families.npz"
    letters = np.array(list("".join(sequence for sequence, _ in found)))
    lengths = np.array([len(sequence) for sequence, _ in found])
    np.savez(
        path, X=letters, lengths=lengths, y=np.array([label for _, label in found])
    )
    return path


def load(path, num_train=0, num_test=0, seed=0):
    return gene_families.load(path, num_train=num_train, num_test=num_test, seed=seed)


def text(x):
    return "".join("ACGT"[row.argmax()] if row.any() else "." for row in x)


def test_bases_are_one_hot_and_unknown_or_missing_ones_zero(tmp_path):
    found = [("ACGTN", 3), ("T" * 600 + "A", 6), ("GATTACA", 0), ("C", 3)]
    data = load(save(tmp_path, found))
    x = np.concatenate([data[split]["x"] for split in data])
    y = np.concatenate([data[split]["y"] for split in data])
    assert x.shape == (4, 512, 4) and x.dtype == np.float32 and y.dtype == np.int32
    by_label = {
        text(one).rstrip("."): (one, label) for one, label in zip(x, y, strict=True)
    }
    assert set(by_label) == {"ACGT", "T" * 512, "GATTACA", "C"}
    one, label = by_label["ACGT"]
    assert label == 3
    np.testing.assert_array_equal(one[:4], np.eye(4))
    np.testing.assert_array_equal(one[4:], 0)
    assert by_label["GATTACA"][1] == 0 and by_label["T" * 512][1] == 6


def test_no_token_is_zero_after_standardisation(tmp_path):
    x = load(save(tmp_path, sequences()))["train"]["x"]
    done = tasks.fit_scale(x, "channel").apply(x)
    assert np.abs(done).max(-1).min() > 0.1


@pytest.mark.parametrize("seed", [0, 5])
def test_no_beginning_is_in_two_splits(tmp_path, seed):
    found = sequences()
    data = load(save(tmp_path, found), seed=seed)
    assert len(data["train"]["y"]) + len(data["test"]["y"]) == len(found)
    assert 0.1 < len(data["test"]["y"]) / len(found) < 0.3
    assert set(data["test"]["y"]) == set(range(7))
    for arrays in data.values():  # groups are what begins alike
        pairs = {
            (text(x)[:64], g) for x, g in zip(arrays["x"], arrays["group"], strict=True)
        }
        assert len({p for p, _ in pairs}) == len({g for _, g in pairs}) == len(pairs)
    task = tasks.split_task(
        "gene_families",
        data,
        kind="classification",
        metric="error",
        protocol="corrected",
        val_frac=0.2,
        split_seed=0,
        num_classes=7,
    )
    starts = [{text(x)[:64] for x in task.splits[split]["x"]} for split in tasks.SPLITS]
    assert all(starts)
    assert len(set.union(*starts)) == sum(map(len, starts)) == NUM_GROUPS


def test_large_groups_train(tmp_path):
    found = sequences() + [("ACGT" * 20 + "A" * n, 0) for n in range(21)]
    for seed in range(4):
        test = load(save(tmp_path, found), seed=seed)["test"]["x"]
        assert not any(text(x).startswith("ACGT" * 16) for x in test)


def test_subsets_nest_and_keep_the_test_set(tmp_path):
    path = save(tmp_path, sequences())
    small, large = (load(path, num_train=n, num_test=12) for n in (20, 60))
    assert [len(d[s]["y"]) for d in (small, large) for s in d] == [20, 12, 60, 12]
    np.testing.assert_array_equal(small["test"]["x"], large["test"]["x"])
    few, many = ({x.tobytes() for x in d["train"]["x"]} for d in (small, large))
    assert few < many


def test_other_letters_are_named_by_their_sequence(tmp_path):
    path = save(tmp_path, [("ACGT", 0), ("ACX", 1), ("Y", 1)])
    with pytest.raises(errors.InputError) as info:
        load(path)
    assert str(info.value) == (
        f"{path}: 2 letters of X are none of ACGTN, first in sequence 1"
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"y": np.array([0, 7, 1])}, r"y must be in 0\.\.6, got 0\.\.7"),
        ({"lengths": np.array([1, 1, 1])}, "add up to the 6 bases of X"),
        ({"X": np.zeros(6)}, "expected text in X"),
        ({"X": np.array([["A"], ["C"]])}, r"expected X \[bases\], lengths \[n\]"),
    ],
)
def test_bad_content_gets_one_line(tmp_path, changes, message):
    good = {"X": np.array(list("ACGTAC")), "lengths": np.array([1, 2, 3])}
    path = tmp_path / "file.npz"
    np.savez(path, **(good | {"y": np.array([0, 1, 2])} | changes))
    with pytest.raises(errors.InputError, match=message) as info:
        load(path)
    assert str(info.value).startswith(f"{path}: ") and "\n" not in str(info.value)


def test_negative_seed_is_refused(tmp_path):
    with pytest.raises(errors.InputError, match="data.seed = -1; allowed: 0 or more"):
        load(save(tmp_path, sequences()), seed=-1)


@pytest.mark.network
def test_real_file(tmp_path):
    folder = assets.fetch("gene_families", str(tmp_path))
    data = load(folder / "gene_families.npz", seed=2022)
    y = np.concatenate([data[split]["y"] for split in data])
    assert np.bincount(y).tolist() == [531, 534, 349, 672, 711, 240, 1343]
    group = [data[split]["group"] for split in data]
    assert len(np.unique(np.concatenate(group))) == 1813
    assert not set(group[0]) & set(group[1])
    assert 860 < len(group[1]) < 890
    train = {x.tobytes() for x in data["train"]["x"]}
    assert not any(x.tobytes() in train for x in data["test"]["x"])
