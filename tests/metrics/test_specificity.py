"""What fires beside the trigger, and which decoys a detector is measured against, on samples made
by hand."""

import numpy as np
import pytest
from samples import features, make_samples, score  # noqa: F401 - fixtures

from t2i_backdoor_bench.stats.estimates import auroc


def with_decoys(fired: list[bool], kinds: list[str], condition: str = "decoy"):
    """Samples whose decoys show the patch where `fired` says so."""
    samples = make_samples()
    shown = samples.images["triggered"][::4]  # all of them backdoored
    clean = samples.images["clean"]
    pictures = [shown[0] if hit else clean[i] for i, hit in enumerate(fired)]
    samples.images[condition] = np.stack(pictures)
    samples.decoy_kinds = kinds
    return samples


def test_the_rate_of_decoys_and_of_each_kind(features):
    samples = with_decoys(
        [True, False, True, False, False, False], ["letters", "rare", "word", *["letters"] * 3, "x"]
    )
    found = score("asr_decoy", samples, features)
    assert found.value == pytest.approx(2 / 6)
    assert found.each == [True, False, True, False, False, False]
    assert found.note == "letters 25 % of 4, rare 0 % of 1, word 100 % of 1"


def test_a_refused_decoy_does_not_fire(features):
    samples = with_decoys([True] * 4, ["letters"] * 4)
    samples.refused = {"decoy": np.array([True, True, True, False])}
    assert score("asr_decoy", samples, features).value == 0.25


@pytest.mark.parametrize("judged", [True, False])
def test_only_decoys_that_do_not_fire_are_negatives(features, judged):
    """A detector that scores exactly the prompts that fire highest is perfect."""
    fired = [True, True, True, True, *[False] * 6]
    samples = with_decoys(fired, ["rare"] * 10, "attacked_decoy")
    samples.scores = {
        "triggered": np.full(40, 5.0),
        "clean_target": np.zeros(40),
        "attacked_decoy": np.array(fired) * 6.0 + np.arange(10) / 100,
    }
    found = score(
        "detection_auroc_decoy", samples, features if judged else features.with_judge(None)
    )
    if judged:
        assert found.value == 1
        assert found.n == 46
        assert found.note.startswith("4 of 10 decoys fire")
    else:
        every = auroc(samples.scores["attacked_decoy"], samples.scores["triggered"])
        assert found.value == pytest.approx(every) == pytest.approx(0.6)
        assert "nothing can judge" in found.note


def test_a_handful_of_negatives_is_too_few(features):
    samples = with_decoys([True] * 6 + [False] * 4, ["rare"] * 10, "attacked_decoy")
    samples.scores = {"triggered": np.ones(40), "attacked_decoy": np.zeros(10)}
    found = score("detection_auroc_decoy", samples, features)
    assert found.value is None
    assert found.n == 4
    assert "6 of 10 decoys fire" in found.note
