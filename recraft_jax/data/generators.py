"""Tasks made here: a PDE for users without the published files, sines for smoke runs.

Only 1-D advection so far: its solution is a shift of the initial field, so it is exact
at any resolution.
"""

import jax
import jax.numpy as jnp
import numpy as np

from recraft_jax import errors

ADVECTION_SPEED = 0.4
ADVECTION_TIME = 2.0


def initial_fields(
    key: jax.Array, num: int, points: np.ndarray, num_points: int
) -> jax.Array:
    """Draw the initial condition that PDEBench's 1-D generators share.

    Sums of four sines with wavenumbers `2 pi (j + 1) m_j / (L - dx)`, where `m_j`
    counts how often two random picks fell on mode j; a mode nobody picked adds a
    constant. A tenth of the samples is made positive, all get a random sign, and a
    tenth is cut to a window of width 0.45 (PDEBench commit b5b646f,
    `utils.init_multi`).

    Args:
      key: of `jax.random.PRNGKey`; the streams are those of
        `jax_threefry_partitionable=False`, as in 2022.
      num: samples.
      points: coordinates in [0, 1] at which the fields are evaluated, `[p]`.
      num_points: cells of the grid whose spacing dx the wavenumbers hold.

    Returns:
      Fields `[num p]`.
    """
    with jax.threefry_partitionable(False):
        key1 = jax.random.split(key)[0]
        key2 = jax.random.split(key1)[0]
        picks = jax.random.randint(key, (num, 2), 0, 4)
        height = jax.random.uniform(key, (num, 4, 1))
        phase = 2 * jnp.pi * jax.random.uniform(key1, (num, 4, 1))
        rare = jnp.array([0.9, 0.1])
        is_positive = jax.random.choice(key1, 2, (num, 1), p=rare) == 1
        sign = jax.random.choice(key1, jnp.array([1, -1]), (num, 1))
        is_windowed = jax.random.choice(key2, 2, (num, 1), p=rare) == 1
        left = jax.random.uniform(key2, (num, 1), minval=0.1, maxval=0.45)
        right = jax.random.uniform(key2, (num, 1), minval=0.55, maxval=0.9)
    times = jax.nn.one_hot(picks, 4).sum(1)
    waves = 2 * jnp.pi * jnp.arange(1, 5) * times / (1 - 1 / num_points)
    u = (height * jnp.sin(waves[:, :, None] * points + phase)).sum(1)
    u = sign * jnp.where(is_positive, jnp.abs(u), u)
    window = jnp.tanh((points - left) / 0.01) - jnp.tanh((points - right) / 0.01)
    return jnp.where(is_windowed, u * window / 2, u)


def advection(num: int, num_points: int, seed: int) -> dict[str, np.ndarray]:
    """Solve `u_t + 0.4 u_x = 0` on the periodic unit interval from t = 0 to t = 2.

    The solution is `u(x, t) = u_0((x - 0.4 t) mod 1)`, evaluated, not interpolated.

    Args:
      num: samples.
      num_points: cells n; points lie at `(i + 1/2) / n`.
      seed: of the initial fields.

    Returns:
      `x` and `y`, both `[num n 1]` float32: the field at t = 0 and at t = 2.
    """
    if num < 1 or num_points < 2:
        raise errors.InputError(
            f"advection with {num} samples of {num_points} points; "
            "allowed: at least 1 sample and 2 points"
        )
    grid = (np.arange(num_points) + 0.5) / num_points
    origin = np.mod(grid - ADVECTION_SPEED * ADVECTION_TIME, 1.0)
    key = jax.random.PRNGKey(seed)
    return {
        name: np.asarray(initial_fields(key, num, points, num_points))[..., None]
        for name, points in (("x", grid), ("y", origin))
    }


def waves(
    num_train: int,
    num_test: int,
    num_points: int,
    num_classes: int,
    noise: float,
    seed: int,
) -> dict[str, dict[str, np.ndarray]]:
    """Make sines whose frequency is their class: a classification task for smoke runs.

    Args:
      num_train: training and validation samples.
      num_test: test samples.
      num_points: points n of each sample.
      num_classes: class k has k + 1 periods; phases are random.
      noise: standard deviation of white noise added.
      seed: of everything drawn.

    Returns:
      `train` and `test`, each with `x` `[num n 1]` float32 and `y` `[num]` int32.
    """
    rng = np.random.default_rng(seed)
    num = num_train + num_test
    y = rng.integers(num_classes, size=num, dtype=np.int32)
    angle = 2 * np.pi * (y[:, None] + 1) * np.arange(num_points) / num_points
    x = np.sin(angle + 2 * np.pi * rng.random((num, 1)))
    x = (x + noise * rng.standard_normal(x.shape)).astype(np.float32)[..., None]
    return {
        "train": {"x": x[:num_train], "y": y[:num_train]},
        "test": {"x": x[num_train:], "y": y[num_train:]},
    }


def tones(
    num_train: int,
    num_test: int,
    num_points: int,
    num_labels: int,
    noise: float,
    seed: int,
) -> dict[str, dict[str, np.ndarray]]:
    """Make sums of sines, each there or not: a multi-label task for smoke runs.

    Args:
      num_train: training and validation samples.
      num_test: test samples.
      num_points: points n of each sample.
      num_labels: k; label j is on, in half of the samples, where a sine of j + 1
        periods and random phase is part of the sum, which may be empty.
      noise: standard deviation of white noise added.
      seed: of everything drawn.

    Returns:
      `train` and `test`, each with `x` `[num n 1]` and `y` `[num k]` of 0 and 1, both
      float32.

    Raises:
      InputError: too few points to tell the sines apart.
    """
    if num_points <= 2 * num_labels:
        raise errors.InputError(
            f"tones of {num_labels} sines with data.num_points = {num_points}; "
            f"allowed: {2 * num_labels + 1} or more"
        )
    rng = np.random.default_rng(seed)
    num = num_train + num_test
    y = rng.integers(2, size=(num, num_labels)).astype(np.float32)
    periods = np.arange(1, num_labels + 1)[:, None]
    angle = 2 * np.pi * periods * np.arange(num_points) / num_points
    sines = np.sin(angle + 2 * np.pi * rng.random((num, num_labels, 1)))
    x = np.einsum("nk,nkp->np", y, sines)
    x = (x + noise * rng.standard_normal(x.shape)).astype(np.float32)[..., None]
    return {
        "train": {"x": x[:num_train], "y": y[:num_train]},
        "test": {"x": x[num_train:], "y": y[num_train:]},
    }
