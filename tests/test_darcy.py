import numpy as np
import pytest

from recraft_jax import assets
from recraft_jax.data import darcy, torch_file


def _fake(monkeypatch, raw):
    monkeypatch.setattr(torch_file, "load", lambda path: raw[path])


def _pair(n, **changes):
    rng = np.random.default_rng(n)
    y = rng.normal(size=(n, 16, 16)).astype(np.float32)
    return {"x": rng.random((n, 16, 16)) < 0.5, "y": y} | changes


def test_load_makes_channels_last_floats(monkeypatch):
    raw = {"a": _pair(5), "b": _pair(2)}
    _fake(monkeypatch, raw)
    data = darcy.load("a", "b")
    assert list(data) == ["train", "test"]
    for split, source, n in (("train", "a", 5), ("test", "b", 2)):
        for key in ("x", "y"):
            assert data[split][key].shape == (n, 16, 16, 1)
            assert data[split][key].dtype == np.float32
            np.testing.assert_array_equal(data[split][key][..., 0], raw[source][key])


@pytest.mark.parametrize(
    "bad",
    [
        [1],
        {"x": np.zeros((2, 16, 16))},
        _pair(2, z=1),
        _pair(2, y=np.zeros((3, 16, 16))),
        _pair(2, x=np.zeros((2, 32, 32)), y=np.zeros((2, 32, 32))),
        _pair(2, x="text"),
    ],
)
def test_other_content_is_refused(monkeypatch, bad):
    _fake(monkeypatch, {"a": _pair(5), "b": bad})
    with pytest.raises(ValueError, match="^b: expected"):
        darcy.load("a", "b")


@pytest.mark.network
def test_real_files(tmp_path):
    folder = assets.fetch("darcy16", str(tmp_path))
    data = darcy.load(folder / "darcy_train_16.pt", folder / "darcy_test_16.pt")
    train, test = data["train"], data["test"]
    assert train["x"].shape == train["y"].shape == (1000, 16, 16, 1)
    assert test["x"].shape == test["y"].shape == (50, 16, 16, 1)
    assert set(np.unique(train["x"])) == {0, 1}
    assert train["y"].min() == pytest.approx(-0.4279, abs=1e-4)
    assert train["y"].max() == pytest.approx(2.0572, abs=1e-4)
    # The metric of the benchmark for the best constant answer: fixes the pairing-free
    # part of the data, and ridge regression on the pixels the pairing of x and y.
    mean = train["y"].mean(axis=0)
    assert _relative_l2(mean[None], test["y"]) == pytest.approx(0.487, abs=5e-4)
    x = train["x"].reshape(1000, -1)
    centred = x - x.mean(axis=0)
    y = (train["y"] - mean).reshape(1000, -1)
    w = np.linalg.solve(centred.T @ centred + 100 * np.eye(256), centred.T @ y)
    pred = (test["x"].reshape(50, -1) - x.mean(axis=0)) @ w + mean.reshape(-1)
    pred = pred.reshape(50, 16, 16, 1)
    assert _relative_l2(pred, test["y"]) == pytest.approx(0.240, abs=2e-3)


def _relative_l2(pred, y):
    error = np.linalg.norm((pred - y).reshape(len(y), -1), axis=1)
    return np.mean(error / np.linalg.norm(y.reshape(len(y), -1), axis=1))
