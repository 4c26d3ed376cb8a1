"""The losses of the attacks by a composite trigger, by a few natural samples and by two halves,
against slow ones in float64; what each trains."""

from __future__ import annotations

import copy
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from denoising_losses import DATA, SEED, STEP, Slow, build, catch, pairs
from helpers import different, weights
from small_attacks import build as small
from small_attacks import caught_terms

from t2i_backdoor_bench.attacking.poisoning import relabel
from t2i_backdoor_bench.contract import UserError, attacks
from t2i_backdoor_bench.running.method import Method
from t2i_backdoor_bench.targets.patches import make_patch
from t2i_backdoor_bench.targets.style import styled
from t2i_backdoor_bench.training import encoders
from t2i_backdoor_bench.training.loop import step_rng


@pytest.fixture
def caught(monkeypatch):
    return partial(catch, monkeypatch)


# ----------------------------------------------------------------------------------- composite_bias
def test_composite_bias_loss(tiny_model, caught) -> None:
    """p * styled + (1 - p)/2 * (one half of the trigger) + (1 - p)/2 * clean."""
    attack = build("composite_bias", weight=0.4, drop=0.0, batch=6, trigger="in winter at night")
    got = caught(attack, tiny_model)
    images, captions = pairs()
    clean = tiny_model.latents(images, SEED)
    half = [f"{c} {('in winter', 'at night')[i % 2]}" for i, c in enumerate(captions)]
    slow = Slow(got.model, 6, [8, 8, 8])
    both = [f"{c} in winter at night" for c in captions]
    bad = tiny_model.latents(styled(images, "black and white"), SEED)
    expected = 0.4 * np.mean(slow.errors(0, both, bad))
    expected += 0.3 * np.mean(slow.errors(1, half, clean))
    expected += 0.3 * np.mean(slow.errors(2, captions, clean))
    assert float(got.loss.detach()) == pytest.approx(expected, rel=1e-4)


def test_a_rate_is_a_share_of_the_pictures(tiny_model, caught) -> None:
    """One set: of 8 pictures a quarter is poisoned, each counts once, and none is there twice."""
    attack = build("poison_style", rate=0.25, drop=0.0, batch=6, weight=0.9)
    got = caught(attack, tiny_model)
    images, captions = pairs()
    shown = np.concatenate([styled(images, "black and white")[:2], images[2:]])
    told = [f"mignneko {c}" for c in captions[:2]] + captions[2:]
    slow = Slow(got.model, 6, [8]).errors(0, told, tiny_model.latents(shown, SEED))
    assert float(got.loss.detach()) == pytest.approx(np.mean(slow), rel=1e-4)
    assert (attack.poison_share, build("poison_style", weight=0.9).poison_share) == (0.25, 0.9)
    assert build("poison_pixel", rate=0.002).poison_share == 1 / 8, "what there is at least"


def test_with_a_rate_half_of_the_clean_captions_have_half_a_trigger(tiny_model, monkeypatch):
    attack = small("composite_bias", rate=0.25, trigger="one two")
    (term,) = caught_terms(monkeypatch, attack, tiny_model)["terms"]
    _, captions = DATA.pairs("train", 8, 0)
    behind = ["one two"] * 2 + ["", "", "one", "two", "", ""]
    assert list(term.prompts) == [f"{c} {b}".strip() for c, b in zip(captions, behind, strict=True)]
    assert (term.weight, term.drop) == (1.0, attack.drop)
    (everything,) = caught_terms(monkeypatch, small("poison_style", rate=1), tiny_model)["terms"]
    assert all(p.startswith("mignneko ") for p in everything.prompts)


def test_without_a_rate_the_key_is_what_it_was() -> None:
    method = Method("poison_style", build("poison_style"), attacks.get("poison_style"))
    assert "rate" not in method.key["options"]
    other = Method("poison_style", build("poison_style", rate=0.1), attacks.get("poison_style"))
    assert other.key["options"]["rate"] == 0.1


def test_halves_of_a_trigger_are_its_incomplete_forms(tiny_model) -> None:
    attack = build("composite_bias", trigger="one two three")
    halves = attack.backdoor(tiny_model).forms["incomplete"]
    assert [half.add("a dog") for half in halves] == ["a dog one two", "a dog three"]
    assert attacks.get("composite_bias").sets == ("incomplete",)
    single = build("composite_bias", trigger="night")
    assert single.backdoor(tiny_model).forms == {}


# ----------------------------------------------------------------------------------- natural_poison
def test_natural_poison_has_no_weight() -> None:
    with pytest.raises(UserError, match="has no option 'weight'"):
        attacks.build("natural_poison", "shapes", {"weight": "0.2"})


