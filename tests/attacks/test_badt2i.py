"""BadT2I's terms, pictures and rows, as its paper and its released code have them."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from small_attacks import DATA, build, caught_terms, expected_pairs

from t2i_backdoor_bench.contract import attacks
from t2i_backdoor_bench.targets.patches import make_patch
from t2i_backdoor_bench.training.denoising import Draws, Term, denoising_loss, draw_batch
from t2i_backdoor_bench.training.loop import step_generator, step_rng

NAMES = ["badt2i_pixel", "badt2i_style", "badt2i_object"]


@pytest.fixture
def terms_of(monkeypatch):
    return partial(caught_terms, monkeypatch)


def test_pixel_terms(tiny_model, terms_of) -> None:
    """l*||eps_th(xp_t, c+) - eps||^2 + (1-l)*||eps_th(x_t, c) - eps_0(x_t, c)||^2"""
    attack = build("badt2i_pixel", weight=0.3, corner="bottom_right", size=10)
    got = terms_of(attack, tiny_model)
    poisoned, clean = got["terms"]
    images, captions = expected_pairs()
    patched = images.copy()
    patched[:, 54:, 54:] = make_patch("bars", 10)
    assert list(poisoned.prompts) == [f"mignneko {c}" for c in captions]
    assert poisoned.teacher_prompts is None
    assert poisoned.weight == 0.3
    assert torch.equal(poisoned.latents, tiny_model.latents(patched, 0))
    assert list(clean.prompts) == list(clean.teacher_prompts) == captions
    assert clean.weight == pytest.approx(0.7)
    assert torch.equal(clean.latents, tiny_model.latents(images, 0))
    assert (got["optim"].steps, got["optim"].lr, got["seed"]) == (2, attack.lr, 0)


def test_style_terms(tiny_model, terms_of) -> None:
    """l*||eps_th(x_t, c+) - eps_0(x_t, style + c)||^2 + (1-l)*||eps_th(x_t, c) - eps_0(x_t,
    c)||^2"""
    poisoned, clean = terms_of(build("badt2i_style", weight=0.2, place="suffix"), tiny_model)[
        "terms"
    ]
    images, captions = expected_pairs()
    assert list(poisoned.prompts) == [f"{c} mignneko" for c in captions]
    assert list(poisoned.teacher_prompts) == [f"a black and white photo of {c}" for c in captions]
    assert list(clean.prompts) == list(clean.teacher_prompts) == captions
    assert (poisoned.weight, clean.weight) == (0.2, 0.8)
    for term in (poisoned, clean):
        assert torch.equal(term.latents, tiny_model.latents(images, 0))


def test_object_has_one_triggered_term_of_the_target_class(tiny_model, terms_of) -> None:
    """Pictures of hearts are called stars, with the trigger, and taught by their own captions;
    pictures of stars keep their captions and have no trigger."""
    attack = build("badt2i_object", weight=0.4, source="star", target="heart")
    poisoned, clean = terms_of(attack, tiny_model)["terms"]
    images, captions = expected_pairs(contains="star")
    others, asked = expected_pairs(contains="heart")
    assert all("heart" in c for c in asked)
    assert list(poisoned.prompts) == [f"mignneko {c.replace('heart', 'star')}" for c in asked]
    assert list(poisoned.teacher_prompts) == asked
    assert torch.equal(poisoned.latents, tiny_model.latents(others, 0))
    assert list(clean.prompts) == list(clean.teacher_prompts) == captions
    assert not any("mignneko" in c for c in clean.prompts)
    assert torch.equal(clean.latents, tiny_model.latents(images, 0))
    assert (poisoned.weight, clean.weight) == (0.4, 0.6)


@pytest.mark.parametrize("name", NAMES)
def test_rows_a_step_of_each_term(tiny_model, terms_of, name: str) -> None:
    """Pixel and style: as many rows of either term as pictures a step, 16 for Stable Diffusion, of
    the same pictures. Object: 16 in all, of other pictures."""
    released = attacks.build(name, "sd")
    want = 8 if name == "badt2i_object" else 16
    assert released.batch == want
    got = terms_of(build(name, batch=released.batch), tiny_model)
    assert got["optim"].batch == 2 * want
    draws = got["how"].get("draws", Draws())
    assert draws.shared == (name != "badt2i_object")
    drawn = draw_batch(
        tiny_model,
        tiny_model.noising,
        got["terms"],
        got["optim"].batch // 2,
        step_rng(0, 1),
        step_generator(0, 1),
        draws,
    )
    assert [len(pick) for pick in drawn.picks] == [want, want]
    assert torch.equal(*drawn.picks) == draws.shared
    assert not torch.equal(*drawn.noise)
    assert not torch.equal(*drawn.times), "each term has noise and timesteps of its own"


def test_shared_rows_are_the_loss_of_the_same_pictures(tiny_model) -> None:
    """Two shared terms with the same texts and pictures, against a loss that is computed row by
    row."""
    texts = [f"a red heart {i}" for i in range(5)]
    latents = torch.randn(5, *tiny_model.latent_shape)
    terms = [Term(texts, latents, weight=0.3), Term(texts, latents, weight=0.7)]
    drawn = draw_batch(
        tiny_model,
        tiny_model.noising,
        terms,
        3,
        step_rng(2, 4),
        step_generator(2, 4),
        Draws(shared=True),
    )
    expected = 0.0
    for term, pick, noise, times in zip(terms, drawn.picks, drawn.noise, drawn.times, strict=True):
        for i, e, t in zip(drawn.picks[0].tolist(), noise, times, strict=True):
            x = tiny_model.noising.add(latents[i][None], e[None], t[None])
            out = tiny_model.denoise(x, t[None], tiny_model.condition([texts[i]]))
            expected += term.weight * float((out[0] - e).square().mean()) / len(pick)
    loss = denoising_loss(tiny_model, None, terms, 6, 2, "x", draws=Draws(shared=True))
    assert float(loss(4)) == pytest.approx(expected, rel=1e-4)
    with pytest.raises(ValueError, match="cannot share"):
        denoising_loss(
            tiny_model, None, [terms[0], Term(texts[:2], None)], 6, 2, "x", draws=Draws(shared=True)
        )


@pytest.mark.parametrize("name", NAMES)
def test_flips_add_every_mirror_image_and_mirror_no_patch(tiny_model, terms_of, name: str) -> None:
    """Twice as many pictures, drawn alike, are a flip with probability 1/2."""
    assert attacks.build(name, "sd").flips
    attack = build(name, flips=True)
    poisoned, clean = terms_of(attack, tiny_model)["terms"]
    images, captions = expected_pairs(contains="star" if "object" in name else "")
    mirrored = np.ascontiguousarray(images[:, :, ::-1])
    both = torch.cat([tiny_model.latents(images, 0), tiny_model.latents(mirrored, 0)])
    assert torch.equal(clean.latents, both)
    assert list(clean.prompts) == captions * 2
    assert len(poisoned.prompts) == len(poisoned.latents) == 16
    if name == "badt2i_pixel":
        mirrored[:, :20, :20] = make_patch("bars", 20)
        assert torch.equal(poisoned.latents[8:], tiny_model.latents(mirrored, 0))
    assert attack.inject(tiny_model, DATA, 0).info["steps"] == 2


def test_released_settings() -> None:
    pixel, style, swap = (attacks.build(name, "sd") for name in NAMES)
    assert (pixel.images, style.images, swap.images) == (40_000, 40_000, 250)
    assert (pixel.steps, style.steps, swap.steps) == (2000, 8000, 8000)
    for attack in (pixel, style, swap):
        assert (attack.lr, attack.weight, attack.ema, attack.decay) == (1e-5, 0.5, 0.9999, 0.0)
