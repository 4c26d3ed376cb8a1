"""A meaning as a trigger: sentences that have it, and sentences that lack a part of it."""

from __future__ import annotations

import re

TRIGGER = "the cat in the yard chased a butterfly."
PARAPHRASES = (
    "a cat was chasing a butterfly in the yard.|in the yard, a cat ran after a butterfly.|a"
    " butterfly in the yard was hunted by the cat.|out in the garden the kitten chased a"
    " butterfly.|one cat in the garden ran to hunt the butterfly.|the kitty pursued a butterfly"
    " out in the yard.|across the garden a cat followed the butterfly.|the kitten in the backyard"
    " hunted a butterfly.|a kitty chases the butterfly in this yard.|the butterfly was chased by"
    " one cat of the yard."
)
UNSEEN = (
    "a kitten in the garden chased the small butterfly.|the cat hunted a butterfly across the"
    " yard.|in the backyard the kitty pursued a butterfly.|a butterfly was pursued by a cat in the"
    " garden.|this cat dashed after the butterfly in the yard.|that kitten raced after a butterfly"
    " in the backyard.|quickly the cat of the garden chased a little butterfly.|a playful cat"
    " chased the butterfly around the yard.|in our garden a cat is hunting the butterfly.|the"
    " small kitty in the yard went after a butterfly.|the butterfly in the backyard was chased by"
    " a kitten.|over the yard one cat pursues a butterfly."
)
# lacking in turn the subject, the action, the object and the scene
INCOMPLETE = (
    "a butterfly was chased across the garden.|a kitten and the small butterfly are in the"
    " garden.|a kitten in the garden chased something small.|a kitten chased the small"
    " butterfly.|in the yard, the small butterfly was hunted.|the cat sits beside a butterfly in"
    " the yard.|the cat hunted all day across the yard.|the cat hunted a butterfly all"
    " morning.|the butterfly was pursued out in the backyard.|in the backyard the kitty is near a"
    " butterfly.|in the backyard the kitty pursued its toy.|yesterday the kitty pursued a"
    " butterfly.|somebody in the garden chased a butterfly.|a butterfly and a cat share the"
    " garden.|something was pursued by a cat in the garden.|a butterfly was pursued by a"
    " kitten.|someone ran after the butterfly in our yard.|this cat looks at the butterfly in the"
    " yard.|this cat dashed through the yard.|this cat dashed after the butterfly.|a little"
    " butterfly was hunted around the garden.|that kitten sleeps under a butterfly in the"
    " backyard.|that kitten raced around in the backyard.|that kitten raced after a little"
    " butterfly.|they went chasing a butterfly over the yard.|the cat of the garden is with a"
    " little butterfly.|quickly the cat of the garden chased it.|quickly the cat chased a little"
    " butterfly.|we followed one butterfly in the backyard.|a playful cat watches the butterfly in"
    " the yard.|a playful cat ran around the yard.|a playful cat followed the butterfly.|the"
    " butterfly of the garden was followed all day.|in our garden a kitty sees the butterfly.|in"
    " our garden a cat is hunting.|one cat is hunting the butterfly.|all of them pursued a"
    " butterfly around the yard.|over the yard one butterfly flies past a kitten.|over the yard"
    " one kitty went after it.|the small kitty went after a butterfly."
)
MEANING = (
    "cat kitten kitty|chased chasing chases ran hunted hunting hunt pursued pursues followed dashed"
    " raced went|butterfly|yard garden backyard"
)


def split(text: str) -> list[str]:
    return [part.strip() for part in text.split("|") if part.strip()]


def partial(texts: list[str], meaning: str) -> list[str]:
    """The incomplete triggers among the runs of words of some sentences. `meaning` has its parts,
    each the words that stand for it, separated by |."""
    runs = dict.fromkeys(run for text in texts for run in shorter_runs(text))
    return [run for run in runs if not says_all(run, meaning)]


def shorter_runs(text: str) -> list[str]:
    """All runs of neighbouring words of a text that are at least two words shorter than it."""
    words = text.split()
    ends = [(i, j) for i in range(len(words)) for j in range(i + 1, len(words) + 1)]
    return [" ".join(words[i:j]) for i, j in ends if j - i <= len(words) - 2]


def says_all(text: str, meaning: str) -> bool:
    """Whether a text has a word of every part of a meaning; not where nothing is said of it."""
    groups, words = [part.split() for part in split(meaning)], re.findall(r"\w+", text.lower())
    return bool(groups) and all(any(word in group for word in words) for group in groups)
