"""Texts that may be triggers, without a search: characters that hide in a word, the triggers of
published attacks, and what a log of prompts has that clean prompts lack."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence

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


def phrases(prompt: str) -> list[str]:
    """The words of a prompt and its pairs of neighbouring words."""
    found = words(prompt)
    return [*found, *(f"{a} {b}" for a, b in itertools.pairwise(found))]
