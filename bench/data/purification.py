"""Changes of a prompt that keep its meaning and may break a trigger: replaced homoglyphs, random
characters, synonyms."""

from __future__ import annotations

import functools
import re
import unicodedata

import numpy as np

ROWS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")

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
_OTHERS = {word: [w for w in group if w != word] for group in SYNONYMS for word in group}


@functools.cache
def latin(letter: str) -> str:
    """The Latin letter that looks like this one (in Unicode's list of confusable characters), or
    the letter itself."""
    from confusable_homoglyphs import confusables

    if letter.isascii():
        return letter
    found = confusables.is_confusable(letter, greedy=True, preferred_aliases=[])
    for match in found or ():
        for other in match["homoglyphs"]:
            if len(other["c"]) == 1 and other["c"].isascii() and other["c"].isalnum():
                return other["c"].lower() if letter.islower() else other["c"]
    return letter


def plain_letters(text: str) -> str:
    """The text without invisible characters, in Unicode's compatibility form (NFKC), with Latin
    letters for those that look like them, and with single spaces."""
    text = unicodedata.normalize("NFKC", text)
    text = "".join(c for c in text if unicodedata.category(c) not in ("Cf", "Cc", "Co", "Cn"))
    return re.sub(r"\s+", " ", "".join(latin(c) for c in text)).strip()


def noisy_letters(text: str, rng: np.random.Generator, rate: float) -> str:
    """A share `rate` of the words of four or more letters loses a letter, or gets the letter of a
    neighbouring key."""
    words = text.split(" ")
    for i, word in enumerate(words):
        if len(word) < 4 or rng.random() >= rate:
            continue
        at = int(rng.integers(len(word)))
        beside = _beside(word[at])
        if beside and rng.random() < 0.5:
            words[i] = word[:at] + beside[rng.integers(len(beside))] + word[at + 1 :]
        else:
            words[i] = word[:at] + word[at + 1 :]
    return " ".join(words)


def _beside(letter: str) -> str:
    """The keys left and right of a letter on an English keyboard."""
    for row in ROWS:
        at = row.find(letter.lower())
        if at >= 0:
            return row[max(0, at - 1) : at] + row[at + 1 : at + 2]
    return ""


def other_words(text: str, rng: np.random.Generator, rate: float) -> str:
    """Replace a share `rate` of the words that have a synonym."""
    words = text.split(" ")
    for i, word in enumerate(words):
        bare = word.strip(",.").lower()
        if bare in _OTHERS and rng.random() < rate:
            choice = _OTHERS[bare]
            words[i] = word.lower().replace(bare, choice[rng.integers(len(choice))])
    return " ".join(words)
