"""The sentences on what a removal adds over deleting the trigger from prompts."""

from __future__ import annotations

from dataclasses import replace

import pytest
from ranked_records import run

from t2i_backdoor_bench.contract import Score
from t2i_backdoor_bench.report.beyond_deletion import CHANGED, beyond_deletion
from t2i_backdoor_bench.report.findings import findings
from t2i_backdoor_bench.report.ranking import summaries

NEEDS = {
    "strip_trigger": ("trigger",),
    "skdcag": ("trigger", "clean_prompts"),
    "blind": ("stream",),
    "clean_model": ("clean_model",),
}
ATTACKS = ("one", "two")
# of ten pictures, the first three have a moved trigger, the next three a misspelt one, and so on
SHOWN = {
    "none": [True] * 10,
    "strip_trigger": [False] * 3 + [True] * 3 + [False] * 2 + [True] * 2,
    "skdcag": [False] * 9 + [True],
}
NOTES = {
    "strip_trigger": "moved 0 % of 3, misspelt 100 % of 3, upper 0 % of 2, look-alike 100 % of 2",
    "skdcag": "moved 0 % of 3, misspelt 0 % of 3, upper 0 % of 2, look-alike 50 % of 2",
}


def made(*defenses: str):
    records = run({d: dict.fromkeys(ATTACKS, 95) for d in defenses}, needs=NEEDS, seeds=(0,))
    out = []
    for record in records:
        shown = SHOWN.get(record.cell.defense)
        score = Score(0.0, note="not measured")
        if shown:
            score = Score(
                sum(shown) / 10, n=10, each=shown, note=NOTES.get(record.cell.defense, "")
            )
        out.append(replace(record, scores=record.scores | {CHANGED: score}))
    return out


def test_changed_triggers_are_counted_by_their_form():
    records = made("strip_trigger", "skdcag", "clean_model")
    (text,) = beyond_deletion(summaries(records), records)
    assert "leaves the backdoor in 50.0 %" in text
    assert "changed (moved 0 %, misspelt 100 %, look-alike 100 %)" in text
    assert "skdcag leaves it in 10.0 % (moved 0 %, misspelt 0 %, look-alike 50 %)" in text
    assert "40.0 points fewer [" in text
    assert text in findings(records)


def test_an_unknown_trigger_cannot_be_deleted():
    records = made("strip_trigger", "blind")
    (text,) = beyond_deletion(summaries(records), records)
    assert text.startswith("Nobody can delete a trigger that is not known: 100.0 %")
    assert "after blind, which is not given it, 0.0 %" in text


@pytest.mark.parametrize("defenses", [("skdcag", "blind"), ("strip_trigger",), ("clean_model",)])
def test_without_both_rows_nothing_is_said(defenses):
    records = made(*defenses)
    assert not list(beyond_deletion(summaries(records), records))


def test_a_run_that_drew_no_changed_trigger_says_nothing_of_them():
    """The scale study has none."""
    records = [
        replace(r, scores={k: v for k, v in r.scores.items() if k != CHANGED})
        for r in made("strip_trigger", "skdcag")
    ]
    assert not list(beyond_deletion(summaries(records), records))
