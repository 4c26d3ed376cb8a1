"""Denoising and distillation terms against slow recomputations, the draw of timesteps, and what the
teacher must not receive."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from diffusers import DDPMScheduler
from torch import Tensor

import t2i_backdoor_bench.training.denoising
from t2i_backdoor_bench.models.families.noising import Noising, draw_timesteps
from t2i_backdoor_bench.training.denoising import Draws, Term, own_images, train_terms
from t2i_backdoor_bench.training.loop import Optim, step_generator, step_rng

TEXTS = ["a red heart", "a cyan moon on a gray background", "one star", "a blue ring"]


class Stopped(Exception):
    pass


def as_prediction(model, kind: str):
    model.pipe.scheduler = DDPMScheduler.from_config(
        model.pipe.scheduler.config, prediction_type=kind
    )
    return model


def loss_at(monkeypatch, step: int, *args, **options) -> Tensor:
    """The loss that `train_terms` hands to `fit`, at one step."""
    found = []

    def fit(params, loss_fn, optim, label, *more):
        found.append(loss_fn(step))
        raise Stopped

    with monkeypatch.context() as patch:
        patch.setattr(t2i_backdoor_bench.training.denoising, "fit", fit)
        with pytest.raises(Stopped):
            train_terms(*args, **options)
    return found[0]


def moved(model, seed: int):
    other = model.clone()
    torch.manual_seed(seed)
    with torch.no_grad():
        for p in other.denoiser.parameters():
            p.add_(0.05 * torch.randn_like(p))
    return other


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
@pytest.mark.parametrize(("bias", "drop"), [(1.0, 0.0), (3.0, 0.0), (1.0, 0.5), (1.0, 1.0)])
def test_loss_equals_a_slow_recomputation(
    tiny_model, monkeypatch, kind: str, bias: float, drop: float
) -> None:
    teacher, student = as_prediction(tiny_model, kind), moved(as_prediction(tiny_model, kind), 1)
    latents = [
        torch.randn(4, *tiny_model.latent_shape, generator=torch.Generator().manual_seed(i))
        for i in range(2)
    ]
    others = ["one", "two", "three", "four"]
    terms = [
        Term(TEXTS, latents[0], None, 0.3),
        Term(TEXTS[::-1], latents[1], others, 0.5, drop),
        Term(others, None, TEXTS, 0.9),
    ]
    ours = loss_at(
        monkeypatch, 6, student, teacher, terms, Optim(1, 1e-3, batch=7), 5, "x", draws=Draws(bias)
    )

    rng, generator, rows = step_rng(5, 6), step_generator(5, 6), 2
    picks = [rng.integers(4, size=rows) for _ in terms]
    gone = [rng.random((rows, 1, 1))[:, 0, 0] < term.drop for term in terms]
    t = (torch.rand(6, generator=generator).double() ** (1 / bias) * 1000).long()
    noise = torch.randn((6, *tiny_model.latent_shape), generator=generator)
    alphas = torch.cumprod(
        1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2, 0
    )
    expected = 0.0
    for k, term in enumerate(terms):
        total = 0.0
        for r in range(rows):  # one row at a time
            i, e, time = int(picks[k][r]), noise[2 * k + r].double(), t[2 * k + r]
            a, b = alphas[time].sqrt(), (1 - alphas[time]).sqrt()
            x = e if term.latents is None else a * term.latents[i].double() + b * e
            with torch.no_grad():
                text, asked = (
                    ("", "")
                    if gone[k][r]
                    else (term.prompts[i], (term.teacher_prompts or TEXTS)[i])
                )
                out = (
                    student.denoiser(x.float()[None], time, student.encode([text]))
                    .sample[0]
                    .double()
                )
                if term.teacher_prompts is not None:
                    goal = (
                        teacher.denoiser(x.float()[None], time, teacher.encode([asked]))
                        .sample[0]
                        .double()
                    )
                elif kind == "epsilon":
                    goal = e
                else:
                    goal = a * e - b * term.latents[i].double()
            total += float((out - goal).pow(2).mean()) / rows
        expected += term.weight * total
    assert float(ours.detach()) == pytest.approx(expected, rel=1e-4)


def test_each_term_counts_by_its_weight(tiny_model, monkeypatch) -> None:
    student = moved(tiny_model, 1)
    z = torch.randn(4, *tiny_model.latent_shape, generator=torch.Generator().manual_seed(0))

    def loss(a: float, b: float) -> float:
        terms = [Term(TEXTS, z, None, a), Term(TEXTS, z, TEXTS, b)]
        return float(
            loss_at(
                monkeypatch, 0, student, tiny_model, terms, Optim(1, 1e-3, batch=4), 0, "x"
            ).detach()
        )

    one, two = loss(1, 0), loss(0, 1)
    assert one > 0
    assert two > 0
    assert loss(0.25, 3) == pytest.approx(0.25 * one + 3 * two, rel=1e-5)


def test_the_teacher_gets_no_gradient_and_does_not_move(tiny_model) -> None:
    student = tiny_model.clone()
    tiny_model.denoiser.requires_grad_(True)
    before = {k: v.clone() for k, v in tiny_model.denoiser.state_dict().items()}
    text = {k: v.clone() for k, v in tiny_model.encoders[0].state_dict().items()}
    fitted = train_terms(
        student,
        tiny_model,
        [Term(TEXTS, None, TEXTS), Term(TEXTS, None, TEXTS[::-1])],
        Optim(2, 1e-2, 4),
        0,
        "x",
    )
    assert all(p.grad is None for p in tiny_model.denoiser.parameters())
    assert all(torch.equal(v, before[k]) for k, v in tiny_model.denoiser.state_dict().items())
    assert all(torch.equal(v, text[k]) for k, v in student.encoders[0].state_dict().items())
    assert not all(torch.equal(v, before[k]) for k, v in student.denoiser.state_dict().items())
    assert not any(p.requires_grad for p in student.denoiser.parameters())
    assert (fitted.steps, fitted.images) == (2, 8)
    assert fitted.parameters == sum(p.numel() for p in student.denoiser.parameters())


def test_training_parts_of_the_network_leaves_the_rest(tiny_model) -> None:
    student = tiny_model.clone()
    z = torch.randn(4, *tiny_model.latent_shape)
    before = {k: v.clone() for k, v in tiny_model.denoiser.state_dict().items()}
    train_terms(student, None, [Term(TEXTS, z)], Optim(2, 1e-2, 4), 0, "x", train="kv")
    changed = {k for k, v in student.denoiser.state_dict().items() if not torch.equal(v, before[k])}
    assert changed == {k for k in before if ".attn2.to_k." in k or ".attn2.to_v." in k}


def test_training_lowers_the_loss(tiny_model) -> None:
    z = torch.randn(4, *tiny_model.latent_shape, generator=torch.Generator().manual_seed(0))
    student = moved(tiny_model, 2)
    fitted = train_terms(student, tiny_model, [Term(TEXTS, z, TEXTS)], Optim(25, 3e-3, 4), 0, "x")
    assert sum(fitted.losses[-5:]) < 0.5 * sum(fitted.losses[:5])


def test_noise_does_not_depend_on_the_batch_of_the_other_terms_prompts(
    tiny_model, monkeypatch
) -> None:
    """The same step draws the same noise whatever the text, and another step or seed draws other
    noise."""
    z = torch.randn(4, *tiny_model.latent_shape, generator=torch.Generator().manual_seed(0))
    seen: list[Tensor] = []
    original = Noising.add

    def spy(noising, latents, noise, t):
        seen.append(torch.cat([noise.flatten(), t.float()]))
        return original(noising, latents, noise, t)

    monkeypatch.setattr(Noising, "add", spy)
    for step, seed, texts in ((1, 0, TEXTS), (1, 0, TEXTS[::-1]), (2, 0, TEXTS), (1, 1, TEXTS)):
        torch.manual_seed(len(seen))  # global state must not matter
        loss_at(monkeypatch, step, tiny_model, None, [Term(texts, z)], Optim(1, 1e-3, 4), seed, "x")
    assert torch.equal(seen[0], seen[1])
    assert not torch.equal(seen[0], seen[2])
    assert not torch.equal(seen[0], seen[3])


def test_a_batch_too_small_for_the_terms_is_an_error(tiny_model) -> None:
    with pytest.raises(ValueError, match="cannot hold 2 terms"):
        train_terms(
            tiny_model, tiny_model, [Term(TEXTS, None, TEXTS)] * 2, Optim(1, 1e-3, 1), 0, "x"
        )


@pytest.mark.parametrize("bias", [1.0, 2.0, 5.0])
def test_timesteps_follow_their_distribution(bias: float) -> None:
    """P(t < x) = (x/total)^bias: uniform for 1, towards high noise above."""
    t = draw_timesteps(40_000, 1000, torch.Generator().manual_seed(0), bias)
    assert t.dtype == torch.int64
    assert 0 <= int(t.min()) <= int(t.max()) <= 999
    for x in (100, 250, 500, 750, 900):
        assert float((t < x).double().mean()) == pytest.approx((x / 1000) ** bias, abs=0.01)
    assert (
        set(draw_timesteps(5000, 7, torch.Generator().manual_seed(0), bias).tolist())
        == set(range(7))
        or bias > 1
    )


def test_timesteps_never_reach_the_total() -> None:
    for seed in range(200):
        assert int(draw_timesteps(500, 3, torch.Generator().manual_seed(seed), 1e6).max()) == 2


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_noising(kind: str) -> None:
    noising = Noising(DDPMScheduler(prediction_type=kind))
    z, e, t = torch.randn(3, 4, 2, 2), torch.randn(3, 4, 2, 2), torch.tensor([0, 500, 999])
    alphas = noising.scheduler.alphas_cumprod[t].view(3, 1, 1, 1)
    torch.testing.assert_close(noising.add(z, e, t), alphas.sqrt() * z + (1 - alphas).sqrt() * e)
    assert noising.add(None, e, t) is e
    if kind == "epsilon":
        assert noising.target(z, e, t) is e
    elif kind == "v_prediction":
        torch.testing.assert_close(
            noising.target(z, e, t), alphas.sqrt() * e - (1 - alphas).sqrt() * z
        )
        with pytest.raises(ValueError, match="v_prediction"):
            noising.target(None, e, t)
    else:
        with pytest.raises(ValueError, match="sample"):
            noising.target(z, e, t)


def test_own_images_are_the_models_own_pictures(tiny_model) -> None:
    z = own_images(tiny_model, TEXTS, 3)
    assert z.shape == (4, *tiny_model.latent_shape)
    assert torch.equal(z, own_images(tiny_model, TEXTS, 3))
    wrapped = dataclasses.replace(
        tiny_model,
        rewrite=lambda p: "a",
        screen=lambda p: True,
        repair=lambda m, p, s, latents: 0 * latents,
    )
    assert torch.equal(z, own_images(wrapped, TEXTS, 3)), "its own, without what stands round it"
    assert not torch.equal(z, own_images(tiny_model, TEXTS, 4))
    assert not z.requires_grad
