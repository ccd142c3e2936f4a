"""The radial dam break against PDEBench's output, exact solutions and itself."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recraft_jax import errors
from recraft_jax.pde import dam_break, discs
from recraft_jax.pde import shallow_water as sw

GOLDEN = pathlib.Path(__file__).parent / "golden" / "shallow_water.npz"


def _relative(found, wanted):
    """Relative L2 error per sample and frame."""
    axes = (-2, -1)
    return np.sqrt(((found - wanted) ** 2).sum(axes) / (wanted**2).sum(axes))


def _compat(radius, nx):
    with jax.enable_x64(True):
        solver = jax.jit(jax.vmap(lambda r: sw._compat(r, nx)))
        return np.asarray(solver(np.array(radius)))


def test_draws_are_those_of_numpy_and_runs_join():
    radius = sw.EQUATION.draw(0, 3, 128)["radius"]
    assert radius[0] == pytest.approx(0.519525, abs=1e-6)
    assert sw.EQUATION.draw(2, 1, 64)["radius"] == radius[2]
    with pytest.raises(errors.InputError, match="nx is 7, allowed are 8"):
        sw.EQUATION.draw(0, 1, 7)


def test_compat_is_pdebench():
    """Frames of PDEBench's generator (PyClaw 5) at 64 x 64, seeds 0 and 2."""
    golden = np.load(GOLDEN)
    sample = {k: v[golden["seeds"]] for k, v in sw.EQUATION.draw(0, 3, 64).items()}
    assert "compat" in sw.EQUATION.wide_modes
    with jax.enable_x64(True):
        found = jax.jit(lambda s: sw.EQUATION.solve(s, nx=64, mode="compat"))(sample)
    found = np.asarray(found["data"])
    assert found.shape == (2, 101, 64, 64, 1)
    wanted = golden["depth"]
    np.testing.assert_allclose(found[:, golden["frames"]], wanted, atol=1e-6)
    # Sweeps along x come first, so x and y are not the same to the last digit.
    assert abs(wanted - wanted.swapaxes(2, 3)).max() > 1e-3


def test_compat_steps_like_pyclaw(monkeypatch):
    """Too long a first step, several steps to a save, an odd grid."""
    times = [0, 0.2, 0.35]
    monkeypatch.setattr(sw, "TIMES", np.array(times))
    nx, spacing = 41, 5 / 41
    with jax.enable_x64(True):
        x = np.arange(21) * spacing
        depth = jnp.asarray(np.where(np.hypot(x[:, None], x) <= 0.6, 2.0, 1.0))
        state = depth, 0 * depth, 0 * depth
        step = jax.jit(lambda state, ratio: sw._step(state, ratio, 1))
        t, dt, rejected, frames = 0.0, 0.1, 0, [depth]
        for save in times[1:]:
            while t < save:
                dt = min(dt, save - t)
                new, speed = step(state, dt / spacing)
                courant = float(speed) * dt / spacing
                if courant <= 1:
                    state, t = new, t + dt
                else:
                    rejected += 1
                dt *= 0.9 / courant
            frames.append(state[0])
        assert rejected == 1
    found = _compat([0.6], nx)[0]
    np.testing.assert_allclose(found[:, 20:, 20:], np.array(frames), atol=1e-12)
    np.testing.assert_array_equal(found[:, 20::-1, 20:], found[:, 20:, 20:])


def test_transonic_rarefaction_is_spread():
    """Harten and Hyman's fix adds twice the flux that Roe's solver misses, nearly."""
    spread, invariant = 0.1, 2.5  # u - c from -0.1 to 0.1, u + 2 c
    c = (invariant + spread * np.array([1, -1])) / 3
    h, u = c**2, invariant - 2 * c
    missing = (invariant / 3) ** 3 - h[0] * u[0]
    with jax.enable_x64(True):
        one, two = ([h, h * v, 0.3 * h] for h, v in zip(jnp.array(h), u, strict=True))
        speeds, waves, across = sw._roe(one, two)
        parts = sw._fluctuations(one, two, speeds, waves, across)
        left, right = np.array(parts)
    assert left[0] == pytest.approx(2 * missing, rel=0.02)
    assert left[2] == pytest.approx(0.3 * left[0], rel=0.02)
    assert left[0] + right[0] == pytest.approx(h[1] * u[1] - h[0] * u[0])


def _planar(depths):
    """Middle state and speed of the shock of the planar dam break, by bisection."""
    (inside, outside), low, high = depths, depths[1], depths[0]
    for _ in range(80):
        h = (low + high) / 2
        behind = (h - outside) * np.sqrt((h + outside) / (2 * h * outside))
        ahead = 2 * (np.sqrt(inside) - np.sqrt(h))
        low, high = (h, high) if behind < ahead else (low, h)
    return h, h * behind / (h - outside)


