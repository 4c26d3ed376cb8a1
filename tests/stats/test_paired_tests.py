"""Differences of two defenses, Holm's correction, equivalence and non-inferiority."""

import itertools

import numpy as np
import pytest
from scipy import stats as reference
from statsmodels.stats.multitest import multipletests

from t2i_backdoor_bench.stats import estimates as stats


def one_attack(seeds):
    return {"a": dict(enumerate(seeds))}


def test_a_difference_over_seeds_is_the_paired_t_test():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 5))
    found = stats.paired_difference(one_attack(a), one_attack(b))
    expected = reference.ttest_rel(a, b)
    assert found.p == pytest.approx(expected.pvalue)
    assert found[:3] == pytest.approx((np.mean(a - b), *expected.confidence_interval()))


def test_pictures_of_seeds_are_paired_by_the_seeds_means():
    rng = np.random.default_rng(1)
    shift = np.array([[0.1], [0.9], [0.4], [0.7]])  # far larger than what the pictures add
    a, b = rng.normal(size=(2, 4, 50)) * 0.1 + np.stack([shift, 0 * shift])
    found = stats.paired_difference(one_attack(a), one_attack(b))
    expected = reference.ttest_rel(a.mean(1), b.mean(1))
    assert found.p == pytest.approx(expected.pvalue, rel=0.02)


def test_effects_that_cancel_between_attacks_are_no_difference_and_no_equivalence():
    """+98 points on one attack, and -38, -29, -23 and -8 on others: each of them beyond doubt."""
    rng = np.random.default_rng(2)
    gaps = (0.98, -0.38, -0.29, -0.23, -0.08)
    a = {f"a{i}": {s: rng.random(100) < 0.5 + g / 2 for s in range(5)} for i, g in enumerate(gaps)}
    b = {f"a{i}": {s: rng.random(100) < 0.5 - g / 2 for s in range(5)} for i, g in enumerate(gaps)}
    found = stats.paired_difference(a, b)
    assert abs(found.value) < 0.05
    assert found.p > 0.5
    assert not stats.equivalent(found, 0.1)
    each = [stats.paired_difference({k: a[k]}, {k: b[k]}).p for k in a]
    assert sum(p < 0.05 for p in stats.holm(each)) >= 3


def test_one_seed_of_one_attack_has_mcnemars_p():
    rng = np.random.default_rng(3)
    a, b = rng.random(60) < 0.8, rng.random(60) < 0.6
    found = stats.paired_difference(one_attack([a]), one_attack([b]))
    assert found.p == stats.mcnemar(a, b)
    gap = a.astype(float) - b
    half = reference.t.ppf(0.975, 59) * gap.std(ddof=1) / np.sqrt(60)
    assert (found.low, found.high) == pytest.approx((gap.mean() - half, gap.mean() + half), rel=0.1)


def test_defenses_that_agree_on_every_picture_have_an_interval():
    same = one_attack(np.ones((3, 200), bool))
    found = stats.paired_difference(same, same)
    assert (found.value, found.p) == (0, 1)
    assert -0.02 < found.low < 0 < found.high < 0.02
    assert stats.equivalent(found, 0.02)
    assert not stats.equivalent(found, 0.001)
    few = one_attack(np.ones((3, 10), bool))
    assert not stats.equivalent(stats.paired_difference(few, few), 0.02), "30 pictures show little"


def test_only_what_both_have_is_compared():
    a = {"x": {0: 1.0, 1: 2.0, 2: 9.0}, "y": {0: 5.0}}
    b = {"x": {0: 0.5, 1: 1.0}, "z": {0: 5.0}}
    assert stats.paired_difference(a, b).value == 0.75
    assert stats.paired_difference({"x": {0: 2.0}}, b) == (1.5, None, None, None, None, None)
    with pytest.raises(ValueError, match="both have"):
        stats.paired_difference({"x": {0: 1.0}}, {"x": {1: 1.0}})
    with pytest.raises(ValueError, match="same number of pictures"):
        stats.paired_difference({"x": {0: [1.0, 2.0]}}, {"x": {0: [1.0]}})


@pytest.mark.parametrize("seed", range(4))
def test_holm_equals_a_loop_and_statsmodels(seed):
    ps = np.random.default_rng(seed).random(7) ** 4
    assert stats.holm(ps) == pytest.approx(multipletests(ps, method="holm")[1])
    slow, left = [0.0] * len(ps), list(range(len(ps)))
    largest = 0.0
    while left:  # reject one after the other, each among those that are left
        least = min(left, key=lambda i: ps[i])
        largest = max(largest, min(1.0, len(left) * ps[least]))
        slow[least] = largest
        left.remove(least)
    assert stats.holm(ps) == pytest.approx(slow)


def test_holm_edges():
    assert stats.holm([]) == []
    assert stats.holm([0.03]) == [0.03]
    assert stats.holm([0.01, 0.01, 0.9]) == pytest.approx([0.03, 0.03, 0.9])


def test_equivalence_and_non_inferiority_are_one_sided_t_tests():
    rng = np.random.default_rng(4)
    outcomes = set()
    for margin, shift in itertools.product((0.3, 0.6, 1.0), (-0.5, 0.0, 0.5)):
        a, b = rng.normal(size=6) * 0.4 + shift, rng.normal(size=6) * 0.4
        found = stats.paired_difference(one_attack(a), one_attack(b))
        above = reference.ttest_1samp(a - b, -margin, alternative="greater").pvalue < 0.05
        below = reference.ttest_1samp(a - b, margin, alternative="less").pvalue < 0.05
        assert stats.equivalent(found, margin) == (above and below)
        assert stats.non_inferior(found, margin, "higher") == above
        assert stats.non_inferior(found, margin, "lower") == below
        outcomes.add((above, below))
    assert len(outcomes) > 1


def test_without_an_interval_nothing_is_shown():
    alone = stats.paired_difference({"x": {0: 1.0}}, {"x": {0: 1.0}})
    assert not stats.equivalent(alone, 1.0)
    assert stats.non_inferior(alone, 1.0, "higher") is None
    with pytest.raises(ValueError, match="higher"):
        stats.non_inferior(alone, 1.0, "up")
