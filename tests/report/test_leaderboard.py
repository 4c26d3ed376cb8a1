"""leaderboard.md: its columns, and what it says beside the tables."""

from __future__ import annotations

import dataclasses

import pytest
from ranked_records import cell, run

from t2i_backdoor_bench.contract import Record, Score
from t2i_backdoor_bench.report import leaderboard, texts


@pytest.fixture
def records() -> list[Record]:
    needs = {"told": ("trigger", "clean_model"), "blind_one": ("stream",)}
    restored = {"best": 95, "worse": 60, "told": 97, "blind_one": 30}
    found = run({d: {"bad_pixel": k, "bad_style": k} for d, k in restored.items()}, needs)
    for r in found:
        fid = 1.0 + 0.02 * r.cell.seed if r.cell.defense == "none" else 1.02
        r.scores["fid"] = Score(fid, n=100, network="net")
    return found


def lines(text: str) -> dict[str, dict[str, str]]:
    """The rows of all tables by defense and heading."""
    found, heads = {}, []
    for line in text.splitlines():
        cells = [c.strip() for c in line.strip("|").split("|")]
        if line.startswith("| | Defense"):
            heads = cells
        elif line.startswith("| "):
            found[cells[1]] = dict(zip(heads, cells, strict=True))
    return found


def test_its_columns(records) -> None:
    rows = lines(leaderboard.to_markdown(records))
    best, worse = rows["best"], rows["worse"]
    assert [best[""], worse[""], rows["told"][""], rows["blind_one"][""]] == ["1", "2", "1", "1"]
    assert best["Restored %"].startswith("95.3 [")
    assert best["Worst %"].startswith("95.3 [")
    assert best["Worst attack"] == "bad_pixel"
    assert best["FID change %"].startswith("+0.0 ["), "1.02 against 1.00, 1.02 and 1.04"
    assert (best["Step points"], best["p"], best["Differs"]) == ("–", "", "")
    assert worse["Step points"].startswith("-35.0 [")
    assert worse["Differs"] == "2 of 2"
    assert rows["told"]["Needs"] == "trigger, clean model"
    assert "Robustness change points" not in best


def test_robustness_is_told_with_its_interval_and_decides_nothing(records) -> None:
    for r in records:
        k = 95 if r.cell.defense == "none" else 70 + r.cell.seed
        r.scores |= {
            "robustness": cell(r.cell.attack, "x", r.cell.seed, robustness=k).scores["robustness"]
        }
    best = lines(leaderboard.to_markdown(records))["best"]
    assert best["Robustness change points"].startswith("-24.0 [")
    assert best[""] == "1"


def test_the_notes_say_what_was_tested(records) -> None:
    text = leaderboard.to_markdown(records)
    assert "prompt fidelity by less than 5.0 points, CLIP by less than 0.300)" in text
    assert "shown to differ by less than 2 points" in text
    assert "One training seed" not in text
    one = leaderboard.to_markdown([r for r in records if r.cell.seed == 0])
    assert "One training seed: the intervals and tests know nothing of training anew." in one
    for r in records:
        r.scores.pop("clip_score"), r.scores.pop("prompt_fidelity")
    assert "quality was not measured, and nothing is ranked" in leaderboard.to_markdown(records)


@pytest.mark.parametrize(
    ("kept", "line"),
    [
        (("fid", "clip_score"), "Undefended: FID 1.02, CLIP 23.0."),
        (("clip_score",), "Undefended: CLIP 23.0."),
        ((), None),
    ],
)
def test_metrics_that_were_not_asked_for_are_not_missed(records, kept, line) -> None:
    for result in records:
        for name in {"fid", "clip_score"} - set(kept):
            del result.scores[name]
    text = leaderboard.to_markdown(records)
    said = [t for t in text.splitlines() if t.startswith("Undefended")]
    assert said == ([line] if line else [])
    assert ("| FID change % |" in text) == ("fid" in kept)


def test_no_leaderboard_of_attacks_alone(records, tmp_path) -> None:
    alone = [r for r in records if r.cell.defense == "none"]
    path = tmp_path / "leaderboard.md"
    assert path not in texts.write(alone, tmp_path)
    assert path in texts.write(records, tmp_path)
    assert path not in texts.write(alone, tmp_path)
    assert not path.exists(), "not that of an earlier plan"


def test_one_attack_and_one_seed(records) -> None:
    few = [r for r in records if (r.cell.seed, r.cell.attack) == (0, "bad_pixel")]
    rows = lines(leaderboard.to_markdown(few))
    assert rows["best"][""] == "1"
    assert rows["worse"]["p"] == "&lt; 1e-6"
    renamed = [
        dataclasses.replace(r, cell=dataclasses.replace(r.cell, attack="a+b#1")) for r in few
    ]
    assert lines(leaderboard.to_markdown(renamed))["best"]["Worst attack"] == "a+b\\#1"
