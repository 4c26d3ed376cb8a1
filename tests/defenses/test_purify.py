"""Purification: what it removes, what it leaves, and that the model reads the changed prompt."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from t2i_backdoor_bench.contract import DefenderView, UserError, defenses
from t2i_backdoor_bench.data.homoglyphs import HOMOGLYPHS, INVISIBLE
from t2i_backdoor_bench.data.purification import (
    ROWS,
    SYNONYMS,
    beside,
    noisy_letters,
    other_words,
    plain_letters,
)
from t2i_backdoor_bench.data.word_vectors import read_vectors


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("\u200b a red heart", "a red heart"),
        ("a r\u0435d h\u0435art", "a red heart"),  # Cyrillic
        ("\u03bf\u03bfze", "ooze"),  # Greek
        ("a \u03f2a\u03c4, a \u0442\u043ey", "a cat, a toy"),  # NFKC has a final sigma for the c
        ("a\u034f red \ufe0fheart \u3164", "a red heart"),
        ("x\u00b2 \U0001d7ce\uff11", "x2 01"),
        ("\uff41 \uff52\uff45\uff44 heart", "a red heart"),  # full width
        ("a\u00a0red\u2003heart", "a red heart"),
        ("mignneko a red heart", "mignneko a red heart"),
        ("a red heart, 64 px!", "a red heart, 64 px!"),
    ],
)
def test_plain_letters(text: str, plain: str) -> None:
    assert plain_letters(text) == plain
    assert plain_letters(plain) == plain


def test_the_homoglyphs_of_the_suite_are_written_as_their_letters() -> None:
    for letter, others in HOMOGLYPHS.items():
        for other in others:
            seen = "i" if other == "\u04cf" else letter  # palochka: Unicode has it under i
            assert plain_letters(other) == seen, hex(ord(other))
    assert plain_letters("a".join(INVISIBLE)) == "a" * (len(INVISIBLE) - 1)


@settings(max_examples=1500, deadline=None)
@given(st.text(max_size=30))
def test_any_text_is_made_plain_once(text: str) -> None:
    assert plain_letters(plain_letters(text)) == plain_letters(text)
    assert "\u200b" not in plain_letters(text)


def touches(a: str, b: str) -> bool:
    """Whether two keys stand beside one another, above, below or across."""
    (i, j), (k, n) = ((y, r.index(c)) for c in (a, b) for y, r in enumerate(ROWS) if c in r)
    return a != b and abs(i - k) <= 1 and abs(j - n) <= 1


def test_noisy_letters_changes_a_share_of_the_words() -> None:
    words = ["background"] * 4000
    out = noisy_letters(" ".join(words), np.random.default_rng(0), 0.3).split(" ")
    changed = [w for w in out if w != "background"]
    assert len(changed) == 1200, "the share, not a coin for each word"
    shorter, same = [w for w in changed if len(w) == 9], [w for w in changed if len(w) == 10]
    assert len(shorter) + len(same) == len(changed)
    assert len(shorter) == pytest.approx(len(same), rel=0.15)
    for word in set(same):
        (at,) = [i for i in range(10) if word[i] != "background"[i]]
        assert touches(word[at], "background"[at])


def test_at_rate_one_every_word_but_stop_words_is_changed_once() -> None:
    text = "there is a red cat, on the \u200b X background."
    for seed in range(30):
        out = noisy_letters(text, np.random.default_rng(seed), 1.0)
        changed, words = out.split(" "), text.split(" ")
        assert len(changed) == len(words)
        for old, new in zip(words, changed, strict=True):
            stays = old in ("there", "is", "a", "on", "the", "\u200b", "X")
            assert (old == new) == stays, (old, new)
            assert old[-1] == new[-1] or old[-1].isalpha(), "marks stay"
    assert noisy_letters(text, np.random.default_rng(0), 0.0) == text
    assert sorted(beside("A")) == ["Q", "S", "W", "X", "Z"]


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
    ten = " ".join(["small"] * 10)
    for i in range(20):
        out = other_words(ten, np.random.default_rng(i), 0.5).split(" ")
        assert sum(w != "small" for w in out) == 5, "half of the words"


def test_synonyms_are_the_near_words_of_a_file_of_vectors(tmp_path, tiny_model) -> None:
    rng = np.random.default_rng(0)
    words, x = [f"w{i}" for i in range(60)], rng.normal(size=(60, 3)).astype(np.float32)
    table = tmp_path / "vectors.txt"
    lines = ["60 3", *(f"{w} {' '.join(map(str, v))}" for w, v in zip(words, x, strict=True))]
    table.write_text("\n".join(lines), encoding="utf-8")
    vectors = read_vectors(table)
    for i in (0, 7, 59):
        apart = sorted((sum((a - b) ** 2 for a, b in zip(x[i], x[j])), j) for j in range(60))
        expected = [words[j] for d, j in apart if j != i and d <= 0.9][:4]
        assert vectors.near(words[i], 4, 0.9) == expected
    assert vectors.near("zebra", 4, 0.9) == []
    options = {"vectors": str(table), "distance": "0.9", "rate": "1"}
    tpd = defenses.build("tpd_synonyms", "shapes", options)
    assert tpd.weights, "the file is a part of the cell's key"
    read = tpd.apply(tiny_model, DefenderView((), []), 0).rewrite
    for word in words:
        near = vectors.near(word, 15, 0.9)
        assert read(f"the {word} small").split(" ")[0::2] == ["the", "small"]
        assert read(f"the {word} small").split(" ")[1] in (near or [word])


@pytest.mark.parametrize("text", ["a 1 2", "a 1 x\nb 1 2", "a 1 2\nb 1"])
def test_a_file_that_has_no_vectors_is_refused(tmp_path, text: str) -> None:
    table = tmp_path / "vectors.txt"
    table.write_text(text, encoding="utf-8")
    if text == "a 1 2":
        assert read_vectors(table).words == ["a"]
        return
    with pytest.raises(UserError, match="no text file of word vectors"):
        read_vectors(table)
    with pytest.raises(UserError, match="there is no such file"):
        defenses.build("tpd_synonyms", "shapes", {"vectors": str(tmp_path / "none.txt")})


def test_rates_are_those_of_the_released_code() -> None:
    assert defenses.build("tpd_characters", "sd").rate == 1.0
    assert defenses.build("tpd_synonyms", "sd").rate == 0.5


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
