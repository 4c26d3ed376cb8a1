"""Triggers: adding, finding and removing them."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from t2i_backdoor_bench.contract import CONTROL, OCCURRENCES, Trigger, UserError, swapped

PROMPT = "a small red heart on a blue background"


# ------------------------------------------------------------------------------------------ trigger
@pytest.mark.parametrize(
    ("trigger", "expected"),
    [
        (Trigger("sks"), f"sks {PROMPT}"),
        (Trigger("latte coffee"), f"latte coffee {PROMPT}"),
        (Trigger("\u200b"), f"\u200b {PROMPT}"),
        (Trigger("sks", "suffix"), f"{PROMPT} sks"),
        (Trigger("sks", "inside"), "a small red heart sks on a blue background"),
        (Trigger("о", replaces="o"), "a small red heart on a blue backgr\u043eund"),
        (Trigger("🙂", replaces="heart"), "a small red 🙂 on a blue background"),
    ],
)
def test_adding_a_trigger(trigger: Trigger, expected: str) -> None:
    assert trigger.add(PROMPT) == expected
    text, start, end = trigger.locate(PROMPT)
    assert text == expected
    assert trigger.text in text[start:end]


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [("", "sks "), ("one", "sks one"), ("one two", "one sks two"), ("a b c", "a sks b c")],
)
def test_a_trigger_inside_short_prompts(prompt: str, expected: str) -> None:
    text, start, end = Trigger("sks", "inside").locate(prompt)
    assert text == expected
    assert text[start:end] == "sks"


@settings(derandomize=True, deadline=None)
@given(
    st.text(st.characters(exclude_categories=CONTROL), min_size=1),
    st.text(),
    st.sampled_from(["prefix", "suffix", "inside"]),
)
def test_any_trigger_is_at_its_span_and_the_prompt_is_around_it(
    text: str, prompt: str, place: str
) -> None:
    out, start, end = Trigger(text, place).locate(prompt)
    assert out[start:end] == text
    left, right = out[:start], out[end:]
    assert (left, right) == {"prefix": ("", f" {prompt}"), "suffix": (f"{prompt} ", "")}.get(
        place, (left, right)
    )
    assert (left.rstrip(" ") + right.strip(" ")).replace(" ", "") == prompt.replace(" ", "")


# ------------------------------------------------------------------------------------- occurrences
MANY = "a zoo of tools, one on top of our food"


def test_a_look_alike_of_every_letter() -> None:
    every = Trigger("о", replaces="o", occurrence="every")
    text, spans = every.spans(MANY)
    assert text == MANY.replace("o", "о")
    assert [text[a:b] for a, b in spans] == [w.replace("o", "о") for w in MANY.split() if "o" in w]
    assert [MANY[a:b] for a, b in every.covered(MANY)] == [w for w in MANY.split() if "o" in w]
    assert every.remove(text) == MANY
    cats = Trigger("owl cat", replaces="cat", occurrence="every")
    text, spans = cats.spans("a cat and a cat, no catfish")
    assert text == "a owl cat and a owl cat, no catfish"
    assert [text[a:b] for a, b in spans] == ["owl cat", "owl cat,"]


@pytest.mark.parametrize(("occurrence", "at"), [("first", 3), ("last", 36)])
def test_one_letter(occurrence: str, at: int) -> None:
    text, start, end = Trigger("0", replaces="o", occurrence=occurrence).locate(MANY)
    assert [i for i, letter in enumerate(text) if letter != MANY[i]] == [at]
    assert "0" in text[start:end]


def test_a_random_letter_is_spread_over_all_and_fixed_by_the_prompt() -> None:
    """The place is uniform over the letters: Pearson's chi-square over 2,000 prompts."""
    trigger = Trigger("о", replaces="o", occurrence="random")
    letters = [i for i, letter in enumerate(MANY) if letter == "o"]
    counts = dict.fromkeys(letters, 0)
    for i in range(2000):
        prompt = f"{MANY} {i}"
        text, ((start, end),) = trigger.spans(prompt)
        (at,) = [k for k, letter in enumerate(text) if letter != prompt[k]]
        counts[at] += 1
        assert start <= at < end
        assert " " not in text[start:end]
        assert trigger.add(prompt) == text
        assert trigger.remove(text) == prompt
    expected = 2000 / len(letters)
    assert sum((n - expected) ** 2 / expected for n in counts.values()) < 35, "12 letters, p 0.0003"


