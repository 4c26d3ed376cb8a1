"""How well a score tells two samples apart: area under the ROC curve, F1, thresholds."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy import stats

from t2i_backdoor_bench.stats.intervals import LEVEL, Estimate, percentiles


def auroc(negative: np.ndarray, positive: np.ndarray) -> float:
    """Share of pairs in which the positive score (m,) is above the negative (n,), ties half: the
    area under the ROC curve."""
    ranks = stats.rankdata(np.concatenate([negative, positive]))[len(negative) :]
    n, m = len(negative), len(positive)
    return float((ranks.sum() - m * (m + 1) / 2) / (n * m))


def threshold_at(scores: np.ndarray, rate: float) -> float:
    """The lowest of the scores (n,) that at most a share `rate` of them is above."""
    return float(np.sort(scores)[len(scores) - 1 - int(rate * len(scores) + 1e-9)])


def tpr_at(negative: np.ndarray, positive: np.ndarray, rate: float) -> np.ndarray:
    """Which positive scores (m,) are above the lowest threshold that at most a share `rate` of the
    negative scores (n,) is above."""
    return positive > threshold_at(negative, rate)


def f1(negative: np.ndarray, positive: np.ndarray) -> float:
    """F1 of flags (0 or 1) on negatives (n,) and positives (m,), with both kinds equally frequent;
    0 where nothing is flagged."""
    false, true = float(np.mean(negative)), float(np.mean(positive))
    return 2 * true / (1 + true + false)


def bootstrap_two(
    statistic: Callable[[np.ndarray, np.ndarray], float],
    a: np.ndarray,
    b: np.ndarray,
    seed: int = 0,
    level: float = LEVEL,
    rounds: int = 500,
) -> Estimate:
    """`statistic(a, b)` of two samples (n,) and (m,) with a percentile bootstrap interval: both are
    resampled, each by itself."""
    rng, value = np.random.default_rng(seed), float(statistic(a, b))
    if min(len(a), len(b)) < 2:
        return Estimate(value, None, None)
    drawn = [
        statistic(a[rng.integers(len(a), size=len(a))], b[rng.integers(len(b), size=len(b))])
        for _ in range(rounds)
    ]
    return Estimate(value, *percentiles(np.array(drawn), level))
