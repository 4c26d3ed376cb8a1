"""Intervals of one share or one mean. Everything is vectorized NumPy and seeded: the same values
give the same interval."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import special

LEVEL = 0.95
ROUNDS = 2_000
_CHUNK = 4_000_000  # resampled indices held at once, 32 MB


class Estimate(NamedTuple):
    """A value and its two-sided interval; `low` and `high` are None where no interval can be
    given."""

    value: float
    low: float | None
    high: float | None


def quantile(level: float = LEVEL, df: float = np.inf) -> float:
    """How many standard errors a two-sided interval reaches to each side: Student's t with `df`
    degrees of freedom, or the normal distribution where `df` is infinite."""
    # a report asks some ten thousand times, and `stats.t.ppf` takes ten times as long
    half = 0.5 + level / 2
    return float(special.ndtri(half) if np.isinf(df) else special.stdtrit(df, half))


def wilson(k: float, n: float, level: float = LEVEL, df: float = np.inf) -> tuple[float, float]:
    """Wilson score interval (Wilson 1927) of a proportion: `k` successes of `n` trials. Both may be
    fractional (effective) counts. `df` degrees of freedom put Student's t in the place of the
    normal quantile, where `n` itself is estimated from few numbers.

    Returns (low, high) in [0, 1]; (0, 1) when n is 0. Raises ValueError unless 0 <= k <= n.
    """
    if not 0 <= k <= n:
        raise ValueError(f"wilson needs 0 <= k <= n, got k={k}, n={n}")
    if n == 0:
        return 0.0, 1.0
    z = quantile(level, df)
    p, shrink = k / n, 1 + z * z / n
    center = (p + z * z / (2 * n)) / shrink
    half = z / shrink * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    # at k = 0 and k = n one end is exact; rounding would leave 1e-17 there
    return (
        0.0 if k == 0 else float(max(0.0, center - half)),
        1.0 if k == n else float(min(1.0, center + half)),
    )


def _resampled_means(values: np.ndarray, rounds: int, rng: np.random.Generator) -> np.ndarray:
    """Means of `rounds` resamples with replacement of `values` (n,); returns (rounds,). Memory
    stays bounded for any n."""
    n = len(values)
    step = max(1, _CHUNK // n)
    sizes = [min(step, rounds - first) for first in range(0, rounds, step)]
    return np.concatenate([values[rng.integers(n, size=(size, n))].mean(1) for size in sizes])


def bootstrap_mean(
    values: Sequence[float] | np.ndarray, seed: int = 0, level: float = LEVEL, rounds: int = ROUNDS
) -> Estimate:
    """Mean of `values` (n,) with a percentile bootstrap interval (Efron 1979). No interval for n <
    2; ValueError for n = 0."""
    values = np.asarray(values, np.float64)
    if values.ndim != 1 or not len(values):
        raise ValueError(
            f"bootstrap_mean needs a non-empty list of numbers, got shape {values.shape}"
        )
    if len(values) < 2:
        return Estimate(float(values[0]), None, None)
    means = _resampled_means(values, rounds, np.random.default_rng(seed))
    low, high = np.quantile(means, [0.5 - level / 2, 0.5 + level / 2])
    return Estimate(float(values.mean()), float(low), float(high))
