"""Intervals, paired tests and pooling over seeds. Everything is vectorized NumPy and seeded: the
same values give the same interval."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

from t2i_backdoor_bench.contract import Score

LEVEL = 0.95
ROUNDS = 2_000
_CHUNK = 4_000_000  # resampled indices held at once, 32 MB


class Estimate(NamedTuple):
    """A value and its two-sided interval; `low` and `high` are None where no interval can be
    given."""

    value: float
    low: float | None
    high: float | None


def wilson(k: float, n: float, level: float = LEVEL) -> tuple[float, float]:
    """Wilson score interval (Wilson 1927) of a proportion: `k` successes of `n` trials. Both may be
    fractional (effective) counts.

    Returns (low, high) in [0, 1]; (0, 1) when n is 0. Raises ValueError unless 0 <= k <= n.
    """
    if not 0 <= k <= n:
        raise ValueError(f"wilson needs 0 <= k <= n, got k={k}, n={n}")
    if n == 0:
        return 0.0, 1.0
    z = stats.norm.ppf(0.5 + level / 2)
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


def _interval(means: np.ndarray, level: float) -> tuple[float, float]:
    low, high = np.quantile(means, [0.5 - level / 2, 0.5 + level / 2])
    return float(low), float(high)


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
    return Estimate(
        float(values.mean()),
        *_interval(_resampled_means(values, rounds, np.random.default_rng(seed)), level),
    )


def mcnemar(a: Sequence[bool] | np.ndarray, b: Sequence[bool] | np.ndarray) -> float:
    """Exact two-sided McNemar test (McNemar 1947) of two paired lists of bools (n,), such as two
    defenses on the same prompts and noise.

    Returns the p-value of "both succeed equally often"; 1 where no pair differs. Raises ValueError
    when the lengths differ.
    """
    a, b = np.asarray(a, bool), np.asarray(b, bool)
    if a.shape != b.shape or a.ndim != 1:
        raise ValueError(
            f"mcnemar compares pairs: the two lists have shapes {a.shape} and {b.shape}"
        )
    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    if only_a + only_b == 0:
        return 1.0
    return float(stats.binomtest(only_a, only_a + only_b, 0.5).pvalue)


def pool_proportion(seeds: Sequence[Sequence[bool]], level: float = LEVEL) -> Estimate:
    """Mean over seeds of a proportion, with a Wilson interval at the effective sample size.

    Images of one seed share one trained model, so they are not independent. The variance of the
    mean between k seeds, s^2 / k, gives the design effect (Kish 1965): n_eff = min(N, p (1 - p) /
    (s^2 / k)), with N all images; n_eff = N for one seed or equal seeds. Few seeds estimate s
    badly: with k = 1 the interval knows nothing of training randomness. Raises ValueError for an
    empty seed.
    """
    shares, total = _seed_means(seeds)
    p = float(shares.mean())
    effective = float(total)
    if len(shares) > 1 and (variance := float(shares.var(ddof=1)) / len(shares)) > 1e-15:
        effective = min(total, p * (1 - p) / variance)
    return Estimate(p, *wilson(min(p * effective, effective), effective, level))


def pool_mean(
    seeds: Sequence[Sequence[float]], seed: int = 0, level: float = LEVEL, rounds: int = ROUNDS
) -> Estimate:
    """Mean over seeds of per-image values, with a hierarchical bootstrap interval: resample the
    seeds, then the images of each drawn seed.

    Raises ValueError for an empty seed.
    """
    means, _ = _seed_means(seeds)
    values = [np.asarray(s, np.float64) for s in seeds]
    if len(values) == 1:
        return bootstrap_mean(values[0], seed, level, rounds)
    rng = np.random.default_rng(seed)
    drawn = rng.integers(len(values), size=(rounds, len(values)))
    boot = np.empty(drawn.shape)
    for i, images in enumerate(values):
        where = drawn == i
        if where.any():
            boot[where] = _resampled_means(images, int(where.sum()), rng)
    return Estimate(float(means.mean()), *_interval(boot.mean(1), level))


def pool_values(values: Sequence[float], level: float = LEVEL) -> Estimate:
    """Mean over seeds of one number a seed (FID, KID, seconds), with Student's t interval; no
    interval for one seed."""
    x = np.asarray(values, np.float64)
    if not len(x):
        raise ValueError("pool_values needs at least one value")
    if len(x) == 1:
        return Estimate(float(x[0]), None, None)
    half = stats.t.ppf(0.5 + level / 2, len(x) - 1) * x.std(ddof=1) / np.sqrt(len(x))
    return Estimate(float(x.mean()), float(x.mean() - half), float(x.mean() + half))


def _seed_means(seeds: Sequence[Sequence[float]]) -> tuple[np.ndarray, int]:
    """Mean of each seed's values (k,) and the number of all values."""
    if not len(seeds) or any(not len(s) for s in seeds):
        raise ValueError("pooling needs at least one seed, and at least one image in each")
    return np.array([np.mean(np.asarray(s, np.float64)) for s in seeds]), sum(len(s) for s in seeds)


def proportion(flags: np.ndarray, network: str = "", note: str = "") -> Score:
    """Score of a share of images: `flags` bool (n,), Wilson 95 % interval. Nothing to count gives
    no value."""
    flags = np.asarray(flags, bool)
    if not len(flags):
        return Score(None, note=note or "no images", network=network)
    low, high = wilson(int(flags.sum()), len(flags))
    return Score(float(flags.mean()), low, high, len(flags), network, note, flags.tolist())


def mean(values: np.ndarray, network: str = "", note: str = "", seed: int = 0) -> Score:
    """Score of a mean of per-image values: float (n,), seeded bootstrap 95 % interval. Nothing to
    average gives no value."""
    values = np.asarray(values, np.float64)
    if not len(values):
        return Score(None, note=note or "no images", network=network)
    value, low, high = bootstrap_mean(values, seed)
    return Score(value, low, high, len(values), network, note, values.tolist())


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
    return Estimate(value, *_interval(np.array(drawn), level))
