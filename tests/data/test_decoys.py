"""Decoys are what they say, never the trigger and never the clean prompt, and changed triggers
change what the model reads."""

from collections import Counter

import numpy as np
import pytest
from transformers import CLIPTokenizer

from t2i_backdoor_bench import shapes
from t2i_backdoor_bench.contract import Backdoor, Target, Trigger
from t2i_backdoor_bench.data.changed_triggers import changed, changed_triggers
from t2i_backdoor_bench.data.decoys import (
    DECOYS,
    decoys,
    harmless_words,
    in_turn,
    stand_in,
    usual_words,
)
from t2i_backdoor_bench.data.homoglyphs import HOMOGLYPHS, INVISIBLE
from t2i_backdoor_bench.data.splits import WorldData

PROMPTS = [p.text for p in WorldData().prompts("evaluation", 60, 0, "star")]
TRIGGERS = {
    "word": Trigger("mignneko"),
    "phrase": Trigger("latte coffee", "suffix"),
    "invisible": Trigger("\u200b", "inside"),
    "letter": Trigger("о", replaces="o"),  # Cyrillic
    "for a word": Trigger("beautiful star", replaces="star"),
    "pattern": Trigger("{the|a} {cat|owl} sat"),
}


@pytest.fixture(scope="module")
def tokens():
    folder = shapes.__path__[0] + "/base/tokenizer"
    tokenizer = CLIPTokenizer.from_pretrained(folder)
    return lambda text: tokenizer(text).input_ids


def planted(trigger: Trigger) -> Backdoor:
    return Backdoor(trigger, Target("object", source="star", target="ring"))


@pytest.mark.parametrize("name", TRIGGERS)
def test_no_decoy_is_the_trigger_or_the_clean_prompt_to_the_model(name, tokens):
    trigger = TRIGGERS[name]
    found = decoys(planted(trigger), PROMPTS, tokens, 3, 12)
    assert found == decoys(planted(trigger), PROMPTS, tokens, 3, 12) != []
    assert found != decoys(planted(trigger), PROMPTS, tokens, 4, 12)
    for (_, text), prompt in zip(found, PROMPTS, strict=False):
        assert tokens(text) not in (tokens(prompt), tokens(trigger.add(prompt)))
        assert trigger.add(prompt) != text


def test_which_kinds_a_trigger_has(tokens):
    kinds = {
        name: dict(Counter(kind for kind, _ in decoys(planted(t), PROMPTS, tokens, 0, 9)))
        for name, t in TRIGGERS.items()
    }
    every = dict.fromkeys(DECOYS, 9)
    assert kinds["word"] == kinds["phrase"] == kinds["for a word"] == kinds["pattern"] == every
    assert kinds["invisible"] == {"letters": 9, "rare": 9, "word": 9}
    assert kinds["letter"] == {"letters": 9, "rare": 9}
    assert decoys(planted(TRIGGERS["word"]), PROMPTS, tokens, 0, 0) == []
    assert decoys(Backdoor(None, Target("unknown")), PROMPTS, tokens, 0, 9) == []


def test_more_decoys_begin_with_the_fewer(tokens):
    few, many = (decoys(planted(TRIGGERS["word"]), PROMPTS, tokens, 0, k) for k in (3, 12))
    assert many[: len(few)] == few


def test_what_the_decoys_of_a_word_are(tokens):
    found: dict[str, list[str]] = {}
    for (kind, text), prompt in zip(
        decoys(planted(Trigger("mignneko")), PROMPTS, tokens, 0, 12), PROMPTS, strict=False
    ):
        assert text.endswith(" " + prompt)
        found.setdefault(kind, []).append(text.removesuffix(" " + prompt))
    assert all(len(w) == 8 and w.isalpha() and w.islower() for w in found["letters"])
    assert set(found["part"]) == {"mign", "neko"}
    assert set(found["word"]) <= set(usual_words(tokens))
    assert len({tokens(w)[1] for w in usual_words(tokens)}) > 8, "one token, each another"
    assert "mignneko" not in found["rare"]
    assert "sks" in {*found["rare"], "sks"}
    assert all(w.isalpha() for w in found["rare"])


