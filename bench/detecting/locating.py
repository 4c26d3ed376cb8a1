"""Find the trigger from flagged prompts: a locator finds one word in each prompt, and the prompts
vote."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from t2i_backdoor_bench.contract import DefenderView, Defense, Trigger, option
from t2i_backdoor_bench.models.model import T2IModel

NOTHING = (-1, -1)
LEAST = 3  # prompts in which a word must have been located
# a word's share of the flagged prompts must exceed its share of the clean prompts by this
MARGIN = 0.1
COMMON = 0.2  # share of clean prompts above which a neighbouring word is not part of a trigger
TOGETHER = 0.8  # share of its prompts in which a neighbour stands beside the located word
MARKS = ".,;:!?\"'()"
ALONE = frozenset(".,;:!?")  # marks that are no word where they stand alone, one of them

# n prompts -> character spans int64 (n, 2); (-1, -1) if nothing is found
Locate = Callable[[Sequence[str]], np.ndarray]


@dataclass
class Locator(Defense):
    """Base class of locators: search the flagged prompts of a stream and vote on the words found.

    The returned model carries the located trigger for the defenses that follow. It no longer has
    a detector. If no detector came before the locator, it searches every prompt of the stream.
    """

    suspects: int = option(32, low=1, help="flagged prompts that are searched, at most")

    def locator(
        self, model: T2IModel, view: DefenderView, flagged: Sequence[str], seed: int
    ) -> Locate:
        raise NotImplementedError

    def accepts(self, model: T2IModel, trigger: Trigger, flagged: Sequence[str], seed: int) -> bool:
        """Whether to accept the trigger that the flagged prompts agree on."""
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


def finder(located: Trigger | None) -> Locate:
    """Finds a located trigger in prompts, as it stands there."""

    def locate(prompts: Sequence[str]) -> np.ndarray:
        hits = [located.pattern.search(p) if located else None for p in prompts]
        return np.array([h.span() if h else NOTHING for h in hits], np.int64).reshape(-1, 2)

    return locate


def word_spans(prompt: str) -> list[tuple[int, int]]:
    """Character spans of the words of a prompt, without punctuation at their ends. What is
    punctuation alone, such as "....", is a word, but for one of `ALONE`."""
    found = []
    for match in re.finditer(r"\S+", prompt):
        bare = match[0].strip(MARKS) or match[0]
        if bare not in ALONE:
            start = match.start() + match[0].index(bare)
            found.append((start, start + len(bare)))
    return found


def vote(prompts: Sequence[str], spans: np.ndarray, clean: Sequence[str]) -> Trigger | None:
    """The trigger that flagged prompts (n) agree on, from the word located in each, spans (n, 2).

    For each word, compare its share of the flagged prompts with its share of the clean prompts, and
    take the word with the largest difference. It must have been located in at least `LEAST` prompts
    and the difference must be at least `MARGIN`; otherwise the result is None. Neighbouring words
    join the trigger if they stand beside it in a share `TOGETHER` of its prompts and are rare in
    clean prompts. The trigger's place is the one where it most often stands.
    """
    located = Counter(p[a:b] for p, (a, b) in zip(prompts, spans, strict=True) if a >= 0)
    usual = usual_words(clean)
    margins = {w: n / len(prompts) - usual[w] for w, n in located.items() if n >= LEAST}
    if not margins or max(margins.values()) < MARGIN:
        return None
    return grown(prompts, max(margins, key=lambda w: (margins[w], w)), usual)


def grown(prompts: Sequence[str], word: str, usual: Mapping[str, float]) -> Trigger:
    """The trigger that has a word, which some prompt has: the word, the neighbours that join it,
    and the place. `usual`: the share of clean prompts that contain each word."""
    phrase = [word]
    for side in (-1, 1):
        while True:
            beside = [
                neighbour(words(p), phrase, side)
                for p in prompts
                if place_of(words(p), phrase) >= 0
            ]
            more, n = Counter(beside).most_common(1)[0]
            if not more or n < max(LEAST, TOGETHER * len(beside)) or usual[more] > COMMON:
                break
            phrase = [more, *phrase] if side < 0 else [*phrase, more]
    holding = [words(p) for p in prompts if place_of(words(p), phrase) >= 0]
    places = Counter(side_of(place_of(w, phrase), len(w) - len(phrase)) for w in holding)
    return Trigger(" ".join(phrase), places.most_common(1)[0][0])


def usual_words(prompts: Sequence[str]) -> Counter[str]:
    """The share of prompts that contain each word; 0 for any other word."""
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
    """The word before (side -1) or after (1) `phrase` in `sentence`, or "" if there is none."""
    at = place_of(sentence, phrase) + (-1 if side < 0 else len(phrase))
    return sentence[at] if 0 <= at < len(sentence) else ""


def side_of(at: int, last: int) -> str:
    """The place of a phrase that begins at word `at`, where `last` is the last possible start."""
    return "prefix" if at == 0 else "suffix" if at == last else "inside"
