"""Cosmic: crop, sky, masks and groups, and lists made elsewhere."""

import nas360_big_files
import numpy as np
import pytest

from recraft_jax import errors
from recraft_jax.data.nas360 import cosmic

FOLDER = "cosmic/npy_train/f435w/10760/2"


def share(x, content, sky):
    """What the sky was multiplied with; it must be one number for the image."""
    added = (np.float64(x[..., 0]) - content[0, 64:192, 64:192]) / sky
    assert np.ptp(added) < 1e-5
    return added.mean()


@pytest.mark.parametrize("test_noise", [True, False])
def test_values_and_sky(tmp_path, test_noise):
    wrote = nas360_big_files.write_cosmic(tmp_path)
    found = cosmic.load(tmp_path, test_noise=test_noise, seed=0)
    for split, num in (("train", 6), ("test", 3)):
        x, y = found[split]["x"], found[split]["y"]
        assert x.shape == y.shape == (num, 128, 128, 1)
        assert x[0].dtype == y[0].dtype == np.float32
        shares = []
        for row, (content, sky) in enumerate(wrote[split]):
            shares.append(share(x[row], content, sky))
            np.testing.assert_array_equal(x[row], x[row : row + 1][0])
            _, mask, ignore = content[:, 64:192, 64:192]
            want = mask.copy()
            want[ignore == 1] = -1
            np.testing.assert_array_equal(y[row][..., 0], want)
            assert {-1, 0, 1} == set(np.unique(y[row]))
        if split == "train" or test_noise:
            assert len({round(each, 4) for each in shares}) == num
            assert min(shares) >= -0.9 and max(shares) <= 3
        else:
            np.testing.assert_array_equal(shares, 0)


def test_sky_depends_on_seed_split_and_place(tmp_path):
    wrote = nas360_big_files.write_cosmic(tmp_path, num_train=1, num_test=1)

    def shares(seed):
        found = cosmic.load(tmp_path, test_noise=True, seed=seed)
        return [share(found[s]["x"][0], *wrote[s][0]) for s in ("train", "test")]

    want = np.random.default_rng((7, 0, 0)).uniform(-0.9, 3)
    assert shares(7)[0] == pytest.approx(want, abs=1e-5)
    assert shares(7) == shares(7)
    assert len({*shares(7), *shares(8)}) == 4


def test_shares_fill_their_range(tmp_path):
    wrote = nas360_big_files.write_cosmic(tmp_path)
    x = [
        cosmic.load(tmp_path, test_noise=False, seed=seed)["train"]["x"][0]
        for seed in range(200)
    ]
    drawn = [share(each, *wrote["train"][0]) for each in x]
    assert -0.9 <= min(drawn) < -0.8 and 2.9 < max(drawn) <= 3
    assert np.mean(drawn) == pytest.approx(1.05, abs=0.25)


def test_groups_are_visits(tmp_path):
    nas360_big_files.write_cosmic(tmp_path)
    found = cosmic.load(tmp_path, test_noise=False, seed=0)
    train, test = found["train"]["group"], found["test"]["group"]
    assert train.dtype == np.int32
    assert train.tolist() == [train[0], train[1]] * 3 and train[0] != train[1]
    assert test.tolist() == [test[0]] * 3 and test[0] not in train


def test_lists_made_elsewhere_and_files_without_parts(tmp_path):
    wrote = nas360_big_files.write_cosmic(tmp_path)
    want = cosmic.load(tmp_path, test_noise=False, seed=0)["train"]["x"][0]
    place = tmp_path / "cosmic" / "train_dirs.npy"
    paths = np.load(place)
    np.save(place, [f"/data/x/npy_train/{p.split('npy_train/')[1]}" for p in paths])
    found = cosmic.load(tmp_path, test_noise=False, seed=0)["train"]
    np.testing.assert_array_equal(found["x"][0], want)
    content, _ = wrote["train"][0]
    np.save(tmp_path / FOLDER / "1_0.npy", content[:2])  # nothing to ignore
    np.testing.assert_array_equal(found["y"][0][..., 0], content[1, 64:192, 64:192])
    (tmp_path / FOLDER / "sky.npy").unlink()
    np.testing.assert_array_equal(found["x"][0][..., 0], content[0, 64:192, 64:192])


def test_faults_get_one_line(tmp_path):
    def refused(message, key=None):
        with pytest.raises(errors.InputError, match=message) as info:
            found = cosmic.load(tmp_path, test_noise=True, seed=0)
            if key:
                found["train"][key][0]
        assert "\n" not in str(info.value)

    refused("train_dirs.npy: cannot be read")
    wrote = nas360_big_files.write_cosmic(tmp_path)
    content = wrote["train"][0][0]
    image = tmp_path / FOLDER / "1_0.npy"
    np.save(image, content[0])
    refused(r"1_0.npy: an array \(256, 256\); allowed: image, mask", "x")
    np.save(image, content[:, :100])
    refused(r"an array \(3, 100, 256\)", "y")
    np.save(image, content * 2)
    refused("mask of cosmic rays holds other numbers; allowed: 0 and 1", "y")
    np.save(image, content)
    np.save(image.with_name("sky.npy"), np.zeros(0))
    refused("no level of exposure '1' in sky.npy", "x")
    image.write_bytes(b"text")
    refused("1_0.npy: cannot be read", "y")
    place = tmp_path / "cosmic" / "train_dirs.npy"
    np.save(place, ["./cosmic/npy_test/a.npy"])
    refused("path './cosmic/npy_test/a.npy' is not below npy_train")
    np.save(place, np.zeros(3))
    refused("an array of float64")
    np.save(place, np.array(["a", None], object))
    refused("train_dirs.npy: cannot be read")
    with pytest.raises(errors.InputError, match="seed = -1"):
        cosmic.load(tmp_path, test_noise=True, seed=-1)
