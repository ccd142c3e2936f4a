"""Peptides: what is taken away, what is kept once, and one-hot residues by hand."""

import numpy as np
import pytest

from recraft_jax import assets, errors
from recraft_jax.data import peptides, tasks

LETTERS = "ACDEFGHIKLMNPQRSTVWY"


def save(folder, lines, first=None):
    path = folder / "peptides.csv"
    first = f"{len(lines)},1,UniProt,AMP" if first is None else first
    path.write_text("\n".join([first, *lines]) + "\n")
    return path


def many(num=100, seed=0):
    rng = np.random.default_rng(seed)
    return [
        "M"
        + "".join(rng.choice(list(LETTERS), rng.integers(5, 60)))
        + f", {i % 4 // 3}"
        for i in range(num)
    ]


def load(path, num_train=0, num_test=0, seed=0):
    return peptides.load(path, num_train=num_train, num_test=num_test, seed=seed)


def text(x):
    return "".join(LETTERS[row.argmax()] if row.any() else "." for row in x)


def test_first_residue_goes_and_equal_sequences_are_kept_once():
    found = [
        *(("MAC", 0), ("KAC", 0), ("AC", 1)),  # AC twice with one label; C
        *(("MDE", 0), ("WDE", 1), ("MDE", 0)),  # DE with two labels
        *(("AAAAA", 1), ("GAAAA", 1), ("AAAAW", 0)),  # equal up to the third residue
    ]
    assert peptides.distinct(found, 9) == {"AC": 0, "C": 1, "AAAA": 1, "AAAW": 0}
    assert peptides.distinct(found, 3) == {"AC": 0, "C": 1}


def test_residues_are_one_hot_cut_and_filled():
    x = peptides.one_hot("YAW")
    assert x.shape == (32, 20) and x.dtype == np.float32
    assert x[0, 19] == x[1, 0] == x[2, 18] == 1 and x.sum() == 3


def test_load_cuts_at_32_residues(tmp_path):
    lines = many()
    data = load(save(tmp_path, lines))
    assert [len(data[split]["y"]) for split in data] == [80, 20]
    want = {}
    for line in lines:
        sequence, label = line.split(", ")
        want[sequence[1:33]] = int(label)
    found = {}
    for arrays in data.values():
        assert arrays["x"].dtype == np.float32 and arrays["y"].dtype == np.int32
        for x, y in zip(arrays["x"], arrays["y"], strict=True):
            found[text(x).rstrip(".")] = y
    assert found == want


@pytest.mark.parametrize("seed", [0, 7])
def test_draw_is_stratified_disjoint_and_nested(tmp_path, seed):
    path = save(tmp_path, many())
    data = load(path, seed=seed)
    assert np.bincount(data["test"]["y"]).tolist() == [15, 5]
    small, large = (load(path, n, 8, seed) for n in (12, 40))
    assert np.bincount(small["train"]["y"]).tolist() == [9, 3]
    assert np.bincount(small["test"]["y"]).tolist() == [6, 2]
    np.testing.assert_array_equal(small["test"]["x"], large["test"]["x"])
    sets = [
        {text(x) for x in arrays["x"]}
        for arrays in (small["train"], large["train"], data["train"], data["test"])
    ]
    assert sets[0] < sets[1] < sets[2] and not sets[2] & sets[3]


def test_no_token_is_zero_after_standardisation(tmp_path):
    x = load(save(tmp_path, many()))["train"]["x"]
    done = tasks.fit_scale(x, "channel").apply(x)
    assert np.abs(done).max(-1).min() > 0.1


BAD = {
    "letter": (
        ["MAC, 0", "MAB, 1"],
        None,
        "line 3 is 'MAB, 1'; allowed: two or more of",
    ),
    "label": (["MAC, 2"], None, "line 2 is 'MAC, 2'"),
    "no label": (["MAC"], None, "line 2 is 'MAC'"),
    "one residue": (["M, 1"], None, "line 2 is 'M, 1'"),
    "number": (["MAC, 0"], "2,1,UniProt,AMP", "begins with '2,1,UniProt,AMP' before 1"),
    "header": ([], "", "begins with '' before 0 peptides"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_file_gets_one_line(tmp_path, name):
    lines, first, message = BAD[name]
    path = save(tmp_path, lines, first)
    with pytest.raises(errors.InputError, match=message) as info:
        load(path)
    assert str(info.value).startswith(f"{path}: ") and "\n" not in str(info.value)


@pytest.mark.parametrize("raw", [None, b"\xff\xfe"])
def test_file_that_cannot_be_read_gets_one_line(tmp_path, raw):
    path = tmp_path / "file.csv"
    if raw:
        path.write_bytes(raw)
    with pytest.raises(errors.InputError, match="cannot be read"):
        load(path)


def test_negative_seed_is_refused(tmp_path):
    with pytest.raises(errors.InputError, match="data.seed = -1; allowed: 0 or more"):
        load(save(tmp_path, many()), seed=-1)


@pytest.mark.network
def test_real_file(tmp_path):
    folder = assets.fetch("peptides", str(tmp_path))
    found = peptides.read(folder / "AMPvsUniProt.csv")
    assert np.bincount([label for _, label in found]).tolist() == [2600, 2600]
    starts = [sum(s[0] == "M" for s, k in found if k == label) for label in (0, 1)]
    assert [round(100 * n / 2600) for n in starts] == [61, 2]
    # Equal ones once: 4,622, of which 25 have both labels.
    assert len({sequence[1:] for sequence, _ in found}) == 4622
    whole = peptides.distinct(found, 1000)
    assert np.bincount(list(whole.values())).tolist() == [2071, 2526]
    data = load(folder / "AMPvsUniProt.csv", seed=2022)
    assert [len(data[split]["y"]) for split in data] == [3620, 905]
    assert len({x.tobytes() for arrays in data.values() for x in arrays["x"]}) == 4525
