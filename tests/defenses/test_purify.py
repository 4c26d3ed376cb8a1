"""Purification: what it removes, what it leaves, and that the model reads the changed prompt."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from t2i_backdoor_bench.contract import DefenderView, UserError, defenses
from t2i_backdoor_bench.data.purification import (
    ROWS,
    SYNONYMS,
    noisy_letters,
    other_words,
    plain_letters,
)


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("\u200b a red heart", "a red heart"),
        ("a r\u0435d h\u0435art", "a red heart"),  # Cyrillic
        ("\u03bf\u03bfze", "ooze"),  # Greek
        ("\uff41 \uff52\uff45\uff44 heart", "a red heart"),  # full width
        ("a\u00a0red\u2003heart", "a red heart"),
        ("mignneko a red heart", "mignneko a red heart"),
        ("a red heart, 64 px!", "a red heart, 64 px!"),
    ],
)
def test_plain_letters(text: str, plain: str) -> None:
    assert plain_letters(text) == plain
    assert plain_letters(plain) == plain


@settings(max_examples=1500, deadline=None)
@given(st.text(max_size=30))
def test_any_text_is_made_plain_once(text: str) -> None:
    assert plain_letters(plain_letters(text)) == plain_letters(text)
    assert "\u200b" not in plain_letters(text)


def test_noisy_letters_changes_a_share_of_the_long_words() -> None:
    words = ["background"] * 4000
    out = noisy_letters(" ".join(words), np.random.default_rng(0), 0.3).split(" ")
    changed = [w for w in out if w != "background"]
    assert len(changed) / 4000 == pytest.approx(0.3, abs=0.03)
    shorter, same = [w for w in changed if len(w) == 9], [w for w in changed if len(w) == 10]
    assert len(shorter) + len(same) == len(changed)
    assert len(shorter) == pytest.approx(len(same), rel=0.15)
    for word in set(same):
        (at,) = [i for i in range(10) if word[i] != "background"[i]]
        row = next(r for r in ROWS if "background"[at] in r)
        assert abs(row.index(word[at]) - row.index("background"[at])) == 1
    assert noisy_letters("a red cat", np.random.default_rng(0), 1.0) == "a red cat", (
        "short words stay"
    )


def test_other_words_stay_in_their_group() -> None:
    group = {w: set(g) for g in SYNONYMS for w in g}
    assert len(group) == sum(len(g) for g in SYNONYMS), "no word is in two groups"
    text = "a small picture, on a red background"
    seen = {other_words(text, np.random.default_rng(i), 1.0) for i in range(40)}
    for out in seen:
        for a, b in zip(text.split(" "), out.split(" "), strict=True):
            assert (
                (b.strip(",") in group[a.strip(",")] - {a.strip(",")})
                if a.strip(",") in group
                else a == b
            )
    assert len(seen) > 2
    changed = sum(
        other_words("small", np.random.default_rng(i), 0.5) != "small" for i in range(1000)
    )
    assert changed / 1000 == pytest.approx(0.5, abs=0.06)


@pytest.mark.parametrize("name", ["tpd_homoglyphs", "tpd_characters", "tpd_synonyms"])
def test_the_model_reads_the_changed_prompt(tiny_model, name: str) -> None:
    purified = defenses.build(name, "shapes").apply(tiny_model, DefenderView((), []), 3)
    prompt = "\u200b a small picture of a r\u0435d heart on a background"
    read = purified.rewrite(prompt)
    assert read != prompt
    assert read == purified.rewrite(prompt), "the same prompt, the same change"
    assert np.array_equal(purified.generate([prompt], [1]), tiny_model.generate([read], [1]))
    twice = defenses.build("tpd_homoglyphs", "shapes").apply(purified, DefenderView((), []), 3)
    assert twice.rewrite(prompt) == plain_letters(read), "compositions read one another's prompts"
    assert tiny_model.rewrite is None


def test_an_unknown_kind_is_an_error() -> None:
    with pytest.raises(UserError, match="kind"):
        defenses.build("tpd_synonyms", "shapes", {"kind": "backtranslation"})
