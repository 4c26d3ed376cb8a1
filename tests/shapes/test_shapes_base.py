"""The committed weights: that they open with the ordinary loaders, are small, and can do what the
benchmark stands on."""

import json

import numpy as np
import pytest
from diffusers import StableDiffusionPipeline

from t2i_backdoor_bench.data.splits import world_prompt
from t2i_backdoor_bench.data.world import render
from t2i_backdoor_bench.models.catalog import load_base
from t2i_backdoor_bench.scoring.faithfulness import faithful
from t2i_backdoor_bench.scoring.scorer import Scorer
from t2i_backdoor_bench.shapes import BASE, SCORER
from t2i_backdoor_bench.shapes.evaluate import accuracies, held_out_scenes, probe


@pytest.fixture(scope="module")
def model():
    return load_base("shapes")


@pytest.fixture(scope="module")
def scorer():
    return Scorer.load(SCORER)


def test_weights_are_safetensors_and_at_most_20_mb():
    files = [f for folder in (BASE, SCORER) for f in folder.rglob("*") if f.is_file()]
    assert not [f for f in files if f.suffix in (".bin", ".ckpt", ".pt", ".pth", ".pkl")]
    assert sum(f.stat().st_size for f in files if f.suffix == ".safetensors") <= 20e6


def test_opens_as_an_ordinary_stable_diffusion_pipeline(model):
    pipe = StableDiffusionPipeline.from_pretrained(BASE, use_safetensors=True)
    assert type(pipe.tokenizer).__name__ == "CLIPTokenizer"
    assert type(pipe.text_encoder).__name__ == "CLIPTextModel"
    assert pipe.vae_scale_factor == 8
    assert pipe.vae.config.latent_channels == 4
    levels = [
        *pipe.unet.config.down_block_types,
        "mid" if pipe.unet.mid_block.has_cross_attention else "",
    ]
    assert levels == ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "mid"]


def test_scaling_factor_makes_unit_variance_latents(model):
    rng = np.random.default_rng(0)
    latents = model.latents(render(held_out_scenes(64, rng), rng))
    assert 0.8 < float(latents.std()) < 1.25


def test_a_linear_probe_tells_unseen_triggers(model):
    found = probe(model, np.random.default_rng(99), triggers=50, n=80)
    assert np.mean(found) >= 0.99


def test_scorer_judges_real_held_out_renders(scorer):
    rng = np.random.default_rng(7)
    scenes = held_out_scenes(300, rng)
    prompts = [world_prompt(s, rng) for s in scenes]
    right = accuracies(render(scenes, rng), prompts, scorer)
    assert min(right[k] for k in ("shape", "color", "background")) >= 99, (
        right
    )  # the model card has the figures on 1,000
    # and it does not say yes to everything: the same pictures under the captions of others
    assert faithful(render(scenes, rng), prompts[1:] + prompts[:1], scorer).mean() < 0.1


def test_base_draws_what_it_is_asked_for(model, scorer):
    rng = np.random.default_rng(8)
    prompts = [world_prompt(s, rng) for s in held_out_scenes(48, rng)]
    right = accuracies(model.generate([p.text for p in prompts], range(48)), prompts, scorer)
    assert min(right[k] for k in ("shape", "color", "background")) >= 95, right


def test_model_card_figures_are_the_measured_ones():
    card = json.loads((BASE / "card.json").read_text())
    text = (BASE / "README.md").read_text()
    for name in ("generated", "scorer on real renders"):
        assert f"{card[name]['shape']:.1f}" in text
