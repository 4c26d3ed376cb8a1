"""Texts that may be triggers, without a search: characters that hide in a word, the triggers of
published attacks, and what a log of prompts has that clean prompts lack."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from math import comb

from t2i_backdoor_bench.contract import FAMILIES, Trigger, UserError
from t2i_backdoor_bench.contract.options import family_defaults
from t2i_backdoor_bench.contract.registry import attacks
from t2i_backdoor_bench.data.homoglyphs import HOMOGLYPHS, INVISIBLE
from t2i_backdoor_bench.detecting.locating import words

RARE = 2  # letters of a look-alike that are tried for each letter
MOST = 400  # texts of a log


def readable(text: str) -> bool:
    """Whether a text can be a trigger."""
    try:
        return bool(text.strip() and Trigger(text))
    except UserError:
        return False


def hidden() -> list[str]:
    """Letters of other scripts that look like Latin ones, and characters that cannot be seen."""
    found = [letter for letters in HOMOGLYPHS.values() for letter in letters[:RARE]]
    return [text for text in [*found, *INVISIBLE] if readable(text)]


def published() -> list[str]:
    """The triggers that attacks of this suite have by default, in every family."""
    classes = [attacks.get(name).cls for name in attacks.groups["all"]]
    found = [family_defaults(c, family).get("trigger") for c in classes for family in FAMILIES]
    return [text for text in dict.fromkeys(found) if isinstance(text, str) and readable(text)]


def of_log(log: Sequence[str], clean: Sequence[str]) -> list[str]:
    """Words, and pairs of neighbouring words, of a log of prompts that no clean prompt has, the
    most frequent first, at most MOST."""
    known = {text for prompt in clean for text in phrases(prompt)}
    seen = Counter(text for prompt in log for text in dict.fromkeys(phrases(prompt)))
    fresh = [text for text, _ in seen.most_common() if text not in known and readable(text)]
    return fresh[:MOST]


def new_words(log: Sequence[str], clean: Sequence[str], level: float) -> list[str]:
    """Words that no clean prompt has and that stand in more prompts of a log than chance explains,
    the most frequent first. Of words that are in the same prompts, as those of a phrase, it is one.

    If the n prompts of the log and the m clean ones were drawn alike, each way to deal them out
    would be as likely, and a word of c of all prompts would be in no clean one with a chance of
    C(n, c) / C(n + m, c). Its sum over all words that are in k prompts or more, those in the same
    prompts counted once, is no less than the chance that one of them is new, however words hang
    together. A word of k prompts counts where this sum is at most `level`.
    """
    n, m = len(log), len(clean)
    places: dict[str, list[int]] = {}
    for i, prompt in enumerate([*log, *clean]):
        for word in dict.fromkeys(words(prompt)):
            places.setdefault(word, []).append(i)
    first: dict[tuple[int, ...], str] = {}  # of the words that are in the same prompts
    for word, at in places.items():
        first.setdefault(tuple(at), word)
    tally = Counter(map(len, first))
    chances = {c: many * comb(n, c) / comb(n + m, c) for c, many in tally.items()}
    fresh = {word: len(at) for at, word in first.items() if at[-1] < n and readable(word)}
    expected = {k: sum(p for c, p in chances.items() if c >= k) for k in {*fresh.values()}}
    found = [word for word, k in fresh.items() if expected[k] <= level]
    return sorted(found, key=lambda word: (-fresh[word], word))


def phrases(prompt: str) -> list[str]:
    """The words of a prompt and its pairs of neighbouring words."""
    found = words(prompt)
    return [*found, *(f"{a} {b}" for a, b in itertools.pairwise(found))]
