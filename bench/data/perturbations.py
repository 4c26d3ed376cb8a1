"""What a user might type instead: prompts with typos, synonyms or another word order."""

from __future__ import annotations

import re

import numpy as np

KINDS = ("typo", "synonym", "order")

# Words that do not name the content of a scene: a typo in them should not hurt a robust model.
_FRAME_WORDS = {
    "background",
    "picture",
    "image",
    "drawing",
    "photo",
    "painting",
    "front",
    "look",
    "there",
    "here",
    "over",
    "with",
    "this",
}
_SYNONYMS = (
    ("in front of", "on"),
    ("on top of", "over"),
    ("a picture of", "an image of"),
    ("an image of", "a picture of"),
    ("a photo of", "a picture of"),
    ("a drawing of", "an illustration of"),
    ("there is", "here we see"),
    ("here we see", "there is"),
    ("this is", "look at"),
    ("look at", "this is"),
    ("small", "little"),
    ("large", "big"),
    ("one", "a single"),
    ("over", "in front of"),
    ("next to", "beside"),
    ("on", "over"),
)
_PREPOSITIONS = "in front of|on top of|next to|on|over|under|near|beside|with|in|at"


def perturb(text: str, rng: np.random.Generator, kind: str = "typo") -> str:
    """The prompt with one change that keeps its meaning. `kind` is "typo", "synonym" or "order".

    Any text works. If there is nothing to change (one word has no other order), the text is
    returned as it is.
    """
    changes = {"typo": _typo, "synonym": _synonym, "order": _order}
    if kind not in changes:
        raise ValueError(f"unknown perturbation {kind!r}; known: {', '.join(KINDS)}")
    return changes[kind](text, rng)


def _typo(text: str, rng: np.random.Generator) -> str:
    """Swap two neighbouring inner letters of one word, or drop one. The first and last letter stay,
    because readers depend on them most."""
    words = text.split(" ")
    long = [i for i, w in enumerate(words) if len(w) >= 4 and w.isalpha()]
    frame = [i for i in long if words[i].lower() in _FRAME_WORDS]
    pool = frame or long
    if not pool:
        return text
    at = pool[rng.integers(len(pool))]
    word = words[at]
    swaps = [j for j in range(1, len(word) - 2) if word[j] != word[j + 1]]
    if swaps and rng.random() < 0.5:
        j = swaps[rng.integers(len(swaps))]
        word = word[:j] + word[j + 1] + word[j] + word[j + 2 :]
    else:
        j = int(rng.integers(1, len(word) - 1))
        word = word[:j] + word[j + 1 :]
    return " ".join([*words[:at], word, *words[at + 1 :]])


def _synonym(text: str, rng: np.random.Generator) -> str:
    """Replace one neutral word or phrase. A prompt without any gets "a picture of" in front."""
    found = [(a, b) for a, b in _SYNONYMS if re.search(rf"\b{a}\b", text)]
    if not found:
        return f"a picture of {text}"
    old, new = found[rng.integers(len(found))]
    return re.sub(rf"\b{old}\b", new, text, count=1)


def _order(text: str, rng: np.random.Generator) -> str:
    """Move the last clause to the front: the text after the last comma, or from the first
    preposition on. Otherwise swap the two halves."""
    if "," in text:
        head, tail = text.rsplit(",", 1)
        if head.strip() and tail.strip():
            return f"{tail.strip()}, {head.strip()}"
    match = re.search(rf" (?=(?:{_PREPOSITIONS}) )", text)
    if match:
        return f"{text[match.end() :]}, {text[: match.start()]}"
    words = text.split(" ")
    half = len(words) // 2
    return f"{' '.join(words[half:])}, {' '.join(words[:half])}" if half else text
