"""Differences of fixed attacks with one training seed: what is drawn anew are prompts and noise."""

import numpy as np
import pytest
from scipy import stats as reference

from t2i_backdoor_bench.stats.crossed import crossed_mean
from t2i_backdoor_bench.stats.paired import paired_difference

ROUNDS = 400


def drawn(rng, attacks, n):
    """Pictures that are right in 90 %, where the attacks of a seed share how hard a prompt is."""
    hard = 0.15 * rng.standard_normal(n)
    return {f"a{i}": {0: rng.random(n) < 0.9 + hard} for i in range(attacks)}


@pytest.mark.parametrize("attacks", [1, 2, 6])
def test_the_interval_covers(attacks):
    rng, hits = np.random.default_rng(attacks), 0
    for _ in range(ROUNDS):
        found = paired_difference(drawn(rng, attacks, 60), drawn(rng, attacks, 60), True)
        hits += found.low <= 0 <= found.high
    assert hits / ROUNDS >= 0.93


def test_it_is_the_paired_t_test_of_each_prompts_mean():
    rng = np.random.default_rng(0)
    ours, theirs = ({f"a{i}": {0: rng.random(40)} for i in range(3)} for _ in range(2))
    found = paired_difference(ours, theirs, True)
    a, b = (np.mean([v[0] for v in side.values()], 0) for side in (ours, theirs))
    expected = reference.ttest_rel(a, b)
    assert found.p == pytest.approx(expected.pvalue)
    ends = expected.confidence_interval()
    assert (found.low, found.high) == pytest.approx((ends.low, ends.high))


def test_other_numbers_of_pictures_are_independent():
    rng = np.random.default_rng(1)
    a, b = rng.random(30), rng.random(50)
    found = crossed_mean({"a": {0: a}, "b": {0: b}}, attacks_fixed=True)
    assert found.variance == pytest.approx((a.var(ddof=1) / 30 + b.var(ddof=1) / 50) / 4)
    assert found.df == 29


def test_one_number_a_cell_has_no_variance():
    found = crossed_mean({"a": {0: 1.0}, "b": {0: 3.0}}, attacks_fixed=True)
    assert (found.value, found.variance) == (2.0, None)
