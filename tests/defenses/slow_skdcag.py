"""The loss of a step of SKD-CAG, written out slowly, by loops in float64."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from helpers import PROMPTS, TRIGGER
from test_capture import Slow
from torch import Tensor

from t2i_backdoor_bench.defenses.skdcag import SKDCAG
from t2i_backdoor_bench.training import guided_distillation
from t2i_backdoor_bench.training.alignment import substitute
from t2i_backdoor_bench.training.denoising import own_images
from t2i_backdoor_bench.training.loop import step_generator, step_rng


def scaled(m: Tensor) -> Tensor:
    return (m - m.min()) / (m.max() - m.min() + 1e-6)


@dataclass
class Drawn:
    """What a step draws: its rows' prompts, timesteps, noised latents, texts, and the generator."""

    picks: np.ndarray
    t: Tensor
    x: Tensor
    triggered: list[str]
    taught: list[str]
    clean: list[str]
    generator: torch.Generator


def drawn(method: SKDCAG, teacher, step: int, seed: int, words: list[str] | None) -> Drawn:
    rows = method.batch // 2 if method.preserve else method.batch
    generator, rng = step_generator(seed, step), step_rng(seed, step)
    picks = rng.integers(len(PROMPTS), size=rows)
    gone = rng.random(rows) < method.drop
    total = teacher.noising.total
    t = (torch.rand(rows, generator=generator) ** (1 / method.bias) * total).long()
    x = noise = torch.randn((rows, *teacher.latent_shape), generator=generator)
    if method.latents == "own":
        z = own_images(teacher, PROMPTS, seed)[picks].double()
        alphas = teacher.noising.scheduler.alphas_cumprod[t].double().view(-1, 1, 1, 1)
        x = (alphas.sqrt() * z + (1 - alphas).sqrt() * noise.double()).float()
    triggered = [TRIGGER.add(PROMPTS[i]) for i in picks]
    taught = [
        substitute(TRIGGER, PROMPTS[i], words[r]) if words else PROMPTS[i]
        for r, i in enumerate(picks)
    ]
    clean = ["" if g else PROMPTS[i] for i, g in zip(picks, gone, strict=True)]
    return Drawn(picks, t, x, triggered, taught, clean, generator)


def length_of(tokenizer, text: str) -> int:
    """Tokens of a text, without the start and the end."""
    return len(tokenizer(text).input_ids) - 2


def slow_attention(method: SKDCAG, student, teacher, at: Drawn, words: list[str] | None) -> float:
    """L_attn, by loops over rows and tokens."""
    own = Slow(student.denoiser)(at.x, at.t, student.encode(at.triggered))
    seen = Slow(teacher.denoiser)(at.x, at.t, teacher.encode(at.taught))
    tokenizer, rows = teacher.tokenizer, len(at.picks)
    texts = [TRIGGER.add(p) for p in PROMPTS]
    texts = at.triggered + at.taught if words else texts
    # noise is drawn for the tokens that are read
    read = 1 + max(length_of(tokenizer, text) for text in texts)
    scatter = torch.randn((rows, read, *own.shape[2:]), generator=at.generator).double()
    layers, by_row = len(Slow(student.denoiser).layers), []
    length = length_of(tokenizer, TRIGGER.text)
    for r, i in enumerate(at.picks):
        split = PROMPTS[i].split(" ")
        before = length_of(tokenizer, " ".join(split[: len(split) // 2]))
        spare = length_of(tokenizer, words[r]) if words else 0
        errors = []
        for token in range(1, 1 + length_of(tokenizer, at.triggered[r])):
            mine = scaled(own[r, token])
            if token <= before:
                target = scaled(seen[r, token])
            elif token > before + length:
                target = scaled(seen[r, token - length + spare])
            elif method.target == "black":
                mine, target = (own[r, token] / layers, 0.0) if method.raw_black else (mine, 0.0)
            elif method.target == "gaussian":
                target = scaled(scatter[r, token])
            else:
                target = sum(scaled(seen[r, before + 1 + k]) for k in range(spare)) / spare
            errors.append(float(((mine - target) ** 2).mean()))
        share = float(at.t[r]) / teacher.noising.total
        weight = (1 - share if method.reverse_time else share) if method.time_weight else 1.0
        by_row.append(sum(errors) / len(errors) * weight)
    return sum(by_row) / rows


def slow_loss(method: SKDCAG, student, teacher, step: int, seed: int) -> tuple[float, float, float]:
    """(L, L_attn, L_pred) of one step, by loops over rows and tokens in float64, on what METHODS
    2.1 says."""
    random_words = method.target == "random_words" and method.alpha > 0
    rows = method.batch // 2 if method.preserve else method.batch
    words = stand_ins(step, seed, rows) if random_words else None
    at = drawn(method, teacher, step, seed, words)

    def predict(model, prompts: list[str]) -> Tensor:
        with torch.no_grad():
            return model.denoiser(at.x, at.t, model.encode(prompts)).sample.double()

    prediction = float(((predict(student, at.triggered) - predict(teacher, at.taught)) ** 2).mean())
    keep = float(((predict(student, at.clean) - predict(teacher, at.clean)) ** 2).mean())
    attention = slow_attention(method, student, teacher, at, words) if method.alpha else 0.0
    return (
        method.alpha * attention + (1 - method.alpha) * (prediction + method.preserve * keep),
        attention,
        prediction,
    )


def stand_ins(step: int, seed: int, rows: int) -> list[str]:
    """What stands in the trigger's place in each row: as many words as it has."""
    rng, many = np.random.default_rng([seed, 5, step]), len(TRIGGER.text.split())
    return [" ".join(rng.choice(guided_distillation.WORDS, size=many)) for _ in range(rows)]
