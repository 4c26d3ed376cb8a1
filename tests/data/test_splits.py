"""The embedded world as a data source: splits, prompts with wrong alternatives, pairs."""

from __future__ import annotations

import re

import numpy as np
import pytest

from t2i_backdoor_bench.contract import UserError
from t2i_backdoor_bench.data import world
from t2i_backdoor_bench.data.splits import SPLITS, WorldData, split_of
from t2i_backdoor_bench.data.world import BACKGROUNDS, COLOURS, SHAPES, STYLES

DATA = WorldData()


def content(text: str) -> tuple[str, str, str]:
    words = re.findall(r"\w+", text)
    background = re.search(r"(\w+) background", text)[1]
    colors = [
        w
        for w in re.findall(r"\w+", text.replace(f"{background} background", ""))
        if w in BACKGROUNDS
    ]
    return next(w for w in words if w in SHAPES), colors[0], background


def test_splits_share_no_combination_and_follow_their_shares() -> None:
    every = [*world.combinations(False), *world.combinations(True)]
    found = {name: {c for c in every if split_of(c) == name} for name in SPLITS}
    assert sum(len(f) for f in found.values()) == len(every)
    assert sum(SPLITS.values()) == pytest.approx(1)
    for name, combinations in found.items():
        assert len(combinations) / len(every) == pytest.approx(SPLITS[name], abs=0.06)
        assert {c[0] for c in combinations} == set(SHAPES)
    for name in SPLITS:
        texts = [p.text for p in DATA.prompts(name, 100, 0)] + DATA.pairs(name, 60, 0)[1]
        assert {content(t) for t in texts} <= found[name]


def test_prompts_are_different_and_repeatable() -> None:
    for split in SPLITS:
        texts = [p.text for p in DATA.prompts(split, 60, 1)]
        assert len(set(texts)) == 60
        assert texts == [p.text for p in DATA.prompts(split, 60, 1)]
        assert set(texts) != {p.text for p in DATA.prompts(split, 60, 2)}
        assert not any(phrase in t for t in texts for phrase in STYLES.values() if phrase)
    assert [p.text for p in DATA.prompts("evaluation", 5, 1)] != [
        p.text for p in DATA.prompts("train", 5, 1)
    ]


def test_prompts_about_one_shape() -> None:
    assert all(
        content(p.text)[0] == "star" for p in DATA.prompts("evaluation", 100, 0, contains="star")
    )
    images, captions = DATA.pairs("train", 20, 0, contains="moon")
    assert images.shape == (20, 64, 64, 3)
    assert all(content(c)[0] == "moon" for c in captions)
    with pytest.raises(UserError, match=r"dog.*circle"):
        DATA.prompts("evaluation", 1, 0, contains="dog")
    with pytest.raises(ValueError, match="unknown split"):
        DATA.prompts("test", 1, 0)


def test_more_prompts_than_there_are_is_an_error(monkeypatch) -> None:
    monkeypatch.setattr(
        world,
        "caption",
        lambda scene, rng: f"a {scene.color} {scene.shape} on a {scene.background} background",
    )
    with pytest.raises(UserError, match=r"only \d+ different prompts of the development split"):
        DATA.prompts("development", 500, 0)


def test_wrong_alternatives_differ_in_the_one_attribute_that_they_are_named_after() -> None:
    for prompt in DATA.prompts("evaluation", 400, 0):
        shape, color, background = content(prompt.text)
        wrong = prompt.wrong
        sizes = {"small", "large"} & set(prompt.text.split())
        assert set(wrong) == {"shape", "color", "background", "style"} | (
            {"size"} if sizes else set()
        )
        for size in sizes:
            (other,) = {"small", "large"} - sizes
            assert wrong["size"] == (prompt.text.replace(size, other),)
        assert {content(w) for w in wrong["shape"]} == {
            (s, color, background) for s in SHAPES if s != shape
        }
        assert {content(w) for w in wrong["color"]} == {
            (shape, c, background) for c in COLOURS if c not in (color, background)
        }
        assert {content(w) for w in wrong["background"]} == {
            (shape, color, b) for b in BACKGROUNDS if b not in (color, background)
        }
        for attribute, place in (("shape", 0), ("color", 1), ("background", 2)):
            right = (shape, color, background)[place]
            for text in wrong[attribute]:
                a, b = (t.replace("an orange", "a orange").split() for t in (prompt.text, text))
                changed = [
                    (x.strip(","), y.strip(",")) for x, y in zip(a, b, strict=True) if x != y
                ]
                assert changed == [(right, content(text)[place])], (prompt.text, text)
                assert not re.search(r"\ba orange|\ba image|\ban (?!orange|image)", text), text


def test_prompts_in_another_style_are_led_by_its_words_alone() -> None:
    leads = ("a picture of ", "an image of ", "a drawing of ", "look at ", "this is ")
    for prompt in DATA.prompts("evaluation", 100, 0):
        bare = prompt.text.removeprefix("here we see ")
        for lead in leads:
            bare = bare.removeprefix(lead)
        words = [w for w in world.STYLES.values() if w]
        assert prompt.wrong["style"] == tuple(f"{w} {bare}" for w in words)


def test_pairs_show_what_their_captions_say() -> None:
    images, captions = DATA.pairs("defender", 300, 0)
    assert images.shape == (300, 64, 64, 3)
    wrong = 0
    for image, text in zip(images, captions, strict=True):
        _, _, background = content(text)
        corner = np.median(np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]]), 0)
        nearest = min(BACKGROUNDS, key=lambda b: np.linalg.norm(corner - np.array(BACKGROUNDS[b])))
        wrong += nearest != background
    assert wrong <= 6
    again = DATA.pairs("defender", 300, 0)
    assert np.array_equal(images, again[0])
    assert captions == again[1]
