"""Burgers' equation on 16 points: which part of the file is input, target, test."""

import numpy as np
import pytest

from recraft_jax import assets, errors
from recraft_jax.data import burgers16, torch_file


def content(num=203):
    course = np.arange(num * 3 * 16, dtype=np.float64).reshape(num, 3, 16)
    return {"input": course[:, 0], "output": course, "visc": np.float64([[0.01]])}


def load(monkeypatch, raw, **settings):
    monkeypatch.setattr(torch_file, "load", lambda path: raw)
    defaults = {"num_train": 0, "num_test": 0, "seed": 0}
    return burgers16.load("a", **(defaults | settings))


def test_first_state_predicts_the_last_and_the_last_200_test(monkeypatch):
    data = load(monkeypatch, content())
    assert data["train"]["x"].shape == data["train"]["y"].shape == (3, 16, 1)
    assert data["test"]["x"].shape == data["test"]["y"].shape == (200, 16, 1)
    # A course is 48 numbers long, and the last state begins at the 32nd.
    np.testing.assert_array_equal(data["train"]["x"][2, :, 0], 96 + np.arange(16))
    np.testing.assert_array_equal(data["train"]["y"][2, :, 0], 128 + np.arange(16))
    np.testing.assert_array_equal(
        data["test"]["y"][0, :, 0], 3 * 48 + 32 + np.arange(16)
    )
    assert {v.dtype for arrays in data.values() for v in arrays.values()} == {
        np.dtype("float32")
    }


def test_fewer_samples_are_drawn(monkeypatch):
    data = load(monkeypatch, content(230), num_train=10, num_test=20)
    starts = [data[split]["x"][:, 0, 0] / 48 for split in ("train", "test")]
    assert [len(one) for one in starts] == [10, 20]
    assert starts[0].max() < 30 <= starts[1].min()


BAD = {
    "list": ([1], "expected input, output, visc, got list"),
    "names": ({"x": np.zeros(3)}, "expected input, output, visc, got x"),
    "grid": (content() | {"input": np.zeros((203, 8))}, r"expected input \[n 16\]"),
    "numbers": (content() | {"input": np.zeros((9, 16))}, r"and output \[n t 16\]"),
    "not an array": (content() | {"output": 3}, r"got \(203, 16\) and \(\)"),
    "scalar": (content() | {"input": np.float64(1)}, r"got \(\) and"),
    "other start": (
        content() | {"input": np.ones((203, 16))},
        "the input as the first",
    ),
    "few": (content(200), "has 200 samples; allowed: more than the 200"),
}


@pytest.mark.parametrize("name", BAD)
def test_other_content_gets_one_line(monkeypatch, name):
    raw, message = BAD[name]
    with pytest.raises(errors.InputError, match=message) as info:
        load(monkeypatch, raw)
    assert str(info.value).startswith("a: ") and "\n" not in str(info.value)


@pytest.mark.parametrize("text", [None, "not an archive"])
def test_file_that_cannot_be_read_gets_one_line(tmp_path, text):
    path = tmp_path / "file.pt"
    if text:
        path.write_text(text)
    with pytest.raises(errors.InputError, match=r"file\.pt") as info:
        burgers16.load(path, num_train=0, num_test=0, seed=0)
    assert "\n" not in str(info.value)


@pytest.mark.network
def test_real_file(tmp_path):
    folder = assets.fetch("burgers16", str(tmp_path))
    path = folder / "burgers_lowres.pt"
    data = burgers16.load(path, num_train=0, num_test=0, seed=0)
    train, test = data["train"], data["test"]
    assert train["x"].shape == train["y"].shape == (1000, 16, 1)
    assert test["x"].shape == test["y"].shape == (200, 16, 1)
    assert len({x.tobytes() for a in data.values() for x in a["x"]}) == 1200
    error = np.linalg.norm((test["x"] - test["y"])[..., 0], axis=1)
    nrmse = np.mean(error / np.linalg.norm(test["y"][..., 0], axis=1))
    assert nrmse == pytest.approx(0.87, abs=0.005)
