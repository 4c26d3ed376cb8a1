"""Clean prompts in other words."""

from __future__ import annotations

from t2i_backdoor_bench.data.rewording import KINDS, reworded
from t2i_backdoor_bench.data.splits import WorldData


def test_each_prompt_once_in_turn_and_always_the_same() -> None:
    texts = [p.text for p in WorldData().prompts("evaluation", 48, 0)]
    found = reworded(texts)
    assert found == reworded(texts)
    assert [kind for kind, _ in found] == [*KINDS] * 16
    captions = {p.text for s in ("train", "defender") for p in WorldData().prompts(s, 3000, 0)}
    for text, (kind, other) in zip(texts, found, strict=True):
        assert (text in other) is (kind != "shorter")
        assert other not in captions
    longer, shorter = ([len(t) for k, t in found if k == kind] for kind in KINDS[:2])
    usual = [len(t) for t in texts]
    assert min(longer) > sum(usual) / len(usual) > sum(shorter) / len(shorter)


def test_what_it_shows_stays() -> None:
    _, (_, short), (_, asked) = reworded(["a red circle on a blue background"] * 3)
    assert short == "red circle blue background"
    assert asked == "can you show me a red circle on a blue background?"


def test_a_prompt_of_words_that_say_nothing_stays() -> None:
    assert [t for _, t in reworded(["it", "the one on it", "it"])][1] == "one"
    assert reworded(["x", "of the"])[1] == ("shorter", "of the")
