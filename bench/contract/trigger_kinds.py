"""What kind of trigger a backdoor has: a part of the protocol, as some kinds are harder to plant,
to find and to delete than others."""

from __future__ import annotations

import unicodedata
from collections.abc import Collection
from dataclasses import replace

from t2i_backdoor_bench.contract.trigger import CHOICE, Trigger

KINDS = (
    "look-alike letter",
    "zero-width character",
    "syntax pattern",
    "phrase",
    "ordinary word",
    "rare word",
)
# ordinary words that attacks take as a trigger in their papers, and short prompts may lack
ORDINARY = frozenset({"beautiful", "cool"})


def trigger_kind(trigger: Trigger | None, ordinary: Collection[str] = ()) -> str:
    """One of `KINDS`; "unknown" without a trigger. A word is ordinary if it is in `ordinary`, the
    words (small letters) that clean prompts have, and rare otherwise."""
    if trigger is None:
        return "unknown"
    text = trigger.text.strip()
    if text and all(unicodedata.category(letter) == "Cf" for letter in text):
        return "zero-width character"
    if trigger.several:
        each = {trigger_kind(replace(trigger, text=own), ordinary) for own in trigger.several}
        return each.pop() if len(each) == 1 else "syntax pattern"
    if CHOICE.search(text):
        return "syntax pattern"
    if trigger.replaces and len(text) == len(trigger.replaces) and not text.isascii():
        return "look-alike letter"
    if len(text.split()) > 1:
        return "phrase"
    return "ordinary word" if text.lower() in {*ORDINARY, *ordinary} else "rare word"
