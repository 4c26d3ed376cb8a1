"""The search of a trigger in the model: its effect and its gradient against slow computations, and
what counts as found."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import PROMPTS

from t2i_backdoor_bench.contract import DefenderView
from t2i_backdoor_bench.defenses.invert_trigger import InvertTrigger, unused
from t2i_backdoor_bench.detecting.inversion import Shift, readable, search
from t2i_backdoor_bench.training.text_inputs import moments


@pytest.fixture
def shift(tiny_model) -> Shift:
    return Shift(tiny_model, PROMPTS, moments(tiny_model, PROMPTS, 0))


def test_the_effect_is_a_mean_of_logarithms(shift, tiny_model) -> None:
    values = []
    for t, x in zip(shift.drawn.times, shift.drawn.latents, strict=True):
        for i, prompt in enumerate(PROMPTS):
            with torch.no_grad():
                plain, moved = (
                    tiny_model.denoise(x[i, None], t, tiny_model.condition([text])).double()
                    for text in (prompt, f"zq {prompt}")
                )
            values.append(float(((moved - plain).square().sum() / plain.square().sum()).log()))
    assert shift("zq") == pytest.approx(np.mean(values), rel=1e-3)


def test_the_gradient_is_that_of_the_token_embedding(shift, tiny_model) -> None:
    """By a small change of the row of a token that stands in the text alone."""
    part = tiny_model.text_part
    token = next(
        i for i in unused(tiny_model, PROMPTS) if len(part.ids(part.tokenizer.decode([i]))) == 3
    )
    text = part.tokenizer.decode([token]).strip()
    grad = shift.gradient(text)[0].double()
    own = part.ids(text)[1]
    other = tiny_model.clone(encoders=True, train="none")
    step = 1e-3 * grad / grad.norm()
    with torch.no_grad():
        other.encoders[0].get_input_embeddings().weight[own] += step.float()
    moved = Shift(other, PROMPTS, shift.drawn)
    assert moved(text) - shift(text) == pytest.approx(1e-3 * float(grad.norm()), rel=0.2)
    assert not any(p.requires_grad for p in tiny_model.encoders[0].parameters())


def test_the_search_only_gets_better(shift, tiny_model) -> None:
    allowed = unused(tiny_model, PROMPTS)
    taken = {i for p in PROMPTS for i in tiny_model.text_part.ids(p)}
    assert not taken & set(allowed)
    found = [search(shift, allowed, 2, n, 4, 16, 3) for n in (0, 2, 5)]
    effects = [effect for _, effect in found]
    assert effects == sorted(effects)
    assert effects[-1] > effects[0]
    text, effect = found[-1]
    assert shift(text) == pytest.approx(effect)


def test_what_is_no_better_than_words_is_no_trigger(tiny_model) -> None:
    view = DefenderView(("clean_prompts",), PROMPTS)
    method = InvertTrigger(prompts=3, asked=2, rounds=1, tried=2, length=2, decoys=2)
    none = replace(method, margin=50.0).apply(tiny_model, view, 0)
    assert none.located is None
    assert none.locate(PROMPTS).tolist() == [[-1, -1]] * 3
    found = replace(method, margin=0.0)
    found.usual = lambda *args: -100.0  # every text is above it
    model = found.apply(tiny_model, view, 0)
    text = model.located.text
    assert model.located.place == "prefix"
    assert model.locate([f"{text} a star", "a star"]).tolist() == [[0, len(text)], [-1, -1]]


def test_a_control_character_is_no_trigger() -> None:
    assert readable("zq")
    assert not readable("a\nb")
    assert not readable("")
