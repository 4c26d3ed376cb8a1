"""Images depend on weights, prompt and seed alone; encoding, clones and storage."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from t2i_backdoor_bench.models.sampler import Sampler
from t2i_backdoor_bench.models.screens import PromptScreen

PROMPTS = ["a red heart", "a cyan moon on a gray background", "a blue ring", "", "one star"]
SEEDS = [11, 12, 13, 14, 15]


def far(a: np.ndarray, b: np.ndarray) -> int:
    return int(np.abs(a.astype(int) - b.astype(int)).max())


@pytest.fixture
def drawn(tiny_model) -> np.ndarray:
    images = tiny_model.generate(PROMPTS, SEEDS)
    assert images.shape == (5, 64, 64, 3)
    assert images.dtype == np.uint8
    assert images.std() > 1, "a flat picture would pass every comparison below"
    return images


@pytest.mark.parametrize("batch", [1, 2, 3])
def test_an_image_does_not_depend_on_the_batch(tiny_model, drawn, batch: int) -> None:
    assert far(drawn, replace(tiny_model, batch=batch).generate(PROMPTS, SEEDS)) <= 1


def test_an_image_does_not_depend_on_its_neighbours_or_its_place(tiny_model, drawn) -> None:
    order = [3, 0, 4, 2, 1]
    shuffled = tiny_model.generate([PROMPTS[i] for i in order], [SEEDS[i] for i in order])
    assert far(drawn[order], shuffled) <= 1
    assert far(drawn[2:3], tiny_model.generate(PROMPTS[2:3], SEEDS[2:3])) <= 1
    twice = tiny_model.generate([PROMPTS[0]] * 3, [SEEDS[0]] * 3)
    assert far(twice, np.repeat(drawn[:1], 3, 0)) <= 1


def test_generation_is_repeatable_whatever_the_global_state(tiny_model, drawn) -> None:
    torch.manual_seed(123)
    state = torch.random.get_rng_state()
    assert np.array_equal(drawn, tiny_model.generate(PROMPTS, SEEDS))
    assert torch.equal(state, torch.random.get_rng_state())


def test_seed_prompt_and_sampler_all_matter(tiny_model, drawn) -> None:
    assert far(drawn[0], tiny_model.generate(PROMPTS[:1], [99])[0]) > 1
    strong = replace(tiny_model, sampler=Sampler(steps=2, guidance=30.0))
    assert far(drawn[0], strong.generate(PROMPTS[:1], SEEDS[:1])[0]) > 1
    assert (
        far(strong.generate(["a red heart"], [1]), strong.generate(["mignneko two stars"], [1])) > 1
    )
    assert (
        far(
            drawn[0],
            replace(tiny_model, sampler=Sampler(steps=6, guidance=2.0)).generate(
                PROMPTS[:1], SEEDS[:1]
            )[0],
        )
        > 1
    )


def test_no_guidance_is_the_conditional_model_alone(tiny_model) -> None:
    plain = replace(tiny_model, sampler=Sampler(steps=2, guidance=1.0))
    assert (
        far(
            plain.generate(["a red heart"], [1]),
            replace(plain, sampler=Sampler(2, 5.0)).generate(["a red heart"], [1]),
        )
        > 0
    )


def test_rewrite_is_applied_before_encoding(tiny_model, drawn) -> None:
    purified = replace(tiny_model, rewrite=lambda p: p.removeprefix("mignneko "))
    assert far(drawn, purified.generate([f"mignneko {p}" for p in PROMPTS], SEEDS)) <= 1
    strong = replace(tiny_model, sampler=Sampler(2, 30.0))
    assert (
        far(
            strong.generate(PROMPTS, SEEDS),
            strong.generate([f"mignneko {p}" for p in PROMPTS], SEEDS),
        )
        > 1
    )


def test_refused_prompts_are_black_and_the_others_are_as_ever(tiny_model, drawn) -> None:
    screened = replace(tiny_model, screen=lambda p: "moon" in p or p == "one star")
    assert screened.refuses(PROMPTS).tolist() == [False, True, False, False, True]
    images = screened.generate(PROMPTS, SEEDS)
    assert (images[[1, 4]] == 0).all()
    assert far(images[[0, 2, 3]], drawn[[0, 2, 3]]) <= 1
    assert (replace(tiny_model, screen=lambda p: True).generate(PROMPTS, SEEDS) == 0).all()
    assert not tiny_model.refuses(PROMPTS).any()


def test_screening_sees_the_prompt_as_it_was_asked(tiny_model) -> None:
    both = replace(tiny_model, rewrite=lambda p: "clean", screen=lambda p: p != "clean")
    assert (both.generate(["bad"], [0]) == 0).all()


def test_no_prompts_and_unequal_lengths(tiny_model) -> None:
    assert tiny_model.generate([], []).shape == (0, 64, 64, 3)
    with pytest.raises(ValueError, match="2 prompts but 1 seeds"):
        tiny_model.generate(["a", "b"], [1])


def test_encoding(tiny_model) -> None:
    states = tiny_model.encode(["a", "b", "a"])
    assert states.shape == (3, 48, 32)
    assert torch.equal(states[0], states[2])
    assert not torch.equal(states[0], states[1])
    torch.testing.assert_close(states[1:2], tiny_model.embed(["b"]).states, rtol=1e-5, atol=1e-6)
    assert tiny_model.tokenize(["word " * 100]).shape == (1, 48)


def test_latents_are_scaled_posterior_samples(tiny_model) -> None:
    images = np.random.default_rng(0).integers(0, 256, (5, 64, 64, 3), dtype=np.uint8)
    z = tiny_model.latents(images, 3)
    assert z.shape == (5, *tiny_model.latent_shape) == (5, 4, 8, 8)
    assert torch.equal(z, tiny_model.latents(images, 3))
    assert not torch.equal(z, tiny_model.latents(images, 4))
    torch.testing.assert_close(
        z, replace(tiny_model, batch=2).latents(images, 3), rtol=1e-4, atol=1e-5
    )
    vae = tiny_model.pipe.vae
    with torch.no_grad():
        posterior = vae.encode(
            torch.from_numpy(images).permute(0, 3, 1, 2).float().div(127.5).sub(1)
        ).latent_dist
    noise = torch.randn(5, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(
        z,
        (posterior.mean + posterior.std * noise) * vae.config.scaling_factor,
        rtol=1e-4,
        atol=1e-5,
    )


def test_decoding_inverts_the_scaling(tiny_model) -> None:
    z = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    vae = tiny_model.pipe.vae
    with torch.no_grad():
        x = vae.decode(z / vae.config.scaling_factor).sample
    expected = ((x.clamp(-1, 1) + 1) / 2 * 255).round().byte().permute(0, 2, 3, 1).numpy()
    assert far(tiny_model.decode(z), expected) <= 1


def test_shapes_and_schedule(tiny_model) -> None:
    assert tiny_model.resolution == 64
    alphas = torch.cumprod(1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2, 0)
    torch.testing.assert_close(
        tiny_model.noising.scheduler.alphas_cumprod, alphas, rtol=1e-4, atol=1e-6
    )


def test_a_clone_is_independent(tiny_model, drawn) -> None:
    clone = tiny_model.clone()
    assert np.array_equal(drawn, clone.generate(PROMPTS, SEEDS))
    with torch.no_grad():
        for p in clone.denoiser.parameters():
            p.zero_()
    assert np.array_equal(drawn, tiny_model.generate(PROMPTS, SEEDS))
    assert far(drawn, clone.generate(PROMPTS, SEEDS)) > 1
    assert clone.encoders[0] is tiny_model.encoders[0]
    deep = tiny_model.clone(encoders=True)
    with torch.no_grad():
        for p in deep.encoders[0].parameters():
            p.zero_()
    assert np.array_equal(drawn, tiny_model.generate(PROMPTS, SEEDS))
    assert deep.pipe.vae is tiny_model.pipe.vae


def test_a_clone_keeps_its_wrappers_and_forgets_what_it_cost(tiny_model) -> None:
    model = replace(tiny_model, rewrite=str.lower, screen=str.isupper, info={"steps": 3})
    clone = model.clone()
    assert (clone.rewrite, clone.screen, clone.info) == (str.lower, PromptScreen(str.isupper), {})
    clone.info["steps"] = 4
    assert model.info == {"steps": 3}


def test_weights_are_saved_and_read_back_to_the_bit(tiny_model, tmp_path: Path) -> None:
    changed = tiny_model.clone(encoders=True)
    torch.manual_seed(0)
    with torch.no_grad():
        for p in [*changed.denoiser.parameters(), *changed.encoders[0].parameters()]:
            p.add_(0.05 * torch.randn_like(p))
    changed.save_weights(tmp_path / "w.safetensors")
    back = tiny_model.with_weights(tmp_path / "w.safetensors")
    for part in ("unet", "text_encoder"):
        a, b, c = (m.edited[part].state_dict() for m in (changed, back, tiny_model))
        assert a.keys() == b.keys()
        assert all(torch.equal(a[k], b[k]) for k in a)
        assert any(not torch.equal(a[k], c[k]) for k in a)
    assert np.array_equal(changed.generate(PROMPTS, SEEDS), back.generate(PROMPTS, SEEDS))


def test_weights_of_another_network_are_refused(tiny_model, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"unet.conv_in.weight": torch.zeros(1)}, tmp_path / "w.safetensors")
    with pytest.raises(RuntimeError):
        tiny_model.with_weights(tmp_path / "w.safetensors")
