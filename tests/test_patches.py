import pathlib

import jax.numpy as jnp
import numpy as np
import pytest

from recraft_jax.models import patches

SHAPES = {
    "1-D": ((12, 2), 4),
    "1-D with a rest": ((13, 2), 4),
    "2-D": ((8, 6, 3), 2),
    "2-D with rests": ((7, 9, 1), 4),
}
MATRICES = {
    "linear": patches.linear,
    "cubic": patches.cubic,
    "pooling": patches.pooling,
}


@pytest.fixture(scope="module")
def golden():
    path = pathlib.Path(__file__).parent / "golden" / "resampling.npz"
    with np.load(path) as file:
        return dict(file)


@pytest.mark.parametrize("name", SHAPES)
def test_unpatchify_undoes_patchify(name):
    shape, patch = SHAPES[name]
    x = np.random.default_rng(0).normal(size=(3, *shape)).astype(np.float32)
    cut = patches.patchify(jnp.asarray(x), patch)
    np.testing.assert_array_equal(patches.unpatchify(cut, patch, shape), x)


def test_patches_are_neighbourhoods_row_by_row():
    x = jnp.arange(16.0).reshape(1, 4, 4, 1)
    cut = patches.patchify(x, 2)
    assert cut[0].tolist() == [
        [0, 1, 4, 5],
        [2, 3, 6, 7],
        [8, 9, 12, 13],
        [10, 11, 14, 15],
    ]


@pytest.mark.parametrize("size", [(7, 25), (16, 4), (3, 6)])
@pytest.mark.parametrize("name", MATRICES)
def test_resampling_equals_pytorch(golden, name, size):
    out = patches.resize(jnp.asarray(golden["x"]), size, MATRICES[name])
    want = golden[f"{name}_{size[0]}x{size[1]}"]
    np.testing.assert_allclose(out, want, rtol=0, atol=5e-6)


@pytest.mark.parametrize("name", MATRICES)
def test_resampling_keeps_constants(name):
    for old, new in ((5, 12), (12, 5), (1, 4), (9, 9)):
        np.testing.assert_allclose(MATRICES[name](old, new).sum(1), 1, atol=1e-12)


def test_shuffle_equals_pytorch(golden):
    out = patches.shuffle(jnp.asarray(golden["values"]), 2, (4, 6, 5))
    np.testing.assert_array_equal(out, golden["shuffled"])


@pytest.mark.parametrize("length", [1, 2, 7, 16, 30])
def test_fold_lays_a_series_row_by_row(length):
    x = jnp.arange(2.0 * length).reshape(1, length, 2)
    image = patches.fold(x)
    rows, columns = patches.folded(length)
    assert image.shape == (1, rows, columns, 2)
    assert rows * columns >= length > (rows - 1) * columns
    np.testing.assert_array_equal(image.reshape(-1, 2)[:length], x[0])
    np.testing.assert_array_equal(image.reshape(-1, 2)[length:], 0)
