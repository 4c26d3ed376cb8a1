"""Kendall's tau-b and its interval, against another implementation, a slow one and chance."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from t2i_backdoor_bench.stats.estimates import rank_correlation, tau_b


def cells(rates: dict[str, float], attacks: int, n: int, rng: np.random.Generator) -> dict:
    return {
        method: {f"attack{i}": rng.random(n) < rate for i in range(attacks)}
        for method, rate in rates.items()
    }


def test_tau_is_scipys_with_ties_too():
    rng = np.random.default_rng(0)
    for _ in range(40):
        a, b = rng.integers(0, 4, (2, 6)).astype(float)
        ours, theirs = float(tau_b(a, b)), stats.kendalltau(a, b).statistic
        assert ours == pytest.approx(theirs, abs=1e-12, nan_ok=True)


def test_tau_of_a_whole_array_is_that_of_each_list():
    a, b = np.random.default_rng(1).random((2, 3, 5, 7))
    each = [[float(tau_b(x, y)) for x, y in zip(p, q)] for p, q in zip(a, b)]
    np.testing.assert_allclose(tau_b(a, b), each)


def test_the_same_order_is_one_and_the_reverse_is_minus_one():
    up = {m: {"a": np.arange(20) < 4 * i} for i, m in enumerate("pqrst")}
    down = {m: {"a": np.arange(20) < 16 - 4 * i} for i, m in enumerate("pqrst")}
    assert rank_correlation(up, up).value == 1
    assert rank_correlation(up, down).value == -1
    level = {m: {"a": np.arange(20) < 4} for m in up}
    assert rank_correlation(up, level) is None
    two = {m: up[m] for m in "pq"}
    assert rank_correlation(two, two) is None


def test_the_interval_is_that_of_a_slow_bootstrap():
    rng = np.random.default_rng(2)
    rates = {"p": 0.9, "q": 0.8, "r": 0.75, "s": 0.6}
    a, b = (cells(rates, 3, 30, rng) for _ in range(2))
    found, taus = rank_correlation(a, b), []
    for _ in range(1500):
        drawn = rng.integers(3, size=3)
        means = []
        for place in (a, b):
            picked = [rng.integers(30, size=30) for _ in range(3)]
            means.append(
                [np.mean([place[m][f"attack{i}"][picked[i]].mean() for i in drawn]) for m in rates]
            )
        tau = stats.kendalltau(*np.round(means, 9)).statistic
        taus.append(0.0 if np.isnan(tau) else tau)
    assert found.low == pytest.approx(np.quantile(taus, 0.025), abs=0.2)
    assert found.high == pytest.approx(np.quantile(taus, 0.975), abs=0.2)


def test_methods_that_are_equal_are_rarely_said_to_agree():
    rng, said = np.random.default_rng(3), 0
    for _ in range(60):
        a, b = (cells(dict.fromkeys("pqrst", 0.7), 3, 40, rng) for _ in range(2))
        said += rank_correlation(a, b, draws=200).low > 0
    assert said <= 4


def test_places_that_cannot_be_compared_are_errors():
    up = {m: {"a": np.arange(20) < 4 * i} for i, m in enumerate("pqr")}
    with pytest.raises(ValueError, match="same methods"):
        rank_correlation(up, {m: up[m] for m in "pq"})
    with pytest.raises(ValueError, match="same attacks"):
        rank_correlation(up, {m: {"b": up[m]["a"]} for m in up})
    with pytest.raises(ValueError, match="other numbers of pictures"):
        rank_correlation(up, up | {"r": {"a": [True]}})
