"""PSICOV: channels, borders, masks and crops, pixel by pixel."""

import nas360_big_files
import numpy as np
import pytest

from recraft_jax import errors
from recraft_jax.data.nas360 import psicov

OFFICIAL = {"masked": False, "random_test_crop": True, "seed": 0}
CORRECTED = {"masked": True, "random_test_crop": False, "seed": 0}


def channels(features, i, j):
    """The 57 channels of a pixel, row i and column j of the protein."""
    found = []
    for each in (*features["ss"], *features["pssm"].T, features["sa"]):
        found += [each[j], each[i]]
    found += [features["entropy"][j], features["entropy"][i]]
    return [*found, *(features[k][i, j] for k in ("ccmpred", "freecon", "potential"))]


def cleaned(far):
    """Distances by the released loop, in float16."""
    y = far.copy()
    y[y < 1.0] = 1.0
    y[0, 0], y[-1, -1] = y[0, 1], y[-1, -2]
    for q in range(1, len(y) - 1):
        y[q, q] = (y[q, q - 1] + y[q, q + 1]) / np.float16(2)
    return y.astype(np.float32)


@pytest.mark.parametrize("switches", [OFFICIAL, CORRECTED])
def test_short_proteins_lie_in_the_corner(tmp_path, switches):
    wrote = nas360_big_files.write_psicov(tmp_path)
    found = psicov.load(tmp_path, **switches)
    masked = switches["masked"]
    for split, num, cap in (("train", 4, 16), ("test", 2, np.inf)):
        x, y, length = (found[split][key] for key in ("x", "y", "length"))
        assert x.shape == (num, 512, 512, 57) and y.shape == (num, 512, 512, 1)
        assert length.dtype == np.int32
        assert length.tolist() == [len(far) for _, far in wrote[split]]
        features, far = wrote[split][1]
        num = len(far)
        got = x[1]
        assert got.dtype == np.float32
        for i, j in ((0, 0), (3, 17), (num - 1, 2), (num - 1, num - 1)):
            np.testing.assert_array_equal(got[5 + i, 5 + j], channels(features, i, j))
        inside = np.zeros((512, 512), bool)
        inside[5 : 5 + num, 5 : 5 + num] = True
        assert not got[~inside].any()
        got = y[1][..., 0]
        want = np.minimum(cleaned(far), cap)
        np.testing.assert_array_equal(got[inside].reshape(num, num), want)
        outside = -1 if masked else min(100, cap)
        assert (got[~inside] == outside).all()
    assert cleaned(wrote["test"][1][1]).max() > 16  # so that the cap can be seen


def test_diagonal_and_close_pairs_by_hand(tmp_path):
    wrote = nas360_big_files.write_psicov(tmp_path, train_lengths=[4])
    far = np.float16([[0, 4, 6, 7], [4, 0, 0.5, 9], [6, 0.5, 0, 3.5], [7, 9, 3.5, 0]])
    folder = tmp_path / "protein" / "deepcov"
    nas360_big_files.write_protein(folder, "T0", wrote["train"][0][0], far)
    got = psicov.load(tmp_path, **CORRECTED)["train"]["y"][0][5:9, 5:9, 0]
    want = [[4, 4, 6, 7], [4, 2.5, 1, 9], [6, 1, 2.25, 3.5], [7, 9, 3.5, 3.5]]
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("masked", [True, False])
def test_residue_without_coordinates(tmp_path, masked):
    wrote = nas360_big_files.write_psicov(tmp_path)
    features, far = wrote["test"][0]
    far[7], far[:, 7] = np.nan, np.nan
    features["pssm"][3, 2] = np.nan
    folder = tmp_path / "protein" / "psicov"
    nas360_big_files.write_protein(folder, "P0", features, far)
    found = psicov.load(tmp_path, **CORRECTED | {"masked": masked})["test"]
    y = found["y"][0][5:36, 5:36, 0]
    nothing = -1 if masked else 0
    assert (y[7] == nothing).all() and (y[:, 7] == nothing).all()
    rest = np.delete(np.delete(y, 7, 0), 7, 1)
    assert (rest >= 1).all()
    assert y[6, 6] == y[6, 5] and y[8, 8] == y[8, 9]  # the neighbour that is there
    x = found["x"][0][5:36, 5:36]
    assert not x[:, 3, 10].any() and not x[3, :, 11].any()  # channels 2 (3 + 2), + 1
    assert np.isfinite(x).all()


