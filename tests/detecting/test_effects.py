"""What a text does to predictions, and how unusual that is, against slow computations."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import PROMPTS

from t2i_backdoor_bench.detecting.effects import (
    LEAST,
    LEAST_CHANGE,
    LEAST_SPREAD,
    UNIT,
    USUAL,
    AgainstDrift,
    Effects,
    Measured,
    Ruler,
    nonsense,
)
from t2i_backdoor_bench.detecting.inversion import unused
from t2i_backdoor_bench.models.model import T2IModel
from t2i_backdoor_bench.training.text_inputs import Moments, moments


def drawn(model: T2IModel) -> Moments:
    return moments(model, PROMPTS, 0)


def other_of(model: T2IModel) -> T2IModel:
    """The model with a little more in every weight of the denoiser."""
    other = model.clone()
    with torch.no_grad():
        for i, p in enumerate(other.denoiser.parameters()):
            p.add_(0.01 * torch.randn(p.shape, generator=torch.Generator().manual_seed(i)))
    return other


def effect(model: T2IModel, text: str, prompt: str, x: torch.Tensor, t: torch.Tensor) -> np.ndarray:
    with torch.no_grad():
        plain, moved = (
            model.denoise(x[None], t, model.condition([c])).double()[0]
            for c in (prompt, f"{text} {prompt}")
        )
    return (moved - plain).numpy()


def slow(effects: list[list[np.ndarray]]) -> np.ndarray:
    """Of effects by moment and prompt (C, h, w)."""
    energy = np.array([[(e**2).sum(0) for e in row] for row in effects])
    prompts = np.log(energy.sum((2, 3))).mean(0)
    h, w = (min(4, side) for side in energy.shape[2:])
    blocks = [
        [block.mean() for part in np.split(picture, h) for block in np.split(part, w, 1)]
        for picture in energy.reshape(-1, *energy.shape[2:])
    ]
    places = np.log(np.maximum(blocks, LEAST)).mean(0)
    return np.concatenate([[prompts.mean()], prompts, places - places.mean()])


def test_the_effect_of_a_text(tiny_model) -> None:
    at = drawn(tiny_model)
    (found,) = Effects(tiny_model, PROMPTS, at, None).of_all(["zq"])
    each = [
        [effect(tiny_model, "zq", p, x[i], t) for i, p in enumerate(PROMPTS)]
        for t, x in zip(at.times, at.latents, strict=True)
    ]
    assert np.allclose(found.values.numpy(), slow(each), atol=2e-3)
    many = float(len(tiny_model.text_part.ids("zq")))
    assert found.expected.tolist() == [many] * len(found.values)


def test_beside_a_trusted_model_its_own_effect_is_taken_away(tiny_model) -> None:
    suspect, at = other_of(tiny_model), drawn(tiny_model)
    (found,) = Effects(suspect, PROMPTS, at, tiny_model).of_all(["zq"])
    known, more = [], []
    for t, x in zip(at.times, at.latents, strict=True):
        usual = [effect(tiny_model, "zq", p, x[i], t) for i, p in enumerate(PROMPTS)]
        own = [effect(suspect, "zq", p, x[i], t) for i, p in enumerate(PROMPTS)]
        known.append(usual)
        more.append([a - b for a, b in zip(own, usual, strict=True)])
    assert np.allclose(found.values.numpy(), slow(more), atol=0.02)
    assert np.allclose(found.expected.numpy(), slow(known), atol=2e-3)
    (same,) = Effects(tiny_model, PROMPTS, at, tiny_model).of_all(["zq"])
    assert same.values[0] == pytest.approx(np.log(LEAST), rel=1e-6)


def test_a_text_beside_the_change_of_a_model(tiny_model) -> None:
    suspect, at = other_of(tiny_model), drawn(tiny_model)
    effects = Effects(suspect, PROMPTS, at, tiny_model)
    nothing = list(effects.of_all(["b", "kk", "v"]))
    (found,) = effects.of_all(["zq"])
    both = [
        [
            [m.denoise(x[i : i + 1], t, m.condition([p]))[0] for i, p in enumerate(PROMPTS)]
            for m in ms
        ]
        for ms in [(suspect, tiny_model)]
        for t, x in zip(at.times, at.latents, strict=True)
    ]
    usual = np.array([[e.detach().double().numpy() for e in row[1]] for row in both])
    moved = np.array([[e.detach().double().numpy() for e in row[0]] for row in both]) - usual
    energy = (moved**2).sum(2) + LEAST_CHANGE * (usual**2).sum(2).mean()
    drift = slow([[np.sqrt(e)[None] for e in row] for row in energy])
    middle = np.median([m.values.numpy() for m in nothing], 0)
    meant = np.median([m.expected.numpy() for m in nothing], 0)
    more = np.maximum(0, found.expected.numpy() - meant)
    rest = found.values.numpy() - (drift + middle) / 2 - more
    n = len(PROMPTS)
    wanted = np.array([rest[0], rest[1 : 1 + n].max(), rest[0] + rest[1 + n :].max()])
    ruler = AgainstDrift(effects, nothing)
    assert np.allclose(ruler.beyond(found).numpy(), wanted, atol=5e-3)
    parts = (wanted - np.array(USUAL)) / UNIT
    assert np.allclose(ruler.parts(found).numpy(), parts, atol=0.02)
    assert float(ruler.score(found)) == pytest.approx(parts.max(), abs=0.02)


def test_a_model_beside_itself_has_nothing_unusual(tiny_model) -> None:
    effects = Effects(tiny_model.clone(), PROMPTS, drawn(tiny_model), tiny_model)
    found = list(effects.of_all(["zq", "b", "kk"]))
    assert all(float(AgainstDrift(effects, found).score(m)) < -5 for m in found)


def test_texts_together_are_texts_alone(tiny_model) -> None:
    effects = Effects(replace(tiny_model, batch=6), PROMPTS, drawn(tiny_model), None)
    texts = ["zq", "quovex", "b"]
    for text, found in zip(texts, effects.of_all(texts), strict=True):
        (alone,) = effects.together([text])
        assert torch.allclose(found.values, alone.values, atol=1e-4)


def null(many: int, rng: np.random.Generator) -> list[Measured]:
    """Values 2 + 3 x + noise of 1 + 4 + 2 numbers."""
    x = rng.normal(size=(many, 7))
    y = 2 + 3 * x + rng.normal(size=(many, 7)) * np.arange(1, 8)
    return [Measured(torch.tensor(b), torch.tensor(a), 4) for a, b in zip(x, y, strict=True)]


def test_the_ruler_is_a_line_and_a_spread() -> None:
    measured = null(50, np.random.default_rng(0))
    ruler = Ruler(measured)
    x, y = (np.array([getattr(m, k).numpy() for m in measured]) for k in ("expected", "values"))
    line = [np.polyfit(x[:, j], y[:, j], 1) for j in range(7)]
    rest = np.array([y[:, j] - np.polyval(line[j], x[:, j]) for j in range(7)]).T
    own = (rest**2).sum(0) / 48
    kind = [own[:1].mean(), *[own[1:5].mean()] * 4, *[own[5:].mean()] * 2]
    sd = np.sqrt((own + kind) / 2)
    new = Measured(torch.full((7,), 30.0), torch.zeros(7), 4)
    z = np.array([(30.0 - np.polyval(line[j], 0.0)) / sd[j] for j in range(7)])

    def three(z: np.ndarray) -> list[float]:
        return [z[0], max(z[1:5]), max(z[5:])]

    usual = np.array([three(r) for r in rest / sd])
    middle = np.sort(usual, 0)[24]  # of an even number, torch takes the lower one
    spread = np.sort(np.abs(usual - middle), 0)[24]
    wanted = (three(z) - middle) / np.maximum(1.4826 * spread, LEAST_SPREAD)
    assert ruler.parts(new).tolist() == pytest.approx(wanted.tolist())
    assert float(ruler.score(new)) == pytest.approx(wanted.max())


def test_a_larger_effect_of_the_trusted_model_explains_an_equal_one() -> None:
    """Above all of the null, the line goes on with a slope of 1."""
    ruler = Ruler(null(50, np.random.default_rng(0)))
    top = ruler.line(ruler.top)
    assert torch.allclose(ruler.line(ruler.top + 5), top + 5)
    assert not torch.allclose(ruler.line(ruler.top - 5), top - 5, atol=1)


def test_the_gradient_is_that_of_the_token_embedding(tiny_model) -> None:
    """By a small change of the row of a token that stands in the text alone."""
    suspect, at = other_of(tiny_model), drawn(tiny_model)
    effects = Effects(suspect, PROMPTS, at, tiny_model)
    allowed = unused(tiny_model, PROMPTS, True)
    ruler = Ruler(list(effects.of_all(nonsense(tiny_model, allowed, 8, 0, 3))))
    part = tiny_model.text_part
    token = next(i for i in allowed if part.ids(part.tokenizer.decode([i]).strip())[1:-1] == [i])
    text = part.tokenizer.decode([token]).strip()
    grad = effects.gradient(text, ruler)[0].double()
    other = suspect.clone(encoders=True, train="none")
    with torch.no_grad():
        step = 1e-3 * grad / grad.norm()
        other.encoders[0].get_input_embeddings().weight[part.ids(text)[1]] += step.float()
    moved = Effects(other, PROMPTS, at, tiny_model)
    a, b = (float(ruler.score(e.together([text])[0])) for e in (effects, moved))
    assert b - a == pytest.approx(1e-3 * float(grad.norm()), rel=0.2)
    assert not any(p.requires_grad for p in tiny_model.encoders[0].parameters())


def test_nonsense_is_of_every_length(tiny_model) -> None:
    allowed = unused(tiny_model, PROMPTS, True)
    texts = nonsense(tiny_model, allowed, 12, 0, 3)
    assert len(set(texts)) == 12
    assert texts == nonsense(tiny_model, allowed, 12, 0, 3)
    assert texts != nonsense(tiny_model, allowed, 12, 1, 3)
