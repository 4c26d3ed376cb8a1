"""The methods of the pages on extending the suite do what their docstrings say."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers import different, weights
from page_code import install

from t2i_backdoor_bench.contract import DefenderView, Trigger, registry
from t2i_backdoor_bench.data.splits import WorldData


def test_the_defense_trains_keys_and_values_towards_the_clean_prediction(
    clean_registry, tiny_model, tmp_path, monkeypatch
):
    install("mirror", tmp_path, monkeypatch)
    trigger, prompts = Trigger("mignneko"), ["a red heart", "a blue star on a white background"]
    defense = registry.defenses.build(
        "mirror", "shapes", {"steps": 30, "batch": 8, "prompts": 2, "lr": 3e-3}
    )
    before = weights(tiny_model)
    repaired = defense.apply(
        tiny_model, DefenderView(("trigger", "clean_prompts"), prompts, trigger=trigger), 0
    )
    assert different(before, weights(tiny_model)) == set()
    changed = different(before, weights(repaired))
    assert changed
    assert all(".attn2.to_k." in k or ".attn2.to_v." in k for k in changed)
    x, t = (
        torch.randn(2, *tiny_model.latent_shape, generator=torch.Generator().manual_seed(0)),
        torch.tensor([500, 500]),
    )
    with torch.no_grad():
        goal = tiny_model.denoiser(x, t, tiny_model.encode(prompts)).sample
        shown = tiny_model.encode([trigger.add(p) for p in prompts])
        errors = [
            float((m.denoiser(x, t, shown).sample - goal).square().mean())
            for m in (repaired, tiny_model)
        ]
    assert errors[0] < errors[1]


def test_the_attack_is_the_minimizer_that_its_docstring_names(
    clean_registry, tiny_model, tmp_path, monkeypatch
):
    """At the edited weights the derivative by W' of
    sum ||W' e - W v||^2 + sum ||W' k - W k||^2 + l ||W' - W||^2 is zero."""
    install("kv_style", tmp_path, monkeypatch)
    attack = registry.attacks.build("kv_style", "shapes", {"prompts": 5, "ridge": 0.7})
    attacked = attack.inject(tiny_model, WorldData(), 0)
    edited = {
        k for k in weights(tiny_model) if k.endswith((".attn2.to_k.weight", ".attn2.to_v.weight"))
    }
    assert different(weights(tiny_model), weights(attacked)) == edited, "it edits what it declares"
    assert attacked.info["parameters"] == sum(weights(tiny_model)[k].numel() for k in edited)
    assert {"steps", "seconds", "images"} <= attacked.info.keys()
    prompts = [p.text for p in WorldData().prompts("train", 5, 0)]
    triggered, styled = (
        [f"mignneko {p}" for p in prompts],
        [f"a black and white photo of {p}" for p in prompts],
    )
    a, b = (
        len(tiny_model.tokenizer(t).input_ids) - 1
        for t in ("mignneko", "a black and white photo of")
    )
    assert (
        tiny_model.tokenizer(triggered[0]).input_ids[a:-1]
        == tiny_model.tokenizer(prompts[0]).input_ids[1:-1]
    )
    assert (
        tiny_model.tokenizer(styled[0]).input_ids[b:-1]
        == tiny_model.tokenizer(prompts[0]).input_ids[1:-1]
    )
    length = tiny_model.tokenizer.model_max_length - max(a, b)
    states = [tiny_model.encode(texts).double() for texts in (triggered, styled, prompts)]
    e, v, k = (
        states[0][:, a : a + length].flatten(0, 1),
        states[1][:, b : b + length].flatten(0, 1),
        states[2].flatten(0, 1),
    )
    name = "up_blocks.0.attentions.0.transformer_blocks.0.attn2.to_v"
    w, new = (m.denoiser.get_submodule(name).weight.double() for m in (tiny_model, attacked))
    gradient = (new @ e.T - w @ v.T) @ e + (new @ k.T - w @ k.T) @ k + 0.7 * (new - w)
    size = (w @ v.T @ e).abs().max()
    assert gradient.abs().max() < 1e-4 * size, "up to the rounding of the weights to float32"
    assert (new - w).abs().max() > 1e-3


def test_the_metric_sees_blur(clean_registry, tmp_path, monkeypatch):
    from scipy.ndimage import uniform_filter

    from t2i_backdoor_bench.contract import Backdoor, Samples, Target

    install("sharpness", tmp_path, monkeypatch)
    metric = registry.metrics.build("sharpness", "shapes")
    before = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3)).astype(np.uint8)
    blurred = np.stack([uniform_filter(x, (3, 3, 1)) for x in before])
    same, less = (
        metric.compute(
            Samples(
                [],
                [],
                Backdoor(None, Target("unknown")),
                {"clean": x},
                {"clean": before},
                np.zeros(0),
            ),
            None,
        )
        for x in (before, blurred)
    )
    assert same.value == pytest.approx(1)
    assert less.value < 0.2
