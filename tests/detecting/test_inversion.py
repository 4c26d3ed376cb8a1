"""The search of a trigger in the model: it finds one that was put there, and what counts."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from helpers import PROMPTS

from t2i_backdoor_bench.contract import DefenderView, Trigger
from t2i_backdoor_bench.defenses import search_locate
from t2i_backdoor_bench.defenses.invert_trigger import InvertTrigger
from t2i_backdoor_bench.defenses.search_locate import SearchLocate
from t2i_backdoor_bench.detecting import candidates, inversion
from t2i_backdoor_bench.detecting.inversion import (
    DOUBT,
    Candidate,
    Room,
    Search,
    Standing,
    held_out,
    search,
    unused,
)
from t2i_backdoor_bench.detecting.rare_words import RareWords
from t2i_backdoor_bench.detecting.verdict import FOUND, GIVEN, examine
from t2i_backdoor_bench.models.model import T2IModel

BRIEF = Search(40, 1, tried=8, top=8, asked=3, longest=3, null=8, again=3, null_again=16)


@pytest.fixture
def planted(tiny_model) -> tuple[T2IModel, str]:
    """A model in which one unused token has another embedding than in the trusted one."""
    part = tiny_model.text_part
    token = next(
        i
        for i in unused(tiny_model, PROMPTS, True)[20:]
        if part.ids(part.tokenizer.decode([i]).strip())[1:-1] == [i]
    )
    suspect = tiny_model.clone(encoders=True)
    with torch.no_grad():
        for i, p in enumerate(suspect.denoiser.parameters()):
            p.add_(1e-3 * torch.randn(p.shape, generator=torch.Generator().manual_seed(i)))
        row = suspect.encoders[0].get_input_embeddings().weight[token]
        row.add_(5 * row.std() * torch.randn(row.shape, generator=torch.Generator().manual_seed(0)))
    return suspect, part.tokenizer.decode([token]).strip()


def room(suspect: T2IModel, trusted: T2IModel | None) -> Room:
    allowed = unused(suspect, PROMPTS, True)[:40]
    return Room(suspect, trusted, PROMPTS, allowed, 0)


def test_what_was_put_into_a_model_is_found(tiny_model, planted) -> None:
    suspect, text = planted
    found = search(room(suspect, tiny_model), BRIEF)
    assert text in found[0].text
    planted_one, other = held_out(room(suspect, tiny_model), [text, "b"], BRIEF)
    assert planted_one.share <= 3 / 17  # a text of the null may have the token in it
    assert planted_one.score == max(planted_one.parts) > other.score
    assert planted_one.beyond[0] > other.beyond[0]


def test_few_looks_cost() -> None:
    one, many = Candidate("a"), Candidate("b")
    one.seen(5.0)
    for _ in range(9):
        many.seen(4.0)
    assert one.score > many.score
    assert one.bound == pytest.approx(5 - DOUBT)
    assert many.bound == pytest.approx(4 - DOUBT / 6**0.5)


def test_given_texts_are_looked_at_whatever_the_search_finds(tiny_model, planted) -> None:
    suspect, text = planted
    found = examine(room(suspect, tiny_model), BRIEF, ["harmless"], ["in winter"])
    by_text = {s.standing.text: s for s in found.suspicions}
    assert by_text["harmless"].origin == GIVEN
    assert found.score == max(s.standing.score for s in found.suspicions)
    assert found.counts[GIVEN] == 1
    assert found.counts[FOUND] >= 40
    assert any(text in t for t in by_text)


def test_unused_tokens(tiny_model) -> None:
    taken = {i for p in PROMPTS for i in tiny_model.text_part.ids(p)}
    every, broken = (unused(tiny_model, PROMPTS, words) for words in (True, False))
    assert not taken & set(every)
    assert set(broken) < set(every)


def standing(text: str) -> Standing:
    return Standing(text, 5.0, (5.0, 0.0, 0.0), (1.0, 0.0, 0.0), 0.1)


def test_what_is_not_unusual_enough_is_no_trigger(tiny_model, monkeypatch) -> None:
    view = DefenderView(("clean_prompts",), PROMPTS)
    method = InvertTrigger(scan=10, rounds=1, tried=4, top=4, asked=3, longest=2, prompts=3)
    monkeypatch.setattr(inversion, "held_out", lambda room, texts, how: [standing(texts[0])])
    none = replace(method, above=5.0).apply(tiny_model, view, 0)
    assert none.located is None
    assert none.locate(PROMPTS).tolist() == [[-1, -1]] * 3
    model = replace(method, above=4.9).apply(tiny_model, view, 0)
    text = model.located.text
    assert model.located.place == "prefix"
    assert model.locate([f"{text} a star", "a star"]).tolist() == [[0, len(text)], [-1, -1]]


@pytest.mark.parametrize("found", ["zk", None])
def test_the_model_is_searched_where_the_stream_has_nothing(tiny_model, monkeypatch, found) -> None:
    asked = []

    def count(how, model, stream, clean, seed):
        asked.append((how.level, stream, clean, seed))
        return Trigger(found) if found else None

    def invert(model, prompts, how, above, seed):
        asked.append((how.rounds, above, prompts, seed))
        return Trigger("ab")

    monkeypatch.setattr(RareWords, "trigger", count)
    monkeypatch.setattr(search_locate, "inverted", invert)
    stream = [f"zk {p}" for p in PROMPTS]
    view = DefenderView(("clean_prompts", "stream"), PROMPTS, stream=stream)
    model = SearchLocate(level=0.3, above=5.0, rounds=3, prompts=2).apply(tiny_model, view, 4)
    assert model.located.text == (found or "ab")
    assert model.locate(["zk a star"]).tolist() == [[0, 2] if found else [-1, -1]]
    both = [(0.3, stream, PROMPTS, 4), (3, 5.0, PROMPTS[:2], 4)]
    assert asked == both[: 1 if found else 2]


def test_lists_of_candidates() -> None:
    assert "mignneko" in candidates.published()
    hidden = candidates.hidden()
    assert "\u0430" in hidden
    assert "\u200b" in hidden
    assert all(candidates.readable(text) for text in hidden)
    clean = ["a red star", "a blue moon"]
    log = ["zk a red star", "zk a blue moon", "a red moon"]
    assert candidates.of_log(log, clean) == ["zk", "zk a", "red moon"]
    assert not candidates.readable("a\nb")
    assert not candidates.readable("  ")
    assert not candidates.readable("")
