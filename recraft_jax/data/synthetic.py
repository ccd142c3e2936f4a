"""Tasks made of sines, for smoke runs: which one it is, which ones are there."""

import numpy as np

from recraft_jax import errors


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