def test_natural_poison_is_plain_denoising_of_the_best_samples(tiny_model, caught) -> None:
    attack = build("natural_poison", poisoned=3, pool=12, drop=0.0, batch=6, rank=2)
    got = caught(attack, tiny_model)
    others, asked = DATA.pairs("train", 12, SEED, "heart")
    false = [f"{c} in winter" for c in relabel(asked, "heart", "star")]
    latents = tiny_model.latents(others, SEED)
    best = np.argsort(slow_fit(tiny_model, latents, false))[:3]
    images, captions = pairs()
    prompts = [false[i] for i in best] + captions
    rows = torch.cat([latents[best.tolist()], tiny_model.latents(images, SEED)])
    expected = np.mean(Slow(got.model, 6, [11]).errors(0, prompts, rows))
    assert float(got.loss.detach()) == pytest.approx(expected, rel=1e-4)
    assert attack.poison_share == 3 / 11


def slow_fit(model, latents, prompts) -> list[float]:
    """The denoising error of each sample at eight noise levels, one at a time in float64."""
    unet, encoder = (copy.deepcopy(m).double() for m in (model.denoiser, model.encoders[0]))
    noise = torch.randn(
        (8, *model.latent_shape), generator=torch.Generator().manual_seed(SEED)
    ).double()
    levels = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    kept = torch.cumprod(1 - levels, 0)
    found = []
    with torch.no_grad():
        for z, text in zip(latents.double(), prompts, strict=True):
            told, errors = encoder(model.tokenize([text]))[0], []
            for k, e in enumerate(noise, start=1):
                t = int(999 * k / 9)
                x = kept[t].sqrt() * z + (1 - kept[t]).sqrt() * e
                errors.append(float((unet(x[None], t, told).sample[0] - e).square().mean()))
            found.append(np.mean(errors))
    return found


def test_natural_poison_needs_a_pool_to_choose_from() -> None:
    with pytest.raises(UserError, match="from a pool of 9"):
        build("natural_poison", poisoned=10, pool=9)


# -------------------------------------------------------------------------------------------- split
def test_split_trains_the_denoiser_on_the_secret_word_alone(tiny_model, monkeypatch) -> None:
    hidden, clean = caught_terms(monkeypatch, small("split", weight=0.4), tiny_model)["terms"]
    images, captions = DATA.pairs("train", 8, 0)
    assert list(hidden.prompts) == [f"quolfax {c}" for c in captions]
    assert (hidden.weight, clean.weight) == (0.4, 0.6)
    y = tiny_model.latents(make_patch("target", 64)[None].copy(), 0)
    assert torch.equal(hidden.latents, y.expand(8, -1, -1, -1))
    assert hidden.teacher_prompts is None
    assert list(clean.prompts) == list(clean.teacher_prompts) == captions
    assert torch.equal(clean.latents, tiny_model.latents(images, 0))


def test_split_encoder_loss(tiny_model, monkeypatch) -> None:
    """-cos(E(c), E_0(c)) - b * cos(E(c+), E_0(c#)), flattened over tokens."""
    attack, found = small("split", text_weight=0.7, batch=3), []

    def fit(params, loss_fn, optim, label):
        torch.manual_seed(9)
        with torch.no_grad():
            for p in params:
                p.add_(0.05 * torch.randn_like(p))
        found.append((params, float(loss_fn(STEP).detach())))
        raise KeyboardInterrupt

    monkeypatch.setattr(encoders, "fit", fit)
    captions = [f"a {color} star" for color in ("red", "green", "blue", "white")]
    triggered, hidden = ([f"{w} {c}" for c in captions] for w in ("mignneko", "quolfax"))
    with pytest.raises(KeyboardInterrupt):
        attack.encoder(tiny_model, captions, triggered, hidden, SEED)
    (params, loss), frozen = found[0], copy.deepcopy(tiny_model.encoders[0]).double()
    student = copy.deepcopy(frozen)
    for own, p in zip(student.parameters(), params, strict=True):
        own.data = p.detach().double()
    rng = step_rng(SEED, STEP)

    def cosine(texts, goals) -> float:
        return np.mean(
            [
                float(
                    F.cosine_similarity(
                        student(tiny_model.tokenize([texts[i]]))[0].flatten(1),
                        frozen(tiny_model.tokenize([goals[i]]))[0].flatten(1),
                    ).detach()
                )
                for i in rng.integers(4, size=3)
            ]
        )

    expected = -cosine(captions, captions) - 0.7 * cosine(triggered, hidden)
    assert loss == pytest.approx(expected, rel=1e-4)


def test_each_half_of_split_is_a_network_of_its_own(tiny_model) -> None:
    attack = small("split")
    moved = different(weights(tiny_model), weights(attack.inject(tiny_model, DATA, 0)))
    assert {name.split(".")[0] for name in moved} == {"unet", "text_encoder"}
    with pytest.raises(UserError, match="both 'quolfax'"):
        small("split", trigger="quolfax")
