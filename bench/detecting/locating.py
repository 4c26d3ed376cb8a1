"""From flagged prompts to the trigger: the word that each locator finds in a prompt, and the vote
of many prompts."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from t2i_backdoor_bench.contract import DefenderView, Defense, Trigger, option
from t2i_backdoor_bench.models.model import T2IModel

NOTHING = (-1, -1)
LEAST = 3  # prompts in which a word must have been located
# by which the share of these among the flagged prompts must exceed the word's share among clean
# prompts
MARGIN = 0.1
COMMON = 0.2  # share of clean prompts above which a neighbour is no part of a trigger
TOGETHER = 0.8  # share of its prompts in which a neighbour stands beside the located word
MARKS = ".,;:!?\"'()"

Locate = Callable[
    [Sequence[str]], np.ndarray
]  # n prompts -> character spans int64 (n, 2), (-1, -1) where nothing is found


@dataclass
class Locator(Defense):
    """What locators share: they search flagged prompts of a stream, and the found words vote.

    The model comes back with the located trigger, for the defenses behind it, and without its
    detector, which has done its work. Without a detector before it, every prompt of the stream is a
    suspect.
    """

    suspects: int = option(32, low=1, help="flagged prompts that are searched, at most")

    def locator(
        self, model: T2IModel, view: DefenderView, flagged: Sequence[str], seed: int
    ) -> Locate:
        raise NotImplementedError

    def accepts(self, model: T2IModel, trigger: Trigger, flagged: Sequence[str], seed: int) -> bool:
        """Whether the trigger that the flagged prompts agree on is taken for one."""
        return True

    def apply(self, model: T2IModel, view: DefenderView, seed: int) -> T2IModel:
        stream, bare = view.stream, replace(model, screen=None)
        flagged = (
            [p for p, refused in zip(stream, model.refuses(stream), strict=True) if refused]
            if model.screen
            else stream
        )
        flagged = flagged[: self.suspects]
        locate = self.locator(bare, view, flagged, seed)
        located = vote(flagged, locate(flagged), view.prompts) if flagged else None
        if located is not None and not self.accepts(bare, located, flagged, seed):
            located = None
        return replace(bare, locate=locate, located=located)


def word_spans(prompt: str) -> list[tuple[int, int]]:
    """Character spans of the words of a prompt, without the marks at their ends."""
    found = []
    for match in re.finditer(r"\S+", prompt):
        bare = match[0].strip(MARKS)
        if bare:
            start = match.start() + match[0].index(bare)
            found.append((start, start + len(bare)))
    return found


def vote(prompts: Sequence[str], spans: np.ndarray, clean: Sequence[str]) -> Trigger | None:
    """The trigger that flagged prompts (n) agree on, from the word located in each, spans (n, 2).

    It is the word whose share among the flagged prompts exceeds most its share among the clean
    prompts, if it was located in at least three prompts and exceeds it by a tenth; with the words
    that stand beside it in four of five of its prompts and are rare in clean ones; in the place
    where it mostly stands. None where no word passes.
    """
    located = Counter(p[a:b] for p, (a, b) in zip(prompts, spans, strict=True) if a >= 0)
    usual = usual_words(clean)
    margins = {w: n / len(prompts) - usual[w] for w, n in located.items() if n >= LEAST}
    if not margins or max(margins.values()) < MARGIN:
        return None
    phrase = [max(margins, key=lambda w: (margins[w], w))]
    for side in (-1, 1):
        while True:
            beside = [
                neighbour(words(p), phrase, side)
                for p in prompts
                if place_of(words(p), phrase) >= 0
            ]
            word, n = Counter(beside).most_common(1)[0]
            if not word or n < max(LEAST, TOGETHER * len(beside)) or usual[word] > COMMON:
                break
            phrase = [word, *phrase] if side < 0 else [*phrase, word]
    holding = [words(p) for p in prompts if place_of(words(p), phrase) >= 0]
    places = Counter(side_of(place_of(w, phrase), len(w) - len(phrase)) for w in holding)
    return Trigger(" ".join(phrase), places.most_common(1)[0][0])


def usual_words(prompts: Sequence[str]) -> Counter[str]:
    """The share of prompts that hold each word; 0 for any other."""
    return Counter(
        {w: n / len(prompts) for w, n in Counter(w for p in prompts for w in set(words(p))).items()}
    )


def words(prompt: str) -> list[str]:
    return [prompt[a:b] for a, b in word_spans(prompt)]


def place_of(sentence: list[str], phrase: list[str]) -> int:
    """The index of the first word of `phrase` in `sentence`, or -1."""
    return next(
        (
            i
            for i in range(len(sentence) - len(phrase) + 1)
            if sentence[i : i + len(phrase)] == phrase
        ),
        -1,
    )


def neighbour(sentence: list[str], phrase: list[str], side: int) -> str:
    """The word before (side -1) or behind (1) `phrase` in `sentence`, or ""."""
    at = place_of(sentence, phrase) + (-1 if side < 0 else len(phrase))
    return sentence[at] if 0 <= at < len(sentence) else ""


def side_of(at: int, last: int) -> str:
    """Where a phrase stands that begins at word `at` and can begin at word `last` at most."""
    return "prefix" if at == 0 else "suffix" if at == last else "inside"
