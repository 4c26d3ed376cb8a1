"""Intervals and tests against statsmodels, SciPy and enumeration."""

import numpy as np
import pytest
from scipy import stats as reference
from statsmodels.stats.contingency_tables import mcnemar as reference_mcnemar
from statsmodels.stats.proportion import proportion_confint

from t2i_backdoor_bench.stats import estimates as stats
from t2i_backdoor_bench.stats import intervals


@pytest.mark.parametrize(
    ("k", "n"), [(0, 1), (0, 100), (1, 7), (93, 100), (97, 100), (100, 100), (500, 1000)]
)
@pytest.mark.parametrize("level", [0.9, 0.95])
def test_wilson_equals_statsmodels(k, n, level):
    assert stats.wilson(k, n, level) == pytest.approx(
        proportion_confint(k, n, 1 - level, "wilson"), abs=1e-12
    )


def test_wilson_says_that_93_and_90_of_100_are_not_separated():
    assert stats.wilson(93, 100)[0] < stats.wilson(90, 100)[1]


def test_wilson_edges():
    assert stats.wilson(0, 0) == (0.0, 1.0)
    assert stats.wilson(0, 5)[0] == 0.0
    assert stats.wilson(5, 5)[1] == 1.0
    for k, n in ((2, 1), (-1, 3)):
        with pytest.raises(ValueError, match="0 <= k <= n"):
            stats.wilson(k, n)


def test_bootstrap_equals_scipy_and_is_seeded():
    values = np.random.default_rng(0).gamma(2, size=150)
    ours = stats.bootstrap_mean(values, seed=1, rounds=20_000)
    theirs = reference.bootstrap(
        (values,), np.mean, n_resamples=20_000, method="percentile", rng=2
    ).confidence_interval
    assert ours.value == pytest.approx(values.mean())
    assert (ours.low, ours.high) == pytest.approx(tuple(theirs), abs=0.01)
    assert (
        stats.bootstrap_mean(values, seed=1)
        == stats.bootstrap_mean(values, seed=1)
        != stats.bootstrap_mean(values, seed=2)
    )


def test_bootstrap_chunks_do_not_bias(monkeypatch):
    values = np.random.default_rng(0).normal(size=50)
    whole = stats.bootstrap_mean(values, rounds=4000)
    monkeypatch.setattr(intervals, "_CHUNK", 50 * 7)
    parts = stats.bootstrap_mean(values, rounds=4000)
    assert parts == pytest.approx(whole, abs=1e-12)  # the generator is read in the same order


def test_bootstrap_of_one_value_has_no_interval():
    assert stats.bootstrap_mean([3.0]) == (3.0, None, None)
    with pytest.raises(ValueError, match="non-empty"):
        stats.bootstrap_mean([])


@pytest.mark.parametrize("seed", range(5))
def test_mcnemar_equals_statsmodels(seed):
    rng = np.random.default_rng(seed)
    a, b = rng.random(60) < 0.7, rng.random(60) < 0.5
    table = [[np.sum(a & b), np.sum(a & ~b)], [np.sum(~a & b), np.sum(~a & ~b)]]
    assert stats.mcnemar(a, b) == pytest.approx(
        reference_mcnemar(table, exact=True).pvalue, abs=1e-12
    )


def test_mcnemar_edges():
    assert stats.mcnemar([True, False], [True, False]) == 1.0
    assert stats.mcnemar([True] * 10, [False] * 10) == pytest.approx(2 / 2**10)
    with pytest.raises(ValueError, match="pairs"):
        stats.mcnemar([True], [True, False])


def test_pool_proportion_of_one_seed_is_wilson():
    flags = [True] * 30 + [False] * 10
    assert stats.pool_proportion([flags]) == pytest.approx((0.75, *stats.wilson(30, 40)))


def test_wilson_with_few_degrees_of_freedom_has_students_quantile():
    """It is the set of p with |k/n - p| <= t sqrt(p (1 - p) / n): solved on a fine grid."""
    p, t = np.linspace(0, 1, 200_001), reference.t.ppf(0.975, 2)
    inside = p[np.abs(0.9 - p) <= t * np.sqrt(p * (1 - p) / 50)]
    assert stats.wilson(45, 50, df=2) == pytest.approx((inside[0], inside[-1]), abs=1e-5)


