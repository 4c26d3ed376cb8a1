"""The leaderboard: means and intervals over attacks, ranks among equals, and the sentences."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from report_records import record

from t2i_backdoor_bench.contract import Cell, Record
from t2i_backdoor_bench.report.averages import average, average_by_seed
from t2i_backdoor_bench.report.findings import cells_without_result, findings
from t2i_backdoor_bench.report.metrics import LEAD
from t2i_backdoor_bench.report.ranking import summaries
from t2i_backdoor_bench.report.rows import rows as rows_of
from t2i_backdoor_bench.stats import estimates as stats


@pytest.fixture
def records():
    out = []
    for attack, shift in (("one", 0), ("two", 2)):
        out.append(record(attack, "none", 0, 10 - shift, 0, 1.0))
        out.append(record(attack, "good", 0, 0, 10 - shift, 1.1, ("trigger",)))
        out.append(record(attack, "close", 0, 1, 9 - shift, 1.0, ("trigger",)))
        out.append(record(attack, "noise", 0, 0, 0, 9.0, ("trigger",)))
        out.append(record(attack, "oracle", 0, 0, 10, 1.0, ("trigger", "clean_model")))
        out.append(
            record(
                attack,
                "broken",
                0,
                0,
                10,
                1.0,
                ("trigger",),
                status="done" if attack == "one" else "failed",
            )
        )
    return out


def find(records, defense):
    return next(s for s in summaries(records) if s.defense == defense)


def test_the_mean_over_attacks_and_its_interval(records):
    rows = [r for r in rows_of(records) if r["defense"] == "good"]
    found = average(rows, "restoration_accuracy")
    (l1, u1), (l2, u2) = stats.wilson(10, 10), stats.wilson(8, 10)
    assert found.value == pytest.approx(0.9)
    assert found.low == pytest.approx(0.9 - np.hypot(1.0 - l1, 0.8 - l2) / 2)
    assert found.high == pytest.approx(0.9 + np.hypot(u1 - 1.0, u2 - 0.8) / 2)


def test_the_interval_covers():
    """Of the mean of two proportions, as often as it says (MOVER on Wilson intervals, 40 trials
    each)."""
    rng, p, n, hits = np.random.default_rng(0), (0.95, 0.6), 40, 0
    rounds = 2000
    for a, b in zip(rng.binomial(n, p[0], rounds), rng.binomial(n, p[1], rounds), strict=True):
        rows = []
        for k in (a, b):
            low, high = stats.wilson(k, n)
            rows.append({"x": k / n, "x_lo": low, "x_hi": high})
        found = average(rows, "x")
        hits += found.low <= np.mean(p) <= found.high
    assert 0.935 <= hits / rounds <= 0.985


def test_numbers_that_share_prompts_are_averaged_by_seed():
    records = [record("one", "d", s, 0, 9, f) for s, f in enumerate((1.0, 2.0, 3.0))]
    records += [record("two", "d", s, 0, 9, f) for s, f in enumerate((3.0, 4.0, 5.0))]
    found = average_by_seed(records, "fid")
    assert found == stats.pool_values([2.0, 3.0, 4.0])
    records.pop()  # the last seed now lacks an attack: a mean over other attacks does not count
    assert average_by_seed(records, "fid") == stats.pool_values([2.0, 3.0])
    apart = [record("one", "d", 0, 0, 9, 1.0), record("two", "d", 1, 0, 9, 3.0)]
    assert average_by_seed(apart, "fid") is None, (
        "no seed has both attacks, and their difference is none between seeds"
    )


def test_quality_is_not_compared_with_another_attacked_model():
    def of(weights, found):
        return dataclasses.replace(found, provenance={"attack_weights": weights})

    base = [of("11", record("one", "none", s, 10, 0, f)) for s, f in enumerate((1.0, 1.1))]
    same = [of("11", record("one", "d", s, 0, 9, 9.0, ("trigger",))) for s in (0, 1)]
    other = [of("22", r) for r in same]
    assert "FID of one" in find(base + same, "d").lost
    assert find(base + other, "d").lost is None, "not measured"
    assert find(base + other, "d").rank is not None


def test_ranks_are_among_those_with_the_same_needs(records):
    ranks = {s.defense: s.rank for s in summaries(records)}
    assert ranks == {"none": None, "good": 1, "close": 2, "noise": 3, "oracle": 1, "broken": None}
    assert next(s.defense for s in summaries(records)) == "none"
    assert find(records, "close").tied
    assert not find(records, "noise").tied
    assert not find(records, "good").tied
    assert find(records, "broken").done == 1
    assert find(records, "good").worst == ("two", 0.8)


def test_a_tie_is_what_the_paired_test_does_not_tell_apart(records):
    """Six of twenty prompts that one restores and the other does not, and none the other way: the
    intervals meet, McNemar's p is 0.03."""
    records += [
        record(attack, "behind", 0, 3, 7 - shift, 1.0, ("trigger",))
        for attack, shift in (("one", 0), ("two", 2))
    ]
    first, behind = (find(records, "good").means[LEAD], find(records, "behind").means[LEAD])
    assert behind.high > first.low
    assert find(records, "behind").rank == 3
    assert not find(records, "behind").tied


def test_attacks_that_are_equally_strong_have_no_least(records):
    strong = [r for r in records if r.cell.attack == "one"]
    twin = [dataclasses.replace(r, cell=dataclasses.replace(r.cell, attack="twin")) for r in strong]
    assert (
        "of the triggered pictures show the backdoor, with every attack."
        in findings([*strong, *twin])[0]
    )


def test_sentences(records):
    text = " ".join(findings(records))
    assert (
        "Without a defense 90.0 % of the triggered pictures show the backdoor, least with two"
        " (80.0 %)." in text
    )
    assert "Given the trigger, good restores 90.0 %" in text
    assert "not separated from it: close." in text
    assert "Given the trigger and the clean model, oracle restores 100.0 %" in text
    assert (
        "noise removes the backdoor from 100.0 % of the triggered pictures, but only 0.0 % show"
        " what was asked for." in text
    )
    assert "Not taken hold" not in text
    weak = [record("weak", "none", 0, 2, 8, 1.0)]
    assert "Not taken hold: weak" in " ".join(findings(weak))


def test_troubles_name_the_cell_and_the_last_line():
    cell = Cell("shapes", "a", "b", 3, "k")
    failed = Record(cell, "failed", error="Traceback\n  somewhere\nRuntimeError: it broke\n")
    missing = Record(cell, "missing")
    assert cells_without_result([failed, missing]) == [
        ("a x b, seed 3", "RuntimeError: it broke"),
        ("a x b, seed 3", "has not run yet"),
    ]
