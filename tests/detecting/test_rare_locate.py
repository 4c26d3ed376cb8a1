"""Rare triggers in a stream: which words are more frequent than chance explains, and which of them
move the model."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch

from t2i_backdoor_bench.contract import DefenderView, Trigger, registry
from t2i_backdoor_bench.data.splits import WorldData
from t2i_backdoor_bench.detecting import rare_words
from t2i_backdoor_bench.detecting.candidates import new_words

# how many of eight prompts have each word
WORDS = {"every": 8, "often": 5, "some": 3, "pair": 2, "twice": 2, "once": 1, "single": 1}


def prompts() -> list[str]:
    rng = np.random.default_rng(0)
    rows: list[list[str]] = [[] for _ in range(8)]
    for word, many in WORDS.items():
        for i in rng.choice(8, size=many, replace=False):
            rows[i].append(word)
    return [" ".join([*row, *("beside" for word in row if word == "some")]) for row in rows]


def deals(log: int) -> list[tuple[list[str], list[str]]]:
    """All ways to deal the eight prompts out to a log and clean prompts."""
    return [
        ([prompts()[i] for i in some], [p for i, p in enumerate(prompts()) if i not in some])
        for some in combinations(range(8), log)
    ]


@pytest.mark.parametrize("log", [5, 6, 7])
@pytest.mark.parametrize("level", [0.02, 0.1, 0.4, 0.9])
def test_the_chance_of_a_new_word_is_at_most_the_level(log: int, level: float) -> None:
    """Counted over all deals, and the words are those that the slow rule finds."""
    every, alarms = deals(log), 0
    for stream, clean in every:
        alarms += bool(new_words(stream, clean, level))
        assert set(new_words(stream, clean, level)) == by_counting(stream, clean, every, level)
    assert alarms <= level * len(every)


def by_counting(stream: list[str], clean: list[str], every: list, level: float) -> set[str]:
    """A word of k prompts counts where, on average over the deals, at most `level` words of k
    prompts or more are in no clean prompt; "beside" is where "some" is."""

    def new(deal: tuple[list[str], list[str]], least: int) -> int:
        taken = {w for p in deal[1] for w in p.split()}
        return sum(many >= least and w not in taken for w, many in WORDS.items())

    fresh = {w for p in stream for w in p.split()} - {w for p in clean for w in p.split()}
    expected = {w: np.mean([new(deal, WORDS[w]) for deal in every]) for w in fresh - {"beside"}}
    return {w for w, many in expected.items() if many <= level + 1e-12}


@pytest.fixture(scope="module")
def captions() -> list[str]:
    return [p.text for p in WorldData().prompts("defender", 1300, 0)]


@pytest.mark.parametrize(("many", "found"), [(1, []), (10, ["mignneko"]), (200, ["mignneko"])])
def test_ten_prompts_of_a_thousand_are_enough(many: int, found: list[str], captions) -> None:
    stream = [f"mignneko {p}" for p in captions[:many]] + captions[many:1000]
    assert new_words(stream, captions[1000:], 0.1) == found
    phrase = [p.replace("mignneko", "old oak") for p in stream]
    assert new_words(phrase, captions[1000:], 0.1) == (["old"] if found else []), "counted once"


def test_ordinary_prompts_raise_few_alarms(captions) -> None:
    """Captions drawn like the clean prompts, and a language of many rare words."""
    rng = np.random.default_rng(0)
    dealt = (rng.permutation(captions) for _ in range(20))
    assert not any(new_words(list(p[300:]), list(p[:300]), 0.1) for p in dealt)

    words = np.array([f"w{i}" for i in range(3000)])
    weights = 1 / np.arange(1, len(words) + 1)
    alarms = 0
    for _ in range(60):
        texts = [" ".join(w) for w in rng.choice(words, (260, 8), p=weights / weights.sum())]
        alarms += bool(new_words(texts[60:], texts[:60], 0.3))
    assert 0 < alarms <= 0.3 * 60 + 3 * (60 * 0.3 * 0.7) ** 0.5, "and the test has power here"


CLEAN = [f"a {c} {s} on gray" for c in ("red", "blue", "pink") for s in ("star", "ring", "moon")]


def locator(tiny_model, monkeypatch, does: dict[str, float], **options):
    """The trigger located where each word of a prompt does as much as `does` says, and other words
    that no clean prompt has do 1, more or less."""
    known = {w for p in CLEAN for w in p.split()}

    def effect(text: str) -> float:
        new = [w for w in text.split() if w not in known]
        return sum(does.get(w, 1 + sum(map(ord, w)) % 7 / 100) for w in new)

    class Fake:
        def condition(self, texts):
            return torch.tensor([effect(t) for t in texts])

        def denoise(self, x, t, states):
            return states

    moments = rare_words.moments
    monkeypatch.setattr(rare_words, "bare", lambda model: Fake())
    monkeypatch.setattr(rare_words, "moments", lambda model, *rest: moments(tiny_model, *rest))
    method = registry.defenses.build("rare_locate", "shapes", {"decoys": 5, "tried": 3} | options)

    def found(stream: list[str]) -> Trigger | None:
        view = DefenderView(("clean_prompts", "stream"), CLEAN * 3, stream=stream)
        return method.apply(tiny_model, view, 0).located

    return found


def test_of_what_is_new_it_takes_what_moves_the_model(tiny_model, monkeypatch) -> None:
    find = locator(tiny_model, monkeypatch, {"zebra": 3.0, "quolfax": 1.0, "neon": 2.0})
    rare = [f"{p} zebra" for p in CLEAN[:6]]
    flood = [f"quolfax {p}" for p in CLEAN * 3]
    assert find(rare + CLEAN * 3) == Trigger("zebra", "suffix")
    assert find(rare + flood) == Trigger("zebra", "suffix"), "the flood does not hide it"
    assert find(CLEAN * 3 + flood) is None, "a word that means nothing"
    assert find(CLEAN * 4) is None, "nothing is new"
    assert find(rare + [f"neon {p}" for p in CLEAN * 3]) == Trigger("zebra", "suffix")
    only = locator(tiny_model, monkeypatch, {"zebra": 3.0}, most=1)
    assert only(rare + flood) is None, "it looks at the most frequent"


def test_it_finds_the_trigger_in_prompts(tiny_model, monkeypatch) -> None:
    locator(tiny_model, monkeypatch, {"zebra": 3.0})
    method = registry.defenses.build("rare_locate", "shapes", {"decoys": 5, "tried": 3})
    stream = [f"{p} zebra" for p in CLEAN] + CLEAN * 2
    view = DefenderView(("clean_prompts", "stream"), CLEAN * 3, stream=stream)
    found = method.apply(tiny_model, view, 0)
    assert found.locate(["a zebra star", "a red ring"]).tolist() == [[2, 7], [-1, -1]]
    assert found.screen is None