def test_equal_seeds_are_no_certainty():
    """Three seeds of 100 %: t of two degrees of freedom, squared, over itself plus 150 pictures."""
    t = reference.t.ppf(0.975, 2)
    found = stats.pool_proportion([[True] * 50] * 3)
    assert found == pytest.approx((1.0, 150 / (150 + t**2), 1.0))
    none = stats.pool_proportion([[False] * 50] * 3)
    assert none == pytest.approx((0.0, 0.0, t**2 / (150 + t**2)))


def test_pool_proportion_widens_when_seeds_disagree():
    lists = [[True] * 90 + [False] * 10, [True] * 50 + [False] * 50, [True] * 70 + [False] * 30]
    pooled = stats.pool_proportion([np.random.default_rng(0).permutation(v) for v in lists])
    effective = 0.7 * 0.3 / (np.var([0.9, 0.5, 0.7], ddof=1) / 3)
    assert effective < 300
    assert pooled == pytest.approx((0.7, *stats.wilson(0.7 * effective, effective, df=2)), abs=0.01)
    # opposite seeds: at least k - 1 effective images, never a crash
    assert 0 <= stats.pool_proportion([[True] * 100, [False] * 100]).low < 0.2


def test_prompts_that_all_seeds_share_count_once():
    """The same 90 of 100 prompts succeed in each of five seeds: these are 100 pictures, not 500."""
    flags = [i < 90 for i in range(100)]
    found = stats.pool_proportion([flags] * 5)
    low, high = stats.wilson(90, 100, df=4)
    assert found == pytest.approx((0.9, low, high), abs=0.002)


def test_pool_mean_is_the_t_interval_of_the_seeds_means():
    rng = np.random.default_rng(0)
    seeds = [offset + rng.normal(0, 0.1, 40) for offset in rng.normal(0, 1, 8)]
    means = [s.mean() for s in seeds]
    low, high = reference.t.interval(0.95, 7, loc=np.mean(means), scale=reference.sem(means))
    assert stats.pool_mean(seeds) == pytest.approx((np.mean(means), low, high), abs=0.01)


def test_seeds_that_agree_by_chance_are_as_uncertain_as_their_pictures():
    pictures = np.random.default_rng(0).normal(size=(3, 50))
    pictures -= pictures.mean(1, keepdims=True)  # three equal means
    half = reference.t.ppf(0.975, 2) * np.sqrt(pictures.var(1, ddof=1).sum() / 50) / 3
    assert stats.pool_mean(pictures)[1:] == pytest.approx((-half, half), rel=0.03)


def test_pool_mean_weighs_seeds_equally_and_handles_one():
    assert stats.pool_mean([[0.0] * 90, [1.0] * 10]).value == 0.5
    assert stats.pool_mean([[1.0, 2.0, 3.0]], seed=5) == stats.bootstrap_mean(
        [1.0, 2.0, 3.0], seed=5
    )
    with pytest.raises(ValueError, match="at least one image"):
        stats.pool_mean([[1.0], []])


def test_pool_values_is_the_t_interval():
    x = [3.1, 2.9, 3.6, 3.3]
    low, high = reference.t.interval(0.95, 3, loc=np.mean(x), scale=reference.sem(x))
    assert stats.pool_values(x) == pytest.approx((np.mean(x), low, high))
    assert stats.pool_values([2.0]) == (2.0, None, None)
    assert stats.pool_values([2.0], [(1.0, 3.0)]) == (2.0, None, None)
    with pytest.raises(ValueError, match="at least one"):
        stats.pool_values([])


def test_equal_numbers_are_as_uncertain_as_each_of_them():
    """Two areas under the curve of 1: half of the hypotenuse of what each may be below it."""
    own = [(0.96, 1.0), (0.97, 1.0)]
    assert stats.pool_values([1.0, 1.0], own) == pytest.approx((1.0, 1 - 0.05 / 2, 1.0))
    wide = stats.pool_values([0.99, 0.9], [(0.95, 1.0), (0.8, 0.95)], share=True)
    assert 0 < wide.low < 0.9
    assert 0.99 < wide.high <= 1


def test_scores_carry_their_values():
    score = stats.proportion(np.array([True, False, True, True]), network="n")
    assert (score.value, score.n, score.network, score.each) == (
        0.75,
        4,
        "n",
        [True, False, True, True],
    )
    assert all(type(v) is bool for v in score.each)
    score = stats.mean(np.array([1.0, 3.0]))
    assert (score.value, score.n, score.each) == (2.0, 2, [1.0, 3.0])
    for empty in (stats.proportion(np.array([], bool)), stats.mean(np.array([]))):
        assert empty.value is None
        assert empty.note
