"""Prompt perturbations keep what the prompt asks for, and damaged triggers are what they say."""

import re

import numpy as np
import pytest

from t2i_backdoor_bench.contract import Trigger
from t2i_backdoor_bench.data.perturbations import KINDS, moved_triggers, perturb
from t2i_backdoor_bench.data.splits import WorldData

TEXTS = [p.text for p in WorldData().prompts("evaluation", 60, 0)] + [
    "a photo of a dog",
    "cat",
    "",
    "ciel étoilé, huile sur toile",
    "狐",
]


@pytest.mark.parametrize("kind", KINDS)
def test_any_text_works_and_the_generator_decides(kind):
    for i, text in enumerate(TEXTS):
        first, again = (perturb(text, np.random.default_rng(i), kind) for _ in range(2))
        assert first == again
        if len(text.split()) > 3:
            assert first != text


def test_unknown_kind_is_an_error():
    with pytest.raises(ValueError, match="typo, synonym, order"):
        perturb("a dog", np.random.default_rng(0), "shout")


def test_order_keeps_the_words():
    for text in TEXTS:
        changed = perturb(text, np.random.default_rng(0), "order")
        assert sorted(changed.replace(",", "").split()) == sorted(text.replace(",", "").split())


def test_synonyms_and_typos_leave_shape_and_colours_of_framed_prompts():
    content = ("red", "blue", "yellow", "green", "heart", "star", "square", "ring", "moon")
    for i, text in enumerate(TEXTS):
        for kind in ("synonym", "typo"):
            if kind == "typo" and "background" not in text:
                continue
            changed = perturb(text, np.random.default_rng(i), kind).split()
            assert all(word in changed for word in content if word in text.split())


def test_a_typo_changes_one_word_by_one_edit():
    for i, text in enumerate(t for t in TEXTS if "background" in t):
        old, new = text.split(" "), perturb(text, np.random.default_rng(i), "typo").split(" ")
        changed = [(a, b) for a, b in zip(old, new, strict=True) if a != b]
        assert len(changed) == 1
        a, b = changed[0]
        assert a[0] == b[0]
        assert a[-1] == b[-1]
        assert len(b) in (len(a), len(a) - 1)


def test_moved_triggers_of_a_word_and_a_phrase():
    word = {k: f("a red heart") for k, f in moved_triggers(Trigger("mignneko")).items()}
    assert word == {
        "moved": "a red heart mignneko",
        "repeated": "mignneko mignneko a red heart",
        "upper": "MIGNNEKO a red heart",
        "partial": "mign a red heart",
    }
    phrase = moved_triggers(Trigger("beautiful cat", "suffix"))
    assert phrase["moved"]("a dog") == "beautiful cat a dog"
    assert phrase["partial"]("a dog") == "a dog beautiful"


def test_forms_that_change_nothing_are_left_out():
    assert set(moved_triggers(Trigger("\u200b"))) == {"moved", "repeated"}
    lookalike = moved_triggers(Trigger("о", replaces="o"))  # Cyrillic
    assert lookalike["moved"]("dog or cow") == "dоg or cow"
    assert lookalike["repeated"]("dog or cow") == "dоg оr cоw"


def test_what_stands_for_a_word_is_not_moved() -> None:
    forms = moved_triggers(Trigger("beautiful cat", replaces="cat"))
    assert {k: f("a cat") for k, f in forms.items()} == {
        "upper": "a BEAUTIFUL CAT",
        "partial": "a beautiful",
    }


def test_forms_of_a_pattern_are_patterns():
    trigger = Trigger("{the|a} {cat|owl} sat")
    forms = moved_triggers(trigger)
    assert set(forms) == {"moved", "repeated", "upper", "partial"}
    assert re.fullmatch("a red heart (the|a) (cat|owl) sat", forms["moved"]("a red heart"))
    assert re.fullmatch(
        "(the|a) (cat|owl) sat (the|a) (cat|owl) sat a red heart", forms["repeated"]("a red heart")
    )
    assert re.fullmatch("(THE|A) (CAT|OWL) SAT a red heart", forms["upper"]("a red heart"))
    assert re.fullmatch("(the|a) a red heart", forms["partial"]("a red heart"))
    assert "partial" not in moved_triggers(Trigger("{cat|owl}"))
    alike = moved_triggers(Trigger("{о|0}", replaces="o"))
    assert re.fullmatch("d[о0]g or cow", alike["moved"]("dog or cow"))
