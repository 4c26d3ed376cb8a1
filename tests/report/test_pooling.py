"""Scores of several seeds as one score: what kind of interval each has, and what its note says."""

import numpy as np
import pytest
from report_records import record, share

from t2i_backdoor_bench.contract import Score
from t2i_backdoor_bench.report.main_table import caption
from t2i_backdoor_bench.report.pooling import ONE_SEED, pool
from t2i_backdoor_bench.report.rows import rows
from t2i_backdoor_bench.stats import estimates as stats


def test_one_seed_says_that_it_is_one():
    alone = share(7)
    found = pool([alone])
    assert (found.value, found.low, found.high) == (0.7, *stats.wilson(7, 10))
    assert found.note == ONE_SEED
    assert "1 of 2 seeds" in pool([alone, Score(None)]).note
    assert ONE_SEED in pool([alone, Score(None)]).note
    assert pool([alone, share(6)]).note == ""


def test_each_kind_of_score_has_its_interval():
    rng = np.random.default_rng(0)
    flags = [Score(0.9, each=(rng.random(50) < 0.9).tolist()) for _ in range(3)]
    numbers = [Score(float(v.mean()), each=v.tolist()) for v in rng.random((3, 50))]
    alone = [Score(v) for v in (0.97, 0.99, 0.92)]
    for scores, shares, expected in (
        (flags, False, stats.pool_proportion([s.each for s in flags])),
        (numbers, False, stats.pool_mean([s.each for s in numbers])),
        (numbers, True, stats.pool_proportion([s.each for s in numbers])),
        (alone, False, stats.pool_values([s.value for s in alone])),
        (alone, True, stats.pool_values([s.value for s in alone], share=True)),
    ):
        found = pool(scores, shares)
        assert (found.value, found.low, found.high) == pytest.approx(tuple(expected))
    assert pool(alone).high > 1 >= pool(alone, True).high
    assert pool([Score(1.2), Score(0.9)], True).value == pytest.approx(1.05), "no share after all"


def test_an_area_under_the_curve_ends_at_one():
    """It is no percentage, but from 0 to 1; and three perfect detectors are not certain to be."""
    records = [record("bad", "screen", seed, 0, 9, 1.0) for seed in range(3)]
    for r, area in zip(records, (0.97, 0.99, 0.92), strict=True):
        r.scores["detection_auroc"] = Score(area, area - 0.02, 1.0, 20)
        r.directions = r.directions | {"detection_auroc": {"better": "higher", "percent": False}}
    (row,) = rows(records)
    assert row["detection_auroc_lo"] < 0.92 < 0.96 < row["detection_auroc_hi"] <= 1
    for r in records:
        r.scores["detection_auroc"] = Score(1.0, 0.97, 1.0, 20)
    (row,) = rows(records)
    low = 1 - 0.03 / np.sqrt(3)
    assert (row["detection_auroc_lo"], row["detection_auroc_hi"]) == pytest.approx((low, 1.0))


def test_the_caption_says_what_the_intervals_know():
    one = [record("bad", "none", 0, 9, 1, 1.0)]
    assert "do not say how another training would turn out" in caption(one)
    assert "Student's t between training seeds" in caption(
        [*one, record("bad", "none", 1, 9, 1, 1)]
    )
