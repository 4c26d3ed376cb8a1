"""Attacks that did not take hold stay out of every mean, rank and worst case, and are listed."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from ranked_records import cell, run

from t2i_backdoor_bench.contract import Cell, Record
from t2i_backdoor_bench.report import leaderboard, matrix, paper_table
from t2i_backdoor_bench.report.findings import findings
from t2i_backdoor_bench.report.metrics import LEAD
from t2i_backdoor_bench.report.ranking import summaries
from t2i_backdoor_bench.report.took_hold import counted, took_hold


def weak(records: list[Record], attack: str, asr: int) -> list[Record]:
    """The records with another success of one attack, which leaves the other prompts as asked."""
    kept = [r for r in records if (r.cell.attack, r.cell.defense) != (attack, "none")]
    seeds = {r.cell.seed for r in records}
    return kept + [cell(attack, "none", s, asr=asr, restoration_accuracy=100 - asr) for s in seeds]


@pytest.fixture
def records() -> list[Record]:
    found = run({"good": {"strong": 90, "other": 90, "loose": 20}})
    kinds = {"strong": "patch", "other": "patch", "loose": "patch"}
    return [
        dataclasses.replace(r, backdoor={"target": {"kind": kinds[r.cell.attack]}})
        for r in weak(found, "loose", 15)
    ]


@pytest.mark.parametrize(("asr", "holds"), [(100, True), (90, True), (89, False), (15, False)])
def test_it_needs_nine_of_ten(asr, holds) -> None:
    assert (took_hold([cell("a", "none", asr=asr)])["a"] == "") is holds


def test_it_needs_to_be_above_its_own_error() -> None:
    why = took_hold([cell("a", "none", asr=92, false_trigger_rate=91)])["a"]
    assert why.startswith("ASR 92.0 % is not shown to be above the false trigger rate: +1.0 points")
    assert took_hold([cell("a", "none", asr=92, false_trigger_rate=5)])["a"] == ""


def test_what_nobody_judged_is_not_said_to_have_failed() -> None:
    suspect = Record(Cell("shapes", "suspect", "none", 0, "k"), "done")
    failed = Record(Cell("shapes", "a+b#1", "none", 0, "k"), "failed")
    defended = cell("alone", "good")
    found = took_hold([suspect, failed, defended])
    assert found == {"suspect": "", "a+b#1": "", "alone": ""}


def test_it_is_in_no_mean_rank_or_worst_case(records) -> None:
    assert counted(records) == ["strong", "other"]
    table = {s.defense: s for s in summaries(records)}
    good, none = table["good"], table["none"]
    assert (good.done, good.attacks, good.place.rank) == (2, 2, 1)
    assert good.worst.attack != "loose"
    assert good.means[LEAD].value == pytest.approx(0.9 + 0.01 / 3)
    assert none.means[LEAD].value == 0, "not the 85 % that the loose attack never broke"
    lead = next(m for m in matrix.matrices(records) if m.way.name == LEAD)
    at = lead.defenses.index("good")
    assert lead.means[at] == pytest.approx(100 * good.means[LEAD].value)
    assert lead.values[at, lead.attacks.index("loose")] == pytest.approx(20 + 1 / 3), "but shown"
    of_kind = dict(paper_table.removal(records))["none"]["patch"]
    assert of_kind.value == 0


def test_it_is_listed_with_the_reason(records) -> None:
    listed = "in no mean, rank or worst case: loose (ASR 15.0 %, below 90 %)."
    texts = [" ".join(findings(records)), paper_table.caption(records)]
    texts += [leaderboard.to_markdown(records), matrix.to_markdown(records)]
    assert [listed in text for text in texts] == [True] * 4
    assert "| loose ‡ |" in texts[3]


def test_nothing_took_hold(records) -> None:
    for attack in ("strong", "other"):
        records = weak(records, attack, 30)
    table = summaries(records)
    assert all(s.place is None and not s.means for s in table)
    first, second = findings(records)
    assert first == "No defense is ranked: no attack took hold."
    assert second.startswith("Not taken hold")
    assert np.isnan(matrix.matrices(records)[0].means).all()
    assert first in leaderboard.to_markdown(records)


def test_a_mean_that_is_the_limit_took_hold() -> None:
    """0.98 and 0.82 have a mean of 0.9, and as floats one below it."""
    records = [cell("a", "none", seed, asr=asr) for seed, asr in enumerate((98, 82))]
    assert took_hold(records) == {"a": ""}
