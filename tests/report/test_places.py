"""Places: what is told apart, what is a tie, and what is neither."""

from __future__ import annotations

import numpy as np
import pytest
from ranked_records import cell, run

from t2i_backdoor_bench.contract import Record
from t2i_backdoor_bench.report.metrics import LEAD
from t2i_backdoor_bench.report.numbers import p_text
from t2i_backdoor_bench.report.places import APART, MIXED, OPEN, TIE, places
from t2i_backdoor_bench.report.ranking import summaries
from t2i_backdoor_bench.stats import estimates as stats

ATTACKS = ("a", "b", "c", "d", "e")


def of(values: dict[str, list[int]]) -> dict[str, dict[str, int]]:
    return {d: dict(zip(ATTACKS, ks, strict=False)) for d, ks in values.items()}


def placed(records: list[Record]) -> dict[str, str]:
    return {s.defense: s.place.text for s in summaries(records) if s.place}


def test_opposite_effects_are_no_tie() -> None:
    """Each restores 60 under the attack that is its worst. These are two attacks, and all five tell
    the rows apart."""
    records = run(of({"first": [60, 98, 98, 98, 98], "second": [98, 60, 69, 75, 90]}))
    found = {s.defense: s for s in summaries(records) if s.place}
    second = found["second"]
    step = second.place.step
    assert (found["first"].worst.attack, second.worst.attack) == ("a", "b")
    assert found["first"].worst.value == pytest.approx(second.worst.value)
    assert step.difference.value == pytest.approx(0, abs=0.005)
    assert (step.verdict, step.differs, step.attacks) == (MIXED, 5, 5)
    assert placed(records) == {"first": "1", "second": "2 (mixed)"}


def test_the_four_verdicts() -> None:
    many = range(10)  # a tie of one attack is shown by many seeds
    records = run(of({"best": [95] * 5, "like": [94] * 5, "worse": [60] * 5}), seeds=many)
    assert placed(records) == {"best": "1", "like": "1 (tie)", "worse": "3"}
    spread = [cell("a", "open", s, restoration_accuracy=k) for s, k in enumerate((50, 65, 60))]
    records = [*run(of({"best": [62]})), *spread]
    assert placed(records) == {"best": "1", "open": "2 (open)"}, "three seeds that disagree"


def test_a_tie_is_with_all_that_share_the_rank() -> None:
    """Each is within the margin of the row above it; the third is not within it of the first."""
    records = run(of({f"d{i}": [95 - i] * 5 for i in range(4)}), seeds=range(10))
    assert placed(records) == {"d0": "1", "d1": "1 (tie)", "d2": "3 (open)", "d3": "3 (tie)"}
    above = [s.place.step.above for s in summaries(records) if s.place and s.place.step]
    assert above == ["d0", "d1", "d2"]


def test_p_is_the_larger_of_two_tests_with_holms_correction() -> None:
    rng = np.random.default_rng(0)
    cells = {}
    for defense, share in (("x", 80), ("y", 74), ("z", 60)):
        cells[defense] = [
            cell("a", defense, s, restoration_accuracy=int(share + rng.integers(-2, 3)))
            for s in range(5)
        ]
    found = places(["x", "y", "z"], cells, dict.fromkeys("xyz", "a"))
    ps = []
    for above, d in (("x", "y"), ("y", "z")):
        one, other = ({r.cell.seed: r.scores[LEAD].each for r in cells[k]} for k in (d, above))
        student = stats.paired_difference({"a": one}, {"a": other}).p
        pictures = stats.mcnemar(*(np.concatenate(list(side.values())) for side in (one, other)))
        ps.append(max(student, pictures))
    expected = stats.holm(ps)
    assert [place.step.p for place in found[1:]] == pytest.approx(expected)
    assert [place.verdict for place in found] == [APART] * 3


def test_nothing_in_common_is_open() -> None:
    """Other seeds are other attacked models: there is nothing to pair."""
    cells = {
        d: [cell("a", d, s, restoration_accuracy=k)] for d, s, k in (("x", 0, 90), ("y", 1, 20))
    }
    step = places(["x", "y"], cells, dict.fromkeys("xy", "a"))[1].step
    assert (step.verdict, step.difference, step.p) == (OPEN, None, None)


def test_only_a_tie_shares_a_rank() -> None:
    records = run(of({"x": [95] * 5, "y": [95] * 5, "z": [50] * 5}))
    assert placed(records) == {"x": "1", "y": "1 (tie)", "z": "3"}
    assert {TIE, APART} == {s.place.verdict for s in summaries(records) if s.place}


@pytest.mark.parametrize(
    ("p", "text"),
    [
        (None, ""),
        (0.0, "< 1e-6"),
        (1e-250, "< 1e-6"),
        (9e-7, "< 1e-6"),
        (2e-6, "2e-06"),
        (0.04, "0.040"),
    ],
)
def test_p_below_a_millionth_says_no_more(p, text) -> None:
    assert p_text(p) == text
