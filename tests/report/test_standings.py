"""The leaderboard: means and intervals over attacks, ranks among equals, and the sentences."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from report_records import record

from t2i_backdoor_bench.contract import Cell, Record
from t2i_backdoor_bench.report.averages import over_attacks
from t2i_backdoor_bench.report.findings import cells_without_result, findings
from t2i_backdoor_bench.report.metrics import LEAD
from t2i_backdoor_bench.report.ranking import group_of, leaders, summaries
from t2i_backdoor_bench.stats import estimates as stats


@pytest.fixture
def records():
    out = []
    for attack, shift in (("one", 0), ("two", 2)):
        out.append(record(attack, "none", 0, 10 - shift // 2, 0, 1.0))
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


def test_the_undefended_model_is_first_and_means_are_over_attacks(records):
    table = summaries(records)
    assert table[0].defense == "none"
    good = find(records, "good")
    assert good.means[LEAD].value == pytest.approx(0.9)
    assert (good.worst.attack, good.worst.value) == ("two", pytest.approx(0.8))
    assert good.over_none.value == pytest.approx(0.9)
    broken = find(records, "broken")
    assert (broken.done, broken.place) == (1, None)


def test_the_mean_over_attacks_and_its_interval(records):
    good = [r for r in records if r.cell.defense == "good"]
    each = {r.cell.attack: {0: np.array(r.scores[LEAD].each)} for r in good}
    found = over_attacks(good, LEAD)
    assert found == stats.mean_over_attacks(each)
    assert found.value == pytest.approx(0.9)
    assert 0 < found.low < 0.8 < found.high <= 1, "attacks that differ are no certainty"
    assert find(records, "good").means[LEAD] == found


def test_numbers_that_share_prompts_are_averaged_by_attack_and_seed():
    fids = {"one": {0: 1.0, 1: 2.0, 2: 3.0}, "two": {0: 3.0, 1: 4.0, 2: 5.0}}
    records = [record(a, "d", s, 0, 9, f) for a, row in fids.items() for s, f in row.items()]
    found = over_attacks(records, "fid")
    assert found == stats.mean_over_attacks(fids)
    assert found.value == 3.0
    assert over_attacks(records, "seconds").value == 3.0, "a cost, 2 s and the number of the seed"
    assert over_attacks(records[:1], "fid") == (1.0, None, None)
    assert over_attacks(records, "kid") is None


def test_attacks_that_are_equally_strong_have_no_least(records):
    strong = [r for r in records if r.cell.attack == "one"]
    twin = [dataclasses.replace(r, cell=dataclasses.replace(r.cell, attack="twin")) for r in strong]
    assert (
        "of the triggered pictures show the backdoor, with every attack."
        in findings([*strong, *twin])[1]
    )


def test_a_clean_text_encoder_is_a_group_between_blind_and_told():
    found = [record("one", "none", 0, 10, 0, 1.0)]
    found.append(record("one", "lent", 0, 0, 10, 1.0, ("clean_text_encoder", "clean_prompts")))
    found.append(record("one", "blind", 0, 2, 8, 1.0, ("clean_prompts",)))
    table = summaries(found)
    assert {s.defense: s.group for s in table} == {
        "none": "Blind",
        "lent": "Clean text encoder",
        "blind": "Blind",
    }
    assert len(leaders(table)) == 2, "rows of other needs are not ranked against each other"
    assert group_of("trigger clean_text_encoder") == "Trigger known"
    assert group_of("clean_model clean_text_encoder") == "Oracle"


def test_sentences(records):
    first, *others = findings(records)
    assert "given the trigger, none is shown to restore most: good restores 80.0 % [" in first
    assert "under its strongest attack (two), and 90.0 % in the mean over 2 attacks;" in first
    assert first.endswith("not told apart: close (70.0 %, neither tied nor told apart).")
    assert "given the trigger and the clean model, only oracle is ranked: it restores 100.0 %" in (
        " ".join(others)
    )
    text = " ".join(others)
    assert (
        "Without a defense 95.0 % of the triggered pictures show the backdoor, least with two"
        " (90.0 %)." in text
    )
    assert "Not taken hold" not in text
    weak = [record("weak", "none", 0, 2, 8, 1.0)]
    assert "Not taken hold" in " ".join(findings(weak))


def test_troubles_name_the_cell_and_the_last_line():
    cell = Cell("shapes", "a", "b", 3, "k")
    failed = Record(cell, "failed", error="Traceback\n  somewhere\nRuntimeError: it broke\n")
    missing = Record(cell, "missing")
    assert cells_without_result([failed, missing]) == [
        ("a x b, seed 3", "RuntimeError: it broke"),
        ("a x b, seed 3", "has not run yet"),
    ]
