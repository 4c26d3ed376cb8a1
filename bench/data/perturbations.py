"""What a user might type instead: prompts with typos, synonyms or another word order, and triggers
that are moved or damaged."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from t2i_backdoor_bench.contract import CHOICE, Trigger

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


def decoy(trigger: Trigger, prompt: str, rng: np.random.Generator) -> str:
    """The triggered prompt with random letters instead of the trigger, at least four a word.

    No attack gave these words a meaning. A detector that tells such prompts from clean ones sees an
    unusual word, not a backdoor.
    """
    text, start, end = trigger.locate(prompt)
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))
    words = [
        "".join(rng.choice(letters, size=max(4, len(word)))) for word in text[start:end].split()
    ]
    return text[:start] + " ".join(words) + text[end:]


def moved_triggers(trigger: Trigger) -> dict[str, Callable[[str], str]]:
    """By kind, a function that puts a moved or damaged form of the trigger into a prompt.

    moved     a prefix becomes a suffix; a suffix and a trigger inside become a prefix
              (a look-alike letter: the first letter that it can replace, not the last)
    repeated  twice (a look-alike letter: every letter that it can replace)
    upper     in upper case
    partial   the first of several words, or the first half of the characters

    A kind that would not change the trigger (upper case of a zero-width space, half of one
    character) is left out. A trigger that replaces a whole word is neither moved nor repeated.
    """
    text = trigger.text
    if len(trigger.replaces) > 1:
        forms = {}
    elif trigger.replaces:
        forms: dict[str, Callable[[str], str]] = {
            "moved": lambda prompt: prompt.replace(trigger.replaces, trigger.words(prompt), 1),
            "repeated": lambda prompt: prompt.replace(trigger.replaces, trigger.words(prompt)),
        }
    else:
        other = replace(trigger, place="suffix" if trigger.place == "prefix" else "prefix")
        forms = {"moved": other.add, "repeated": replace(trigger, text=f"{text} {text}").add}
    if text.upper() != text:
        forms["upper"] = replace(trigger, text=text.upper()).add
    half = "" if CHOICE.search(text) else text[: len(text) // 2]  # half of {a|b} is no pattern
    part = text.split(" ")[0] if " " in text.strip() else half
    if part and part != text:
        forms["partial"] = replace(trigger, text=part).add
    return forms
