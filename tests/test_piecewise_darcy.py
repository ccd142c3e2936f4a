"""Two-material Darcy flow: series, convergence, the field's spectrum, files."""

import numpy as np
import pytest
import scipy.fft
import scipy.io

from recraft_jax.pde import piecewise_darcy


def grid(nodes):
    return np.meshgrid(*2 * [np.linspace(0, 1, nodes)], indexing="ij")


def test_constant_coefficient_is_the_series_of_poisson():
    x, y = grid(41)
    want = np.zeros_like(x)
    for j in range(1, 200, 2):
        for k in range(1, 200, 2):
            size = 16 / (np.pi**4 * j * k * (j**2 + k**2)) / 2.5
            want += size * np.sin(j * np.pi * x) * np.sin(k * np.pi * y)
    got = piecewise_darcy.solve(np.full((41, 41), 2.5))
    assert abs(got - want).max() < 2e-3 * want.max()
    assert got.max() == pytest.approx(0.0736713 / 2.5, rel=1e-3)


def test_smooth_coefficient_converges_with_second_order():
    # u = sin(pi x) sin(2 pi y), a = 1 + x + 2 y^2: -div(a grad u) by hand.
    worst = []
    for nodes in (17, 33, 65):
        x, y = grid(nodes)
        a = 1 + x + 2 * y**2
        sx, cx = np.sin(np.pi * x), np.cos(np.pi * x)
        sy, cy = np.sin(2 * np.pi * y), np.cos(2 * np.pi * y)
        source = (
            5 * np.pi**2 * a * sx * sy - np.pi * cx * sy - 4 * y * 2 * np.pi * sx * cy
        )
        worst.append(abs(piecewise_darcy.solve(a, source) - sx * sy).max())
    rates = np.log2(np.divide(worst[:-1], worst[1:]))
    np.testing.assert_allclose(rates, 2, atol=0.05)


def test_interface_takes_the_arithmetic_mean():
    # Three inner nodes in a row of five: 4 x 4 intervals, a jumps after column 1.
    a = np.full((5, 5), 4.0)
    a[:, 2:] = 12
    u = piecewise_darcy.solve(a)
    left, right = (4 + 4) / 2, (4 + 12) / 2
    flow = (left + right + 4 + 4) * u[2, 1] - left * u[2, 0] - right * u[2, 2]
    flow -= 4 * (u[1, 1] + u[3, 1])
    assert flow * 16 == pytest.approx(1, rel=1e-12)


def test_solution_turns_with_the_coefficient_and_vanishes_on_the_border():
    field = piecewise_darcy.random_field(np.random.default_rng(0), 21)
    a = np.where(field >= 0, 12.0, 3.0)
    u = piecewise_darcy.solve(a)
    np.testing.assert_allclose(piecewise_darcy.solve(a.T), u.T, rtol=1e-10)
    np.testing.assert_allclose(piecewise_darcy.solve(a[::-1]), u[::-1], rtol=1e-10)
    assert not np.any([u[0], u[-1], u[:, 0], u[:, -1]])
    assert (u[1:-1, 1:-1] > 0).all()


def test_field_has_the_analytic_spectrum():
    nodes, num = 9, 3000
    rng = np.random.default_rng(1)
    fields = np.stack([piecewise_darcy.random_field(rng, nodes) for _ in range(num)])
    # DCT-I of samples at nodes: sum_j of c_j cos(j pi x) comes back as (n - 1) c_j for
    # 0 < j < n - 1, twice that for j = 0.
    waves = scipy.fft.dctn(fields, type=1, axes=(1, 2)) / (nodes - 1) ** 2
    waves = waves[:, : nodes - 1, : nodes - 1]
    sizes = np.full(nodes - 1, np.sqrt(2))
    sizes[0] = 2.0  # e_0 = 1 comes back doubled
    waves = waves / np.outer(sizes, sizes)
    order = np.pi**2 * np.arange(nodes - 1) ** 2
    want = 9 / (order[:, None] + order + 9) ** 2
    want[0, 0] = 0
    got = waves.var(axis=0)
    assert abs(waves[:, 0, 0]).max() < 1e-12
    ratio = got.ravel()[1:] / want.ravel()[1:]
    # 63 variances of 3000 draws each: deviation sqrt(2 / 3000) = 0.026.
    assert abs(ratio - 1).max() < 0.11
    assert abs(ratio.mean() - 1) < 0.015
    # At a corner every wave is at its largest, 2 or 4 of its variance.
    factor = np.full((nodes, nodes), 4.0)
    factor[0] = factor[:, 0] = 2
    total = (factor * piecewise_darcy.variances(nodes)).sum()
    assert fields[:, 0, 0].var() == pytest.approx(total, rel=0.1)


def test_finer_grid_shows_the_same_field():
    coarse, fine = (
        piecewise_darcy.random_field(np.random.default_rng(3), nodes)
        for nodes in (41, 81)
    )
    error = np.linalg.norm(fine[::2, ::2] - coarse) / np.linalg.norm(coarse)
    assert error < 0.05


def test_samples_are_of_two_materials_and_solved():
    a, u = piecewise_darcy.sample("train", 4, nodes=11, seed=5, high=12.0, low=3.0)
    assert set(np.unique(a)) == {3, 12}
    np.testing.assert_array_equal(piecewise_darcy.solve(a), u)


def test_samples_depend_on_seed_split_and_index():
    def sol(split, index, seed):
        return piecewise_darcy.sample(split, index, nodes=9, seed=seed)[1]

    first = sol("train", 1, 1)
    np.testing.assert_array_equal(sol("train", 1, 1), first)
    for other in (("train", 1, 2), ("test", 1, 1), ("train", 2, 1)):
        assert (sol(*other) != first).any()


def test_file_has_the_official_layout(tmp_path):
    path = tmp_path / piecewise_darcy.FILES["train"]
    coeff, sol = np.random.default_rng(0).normal(size=(2, 3, 5, 5))
    piecewise_darcy.write(path, coeff, sol)
    assert path.name == "piececonst_r421_N1024_smooth1.mat"
    assert [each.name for each in tmp_path.iterdir()] == [path.name]
    found = scipy.io.loadmat(path)
    np.testing.assert_array_equal(found["coeff"], coeff)
    np.testing.assert_array_equal(found["sol"], sol)


def test_unfinished_file_is_not_left(tmp_path, monkeypatch):
    def fail(*_, **__):
        raise OSError("disk full")

    monkeypatch.setattr(scipy.io, "savemat", fail)
    with pytest.raises(OSError, match="disk full"):
        piecewise_darcy.write(tmp_path / "a.mat", *np.zeros((2, 1, 5, 5)))
    assert not list(tmp_path.iterdir())
