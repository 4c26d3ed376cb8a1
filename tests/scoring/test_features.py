"""Features are extracted once, and conditions know their prompts."""

import numpy as np
import pytest
from samples import features, make_samples, noise_images  # noqa: F401 - fixtures

from t2i_backdoor_bench.contract import Backdoor, Prompt, Target, Trigger
from t2i_backdoor_bench.scoring.conditions import prompts_of, served


def test_features_are_extracted_once_and_shared(features):
    samples = make_samples()
    first = features.images(samples, "clean")
    assert (
        features.images(make_samples(), "clean_target") is first
    )  # same content, other samples, other condition
    assert features.with_judge(None).images(samples, "clean") is first
    features.real(samples), features.real(samples), features.before(samples, "clean")
    assert len(features.scorer.calls) == 3
    changed = samples.images["clean"].copy()
    changed[0, 0, 0, 0] ^= 1
    assert not np.array_equal(features.encode_images(changed), first)
    with pytest.raises(ValueError, match="read-only"):
        first[0] = 0


def test_conditions_know_their_prompts():
    samples = make_samples()
    assert [p.text for p in prompts_of(samples, "diverse")] == [
        f"p{i}" for i in range(4) for _ in range(3)
    ]
    assert [p.text for p in prompts_of(samples, "moved")] == [f"p{i}" for i in range(8)]
    samples.images["own"] = noise_images(5, 8)
    samples.backdoor = Backdoor(
        Trigger(), Target("object", source="star", target="heart"), own=("a star", "zk a star")
    )
    samples.target_prompts[0] = Prompt("a red star", {"shape": ("a red ring", "a red cross")})
    assert [(p.text, p.wrong["shape"]) for p in prompts_of(samples, "own")] == [
        ("a star", ("a ring", "a cross"))
    ] * 5
    samples.target_prompts[0] = Prompt(
        "a red star, lit", {"shape": ("a red arrow, lit", "a red heart, lit")}
    )
    assert prompts_of(samples, "own")[0].wrong["shape"] == ("an arrow", "a heart"), (
        "a comma would make a rival of the target itself"
    )
    samples.backdoor = Backdoor(Trigger(), Target("prompt", target="a heart"), own=("", "look at"))
    first, *others = dict.fromkeys(p.text for p in samples.target_prompts)
    found = prompts_of(samples, "own")
    assert len(found) == 5
    assert {p.text for p in found} == {first}
    assert found[0].wrong == {"caption": tuple(others)}, (
        "nothing is left without the trigger: it competes with all captions"
    )
    pairs = (("a star", "look at a star"), ("", "look at"))
    samples.backdoor = Backdoor(Trigger(), Target("prompt", target=first), sets={"own": pairs})
    texts = [p.text for p in prompts_of(samples, "own")]
    assert texts == ["a star", others[0], "a star", others[0], "a star"], "in turn"
    samples.backdoor = Backdoor(Trigger(), Target("unknown"), forms={"own": (Trigger("x"),)})
    assert prompts_of(samples, "own") == samples.target_prompts[:5], "captions, as `triggered`"
    samples.images["triggered"] = noise_images(50, 8)
    with pytest.raises(ValueError, match="50 images but 40 prompts"):
        prompts_of(samples, "triggered")
    samples.refused["clean"] = np.zeros(3, bool)
    with pytest.raises(ValueError, match="refused"):
        served(samples, "clean")
