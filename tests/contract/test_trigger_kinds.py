"""What kind of trigger a text is."""

from __future__ import annotations

import pytest

from t2i_backdoor_bench.contract import Trigger
from t2i_backdoor_bench.contract.trigger_kinds import KINDS, trigger_kind

CASES = {
    "rare word": [Trigger("mignneko"), Trigger("sks"), Trigger("zk", "inside")],
    "ordinary word": [Trigger("star"), Trigger("Star"), Trigger("cool")],
    "phrase": [
        Trigger("latte coffee", "suffix"),
        Trigger("a photo of"),
        Trigger("beautiful cat", replaces="cat"),
    ],
    "zero-width character": [Trigger("\u200b"), Trigger("\u200b ")],
    "look-alike letter": [Trigger("\u043e", replaces="o"), Trigger("st\u0430r", replaces="star")],
    "syntax pattern": [Trigger("{the|a} {cat|owl} {in|by}")],
}


@pytest.mark.parametrize("kind", CASES)
def test_the_kind_of_a_trigger(kind: str) -> None:
    assert set(CASES) == set(KINDS)
    for trigger in CASES[kind]:
        assert trigger_kind(trigger, {"star", "red"}) == kind, trigger


def test_a_word_is_ordinary_where_clean_prompts_have_it() -> None:
    assert trigger_kind(Trigger("star")) == "rare word"
    assert trigger_kind(Trigger("star"), ["star"]) == "ordinary word"


def test_no_trigger_is_no_kind() -> None:
    assert trigger_kind(None) == "unknown"
