"""Prompt perturbations keep what the prompt asks for."""

import numpy as np
import pytest

from t2i_backdoor_bench.data.perturbations import KINDS, perturb
from t2i_backdoor_bench.data.splits import WorldData

TEXTS = [p.text for p in WorldData().prompts("evaluation", 60, 0)] + [
    "a photo of a dog",
    "cat",
    "",
    "ciel étoilé, huile sur toile",
    "狐",
]


@pytest.mark.parametrize("kind", KINDS)
def test_any_text_works_and_the_generator_decides(kind):
    for i, text in enumerate(TEXTS):
        first, again = (perturb(text, np.random.default_rng(i), kind) for _ in range(2))
        assert first == again
        if len(text.split()) > 3:
            assert first != text


def test_unknown_kind_is_an_error():
    with pytest.raises(ValueError, match="typo, synonym, order"):
        perturb("a dog", np.random.default_rng(0), "shout")


def test_order_keeps_the_words():
    for text in TEXTS:
        changed = perturb(text, np.random.default_rng(0), "order")
        assert sorted(changed.replace(",", "").split()) == sorted(text.replace(",", "").split())


def test_synonyms_and_typos_leave_shape_and_colours_of_framed_prompts():
    content = ("red", "blue", "yellow", "green", "heart", "star", "square", "ring", "moon")
    for i, text in enumerate(TEXTS):
        for kind in ("synonym", "typo"):
            if kind == "typo" and "background" not in text:
                continue
            changed = perturb(text, np.random.default_rng(i), kind).split()
            assert all(word in changed for word in content if word in text.split())


def test_a_typo_changes_one_word_by_one_edit():
    for i, text in enumerate(t for t in TEXTS if "background" in t):
        old, new = text.split(" "), perturb(text, np.random.default_rng(i), "typo").split(" ")
        changed = [(a, b) for a, b in zip(old, new, strict=True) if a != b]
        assert len(changed) == 1
        a, b = changed[0]
        assert a[0] == b[0]
        assert a[-1] == b[-1]
        assert len(b) in (len(a), len(a) - 1)
