"""The study of SKD-CAG: its questions can be planned as runs, and its page has every table."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import sentences
import skdcag_questions as questions
import study_page as page
from helpers import load_script

from t2i_backdoor_bench.contract import Record, Score
from t2i_backdoor_bench.contract import names as naming
from t2i_backdoor_bench.running.plan import plan
from t2i_backdoor_bench.stats.estimates import paired_difference
from t2i_backdoor_bench.store.folder import Store

ROOT = Path(__file__).parents[2]
study = load_script(ROOT / "benchmarks" / "skdcag_study.py")


@pytest.mark.parametrize("name", questions.QUESTIONS)
def test_every_question_is_a_run_of_equal_budgets(name: str, tmp_path: Path) -> None:
    question = questions.QUESTIONS[name]
    assert (
        len(set(question.variants))
        == len(question.variants)
        == len(set(map(question.name, range(len(question.variants)))))
    )
    for attack in question.attacks:
        made = plan(study.config(attack, question.variants, tmp_path))
        assert len({c.key for c in made.cells}) == 3 * (1 + len(question.variants)), (
            "no two variants are one cell under two names"
        )
        rows = {d: parts[0].instance for d, parts in made.defenses.items() if d != "none"}
        seen = {
            d: (
                (8 if hasattr(m, "preserve") and m.preserve else 16 if hasattr(m, "batch") else 1)
                * m.steps
            )
            for d, m in rows.items()
        }
        if name not in ("steps", "preserve"):
            assert len(set(seen.values())) == 1, f"triggered rows differ: {seen}"
    if question.paired:
        pairs = list(zip(question.variants[::2], question.variants[1::2], strict=True))
        for skd, skdcag in pairs:
            assert (naming.read(skd)[0], naming.read(skdcag)[0]) == ("skd", "skdcag")
            assert naming.read(skd)[1] | {"alpha": str(questions.ALPHA)} == naming.read(skdcag)[1]


def test_skd_and_skdcag_differ_in_alpha_alone(tmp_path: Path) -> None:
    parts = plan(study.config("badt2i_style", [questions.SKD, questions.CAG], tmp_path)).defenses
    skd, skdcag = (vars(parts[name][0].instance) for name in (questions.SKD, questions.CAG))
    assert {k for k in skd if skd[k] != skdcag[k]} == {"alpha"}
    assert skd["alpha"] == 0 < skdcag["alpha"]


def test_tables_hold_the_records_and_their_tests(tmp_path: Path) -> None:
    question, store = questions.QUESTIONS["targets"], Store(tmp_path)
    made = plan(study.config("badt2i_style", question.variants, tmp_path))
    for cell in made.cells[: 1 + len(question.variants)]:  # seed 0 alone
        good = [True] * 30 + [cell.defense == questions.SKD] * 10
        shares = {
            "removal_accuracy": good,
            "restoration_accuracy": good,
            "false_trigger_rate": [False] * 40,
        }
        scores = {m: Score(sum(v) / 40, 0.1, 0.9, 40, "", "", v) for m, v in shares.items()}
        scores |= {m: Score(1.5, None, None, 40, "", "") for m in ("fid", "clip_score")}
        directions = {m: {"better": "higher", "percent": m in shares} for m in scores}
        store.write_result(Record(cell, "done", scores=scores, directions=directions))
    text = page.markdown(question, "badt2i_style", page.Study(store, "cpu", study.config))
    rows = [line for line in text.splitlines() if line.startswith("| `")]
    assert [re.match(r"\| `(.+?)` \|", row)[1] for row in rows] == ["none", *question.variants]
    assert "| 100.0 [" in rows[1]
    assert rows[1].endswith("|  |  |"), "the control has no test"
    assert rows[2].endswith("| 0.002 |"), (
        "ten prompts of forty differ, all in one direction: p = 2 / 2^10"
    )
    assert "| -25.0 [" in rows[2], "in points, with its interval"


def cells_of(shares: dict[str, tuple[float, ...]]):
    """By name, bools of 40 pictures for each seed."""
    return {
        name: {
            "an_attack": {
                seed: [i < round(40 * share) for i in range(40)] for seed, share in enumerate(of)
            }
        }
        for name, of in shares.items()
    }


@pytest.mark.parametrize(
    ("one", "said"),
    [
        ((0.9, 0.9, 0.9), "`a` is ahead of `b` by 40.0 points"),
        ((0.1, 0.1, 0.1), "`b` is ahead of `a` by 40.0 points"),
        ((0.9, 0.1, 0.5), "no difference between `a` and `b` is shown"),
    ],
)
def test_a_sentence_is_no_stronger_than_its_interval(one, said) -> None:
    cells = cells_of({"a": one, "b": (0.5, 0.5, 0.5)})
    found = paired_difference(cells["a"], cells["b"])
    assert sentences.compared("`a`", "`b`", found).startswith(said)


def test_one_number_alone_is_not_compared() -> None:
    found = paired_difference({"x": {0: 0.9}}, {"x": {0: 0.1}})
    assert sentences.compared("`a`", "`b`", found).startswith("there is no interval")


def test_the_page_has_a_place_for_every_table() -> None:
    text = (ROOT / "docs" / "skdcag.md").read_text(encoding="utf-8")
    for name in questions.QUESTIONS:
        assert re.search(rf"<!-- {name} -->\n.*?<!-- end -->", text, re.S), name