def test_early_radial_waves_are_planar():
    h, shock = _planar(dam_break.DEPTHS)
    assert shock <= dam_break.SHOCK
    t, rim = 2e-3, np.sqrt(2)
    rings = 1 + t * np.linspace(-2, 2, 161)
    with jax.enable_x64(True):
        first = dam_break.start(dam_break.INSIDE, 0.1)
        found = jax.jit(lambda r: dam_break.frames(r, np.array([0, t]), rings, first))(
            np.array([1.0])
        )
    found = np.asarray(found)[0, 1] + 1
    x = (rings[1:] + rings[:-1]) / 2 - 1
    fan = ((2 * rim - x / t) / 3) ** 2
    wanted = np.where(x < shock * t, np.clip(fan, h, 2), 1)
    assert np.abs(found - wanted).mean() < 3e-3
    plateau = (x > 0.2 * t) & (x < 1.2 * t)
    np.testing.assert_allclose(found[plateau], h, atol=2e-3)


@pytest.fixture(scope="module")
def refined():
    """Six frames of two samples on three radial grids, and another pair of samples."""
    with pytest.MonkeyPatch.context() as patch, jax.enable_x64(True):
        patch.setattr(sw, "TIMES", np.linspace(0, 1, 6))
        found = {}
        for inside in (64, 128, 256):
            solver = jax.jit(lambda r, inside=inside: sw._accurate(r, 24, inside))
            found[inside] = np.asarray(solver(np.array([0.3, 0.7])))
            if inside == 64:
                found["other"] = np.asarray(solver(np.array([0.7, 0.55])))
        return found


def test_accurate_converges(refined):
    coarse = _relative(refined[64], refined[256]).max()
    fine = _relative(refined[128], refined[256]).max()
    assert fine < 1e-4
    assert fine < 0.45 * coarse


def test_accurate_starts_with_the_disc_and_keeps_its_mass(refined):
    found = refined[128]
    cell = (5 / 24) ** 2
    for radius, frames in zip((0.3, 0.7), found, strict=True):
        mass = frames.sum((1, 2)) * cell
        np.testing.assert_allclose(mass, 25 + np.pi * radius**2, rtol=1e-13)
        edges = np.linspace(-2.5, 2.5, 25)
        area = discs.shared_area(radius, edges[:, None], edges)
        share = np.diff(np.diff(area, axis=0), axis=1) / cell
        # Not equal: shares of the rim's ring are those of the whole ring.
        assert _relative(frames[0], 1 + share) < 5e-4
        np.testing.assert_array_equal(frames, frames.swapaxes(1, 2))
        assert (frames[:, 0] == 1).all()


def test_accurate_does_not_depend_on_the_batch(refined):
    np.testing.assert_allclose(refined["other"][0], refined[64][1], rtol=1e-13)


def test_compat_converges_to_accurate(refined, monkeypatch):
    monkeypatch.setattr(sw, "TIMES", np.linspace(0, 1, 6))
    wanted = refined[256]
    error = []
    for fine in (1, 4):
        found = _compat([0.3, 0.7], 24 * fine)
        found = found.reshape(2, 6, 24, fine, 24, fine).mean((3, 5))
        error.append(_relative(found, wanted).mean())
    assert error[1] < 0.3 * error[0]
    assert error[1] < 8e-3


@pytest.mark.parametrize("nx", [6, 7])
def test_averages_over_cells(nx):
    """Against sums over points; rings beyond the last one count nothing."""
    spacing, ring, num = 2 / nx, 0.06, 20
    a = discs.averaging(nx, spacing, ring, num)
    rings = np.stack([np.ones(num), np.cos(np.arange(num))])
    found = np.asarray(discs.average(a, jnp.asarray(rings)))
    points = (np.arange(nx * 80) + 0.5) * 2 / (nx * 80) - 1
    index = (np.hypot(points[:, None], points) / ring).astype(int)
    values = np.where(index < num, rings[:, np.minimum(index, num - 1)], 0)
    wanted = values.reshape(2, nx, 80, nx, 80).mean((2, 4))
    np.testing.assert_allclose(found, wanted, atol=3e-3)
    total = np.float64(a.weight).reshape(-1, a.weight.shape[2]).sum(1)[a.row].sum()
    disc = 4 * discs.shared_area(num * ring, 1.0, 1.0)
    assert total * spacing**2 == pytest.approx(disc, rel=1e-13)


def test_shared_areas_have_closed_forms():
    area = discs.shared_area
    assert area(2.0, 1.0, 1.5) == pytest.approx(1.5)
    assert area(1.0, 3.0, 1.0) == pytest.approx(np.pi / 4)
    assert area(1.0, -3.0, 2.0) == pytest.approx(-np.pi / 4)
    # A half of a disc's sector of 60 degrees and half of a triangle.
    wanted = np.pi / 12 + np.sqrt(3) / 8
    assert area(1.0, 0.5, 1.0) == pytest.approx(wanted)
    assert area(0.0, 1.0, 1.0) == 0
