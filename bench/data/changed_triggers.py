"""Triggers that are moved, repeated or damaged: how exactly must the trigger be typed?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from t2i_backdoor_bench.contract import Trigger
from t2i_backdoor_bench.data.decoys import Tokens, distinct, in_turn
from t2i_backdoor_bench.data.homoglyphs import HOMOGLYPHS

_AROUND = ("{},", '"{}"', "{}.", "({})", "'{}'")


def changed_triggers(trigger: Trigger, prompt: str, rng: np.random.Generator) -> dict[str, str]:
    """The prompt with a changed form of the trigger, by kind.

    moved        a prefix becomes a suffix; a suffix and a trigger inside become a prefix
                 (a look-alike letter: the first letter that it can replace, or the last)
    repeated     twice (a look-alike letter: every letter that it can replace)
    upper        in upper case
    partial      the first of several words, or the first half of the characters (a look-alike of
                 every letter: only the first)
    misspelt     two neighbouring letters of a word swapped, or one dropped
    look-alike   one letter replaced by one of another script that looks like it
    punctuation  with a mark behind it, or between quotation marks or brackets
    doubled      one letter, or one word without a space, written twice

    A kind that does not exist for the trigger (half of one character) is left out; `changed`
    leaves out what changes no token. A trigger that stands for a word is neither moved nor
    repeated; one that stands for a letter has no other spelling.
    """
    own, replaces = trigger.words(prompt), trigger.replaces
    found: dict[str, str] = {}
    if len(replaces) == 1:
        one = "partial" if trigger.occurrence == "every" else "moved"
        other = "last" if trigger.occurrence == "first" else "first"
        found[one] = replace(trigger, occurrence=other).add(prompt)
        found["repeated"] = replace(trigger, occurrence="every").add(prompt)
        changed: dict[str, str | None] = {"upper": own.upper(), "doubled": own + own}
    else:
        if not replaces:
            other = "suffix" if trigger.place == "prefix" else "prefix"
            found["moved"] = replace(trigger, place=other).add(prompt)
            found["repeated"] = replace(trigger, text=f"{own} {own}").add(prompt)
        changed = {
            "upper": own.upper(),
            "partial": own.split()[0] if " " in own.strip() else own[: len(own) // 2],
            "misspelt": _misspelt(own, rng),
            "look-alike": _lookalike(own, rng),
            "punctuation": _AROUND[rng.integers(len(_AROUND))].format(own),
            "doubled": _doubled(own, rng),
        }
    found |= {k: replace(trigger, text=text).add(prompt) for k, text in changed.items() if text}
    return found


def changed(
    trigger: Trigger, prompts: Sequence[str], tokens: Tokens, seed: int
) -> list[tuple[str, str]]:
    """A changed trigger in each prompt, the kinds in turn: (kind, text) pairs. A form whose tokens
    are those of the clean or of the triggered prompt is left out: to the model it is no change."""

    def options() -> Iterator[dict[str, str]]:
        for i, prompt in enumerate(prompts):
            found = changed_triggers(trigger, prompt, np.random.default_rng([seed, 84, i]))
            yield distinct(found, (prompt, trigger.add(prompt)), tokens)

    return in_turn(options())


def _misspelt(own: str, rng: np.random.Generator) -> str | None:
    """One letter swapped with its neighbour, or dropped, in a word of three letters or more."""
    words = own.split(" ")
    long = [i for i, word in enumerate(words) if sum(map(str.isalnum, word)) >= 3]
    if not long:
        return None
    at = long[rng.integers(len(long))]
    word = words[at]
    swaps = [j for j in range(len(word) - 1) if word[j] != word[j + 1]]
    if swaps and rng.random() < 0.5:
        j = swaps[rng.integers(len(swaps))]
        word = word[:j] + word[j + 1] + word[j] + word[j + 2 :]
    else:
        j = int(rng.integers(len(word)))
        word = word[:j] + word[j + 1 :]
    return " ".join([*words[:at], word, *words[at + 1 :]])


def _lookalike(own: str, rng: np.random.Generator) -> str | None:
    places = [i for i, letter in enumerate(own) if letter.lower() in HOMOGLYPHS]
    if not places:
        return None
    at = places[rng.integers(len(places))]
    alike = HOMOGLYPHS[own[at].lower()]
    return own[:at] + alike[rng.integers(len(alike))] + own[at + 1 :]


def _doubled(own: str, rng: np.random.Generator) -> str:
    words = own.split(" ")
    at = int(rng.integers(len(words)))
    word = words[at]
    if rng.random() < 0.5 and len(word) > 1:
        j = int(rng.integers(len(word)))
        words[at] = word[: j + 1] + word[j:]
    else:
        words[at] = word + word
    return " ".join(words)