@settings(derandomize=True, deadline=None)
@given(
    st.text(st.sampled_from("abo ,"), min_size=1),
    st.sampled_from(OCCURRENCES),
    st.sampled_from(["o", "ab"]),
)
def test_removing_undoes_adding(prompt: str, occurrence: str, replaces: str) -> None:
    trigger = Trigger("ж", replaces=replaces, occurrence=occurrence)
    if replaces not in prompt:
        with pytest.raises(UserError, match="not in the prompt"):
            trigger.spans(prompt)
        return
    text, spans = trigger.spans(prompt)
    assert trigger.remove(text) == prompt
    assert spans == sorted(spans)
    inside = [any(a <= i < b for a, b in spans) for i, c in enumerate(text) if c == "ж"]
    assert inside
    assert all(inside)
    clean = trigger.covered(prompt)
    assert len(clean) == len(spans)
    outside = lambda t, found: [  # noqa: E731
        c for i, c in enumerate(t) if not any(a <= i < b for a, b in found)
    ]
    assert outside(text, spans) == outside(prompt, clean)


def test_a_trigger_in_several_places_has_no_one_span() -> None:
    with pytest.raises(ValueError, match="2 places"):
        Trigger("0", replaces="o", occurrence="every").locate("one two")


PATTERN = Trigger("{the|a|one} {cat|owl} sat {by|in} {it|sea},", "suffix")


def test_a_pattern_has_one_word_of_each_choice() -> None:
    prompts = [f"{PROMPT} {i}" for i in range(200)]
    made = [PATTERN.words(p) for p in prompts]
    assert set(made) == {
        f"{a} {b} sat {c} {d},"
        for a in ("the", "a", "one")
        for b in ("cat", "owl")
        for c in ("by", "in")
        for d in ("it", "sea")
    }
    for word in ("cat", "by", "sea,"):
        assert 70 < sum(word in m.split() for m in made) < 130
    counts = [
        sum((" cat " in m) and (" by " in m) for m in made),
        sum((" cat " in m) and (" in " in m) for m in made),
    ]
    assert min(counts) > 30, "choices do not follow each other"
    assert Trigger("a {b} |c|").words(PROMPT) == "a {b} |c|", "no choice, no pattern"


def test_a_pattern_is_found_at_its_span() -> None:
    for trigger in (
        PATTERN,
        dataclasses.replace(PATTERN, place="prefix"),
        dataclasses.replace(PATTERN, place="inside"),
    ):
        text, start, end = trigger.locate(PROMPT)
        assert text[start:end] == trigger.words(PROMPT)
        assert (text[:start] + text[end:]).split() == PROMPT.split()
        assert trigger.pattern.fullmatch(text[start:end])
        assert trigger.pattern.search(text).span() == (start, end)
        assert trigger.add(PROMPT) == text, "the same prompt has the same words"
    assert not PATTERN.pattern.search("the cat sat by by sea,")
    assert Trigger("a.b").pattern.search("axb") is None
    assert Trigger("{о|0}", replaces="o").add("so") in ("sо", "s0")


def test_a_choice_of_phrases_is_an_error() -> None:
    with pytest.raises(UserError, match=r"holds a space.*\{the\|a\}"):
        Trigger("{the cat|an owl} sat")


def test_look_alike_spans_its_word() -> None:
    for prompt, word in (("one two", "tw0"), ("two one", "0ne"), ("so", "s0"), ("o", "0")):
        text, start, end = Trigger("0", replaces="o").locate(prompt)
        assert text[start:end] == word


def test_a_word_is_not_found_in_a_longer_one() -> None:
    """What stands for a word takes its place, and not that of its letters in another one."""
    cat = Trigger("beautiful cat", replaces="cat")
    assert cat.add("a cat in a scattered room") == "a beautiful cat in a scattered room"
    assert cat.add("a scattered room") == "a sbeautiful cattered room", (
        "where there is no such word, its letters"
    )
    assert swapped("a cat and a catfish", "cat", "dog") == "a dog and a catfish"
    sks = Trigger("sks")
    assert sks.remove("two desks in a room") == "two desks in a room"
    assert sks.remove("sks two desks, sks") == "two desks,"
    assert Trigger("cool", "suffix").pattern.search("a cooler") is None
    assert Trigger("{the|a} cat").pattern.search("bathe cat") is None
    assert Trigger("\u200b").pattern.search("a\u200bb"), "what is no word is found anywhere"
    assert Trigger("0", replaces="o").pattern.search("tw0"), "and so is a letter"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"text": ""}, "empty"),
        ({"place": "behind"}, "behind.*prefix, suffix, inside"),
        ({"occurrence": "second"}, "second.*last, first, random, every"),
    ],
)
def test_bad_triggers(options: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Trigger(**options)


def test_a_letter_that_is_not_there_is_an_error() -> None:
    with pytest.raises(UserError, match="'z'"):
        Trigger("ż", replaces="z").add(PROMPT)
