"""Who is named first, the same wherever one is named, or why nobody is."""

from __future__ import annotations

import dataclasses

import pytest
from ranked_records import cell, run

from t2i_backdoor_bench.contract import Record, UserError
from t2i_backdoor_bench.report import leaderboard, main_table, matrix
from t2i_backdoor_bench.report.findings import findings
from t2i_backdoor_bench.report.formats import escape
from t2i_backdoor_bench.report.html import page
from t2i_backdoor_bench.report.ranking import summaries, winner
from t2i_backdoor_bench.report.rows import rows
from t2i_backdoor_bench.store.folder import Store

AB = ("a", "b")


def of(values: dict[str, int]) -> dict[str, dict[str, int]]:
    return {d: dict.fromkeys(AB, k) for d, k in values.items()}


def reasons(records: list[Record]) -> dict[str, list[str]]:
    return {s.defense: [r.short for r in s.reasons] for s in summaries(records)}


def test_the_same_winner_in_all_places(tmp_path) -> None:
    records = run(of({"best": 95, "second": 60}))
    named = winner(records).winner
    assert named.defense == "best"
    text = findings(records)[0]
    assert text.startswith("Of the ranked defenses given the trigger, best restores most: 95.3 % [")
    board = leaderboard.to_markdown(records)
    assert escape.markdown(text) in board
    assert board.index("| 1 | best |") < board.index("| 2 | second |")
    html = page.render_report(Store(tmp_path), records)
    assert f'<p class="headline">{text}</p>' in html


@pytest.mark.parametrize(
    ("second", "said"),
    [
        ({"a": 95, "b": 95}, "second (95.3 %, tied within 2 points)"),
        ({"a": 60, "b": 100}, "second (60.3 %, differs on 2 of 2 attacks)"),
        ({"a": 94, "b": 94}, "second (94.0 %, neither tied nor told apart)"),
    ],
)
def test_no_winner_where_the_second_is_not_told_apart(second, said) -> None:
    first = {"a": 100, "b": 61} if 60 in second.values() else {"a": 95, "b": 95}
    seeds = (0,) if 94 in second.values() else (0, 1, 2)
    records = run({"best": first, "second": second}, seeds=seeds)
    found = winner(records)
    assert found.winner is None
    assert [s.defense for s in found.rows] == ["best", "second"]
    text = findings(records)[0]
    assert "none is shown to restore most: best restores" in text
    assert text.endswith(f"not told apart: {said}.")
    assert escape.markdown(text) in leaderboard.to_markdown(records)


def test_a_row_that_does_nothing_has_no_rank() -> None:
    records = run(of({"idle": 0, "good": 90}))
    for r in records:
        if r.cell.defense == "idle":
            r.scores |= cell(r.cell.attack, "none", r.cell.seed).scores
    assert reasons(records)["idle"] == ["no better than none"]
    assert winner(records).winner.defense == "good"
    assert "only good is ranked" in findings(records)[0]
    alone = [r for r in records if r.cell.defense != "good"]
    assert findings(alone)[0] == "No defense is ranked: no better than none."


def test_a_row_that_does_nothing_under_one_attack_has_no_rank() -> None:
    """A mean over attacks would hide it: nothing is restored of one of them."""
    records = run({"half": {"a": 95, "b": 95, "c": 0}, "good": {"a": 60, "b": 60, "c": 60}})
    assert reasons(records)["half"] == ["no better than none at its worst"]
    assert winner(records).winner.defense == "good"


def test_without_an_undefended_model_nothing_is_ranked() -> None:
    records = [r for r in run(of({"good": 90})) if r.cell.defense != "none"]
    assert reasons(records) == {"good": ["not compared"]}


def test_lost_quality_has_no_rank_and_is_said() -> None:
    records = run(of({"good": 90}), clip_score=20.0)
    assert reasons(records)["good"] == ["quality lost"]
    assert "quality lost: CLIP of a, CLIP of b" in leaderboard.to_markdown(records)
    assert findings(records)[0] == "No defense is ranked: quality lost."


def test_a_missing_or_failed_cell_has_no_rank() -> None:
    records = run(of({"good": 90, "other": 80}))
    at = next(i for i, r in enumerate(records) if r.cell.defense == "good")
    for status in ("failed", "missing"):
        records[at] = dataclasses.replace(records[at], status=status, scores={})
        assert reasons(records)["good"][0] == "not done on every attack"
        assert winner(records).winner.defense == "other"


