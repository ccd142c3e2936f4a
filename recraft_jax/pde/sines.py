"""Random sums of sines: the initial fields that PDEBench's 1-D equations share."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

NUM_PICKS = 2
WINDOW_SLOPE = 0.01


def draw(
    key: jax.Array, num: int, *, num_modes: int, window_prob: float
) -> dict[str, np.ndarray]:
    """Draw what decides `num` fields, in the order of the file of record.

    `count` says how often each mode was picked in two random picks. A tenth of the
    fields is made positive, all get a random sign, and `window_prob` of them are cut to
    a window. `left` and `right` come from the same key, so a window is always 0.45 wide
    (PDEBench commit b5b646f, `utils.init_multi`).

    Args:
      key: of `jax.random.PRNGKey`; the streams are those of
        `jax_threefry_partitionable=False`, as in 2022.
      num: fields.
      num_modes: k.
      window_prob: share of windowed fields.

    Returns:
      `height`, `phase`, `count` `[num k]`; `is_positive`, `sign`, `is_windowed`,
      `left`, `right` `[num 1]`.
    """
    with jax.threefry_partitionable(False), jax.enable_x64(False):
        key1 = jax.random.split(key)[0]
        key2 = jax.random.split(key1)[0]
        picks = jax.random.randint(key, (num, NUM_PICKS), 0, num_modes)
        height = jax.random.uniform(key, (num, num_modes, 1))[..., 0]
        phase = jax.random.uniform(key1, (num, num_modes, 1))[..., 0]
        rare = jnp.array([0.9, 0.1])
        is_positive = jax.random.choice(key1, 2, (num, 1), p=rare) == 1
        sign = jax.random.choice(key1, jnp.array([1, -1]), (num, 1))
        share = jnp.array([1 - window_prob, window_prob])
        is_windowed = jax.random.choice(key2, 2, (num, 1), p=share) == 1
        left = jax.random.uniform(key2, (num, 1), minval=0.1, maxval=0.45)
        right = jax.random.uniform(key2, (num, 1), minval=0.55, maxval=0.9)
        found = {
            "height": height,
            "phase": 2 * jnp.pi * phase,
            "count": jax.nn.one_hot(picks, num_modes, dtype=jnp.int32).sum(1),
            "is_positive": is_positive,
            "sign": sign,
            "is_windowed": is_windowed,
            "left": left,
            "right": right,
        }
    return jax.tree.map(np.asarray, found)


def evaluate(
    sample: dict[str, Array], points: Float[Array, "*#b p"], length: float
) -> Float[Array, "b p"]:
    """Evaluate the fields, in the precision of `points`.

    Mode j has wavenumber `2 pi (j + 1) count_j / length`: one picked twice has twice
    the wavenumber, one nobody picked adds a constant.

    Args:
      sample: of `draw`, or some of its rows.
      points: coordinates.
      length: PDEBench takes the distance of the first and the last cell centre, one
        cell less than the period.
    """
    form = points.dtype
    count = sample["count"].astype(form)
    order = jnp.arange(1, count.shape[1] + 1, dtype=form)
    wave = (2 * jnp.pi * order * count / jnp.asarray(length, form))[:, :, None]
    height, phase = (sample[k].astype(form)[:, :, None] for k in ("height", "phase"))
    u = (height * jnp.sin(wave * points[..., None, :] + phase)).sum(1)
    u = sample["sign"].astype(form) * jnp.where(sample["is_positive"], jnp.abs(u), u)
    left, right = sample["left"].astype(form), sample["right"].astype(form)
    slope = jnp.asarray(WINDOW_SLOPE, form)
    window = jnp.tanh((points - left) / slope) - jnp.tanh((points - right) / slope)
    return jnp.where(sample["is_windowed"], u * window / 2, u)