def test_long_proteins_are_cropped_once_for_each_seed(tmp_path):
    wrote = nas360_big_files.write_psicov(
        tmp_path, train_lengths=[530, 530], test_lengths=[530]
    )

    def corner(split, row, **switches):
        """Where the crop begins, found again by its content."""
        found = psicov.load(tmp_path, **CORRECTED | switches)[split]
        features, far = wrote[split][row]
        x, y = found["x"][row], found["y"][row][..., 0]
        np.testing.assert_array_equal(found["x"][row][200], x[200])
        at = features["ccmpred"]
        i, j = np.argwhere(at == x[100, 100, 54])[0]
        shift = np.array([i - 100, j - 100])
        want = np.minimum(cleaned(far), 16 if split == "train" else np.inf)
        np.testing.assert_array_equal(
            y[10:500, 10:500], want[i - 90 : i + 400, j - 90 : j + 400]
        )
        np.testing.assert_array_equal(
            x[300, 310], channels(features, *(shift + [300, 310]))
        )
        # Pixels that lie before the first residue or after the last.
        rows, columns = (np.arange(512) + s for s in shift)
        outside = ((rows < 0) | (rows >= 530))[:, None] | (columns < 0)
        outside = outside | (columns >= 530)
        np.testing.assert_array_equal(y == -1, outside)
        return tuple(shift + 5)

    drawn = [corner("train", row, seed=seed) for seed in (0, 1) for row in (0, 1)]
    assert drawn[:2] == [corner("train", row, seed=0) for row in (0, 1)]
    assert len(set(drawn)) == 4
    assert all(0 <= c <= 28 for each in drawn for c in each)
    assert any(row != column for row, column in drawn)
    assert corner("test", 0) == corner("test", 0, seed=1) == (0, 0)
    assert corner("test", 0, random_test_crop=True) not in ((0, 0), drawn[0])


def test_last_folder_counts(tmp_path):
    wrote = nas360_big_files.write_psicov(tmp_path)
    features, far = wrote["test"][0]
    folder = tmp_path / "protein" / "cameo"
    nas360_big_files.write_protein(folder, "P0", features, far + 1)
    got = psicov.load(tmp_path, **CORRECTED)["test"]["y"][0]
    assert got[5, 15, 0] == np.float32(far[0, 10] + 1)


def test_faults_get_one_line(tmp_path):
    def refused(message, read=lambda found: None):
        with pytest.raises(errors.InputError, match=message) as info:
            read(psicov.load(tmp_path, **CORRECTED))
        assert "\n" not in str(info.value)

    refused("deepcov.lst: cannot be read")
    wrote = nas360_big_files.write_psicov(tmp_path)
    features, far = wrote["test"][0]
    folder = tmp_path / "protein" / "psicov"
    nas360_big_files.write_protein(folder, "P0", features, far[:5])
    refused("P0-cb.npy: not a protein's distances; allowed: ")
    nas360_big_files.write_protein(folder, "P0", features | {"sa": far}, far)
    refused(
        r"P0.pkl: sa is \(31, 31\) with a sequence of 31; allowed: \(31,\)",
        lambda found: found["test"]["x"][0],
    )
    shorter = nas360_big_files.protein(np.random.default_rng(0), 30)[0]
    nas360_big_files.write_protein(folder, "P0", shorter, far)
    refused("P0.pkl: 30 residues, 31 in ", lambda found: found["test"]["x"][0])
    (folder / "features" / "P1.pkl").unlink()
    refused("no features/P1.pkl of protein P1 of psicov.lst; allowed: in deepcov, ")
    (tmp_path / "protein" / "psicov.lst").write_text("\n")
    refused("psicov.lst: empty")
    with pytest.raises(errors.InputError, match="seed = -1"):
        psicov.load(tmp_path, **CORRECTED | {"seed": -1})
