"""Other forms of a trigger, as a defender who knows one form guesses them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from t2i_backdoor_bench.contract import OCCURRENCES, PLACES, Trigger
from t2i_backdoor_bench.data.homoglyphs import HOMOGLYPHS

_LETTERS = "abcdefghijklmnopqrstuvwxyz"


def guessed_forms(trigger: Trigger, many: int, seed: int) -> list[Trigger]:
    """At most `many` other forms: the trigger at the other places, in other cases, in halves, and
    with one letter that is lost, wrong, or replaced by one that looks like it.

    One that stands for a letter has other occurrences and no other spelling; one that stands for a
    word is not moved; a pattern is only moved.
    """
    rng = np.random.default_rng([seed, 97])
    if len(trigger.replaces) == 1:
        found = [replace(trigger, occurrence=o) for o in OCCURRENCES]
    else:
        places = () if trigger.replaces else PLACES
        found = [replace(trigger, place=place) for place in places]
        if "{" not in trigger.text:
            texts = [*_cases_and_halves(trigger.text)]
            texts += [_damaged(trigger.text, i % 3, rng) for i in range(many)]
            found += [replace(trigger, text=text) for text in texts if text.strip()]
    return [form for form in dict.fromkeys(found) if form != trigger][:many]


def _cases_and_halves(text: str) -> list[str]:
    words, half = text.split(), (len(text) + 1) // 2
    halves = words if len(words) > 1 else [text[:half], text[half:]]
    return [text.upper(), text.title(), *dict.fromkeys(halves)]


def _damaged(text: str, how: int, rng: np.random.Generator) -> str:
    """One character lost (0), wrong (1), or one that looks like it (2)."""
    at = int(rng.integers(len(text)))
    alike = HOMOGLYPHS.get(text[at].lower(), _LETTERS)
    letters = ("", _LETTERS[rng.integers(len(_LETTERS))], alike[rng.integers(len(alike))])
    return text[:at] + letters[how] + text[at + 1 :]
