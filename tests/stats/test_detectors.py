"""Intervals of the area under the ROC curve and of F1, against slow sums and at their ends."""

import numpy as np
import pytest

from t2i_backdoor_bench.stats import estimates as stats


def test_the_variance_is_delongs():
    """Where it is the larger: positives that are far above the negatives or far below them. The
    structural components of DeLong, by all pairs."""
    rng = np.random.default_rng(0)
    negative = rng.integers(0, 9, 40).astype(float)
    positive = np.where(rng.random(30) < 0.7, 8.0, -5.0) + rng.integers(0, 4, 30)
    pairs = np.array([[(y > x) + 0.5 * (y == x) for x in negative] for y in positive])
    variance = pairs.mean(1).var(ddof=1) / 30 + pairs.mean(0).var(ddof=1) / 40
    area = pairs.mean()
    trials = area * (1 - area) / variance
    expected = (area, *stats.wilson(area * trials, trials))
    assert stats.auroc_estimate(negative, positive) == pytest.approx(expected)


@pytest.mark.parametrize("n", [10, 100])
def test_what_is_perfect_is_not_certain(n):
    low, high = np.arange(n) * 1.0, np.arange(n) + 2.0 * n
    best, worst = stats.auroc_estimate(low, high), stats.auroc_estimate(high, low)
    assert best.value == best.high == 1
    # Hanley and McNeil at an area of 1: n^2 / (1 + (n - 1) / 2) trials
    trials = n * n / (1 + (n - 1) / 2)
    assert best.low == pytest.approx(stats.wilson(trials, trials)[0])
    assert (worst.value, worst.low, worst.high) == pytest.approx((0, 0, 1 - best.low))
    f1 = stats.f1_estimate(np.zeros(n), np.ones(n))
    assert f1.value == f1.high == 1
    miss, alarm = 0.025 ** (1 / n), 1 - 0.025 ** (1 / n)  # the exact ends of n of n and 0 of n
    down = np.hypot(1 - 2 * miss / (1 + miss), 1 - 2 / (2 + alarm))
    assert f1.low == pytest.approx(1 - down)
    nothing = stats.f1_estimate(np.zeros(n), np.zeros(n))
    assert nothing.value == nothing.low == 0
    assert 0 < nothing.high < 1


def test_one_score_has_no_interval():
    one, many = np.array([1.0]), np.arange(5.0)
    assert stats.auroc_estimate(one, many)[1:] == (None, None)
    assert stats.f1_estimate(one, np.ones(5))[1:] == (None, None)
