"""Quality is kept only where a paired test shows that it is: kept, lost, or not shown."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from ranked_records import N, cell
from scipy import stats as reference

from t2i_backdoor_bench.contract import Record
from t2i_backdoor_bench.report.quality import (
    GATES,
    KEPT,
    LOST,
    NOT_MEASURED,
    NOT_SHOWN,
    gates_of,
    quality_of,
)

GATE = {gate.metric: gate for gate in GATES}


def found(own: list[Record], undefended: list[Record], metric: str):
    (check,) = quality_of(own, undefended, ["a"], [GATE[metric]]).checks
    return check


def noisy(center: float, spread: float, seed: int = 0) -> list[float]:
    return list(center + spread * np.random.default_rng(seed).standard_normal(N))


def test_the_same_pictures_are_kept() -> None:
    own, none = [cell("a", "d")], [cell("a", "none")]
    quality = quality_of(own, none, ["a"], gates_of(none))
    assert [c.gate.metric for c in quality.checks] == ["prompt_fidelity", "clip_score"]
    assert quality.verdict == KEPT


@pytest.mark.parametrize(
    ("drop", "spread", "verdict"),
    [(0.0, 0.5, KEPT), (0.1, 0.5, KEPT), (2.0, 0.5, LOST), (0.0, 4.0, NOT_SHOWN)],
)
def test_the_three_answers_are_those_of_the_paired_test(drop, spread, verdict) -> None:
    """Against SciPy: kept where the one-sided 95 % bound is above minus the margin; a small loss
    within it is kept, too."""
    base = noisy(23.0, 1.0)
    ours = list(np.array(base) + noisy(-drop, spread, 1))
    check = found(
        [cell("a", "d", clip_score=ours)], [cell("a", "none", clip_score=base)], "clip_score"
    )
    test = reference.ttest_rel(ours, base)
    kept = test.confidence_interval(0.9).low > -GATE["clip_score"].margin
    worse = test.confidence_interval(0.95).high < 0
    assert check.verdict == (KEPT if kept else LOST if worse else NOT_SHOWN) == verdict


def test_few_pictures_show_nothing() -> None:
    """One of a hundred pictures is within three points; one of ten may be many of them."""
    own, none = [cell("a", "d", prompt_fidelity=97)], [cell("a", "none", prompt_fidelity=98)]
    assert found(own, none, "prompt_fidelity").verdict == KEPT
    pair = [r.scores["prompt_fidelity"].each for r in (*own, *none)]
    differs = next(i for i in range(N) if pair[0][i] != pair[1][i])
    few = [differs, *(i for i in range(N) if pair[0][i])][:10]
    for r in own + none:
        score = r.scores["prompt_fidelity"]
        each = [score.each[i] for i in few]
        r.scores["prompt_fidelity"] = dataclasses.replace(score, each=each)
    assert found(own, none, "prompt_fidelity").verdict == NOT_SHOWN


def test_seeds_that_disagree_show_nothing() -> None:
    """The margin is the same for three seeds; what differs between seeds counts, not pictures."""
    none = [cell("a", "none", seed) for seed in range(3)]
    alike = [cell("a", "d", seed, clip_score=22.95 + 0.01 * seed) for seed in range(3)]
    apart = [cell("a", "d", seed, clip_score=22.0 + seed) for seed in range(3)]
    worse = [cell("a", "d", seed, clip_score=20.0 + 0.1 * seed) for seed in range(3)]
    verdicts = [found(own, none, "clip_score").verdict for own in (alike, apart, worse)]
    assert verdicts == [KEPT, NOT_SHOWN, LOST]


def test_kid_pairs_by_picture_and_else_by_seed() -> None:
    rng = np.random.default_rng(0)
    base, ours = rng.normal(0.01, 0.05, N), rng.normal(0.01, 0.05, N)
    none, own = [cell("a", "none", kid=list(base))], [cell("a", "d", kid=list(ours))]
    check = found(own, none, "kid")
    assert check.difference.value == pytest.approx(ours.mean() - base.mean())
    assert check.difference.p == pytest.approx(reference.ttest_rel(ours, base).pvalue)
    for r in none + own:
        r.scores["kid"] = dataclasses.replace(r.scores["kid"], each=None)
    assert "kid" not in [gate.metric for gate in gates_of(none)], "one seed: nothing to test"
    both = [*none, dataclasses.replace(none[0], cell=dataclasses.replace(none[0].cell, seed=1))]
    assert "kid" in [gate.metric for gate in gates_of(both)]


def test_another_attacked_model_is_not_compared() -> None:
    own, none = (
        [dataclasses.replace(cell("a", d), provenance={"attack_weights": weights})]
        for d, weights in (("d", "11"), ("none", "22"))
    )
    assert quality_of(own, none, ["a"], gates_of(none)).verdict == NOT_MEASURED


def test_the_text_names_what_and_where() -> None:
    none = [cell(a, "none") for a in "abcde"]
    own = [cell(a, "d", clip_score=20.0, prompt_fidelity=98) for a in "abcde"]
    text = quality_of(own, none, list("abcde"), gates_of(none)).text(none)
    assert text == "lost: CLIP of a, CLIP of b, CLIP of c and 2 more"
    assert quality_of(own, none, list("abcde"), []).text(none) == NOT_MEASURED
