"""Changes of a prompt that keep its meaning and may break a trigger: replaced homoglyphs, random
characters, synonyms."""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Callable, Sequence

import numpy as np

from t2i_backdoor_bench.data.homoglyphs import HOMOGLYPHS
from t2i_backdoor_bench.data.stop_words import STOP_WORDS

ROWS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")
WORD = re.compile(r"[^\W_][\w'-]*")

# Words of image prompts that can replace each other.
SYNONYMS = (
    ("small", "little", "tiny"),
    ("large", "big", "huge"),
    ("picture", "image", "photo"),
    ("drawing", "sketch", "illustration"),
    ("painting", "artwork"),
    ("background", "backdrop"),
    ("beautiful", "pretty", "lovely"),
    ("old", "ancient", "aged"),
    ("new", "modern", "recent"),
    ("bright", "vivid", "brilliant"),
    ("dark", "dim", "gloomy"),
    ("quick", "fast", "rapid"),
    ("man", "guy"),
    ("woman", "lady"),
    ("child", "kid"),
    ("children", "kids"),
    ("people", "persons"),
    ("dog", "hound"),
    ("cat", "feline"),
    ("car", "automobile"),
    ("house", "home"),
    ("street", "road"),
    ("forest", "woods"),
    ("sea", "ocean"),
    ("mountain", "peak"),
    ("field", "meadow"),
    ("city", "town"),
    ("sitting", "seated"),
    ("walking", "strolling"),
    ("running", "sprinting"),
    ("holding", "carrying"),
    ("near", "beside"),
    ("under", "beneath"),
    ("over", "above"),
    ("around", "about"),
    ("many", "several"),
    ("shiny", "glossy"),
    ("strange", "odd", "weird"),
    ("happy", "cheerful", "glad"),
    ("sad", "unhappy"),
    ("photograph", "snapshot"),
    ("portrait", "likeness"),
    ("detailed", "elaborate", "intricate"),
    ("realistic", "lifelike"),
    ("look", "glance"),
    ("please", "kindly"),
)
# default-ignorable characters that are in none of the categories below
IGNORABLE = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180d\u180f\u3164\ufe00-\ufe0f\uffa0"
    "\U000e0100-\U000e01ef]"
)
_LATIN = {other: letter for letter, others in HOMOGLYPHS.items() for other in others}
_OTHERS = {word: [w for w in group if w != word] for group in SYNONYMS for word in group}


@functools.cache
def latin(letter: str) -> str:
    """The Latin letter that a letter is in Unicode's compatibility form (NFKC) or looks like, in
    Unicode's list of confusable characters or in `HOMOGLYPHS`; or the letter itself."""
    from confusable_homoglyphs import confusables

    if (plain := unicodedata.normalize("NFKC", letter)).isascii():
        return plain
    found = confusables.is_confusable(letter, greedy=True, preferred_aliases=[])
    for match in found or ():
        for other in match["homoglyphs"]:
            if len(other["c"]) == 1 and other["c"].isascii() and other["c"].isalnum():
                return other["c"].lower() if letter.islower() else other["c"]
    return _LATIN.get(letter, letter)


def plain_letters(text: str) -> str:
    """The text without invisible characters, with Latin letters for those that look like them, in
    Unicode's compatibility form (NFKC), and with single spaces."""
    before = None
    while text != before:  # the compatibility form may have other letters that look like Latin ones
        before = text
        seen = (c for c in text if unicodedata.category(c) not in ("Cf", "Cc", "Co", "Cn"))
        text = "".join(map(latin, IGNORABLE.sub("", "".join(seen))))
        text = unicodedata.normalize("NFKC", text)
    return re.sub(r"\s+", " ", text).strip()


def noisy_letters(text: str, rng: np.random.Generator, rate: float) -> str:
    """A share `rate` of the words (at least one) loses a letter, or gets that of a key beside it.
    Stop words and words of one letter stay."""

    def noisy(word: str) -> str:
        at = int(rng.integers(len(word)))
        keys = beside(word[at])
        if keys and rng.random() < 0.5:
            return word[:at] + keys[rng.integers(len(keys))] + word[at + 1 :]
        return word[:at] + word[at + 1 :]

    return _changed(text, rng, rate, lambda w: len(w) > 1 and w.lower() not in STOP_WORDS, noisy)


def beside(letter: str) -> list[str]:
    """The keys beside, above and below that of a letter on an English keyboard whose rows are a
    grid, across too, with the letter's case."""
    places = {c: (y, x) for y, row in enumerate(ROWS) for x, c in enumerate(row)}
    if letter.lower() not in places:
        return []
    y, x = places[letter.lower()]
    found = [c for c, (v, u) in places.items() if max(abs(v - y), abs(u - x)) == 1]
    return [c.upper() for c in found] if letter.isupper() else found


def listed(word: str) -> Sequence[str]:
    """What `SYNONYMS` has in place of a word."""
    return _OTHERS.get(word, ())


def other_words(
    text: str,
    rng: np.random.Generator,
    rate: float,
    others: Callable[[str], Sequence[str]] = listed,
) -> str:
    """A share `rate` of the words (at least one), as far as they have one, is replaced by one of
    the `others` of a word in small letters. Stop words stay."""

    def other(word: str) -> str:
        choice = others(word.lower())
        return choice[rng.integers(len(choice))]

    return _changed(
        text, rng, rate, lambda w: w.lower() not in STOP_WORDS and bool(others(w.lower())), other
    )


def _changed(
    text: str,
    rng: np.random.Generator,
    rate: float,
    able: Callable[[str], bool],
    change: Callable[[str], str],
) -> str:
    """The text with a share `rate` of its words changed, drawn from those that can be."""
    words = list(WORD.finditer(text))
    can = [i for i, match in enumerate(words) if able(match[0])]
    many = min(len(can), max(1, int(rate * len(words)))) if rate else 0
    for i in sorted(rng.permutation(can)[:many], reverse=True):
        start, end = words[i].span()
        text = text[:start] + change(text[start:end]) + text[end:]
    return text
