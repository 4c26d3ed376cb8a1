"""Means over attacks and seeds: the two-way variance against sums, and what is left out."""

import numpy as np
import pytest
from scipy import stats as reference

from t2i_backdoor_bench.stats import estimates as stats
from t2i_backdoor_bench.stats.crossed import components, crossed_mean


def nested(table):
    """[attack][seed] of a table (attacks, seeds, ...)."""
    return {f"a{i}": dict(enumerate(row)) for i, row in enumerate(table)}


def test_the_components_are_the_mean_squares_of_the_two_way_table():
    rng = np.random.default_rng(0)
    means = rng.normal(size=(4, 3))
    mean = sum(means[a][s] for a in range(4) for s in range(3)) / 12
    of_a = [sum(means[a][s] for s in range(3)) / 3 for a in range(4)]
    of_s = [sum(means[a][s] for a in range(4)) / 4 for s in range(3)]
    square_a = sum(3 * (x - mean) ** 2 for x in of_a) / 3
    square_s = sum(4 * (x - mean) ** 2 for x in of_s) / 2
    rest = sum(
        (means[a][s] - of_a[a] - of_s[s] + mean) ** 2 for a in range(4) for s in range(3)
    ) / (3 * 2)
    assert components(means) == pytest.approx((square_a / 12, square_s / 12, rest / 12))
    found = crossed_mean(nested(means))
    assert found.value == pytest.approx(mean)
    both = max(square_a + square_s - rest, square_a, square_s) / 12
    assert found.variance == pytest.approx(both)
    df = both**2 / ((square_a / 12) ** 2 / 3 + (square_s / 12) ** 2 / 2)
    assert found.df == pytest.approx(min(max(df, 2), 3))


def test_the_variance_is_right_on_average():
    """Normal effects of attack, seed and both: the mean varies as much as it says."""
    rng, rounds = np.random.default_rng(1), 4000
    attack, seed, both = (rng.normal(size=(rounds, *size)) for size in ((6, 1), (1, 4), (6, 4)))
    tables = 0.7 * attack + 0.5 * seed + 0.8 * both
    parts = np.array([components(table) for table in tables])
    said = (parts[:, 0] + parts[:, 1] - parts[:, 2]).mean()
    assert said == pytest.approx(0.7**2 / 6 + 0.5**2 / 4 + 0.8**2 / 24, rel=0.03)
    assert tables.mean((1, 2)).var() == pytest.approx(said, rel=0.06)


def test_fixed_attacks_have_the_t_interval_of_the_seeds_means():
    table = np.random.default_rng(2).normal(size=(5, 4)) + np.arange(5)[:, None]
    found = stats.mean_over_attacks(nested(table), attacks_fixed=True)
    means = table.mean(0)
    expected = reference.t.interval(0.95, 3, loc=means.mean(), scale=reference.sem(means))
    assert found == pytest.approx((means.mean(), *expected))
    other = stats.mean_over_attacks(nested(table))
    assert other.high - other.low > found.high - found.low, "attacks differ by more than seeds do"


def test_one_attack_is_pooled_over_its_seeds():
    flags = np.random.default_rng(3).random((3, 80)) < np.array([[0.9], [0.7], [0.8]])
    assert stats.mean_over_attacks({"a": dict(enumerate(flags))}) == stats.pool_proportion(flags)
    numbers = [1.0, 1.2, 1.3]
    assert stats.mean_over_attacks({"a": dict(enumerate(numbers))}) == stats.pool_values(numbers)


def test_what_an_interval_knows_nothing_of_is_named():
    table = np.ones((2, 2, 5), bool)
    assert stats.leaves_out(nested(table)) == ""
    assert stats.leaves_out(nested(table[:, :1])) == "training randomness"
    assert stats.leaves_out(nested(table[:1])) == "other attacks"
    assert stats.leaves_out(nested(table[:1, :1])) == "training randomness and other attacks"


def test_one_seed_has_the_spread_of_the_attacks_and_their_shared_prompts():
    """Each of four attacks fails on the same 20 of 100 prompts: 100 pictures, not 400."""
    flags = np.tile([i >= 20 for i in range(100)], (4, 1, 1))
    found = crossed_mean(nested(flags))
    assert found.variance == pytest.approx(0.8 * 0.2 / 99, rel=0.3)
    rng = np.random.default_rng(4)
    apart = crossed_mean(nested([[rng.permutation(row)] for (row,) in flags]))
    assert apart.variance == pytest.approx(0.8 * 0.2 / 400, rel=0.3)


def test_an_attack_that_lacks_a_seed_makes_no_interval_narrower():
    rng = np.random.default_rng(5)
    table = rng.normal(size=(4, 3))
    values = nested(table)
    del values["a1"][2]
    found = crossed_mean(values)
    of_attacks, of_seeds, _ = components(table)
    assert found.value == pytest.approx(
        np.mean([table[0].mean(), table[1, :2].mean(), *table[2:].mean(1)])
    )
    assert found.variance > max(of_attacks, of_seeds) / 3
    apart = crossed_mean({"a": {0: 1.0}, "b": {1: 3.0}})  # no seed has both
    assert (apart.value, apart.df) == (2.0, 1.0)
    assert apart.variance == pytest.approx(2 * 1.0), "of attacks and of seeds, nothing subtracted"


def test_the_ends_stay_shares_and_the_interval_meets_the_seeds():
    """The mean of the case in which a mean of three seeds excluded all of them, and many others."""
    rng = np.random.default_rng(6)
    for rate in (0.5, 0.9, 0.98, 0.999, 1.0):
        for seeds in (2, 3, 5):
            for _ in range(40):
                share = np.clip(rate + 0.05 * rng.normal(size=(4, seeds, 1)), 0, 1)
                flags = rng.random((4, seeds, 50)) < share
                value, low, high = stats.mean_over_attacks(nested(flags))
                assert 0 <= low <= value <= high <= 1
                assert low < high
                of_seeds = flags.mean((0, 2))
                assert ((low <= of_seeds) & (of_seeds <= high)).any()


def test_one_number_has_no_interval_and_nothing_no_mean():
    assert stats.mean_over_attacks({"a": {0: 2.0}}) == (2.0, None, None)
    for empty in ({}, {"a": {}}, {"a": {0: []}}):
        with pytest.raises(ValueError, match="at least one"):
            stats.mean_over_attacks(empty)


def test_shares_that_are_one_number_a_cell_have_no_number_of_pictures():
    """F1 of each cell: 0.9 and 0.92 are not two coin flips."""
    found = stats.mean_over_attacks({"a": {0: 0.90, 1: 0.92, 2: 0.91}}, share=True)
    t = stats.pool_values([0.90, 0.92, 0.91])
    assert (found.low, found.high) == pytest.approx((t.low, t.high), abs=0.01)
    assert stats.mean_over_attacks({"a": {0: 1.0, 1: 1.0}}, share=True) == (1.0, 1.0, 1.0)