def test_equal_needs_exactly() -> None:
    """Clean pairs and a stream are other things, though both are blind; rows with other needs have
    places of their own."""
    needs = {"pairs": ("clean_pairs",), "watch": ("stream",), "told": ("trigger", "clean_model")}
    records = run(of({"pairs": 50, "watch": 70, "told": 99}), needs)
    places = {s.defense: s.place and s.place.text for s in summaries(records)}
    assert places == {"none": None, "pairs": "1", "watch": "1", "told": "1"}
    assert winner(records).winner.defense == "watch", "nobody has the model before the attack"
    titles = [line for line in leaderboard.to_markdown(records).splitlines() if line[:3] == "## "]
    assert titles == [
        "## Oracle: given the trigger and the clean model",
        "## Blind: given clean pairs",
        "## Blind: given a stream of prompts",
    ]
    only = [r for r in records if r.cell.defense in ("none", "told")]
    assert winner(only).winner.defense == "told"


def test_as_good_with_less_given_is_named() -> None:
    needs = {"watch": ("stream",)}
    records = run(of({"told": 95, "watch": 95}), needs)
    assert winner(records).winner.defense == "watch"
    records = run(of({"told": 95, "watch": 80}), needs)
    assert winner(records).winner.defense == "told"


def test_no_verdict_where_the_base_draws_most_prompts_wrong() -> None:
    """The model before the attack shows 3 % of the prompts as asked: nothing can be restored."""
    low = {"fidelity_before": 3, "prompt_fidelity": 3}
    records = run(of({"good": 2}), undefended=low, removal_accuracy=93, prompt_fidelity=3)
    text = " ".join(findings(records))
    assert text.startswith("No defense is ranked: no verdict.")
    assert "removes the backdoor" not in text
    board = leaderboard.to_markdown(records)
    assert "no verdict below 50 %: the model before the attack draws 3 % of the prompts" in board


@pytest.mark.parametrize(
    ("before", "restored", "is_said"),
    [(98, 55, True), (98, 90, False), (60, 55, False), (60, 10, True), (40, 5, False)],
)
def test_removal_that_is_no_repair_is_told_from_a_low_ceiling(before, restored, is_said) -> None:
    """Of 60 pictures in 100 that the base draws as asked, 55 restored are a repair and 10 are
    none; below 50 there is no verdict."""
    relative = round(100 * restored / before)
    records = run(
        of({"good": restored}),
        undefended={"fidelity_before": before},
        removal_accuracy=98,
        restored_relative=relative,
    )
    said = [text for text in findings(records) if text.startswith("good removes the backdoor")]
    assert bool(said) is is_said
    if said:
        assert f"{relative}.0 % relative to the model before the attack" in said[0]


def test_no_verdict_without_a_known_ceiling() -> None:
    records = run(of({"good": 10}), undefended={"prompt_fidelity": None}, removal_accuracy=98)
    assert not any("removes the backdoor" in text for text in findings(records))


def test_restored_stands_beside_what_it_can_reach() -> None:
    records = run(
        of({"good": 90}),
        undefended={"fidelity_before": 95},
        fidelity_before=95,
        restored_relative=94,
    )
    board = leaderboard.to_markdown(records)
    assert (
        "| Restored % | Worst % | Worst attack | fidelity_before % | restored_relative % |" in board
    )
    assert "94.0 %" in findings(records)[0]


def test_a_judge_that_disagrees_with_the_pixels_is_marked() -> None:
    records = run(of({"good": 90, "other": 50}))
    for r in records:
        if (r.cell.attack, r.cell.defense) == ("a", "good"):
            r.scores |= cell("a", "good", judge_agreement=97, restoration_accuracy=90).scores
    main, board, grid = (
        main_table.main_table(records),
        leaderboard.to_markdown(records),
        (matrix.to_markdown(records)),
    )
    texts = {
        row.cells[0].text + row.cells[1].text: [c.text for c in row.cells] for row in main.rows
    }
    assert "90.0†" in texts["agood"]
    assert not any("†" in text for name, row in texts.items() if name != "agood" for text in row)
    assert main.notes[0].startswith("†: a judge disagrees")
    assert "| good | trigger | 90.0† |" in grid
    assert "† [" in board
    for text in (board, grid):
        assert "†: a judge disagrees with what rules read from the pixels in more than 2 %" in text
    clean = run(of({"good": 90}), judge_agreement=98)
    assert "†" not in leaderboard.to_markdown(clean) + matrix.to_markdown(clean)


def test_records_of_two_protocols_are_refused() -> None:
    records = run(of({"good": 90}))
    new = dataclasses.replace(records[0], protocol=records[0].protocol | {"protocol": 2})
    for function in (rows, summaries):
        with pytest.raises(UserError, match="protocols 1 and 2 cannot stand in one table"):
            function([new, *records[1:]])
    missing = dataclasses.replace(new, status="missing", scores={})
    assert rows([missing, *records[1:]])
