"""Sines with labels: periods, phases, noise."""

import numpy as np
import pytest

from recraft_jax import errors
from recraft_jax.data import synthetic


def make_waves(noise=0.0, seed=0):
    return synthetic.waves(
        num_train=40,
        num_test=20,
        num_points=32,
        num_classes=4,
        noise=noise,
        seed=seed,
    )


def test_waves_have_one_period_more_than_their_class():
    for arrays in make_waves().values():
        power = np.abs(np.fft.rfft(arrays["x"][..., 0], axis=1))
        np.testing.assert_array_equal(power.argmax(1), arrays["y"] + 1)
        # A sine of amplitude 1 puts n / 2 there, and nothing elsewhere.
        np.testing.assert_allclose(power.max(1), 16, rtol=1e-4)
        np.testing.assert_allclose(power.sum(1), 16, rtol=1e-4)


def test_waves_have_random_phases_and_all_classes():
    made = make_waves()
    for arrays in made.values():
        assert set(arrays["y"]) == {0, 1, 2, 3}
    starts = np.concatenate([arrays["x"][:, 0, 0] for arrays in made.values()])
    assert len(np.unique(starts)) == 60
    assert starts.min() < -0.5 < 0.5 < starts.max()


def test_waves_noise_has_its_deviation():
    clean, noisy = make_waves()["train"], make_waves(noise=0.3)["train"]
    np.testing.assert_array_equal(clean["y"], noisy["y"])
    added = noisy["x"] - clean["x"]
    # 1280 draws: the standard error of the deviation is 2 %.
    np.testing.assert_allclose(added.std(), 0.3, rtol=0.08)
    assert abs(added.mean()) < 0.03


def test_waves_are_float32_and_depend_on_their_seed():
    one, same, other = make_waves(), make_waves(), make_waves(seed=1)
    assert one["train"]["x"].shape == (40, 32, 1)
    assert one["test"]["x"].shape == (20, 32, 1)
    assert one["train"]["x"].dtype == np.float32
    assert one["train"]["y"].dtype == np.int32
    for split in ("train", "test"):
        np.testing.assert_array_equal(one[split]["x"], same[split]["x"])
        assert not np.array_equal(one[split]["x"], other[split]["x"])
    assert not np.array_equal(one["train"]["x"][:20], one["test"]["x"])


def make_tones(noise=0.0, seed=0, num_labels=4):
    return synthetic.tones(
        num_train=60,
        num_test=20,
        num_points=32,
        num_labels=num_labels,
        noise=noise,
        seed=seed,
    )


def test_tones_hold_the_sines_of_their_labels_and_no_others():
    for arrays in make_tones().values():
        power = np.abs(np.fft.rfft(arrays["x"][..., 0], axis=1)) / 16
        np.testing.assert_allclose(power[:, 1:5], arrays["y"], atol=1e-5)
        np.testing.assert_allclose(np.delete(power, np.s_[1:5], axis=1), 0, atol=1e-5)


def test_tones_draw_labels_and_phases_apart():
    train = make_tones()["train"]
    share, rows = train["y"].mean(0), np.unique(train["y"], axis=0)
    assert np.all((0.3 < share) & (share < 0.7))
    assert len(rows) > 12 and not rows[0].any()  # 16 subsets, the empty one among them
    spectrum = np.fft.rfft(train["x"][..., 0], axis=1)[:, 1:5]
    phases = np.angle(spectrum[train["y"].all(axis=1)])
    assert len(np.unique(phases.round(3))) == phases.size > 4


def test_tones_noise_has_its_deviation():
    clean, noisy = make_tones()["train"], make_tones(noise=0.3)["train"]
    np.testing.assert_array_equal(clean["y"], noisy["y"])
    np.testing.assert_allclose((noisy["x"] - clean["x"]).std(), 0.3, rtol=0.08)


def test_tones_are_float32_and_depend_on_their_seed():
    one, same, other = make_tones(), make_tones(), make_tones(seed=1)
    for split, num in (("train", 60), ("test", 20)):
        for key, shape in (("x", (num, 32, 1)), ("y", (num, 4))):
            assert one[split][key].shape == shape
            assert one[split][key].dtype == np.float32
            np.testing.assert_array_equal(one[split][key], same[split][key])
            assert not np.array_equal(one[split][key], other[split][key])


def test_tones_refuse_points_too_few_for_their_sines():
    with pytest.raises(errors.InputError, match="num_points = 32; allowed: 33 or more"):
        make_tones(num_labels=16)