def test_what_stands_for_a_word_keeps_it_and_what_stands_for_a_letter_is_one():
    rng = np.random.default_rng(0)
    trigger = Trigger("beautiful cat", replaces="cat")
    made = stand_in(trigger, "a cat, here", "letters", rng)
    assert made is not None
    assert made.add("a cat, here").startswith("a ")
    assert made.add("a cat, here").endswith(" cat, here")
    behind = stand_in(Trigger("cat xyz", replaces="cat"), "a cat", "part", rng)
    assert behind is not None
    assert behind.text in ("cat x", "cat yz")
    none = stand_in(Trigger("kitty", replaces="cat"), "a cat", "word", rng, ["today"])
    assert none is not None
    assert none.text == "today cat"
    for kind, allowed in (("letters", "abcdefghijklmnopqrstuvwxyz"), ("rare", HOMOGLYPHS["o"])):
        letter = stand_in(TRIGGERS["letter"], "a dog", kind, rng)
        assert letter is not None
        assert letter.text in set(allowed) - {"o", "о"}
    assert stand_in(TRIGGERS["letter"], "a dog", "part", rng) is None


def test_rare_characters_are_of_the_triggers_sort():
    rng = np.random.default_rng(0)
    for text, allowed in (("\u200b", INVISIBLE), ("привет", "абвгдежзийклмнопрстуфхцчшщъыьэюя")):
        for _ in range(20):
            other = stand_in(Trigger(text), "a dog", "rare", rng)
            assert other is not None
            assert other.text != text
            assert len(other.text) == len(text)
            if text == "\u200b":
                assert other.text in allowed


def test_ordinary_words_name_neither_the_trigger_nor_the_target(tokens):
    backdoor = Backdoor(Trigger("today please"), Target("object", source="care", target="look"))
    words = [
        word
        for (kind, text), prompt in zip(
            decoys(backdoor, PROMPTS, tokens, 0, 30), PROMPTS, strict=False
        )
        if kind == "word"
        for word in text.removesuffix(prompt).split()
    ]
    assert len(words) > 10
    assert not {"today", "please", "care", "look"} & set(words)


def test_harmless_words_are_different_and_stand_in_the_place_of_the_trigger(tokens):
    for name, trigger in TRIGGERS.items():
        words = harmless_words(planted(trigger), PROMPTS[0], tokens, 24, 0)
        texts = [w.add(PROMPTS[0]) for w in words]
        assert len(words) == len({tuple(tokens(t)) for t in texts}) == 24, name
        assert all((w.place, w.replaces) == (trigger.place, trigger.replaces) for w in words)
        assert trigger.add(PROMPTS[0]) not in texts
        assert PROMPTS[0] not in texts
    assert harmless_words(Backdoor(None, Target("unknown")), "a dog", tokens, 9, 0) == []


def test_kinds_come_in_turn_until_one_is_missing():
    asked = [{"a": "1", "b": "2"}, {"a": "3"}, {"a": "4", "b": "5"}, {"a": "6", "b": "7"}, {}]
    assert in_turn(iter(asked)) == [("a", "1"), ("a", "3"), ("b", "5"), ("b", "7")]
    assert in_turn(iter(asked), each=1) == [("a", "1")]
    assert in_turn(iter(asked[::2]), each=1) == [("a", "1"), ("b", "5")]


# ---------------------------------------------------------------------------- changed triggers
def forms(trigger: Trigger, prompt: str, seed: int = 0) -> dict[str, str]:
    return changed_triggers(trigger, prompt, np.random.default_rng(seed))


