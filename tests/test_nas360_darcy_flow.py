"""Darcy flow of NAS-Bench-360: values by hand, both file formats, the maker's files."""

import h5py
import nas360_big_files
import numpy as np
import pytest
import scipy.io

from recraft_jax import errors
from recraft_jax.data.nas360 import darcy_flow
from recraft_jax.pde import piecewise_darcy


@pytest.mark.parametrize("boundary_eps", [True, False])
def test_values_are_those_of_the_released_loader(tmp_path, boundary_eps):
    wrote = nas360_big_files.write_darcy_flow(tmp_path)
    found = darcy_flow.load(tmp_path, boundary_eps=boundary_eps)
    coeff = wrote["train"]["coeff"][:, ::5, ::5]
    mean = coeff.sum(0) / 4
    std = np.sqrt(((coeff - mean) ** 2).sum(0) / 3)
    scale = np.where((std > 0) | boundary_eps, std + 1e-5, 1)
    assert (std == 0).any()  # of 25 points in 4 samples some are constant
    for split, num in (("train", 4), ("test", 2)):
        x, y = found[split]["x"], found[split]["y"]
        assert x.shape == (num, 5, 5, 3) and y.shape == (num, 5, 5, 1)
        assert x.dtype == y.dtype == np.float32
        want = (wrote[split]["coeff"][:, ::5, ::5] - mean) / scale
        np.testing.assert_allclose(x[..., 0], want, rtol=2e-6)
        np.testing.assert_array_equal(x[1, 3, :, 1], [0, 0.25, 0.5, 0.75, 1])
        np.testing.assert_array_equal(x[1, :, 3, 2], [0, 0.25, 0.5, 0.75, 1])
        np.testing.assert_array_equal(x[..., 1], x[..., 2].swapaxes(1, 2))
        np.testing.assert_allclose(y[..., 0], wrote[split]["sol"][:, ::5, ::5])
        assert not np.any(y[:, 0]) and np.any(y[:, 2])


@pytest.mark.parametrize("boundary_eps", [True, False])
def test_point_scale_by_hand(boundary_eps):
    values = np.float32([[1, 0.1], [3, 0.1], [8, 0.1]])
    mean, std = darcy_flow.point_scale(values, boundary_eps=boundary_eps)
    np.testing.assert_allclose(mean, [4, 0.1])
    # (9 + 1 + 16) / 2 = 13
    rest = 1e-5 if boundary_eps else 1
    np.testing.assert_allclose(std, [np.sqrt(13) + 1e-5, rest], rtol=1e-6)
    assert mean.dtype == std.dtype == np.float32


def test_v73_files_hold_the_axes_reversed(tmp_path):
    wrote = nas360_big_files.write_darcy_flow(tmp_path)
    want = darcy_flow.load(tmp_path, boundary_eps=True)
    for split, name in darcy_flow.FILES.items():
        (tmp_path / name).unlink()
        # MATLAB puts a header of 512 bytes before the HDF5 part.
        with h5py.File(tmp_path / name, "w", userblock_size=512) as file:
            for field, values in wrote[split].items():
                file[field] = values.transpose(2, 1, 0)
    found = darcy_flow.load(tmp_path, boundary_eps=True)
    for split in want:
        for key, value in want[split].items():
            np.testing.assert_array_equal(found[split][key], value)


def test_first_1000_and_100_samples_are_taken(tmp_path):
    nas360_big_files.write_darcy_flow(tmp_path, num_train=1003, num_test=104, nodes=6)
    found = darcy_flow.load(tmp_path, boundary_eps=True)
    assert found["train"]["x"].shape == (1000, 2, 2, 3)
    assert found["test"]["y"].shape == (100, 2, 2, 1)


def test_reader_reads_what_the_maker_writes(tmp_path):
    for split in ("train", "test"):
        made = [piecewise_darcy.sample(split, i, nodes=16, seed=2) for i in range(3)]
        path = tmp_path / piecewise_darcy.FILES[split]
        piecewise_darcy.write(path, *map(np.stack, zip(*made, strict=True)))
    assert piecewise_darcy.FILES == darcy_flow.FILES
    found = darcy_flow.load(tmp_path, boundary_eps=False)
    want = scipy.io.loadmat(tmp_path / darcy_flow.FILES["test"])["sol"][:, ::5, ::5]
    np.testing.assert_allclose(found["test"]["y"][..., 0], want, rtol=1e-6)
    assert found["train"]["x"].shape == (3, 4, 4, 3)


def test_faults_get_one_line(tmp_path):
    def refused(message):
        with pytest.raises(errors.InputError, match=message) as info:
            darcy_flow.load(tmp_path, boundary_eps=True)
        assert "\n" not in str(info.value)

    refused("smooth1.mat: there is no such file; allowed: ")
    wrote = nas360_big_files.write_darcy_flow(tmp_path)
    path = tmp_path / darcy_flow.FILES["test"]
    whole = path.read_bytes()
    path.write_bytes(whole[:1000])
    refused("smooth2.mat: field coeff cannot be read")
    scipy.io.savemat(path, {"coeff": wrote["test"]["coeff"]})
    refused("field sol cannot be read")
    scipy.io.savemat(path, wrote["test"] | {"sol": np.zeros((2, 21, 16))})
    refused(r"field sol, thinned, is \(2, 5, 4\)")
    sol = wrote["test"]["sol"].copy()
    sol[1, 5, 5] = np.nan
    scipy.io.savemat(path, wrote["test"] | {"sol": sol})
    refused("field sol is not finite in sample 1")
    path.write_bytes(whole)
    nas360_big_files.write_darcy_flow(tmp_path, num_train=1)
    refused("one sample; allowed: two or more")
