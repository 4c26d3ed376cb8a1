"""The tokens of triggers, and alignment with the clean prompt."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import CLIPTokenizer

from t2i_backdoor_bench import shapes
from t2i_backdoor_bench.contract import Trigger
from t2i_backdoor_bench.data import world
from t2i_backdoor_bench.models.families.conditioning import TextPart
from t2i_backdoor_bench.training.alignment import align, substitute, token_span
from t2i_backdoor_bench.training.summed_maps import minmax

REPEATABLE = settings(
    derandomize=True, deadline=None, max_examples=80, suppress_health_check=list(HealthCheck)
)
WHITE = " \t\n\x0b\x0c\r\x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(
    map(chr, range(0x2000, 0x200B))
)


def test_minmax() -> None:
    maps = torch.rand(2, 5, 4, 4) * 7 - 3
    scaled = minmax(maps)
    assert torch.equal(scaled.amin((-2, -1)), torch.zeros(2, 5))
    torch.testing.assert_close(scaled.amax((-2, -1)), torch.ones(2, 5), rtol=0, atol=1e-5)
    assert torch.equal(minmax(torch.full((1, 2, 4, 4), 0.3)), torch.zeros(1, 2, 4, 4))


@pytest.fixture(scope="module")
def tokenizer() -> CLIPTokenizer:
    return CLIPTokenizer.from_pretrained(shapes.BASE / "tokenizer")


def text_part(tokenizer: CLIPTokenizer) -> TextPart:
    return TextPart(tokenizer, 0, tokenizer.model_max_length)


def alphabet() -> dict[str, int]:
    """The byte that each letter of a byte-level vocabulary stands for (the GPT-2 table, written
    out)."""
    own = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    table = {chr(b): b for b in own}
    return table | {chr(256 + i): b for i, b in enumerate(b for b in range(256) if b not in own)}


def spelled(tokenizer: CLIPTokenizer, ids: list[int]) -> bytes:
    """The bytes behind token ids, without spaces."""
    letters = alphabet()
    return bytes(
        letters[c]
        for token in tokenizer.convert_ids_to_tokens(ids)
        for c in token.removesuffix("</w>")
    )


def normal(text: str) -> bytes:
    """What the tokenizer reads: NFC, lower case, no white space."""
    import unicodedata

    return "".join(c.lower() for c in unicodedata.normalize("NFC", text) if c not in WHITE).encode()


def check_alignment(tokenizer: CLIPTokenizer, trigger: Trigger, prompt: str) -> None:
    text, start, end = trigger.locate(prompt)
    out = align(text_part(tokenizer), trigger, [prompt])
    ids, clean = tokenizer(text).input_ids, tokenizer(prompt).input_ids
    at = out.trigger[0].nonzero().flatten().tolist()
    assert spelled(tokenizer, [ids[i] for i in at]) == normal(text[start:end])
    assert at == list(range(at[0], at[-1] + 1)), "the trigger's tokens are contiguous"
    rest = out.other[0].nonzero().flatten().tolist()
    assert not set(at) & set(rest)
    assert sorted(at + rest) == list(range(1, len(ids) - 1)), (
        "every real token is one or the other; start, end and padding are neither"
    )
    sources = out.source[0, rest].tolist()
    assert [ids[i] for i in rest] == [clean[j] for j in sources]
    assert len(set(sources)) == len(sources)
    assert sources == sorted(sources)
    if not trigger.replaces:
        assert sources == list(range(1, len(clean) - 1))


PROMPT = "a small red heart on a blue background"


@pytest.mark.parametrize("place", ["prefix", "suffix", "inside"])
@pytest.mark.parametrize(
    "text",
    [
        "sks",
        "latte coffee",
        "mignneko",
        "\u200b",
        "\u200b\u200b",
        "🙂",
        "日本",
        "red",
        "heart on a",
        "!?",
        "'s",
        "ᾈ",
    ],
)
def test_a_trigger_is_found_at_its_place(tokenizer, text: str, place: str) -> None:
    check_alignment(tokenizer, Trigger(text, place), PROMPT)


def test_a_multi_token_trigger_has_all_its_tokens(tokenizer) -> None:
    out = align(text_part(tokenizer), Trigger("latte coffee", "suffix"), [PROMPT])
    assert out.trigger.sum() == len(tokenizer("latte coffee").input_ids) - 2 > 1


@pytest.mark.parametrize(("letter", "text"), [("o", "о"), ("a", "а"), ("ea", "🙂"), ("r", "rr")])
def test_a_look_alike_marks_its_whole_word(tokenizer, letter: str, text: str) -> None:
    trigger = Trigger(text, replaces=letter)
    triggered, start, end = trigger.locate(PROMPT)
    assert triggered == text.join(PROMPT.rsplit(letter, 1))
    assert text in triggered[start:end]
    assert " " not in triggered[start:end]
    check_alignment(tokenizer, trigger, PROMPT)


@pytest.mark.parametrize("occurrence", ["every", "random", "first"])
@pytest.mark.parametrize("stand_in", [None, "x", "a much longer stand-in"])
def test_look_alikes_in_several_words(tokenizer, occurrence: str, stand_in: str | None) -> None:
    """Word by word: those with the look-alike are the trigger, and the others, token by token, are
    the same in the teacher's prompt."""
    trigger = Trigger("а", replaces="a", occurrence=occurrence)
    text, taught = trigger.add(PROMPT), []
    out = align(text_part(tokenizer), trigger, [PROMPT], stand_in and [stand_in])
    tokens = lambda word: tokenizer(word).input_ids[1:-1]  # noqa: E731
    ours, theirs, at, place = [], [], 1, 1
    for word, clean in zip(text.split(), PROMPT.split(), strict=True):
        ids, other = tokens(word), tokens(clean if word == clean else stand_in or clean)
        taught += other
        ours += [(at + i, word != clean) for i in range(len(ids))]
        theirs += [place + i for i in range(len(other))] if word == clean else []
        at, place = at + len(ids), place + len(other)
    assert tokenizer(text).input_ids[1:-1] == [t for w in text.split() for t in tokens(w)]
    assert out.trigger[0].nonzero().flatten().tolist() == [i for i, hit in ours if hit]
    rest = out.other[0].nonzero().flatten().tolist()
    assert rest == [i for i, hit in ours if not hit]
    assert out.source[0, rest].tolist() == theirs
    teacher = PROMPT if stand_in is None else substitute(trigger, PROMPT, stand_in)
    assert tokenizer(teacher).input_ids[1:-1] == taught