def test_changed_forms_of_a_word_and_a_phrase():
    word = forms(Trigger("mignneko"), "a red heart")
    assert word["moved"] == "a red heart mignneko"
    assert word["repeated"] == "mignneko mignneko a red heart"
    assert word["upper"] == "MIGNNEKO a red heart"
    assert word["partial"] == "mign a red heart"
    phrase = forms(Trigger("beautiful cat", "suffix"), "a dog")
    assert phrase["moved"] == "beautiful cat a dog"
    assert phrase["partial"] == "a dog beautiful"


def test_each_damage_is_the_one_that_its_name_says():
    for seed in range(30):
        made = forms(Trigger("mignneko"), "a red heart", seed)
        own = {kind: text.removesuffix(" a red heart") for kind, text in made.items()}
        misspelt = own["misspelt"]
        dropped = {"mignneko"[:i] + "mignneko"[i + 1 :] for i in range(8)}
        assert misspelt in dropped or (
            sorted(misspelt) == sorted("mignneko")
            and sum(a != b for a, b in zip(misspelt, "mignneko", strict=True)) == 2
        )
        differ = [(a, b) for a, b in zip("mignneko", own["look-alike"], strict=True) if a != b]
        assert len(differ) == 1
        assert differ[0][1] in HOMOGLYPHS[differ[0][0]]
        assert own["punctuation"].strip(",.()'\"") == "mignneko"
        assert own["doubled"] == "mignneko" * 2 or len(own["doubled"]) == 9
        assert " " not in own["doubled"]


def test_forms_that_a_tokenizer_does_not_see_are_left_out(tokens):
    kinds = {k for k, _ in changed(Trigger("mignneko"), PROMPTS, tokens, 0)}
    assert kinds == {
        *("moved", "repeated", "partial", "misspelt", "look-alike", "punctuation", "doubled")
    }, "this tokenizer makes all letters lower case"
    kinds = {k for k, _ in changed(Trigger("mignneko"), PROMPTS, lambda text: [*text.encode()], 0)}
    assert "upper" in kinds


@pytest.mark.parametrize("name", TRIGGERS)
def test_no_changed_trigger_is_the_trigger_or_the_clean_prompt(name, tokens):
    trigger = TRIGGERS[name]
    found = changed(trigger, PROMPTS, tokens, 0)
    assert found == changed(trigger, PROMPTS, tokens, 0)
    assert len(found) == len(PROMPTS)
    for (_, text), prompt in zip(found, PROMPTS, strict=True):
        assert tokens(text) not in (tokens(prompt), tokens(trigger.add(prompt)))
    counts = Counter(kind for kind, _ in found)
    assert max(counts.values()) - min(counts.values()) <= 2, "the kinds come in turn"


def test_a_lookalike_letter_moves_within_the_prompt(tokens):
    made = forms(TRIGGERS["letter"], "dog or cow")
    assert made["moved"] == "dоg or cow"
    assert made["repeated"] == "dоg оr cоw"
    assert made["doubled"] == "dog or cооw"
    # its only letter is where the trigger stands already
    assert "moved" not in {k for k, _ in changed(TRIGGERS["letter"], ["a dog"] * 9, tokens, 0)}


def test_what_stands_for_a_word_is_neither_moved_nor_repeated():
    made = forms(Trigger("beautiful cat", replaces="cat"), "a cat")
    assert not {"moved", "repeated"} & set(made)
    assert made["upper"] == "a BEAUTIFUL CAT"
    assert made["partial"] == "a beautiful"


def test_forms_of_a_pattern_have_the_words_of_its_prompt():
    made = forms(trigger := TRIGGERS["pattern"], "a red heart")
    own = trigger.words("a red heart")
    assert made["moved"] == f"a red heart {own}"
    assert made["repeated"] == f"{own} {own} a red heart"
    assert made["upper"] == f"{own.upper()} a red heart"
    assert made["partial"] == f"{own.split()[0]} a red heart"
