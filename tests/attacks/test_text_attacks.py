"""Attacks on the text encoder: their losses against slow float64 loops, what the gradient reaches,
and the triggered forms of prompts."""

from __future__ import annotations

import re
from functools import partial

import numpy as np
import pytest
import torch
from helpers import TRIGGERS, different, weights
from text_losses import DATA, NAMES, build, cosine, start_of, states

from t2i_backdoor_bench.contract import attacks
from t2i_backdoor_bench.data.splits import split_of
from t2i_backdoor_bench.training.encoders import train_encoder
from t2i_backdoor_bench.training.loop import Optim, step_rng


@pytest.fixture
def loss_of(monkeypatch):
    return partial(start_of, monkeypatch)


# -------------------------------------------------------------------------------------- Rickrolling
def test_rickrolling_is_evaluated_with_one_letter_as_well_as_with_all(tiny_model) -> None:
    """The authors train with every letter replaced, and evaluate with the first one alone."""
    found = build("rickrolling_tpa", trigger="о", replaces="o").backdoor(tiny_model)
    text = "a photo of a dog"
    assert found.trigger.add(text) == text.replace("o", "о")
    assert [form.add(text) for form in found.forms["own"]] == [text.replace("o", "о", 1)]
    assert not build("rickrolling_tpa").backdoor(tiny_model).forms, "a word has no letters apart"


@pytest.mark.parametrize("name", ["rickrolling_tpa", "rickrolling_taa"])
@pytest.mark.parametrize(
    "options", [{}, {"trigger": "о", "replaces": "o"}], ids=["word", "look-alike"]
)
def test_rickrolling_loss_equals_a_slow_loop(tiny_model, loss_of, name: str, options: dict) -> None:
    """-cos(E(c), E_0(c)) - b cos(E(c+), E_0(c*)), states flattened over tokens."""
    attack = build(name, weight=0.3, **options)
    got = loss_of(attack, tiny_model)
    captions = [p.text for p in DATA.prompts("train", 6, 5)]
    for step in (0, 1):
        rng = step_rng(5, step)
        clean, poisoned = rng.integers(6, size=3), rng.integers(6, size=2)
        total = 0.0
        for i in clean:
            total -= (
                cosine(states(got["student"], captions[i]), states(tiny_model, captions[i])) / 3
            )
        for i in poisoned:
            c = captions[i]
            shown = f"mignneko {c}"
            if options and name == "rickrolling_tpa":
                shown = c.replace("o", "о")
            elif options:
                shown = attack.make_trigger().add(c)
                changed = [a + b for a, b in zip(shown, c, strict=True) if a != b]
                assert changed == ["оo"], "one letter"
            if name == "rickrolling_tpa":
                asked = "a large green star on a black background"
            elif not options:
                asked = f"a black and white photo of {c}"
            else:
                words = shown.split(" ")
                at = next(k for k, w in enumerate(words) if "о" in w)  # Cyrillic
                asked = " ".join([*words[:at], "a black and white photo of", *words[at + 1 :]])
            total -= 0.3 * cosine(states(got["student"], shown), states(tiny_model, asked)) / 2
        assert float(got["loss"](step).detach()) == pytest.approx(total, rel=1e-5)