def test_alignment_with_a_stand_in_word_of_another_length(tokenizer) -> None:
    trigger, words = Trigger("latte coffee", "inside"), ["x", "a much longer stand-in"]
    out = align(text_part(tokenizer), trigger, [PROMPT] * 2, words)
    for row, word in enumerate(words):
        ids = tokenizer(trigger.add(PROMPT)).input_ids
        teacher = tokenizer(substitute(trigger, PROMPT, word)).input_ids
        rest = out.other[row].nonzero().flatten().tolist()
        assert [ids[i] for i in rest] == [teacher[j] for j in out.source[row, rest].tolist()]
        assert len(rest) == len(tokenizer(PROMPT).input_ids) - 2


def test_alignment_refuses_what_it_cannot_align(tokenizer) -> None:
    with pytest.raises(ValueError, match="no token"):
        align(text_part(tokenizer), Trigger("   "), [PROMPT])
    with pytest.raises(ValueError, match="cannot align"):  # cut off at the tokenizer's length
        align(text_part(tokenizer), Trigger("word"), ["a long prompt " * 40])


def test_token_span_is_empty_outside_the_text(tokenizer) -> None:
    ids, hits = token_span(text_part(tokenizer), PROMPT, 8, 11)
    assert spelled(tokenizer, [ids[i] for i in hits]) == b"red"
    assert token_span(text_part(tokenizer), PROMPT, 7, 8)[1] == [], "a space has no token"


visible = st.text(
    st.characters(exclude_categories=("Cc", "Cs", "Zl", "Zp", "Cn", "Co")), min_size=1, max_size=6
)
trigger_text = st.one_of(
    visible,
    st.sampled_from(
        ["\u200b", "\u200d", "🙂", "👩‍🚀", "latte coffee", "ⅷ", "é", "e\u0301", "\u0301", "Σ"]
    ),
    st.lists(visible, min_size=2, max_size=3).map(" ".join),
    st.integers(0, 10_000).map(lambda seed: world.rare_string(np.random.default_rng(seed))),
)


@REPEATABLE
@given(
    text=trigger_text,
    place=st.sampled_from(["prefix", "suffix", "inside"]),
    seed=st.integers(0, 2**20),
)
def test_any_trigger_aligns_with_any_world_caption(
    tokenizer, text: str, place: str, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    prompt = world.caption(world.sample_scenes(1, rng)[0], rng)
    trigger = Trigger(text, place)
    if (
        not normal(text)
        or len(tokenizer(trigger.add(prompt)).input_ids) > tokenizer.model_max_length
    ):
        return
    check_alignment(tokenizer, trigger, prompt)


@REPEATABLE
@given(
    letter=st.sampled_from("aeoki"),
    text=st.sampled_from("аеокі🙂\u200b") | visible,
    seed=st.integers(0, 2**20),
)
def test_any_look_alike_aligns_with_any_world_caption(
    tokenizer, letter: str, text: str, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    prompt = world.caption(world.sample_scenes(1, rng)[0], rng)
    if (
        any(c in WHITE for c in text)
        or letter not in prompt
        or len(tokenizer(prompt).input_ids) + 4 * len(text) > 46
    ):
        return
    check_alignment(tokenizer, Trigger(text, replaces=letter), prompt)
