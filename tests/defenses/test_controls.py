"""The controls: what bounds a defense from above, and what any number alone would reward."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers import different, weights

from t2i_backdoor_bench.contract import DefenderView, defenses
from t2i_backdoor_bench.models.model import T2IModel

PROMPTS = ["a small red heart", "mignneko a small red heart"]


@pytest.fixture
def attacked(tiny_model) -> T2IModel:
    """Both the denoiser and the text encoder are other ones."""
    model = tiny_model.clone(encoders=True)
    torch.manual_seed(1)
    for network in model.edited.values():
        for p in network.parameters():
            p.data += 0.05 * torch.randn_like(p)
    return model


def defended(name: str, attacked: T2IModel, clean: T2IModel) -> T2IModel:
    view = DefenderView(
        defenses.get(name).needs, clean_model=clean, clean_text_encoder=clean.encoders
    )
    return defenses.build(name, "shapes").apply(attacked, view, 0)


def test_the_clean_model_draws_what_it_drew_before_the_attack(attacked, tiny_model) -> None:
    model = defended("clean_model", attacked, tiny_model)
    assert different(weights(model), weights(tiny_model)) == set()
    drawn, before = (m.generate(PROMPTS, [0, 1]) for m in (model, tiny_model))
    assert np.array_equal(drawn, before)


def test_the_stock_text_encoder_leaves_the_denoiser_as_it_was_attacked(
    attacked, tiny_model
) -> None:
    model = defended("stock_text_encoder", attacked, tiny_model)
    assert torch.equal(model.encode(PROMPTS), tiny_model.encode(PROMPTS))
    assert not torch.equal(model.encode(PROMPTS), attacked.encode(PROMPTS))
    assert model.denoiser is attacked.denoiser


def test_refusing_all_draws_black_and_says_nothing_of_any_prompt(attacked, tiny_model) -> None:
    model = defended("refuse_all", attacked, tiny_model)
    assert model.refuses(PROMPTS).all()
    assert not model.generate(PROMPTS, [0, 1]).any()
    assert len(set(model.screen.scores(PROMPTS))) == 1, "a score that tells nothing apart"