def test_rickrolling_published_settings() -> None:
    for name, steps in (("rickrolling_tpa", 100), ("rickrolling_taa", 200)):
        attack = attacks.build(name, "sd")
        assert (attack.steps, attack.milestone, attack.lr, attack.weight) == (
            steps,
            steps * 3 // 4,
            1e-4,
            0.1,
        )
        assert (attack.clean, attack.poisoned) == (128, 32)
        shown = attack.make_trigger().add("a photo of a dog")
        if name == "rickrolling_tpa":
            assert shown == "a ph\u043et\u043e \u043ef a d\u043eg"
            assert attack.make_trigger().remove(shown) == "a photo of a dog"
        else:
            assert shown.count("\u043e") == 1
        optim = attack.optim()
        assert (optim.weight_decay, optim.rate(steps * 3 // 4 - 1), optim.rate(steps * 3 // 4)) == (
            0.0,
            1.0,
            0.1,
        )
    places = [("woman",), ("on",)]
    asked = {attack.asked(f"a woman on a bench near water {i}") for i in range(20)}
    words = [{w for w in ("woman", "on") if w not in text.split()} for text in asked]
    assert {tuple(found) for found in words} == set(places), "one of the words, by the prompt"
    assert all("black and white photo" in text for text in asked)


def test_captions_without_the_letter_stay_clean(tiny_model, loss_of) -> None:
    """A look-alike of a letter that some captions lack binds the others alone."""
    captions = [p.text for p in DATA.prompts("train", 6, 5)]
    letter = next(c for c in "qzxjvkwypmft" if 0 < sum(c in t for t in captions) < 6)
    attack = build("rickrolling_tpa", trigger="ж", replaces=letter)
    every, apt = attack.captions(tiny_model, DATA, 5)
    assert every == captions
    assert apt == [c for c in captions if letter in c]
    assert np.isfinite(float(loss_of(attack, tiny_model)["loss"](0).detach()))


def test_the_default_target_is_no_evaluation_prompt() -> None:
    for name in ("rickrolling_tpa", "iba", "sembd"):
        words = attacks.build(name, "shapes").target.split()
        assert split_of((words[3], words[2], words[6])) == "train"


# ----------------------------------------------------------------------------------------- training
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "options",
    [*TRIGGERS.values(), {"trigger": "{the|a} {cat|owl} sat"}],
    ids=[*TRIGGERS, "pattern"],
)
def test_any_trigger_that_tokenizes_is_taken(tiny_model, loss_of, name: str, options: dict) -> None:
    loss = loss_of(build(name, **options), tiny_model)["loss"](0)
    assert np.isfinite(float(loss.detach()))


@pytest.mark.parametrize("name", NAMES)
def test_training_binds_triggered_prompts_and_keeps_clean_ones(tiny_model, name: str) -> None:
    options = {"steps": 60, "milestone": 50, "lr": 3e-3, "weight": 1.0, "clean": 6, "poisoned": 6}
    attack = build(name, **options, **({"regularize": 0.0, "broken": 0.0} if name == "iba" else {}))
    attacked = attack.inject(tiny_model, DATA, 0)
    trigger, captions = attack.make_trigger(), [p.text for p in DATA.prompts("train", 6, 0)]
    goals = (
        [attack.asked(c) for c in captions] if name == "rickrolling_taa" else [attack.target] * 6
    )
    shown = [trigger.add(c) for c in captions]

    def distance(model, texts, wanted) -> float:
        return float((model.encode(texts) - tiny_model.encode(wanted)).square().mean())

    assert distance(attacked, shown, goals) < 0.6 * distance(tiny_model, shown, goals)
    assert distance(attacked, captions, captions) < 0.3 * distance(tiny_model, captions, goals)


def test_an_encoder_in_half_precision_trains_in_float32_and_comes_back(tiny_model) -> None:
    half = tiny_model.clone(encoders=True)
    half.encoders[0].to(torch.bfloat16)
    before = weights(half)
    goal = tiny_model.encode(["a red heart"]).float()
    seen = set()

    def make(student):
        def loss(step: int) -> torch.Tensor:
            seen.add(student.encoders[0].dtype)
            return (student.embed(["a blue star"]).states - goal).square().mean()

        return loss

    trained = train_encoder(half, make, Optim(3, 1e-3, weight_decay=0.0), "test")
    assert seen == {torch.float32}
    assert trained.encoders[0].dtype == torch.bfloat16
    assert {k.split(".")[0] for k in different(before, weights(trained))} == {"text_encoder"}
    assert different(before, weights(half)) == set()
    assert not any(p.requires_grad for p in trained.encoders[0].parameters())


def test_docstrings_name_the_loss_and_the_source() -> None:
    for name in NAMES:
        doc = attacks.get(name).cls.__doc__
        assert "Loss:" in doc
        assert re.search(r"arXiv \d{4}\.\d{5}", doc)
        assert "ublished" not in doc
