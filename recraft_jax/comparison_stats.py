"""Statistics of comparisons: ranks over tasks, intervals of differences.

Average ranks of methods are compared by Friedman's test and Nemenyi's critical
difference (Demsar 2006, JMLR 7); differences of two methods have intervals of a
bootstrap that draws test samples and seeds anew, the same for both.
"""

import math
from collections.abc import Mapping

import numpy as np
from jaxtyping import Bool, Float
from scipy import stats

RESAMPLES = 10_000

_CHUNK = 1 << 22  # sample counts held at a time


def ranks(
    scores: Float[np.ndarray, "t m"], is_higher_better: Bool[np.ndarray, " t"]
) -> Float[np.ndarray, "t m"]:
    """Rank the methods on each task: 1 is best, ties share their mean, NaN is worst."""
    signed = np.where(is_higher_better[:, None], -scores, scores)
    return stats.rankdata(np.where(np.isnan(signed), np.inf, signed), axis=1)


def friedman(ranked: Float[np.ndarray, "t m"]) -> tuple[float, float]:
    """Test whether methods have one average rank, with the correction for ties.

    `(m - 1) sum_j (R_j - t (m + 1) / 2)^2 / (sum r_ij^2 - t m (m + 1)^2 / 4)` with rank
    sums R_j, against chi^2 of m - 1 degrees of freedom (Conover 1999, 5.8).

    Returns:
      The statistic and p; 0 and 1 where every rank is tied.
    """
    num_tasks, m = ranked.shape
    spread = np.sum(ranked**2) - num_tasks * m * (m + 1) ** 2 / 4
    if not spread:
        return 0.0, 1.0
    sums = ranked.sum(0)
    statistic = (m - 1) * np.sum((sums - num_tasks * (m + 1) / 2) ** 2) / spread
    return float(statistic), float(stats.chi2.sf(statistic, m - 1))


def nemenyi_q(num_methods: int, alpha: float = 0.05) -> float:
    """Return the quantile of the studentised range over sqrt(2), for many samples."""
    quantile = stats.studentized_range.ppf(1 - alpha, num_methods, np.inf)
    return float(quantile) / math.sqrt(2)


def critical_difference(num_methods: int, num_tasks: int, alpha: float = 0.05) -> float:
    """Return the difference of average ranks from which on two methods differ."""
    scale = math.sqrt(num_methods * (num_methods + 1) / (6 * num_tasks))
    return nemenyi_q(num_methods, alpha) * scale


def alike(average: Mapping[str, float], critical: float) -> list[list[str]]:
    """Group methods whose average ranks differ by less than the critical difference.

    Returns:
      The largest groups of two or more, best first; a method may be in several.
    """
    order = sorted(average, key=lambda name: average[name])
    found: list[list[str]] = []
    for index, first in enumerate(order):
        group = [n for n in order[index:] if average[n] - average[first] < critical]
        if len(group) > 1 and not (found and found[-1][-1] == group[-1]):
            found.append(group)
    return found


def resample(
    values: Float[np.ndarray, "c n"],
    *,
    is_root: bool = False,
    num: int = RESAMPLES,
    seed: int = 0,
) -> Float[np.ndarray, "r c"]:
    """Score c runs on `num` test sets drawn anew, with replacement, the same for all.

    Args:
      values: of each sample, in one order.
      is_root: whether a score is the root of the mean, else it is the mean.
      num: r, of test sets.
      seed: of the draws.
    """
    rng = np.random.default_rng(seed)
    n = values.shape[1]
    found = []
    rows = max(_CHUNK // n, 1)
    for start in range(0, num, rows):
        size = min(rows, num - start)
        drawn = rng.integers(n, size=(size, n)) + n * np.arange(size)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=size * n).reshape(size, n)
        found.append(counts.astype(np.float64) @ values.T.astype(np.float64) / n)
    means = np.concatenate(found)
    return np.sqrt(means) if is_root else means


def interval(
    differences: Float[np.ndarray, "r s"], *, level: float = 0.95, seed: int = 1
) -> tuple[float, float]:
    """Give the interval of the mean over seeds, which are drawn anew as well.

    Args:
      differences: of two methods on each resampled test set, one column a seed. One
        seed is not resampled: the interval then knows nothing of seeds.
      level: share of the draws inside.
      seed: of the draws.
    """
    rng = np.random.default_rng(seed)
    picks = rng.integers(differences.shape[1], size=differences.shape)
    means = np.take_along_axis(differences, picks, axis=1).mean(1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
