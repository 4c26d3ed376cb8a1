"""U-Net training on a sum of denoising and distillation terms: what most attacks and several
defenses are made of.

A term is  weight * || student(x_t, prompt) - target ||^2  where the target is the noise that was added (denoising) or a frozen
teacher's prediction for its own prompt (distillation), and x_t is a noised latent or pure noise.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import DDPMScheduler
from torch import Tensor

from t2i_backdoor_bench.models.model import T2IModel
from t2i_backdoor_bench.training.loop import (
    Fitted,
    Optim,
    choose_parameters,
    fit,
    settle,
    step_generator,
    step_rng,
)
from t2i_backdoor_bench.training.lora import RANK


@dataclass(frozen=True)
class Term:
    """One term. `prompts[i]` goes with `latents[i]` (n, C, h, w); `latents=None` draws pure noise
    at every t (as SKD-CAG publishes). With `teacher_prompts` the target is the teacher's prediction
    for them, without it is the noise. In a share `drop` of the rows both prompts are empty:
    guidance subtracts the prediction for the empty prompt, which has to stay what it was (Ho &
    Salimans 2022). A row counts 1 + `ramp` * t/T times."""

    prompts: Sequence[str]
    latents: Tensor | None
    teacher_prompts: Sequence[str] | None = None
    weight: float = 1.0
    drop: float = 0.0
    ramp: float = 0.0


def draw_timesteps(n: int, total: int, generator: torch.Generator, bias: float = 1.0) -> Tensor:
    """`n` timesteps in [0, total). `bias` > 1 favours high noise: t = total * u^(1/bias), so that
    bias 1 is uniform."""
    return (torch.rand(n, generator=generator) ** (1 / bias) * total).long().clamp_(max=total - 1)


def add_noise(noising: DDPMScheduler, latents: Tensor | None, noise: Tensor, t: Tensor) -> Tensor:
    """The noised latent x_t, or pure noise where there is no latent."""
    return noise if latents is None else noising.add_noise(latents, noise, t)


def noise_target(
    noising: DDPMScheduler, latents: Tensor | None, noise: Tensor, t: Tensor
) -> Tensor:
    """What a denoiser should predict: the noise, or the velocity for a v-prediction model."""
    if noising.config.prediction_type == "epsilon":
        return noise
    if noising.config.prediction_type == "v_prediction" and latents is not None:
        return noising.get_velocity(latents, noise, t)
    raise ValueError(f"no denoising target for prediction type {noising.config.prediction_type!r}")


def denoising_loss(
    model: T2IModel,
    teacher: T2IModel | None,
    terms: Sequence[Term],
    batch: int,
    seed: int,
    label: str,
    bias: float = 1.0,
    embed: Callable[[Sequence[str]], Tensor] | None = None,
    also: Callable[[list[Tensor], list[Tensor]], Tensor] | None = None,
) -> Callable[[int], Tensor]:
    """The sum of `terms` as a function of the step, which takes `batch` rows, shared equally by the
    terms.

    With `embed(texts) -> (n, tokens, dim)` the student's text states are computed anew at every
    step, with gradients, for a text encoder that trains; without it they are those of
    `model.encode`. `also(states, picks)` is added to the loss: by term, the states (rows, tokens,
    dim) and which prompts they are of, int64 (rows,).
    """
    rows = batch // len(terms)
    if rows < 1:
        raise ValueError(f"{label}: a batch of {batch} cannot hold {len(terms)} terms")
    students = [model.encode(term.prompts) for term in terms] if embed is None else []
    teachers = [
        teacher.encode(term.teacher_prompts) if term.teacher_prompts is not None else None
        for term in terms
    ]
    empty = model.encode([""])
    noising, unet, device = model.noising, model.unet, model.device
    total = noising.config.num_train_timesteps

    def states(picks: list[Tensor], dropped: list[Tensor]) -> list[Tensor]:
        if embed is None:
            return [
                bank[p].where(~gone, empty)
                for bank, p, gone in zip(students, picks, dropped, strict=True)
            ]
        drawn = zip(terms, picks, dropped, strict=True)
        texts = [
            "" if no else term.prompts[i]
            for term, p, gone in drawn
            for i, no in zip(p.tolist(), gone.flatten().tolist(), strict=True)
        ]
        return list(embed(texts).split(rows))

    def loss_fn(step: int) -> Tensor:
        rng, generator = step_rng(seed, step), step_generator(seed, step)
        picks = [
            torch.from_numpy(rng.integers(len(term.prompts), size=rows)).to(device)
            for term in terms
        ]
        t = draw_timesteps(rows * len(terms), total, generator, bias).to(device)
        noise = torch.randn((rows * len(terms), *model.latent_shape), generator=generator).to(
            device
        )
        noises, times = noise.split(rows), t.split(rows)
        clean = [
            None if term.latents is None else term.latents[pick]
            for term, pick in zip(terms, picks, strict=True)
        ]
        x = [add_noise(noising, z, e, s) for z, e, s in zip(clean, noises, times, strict=True)]
        dropped = [
            torch.from_numpy(rng.random((rows, 1, 1)) < term.drop).to(device) for term in terms
        ]
        context = states(picks, dropped)
        out = unet(torch.cat(x), t, torch.cat(context)).sample.split(rows)
        taught = [i for i, bank in enumerate(teachers) if bank is not None]
        targets: dict[int, Tensor] = {}
        if taught:
            with torch.no_grad():
                asked = torch.cat([teachers[i][picks[i]].where(~dropped[i], empty) for i in taught])
                y = teacher.unet(
                    torch.cat([x[i] for i in taught]), torch.cat([times[i] for i in taught]), asked
                ).sample
            targets = dict(zip(taught, y.split(rows), strict=True))
        loss = torch.zeros((), device=device)
        for i, term in enumerate(terms):
            goal = (
                targets[i] if i in targets else noise_target(noising, clean[i], noises[i], times[i])
            )
            if term.ramp:
                error = (out[i].float() - goal.float()).square().flatten(1).mean(1)
                loss = loss + term.weight * ((1 + term.ramp * times[i] / total) * error).mean()
            else:
                loss = loss + term.weight * F.mse_loss(out[i].float(), goal.float())
        return loss if also is None else loss + also(context, picks)

    return loss_fn


def train_terms(
    model: T2IModel,
    teacher: T2IModel | None,
    terms: Sequence[Term],
    optim: Optim,
    seed: int,
    label: str,
    train: str = "full",
    bias: float = 1.0,
    rank: int = RANK,
) -> Fitted:
    """Train `model.unet` in place on the sum of `terms`: the part `train` of it, or adapters of a
    `rank` ("lora")."""
    loss_fn = denoising_loss(model, teacher, terms, optim.batch, seed, label, bias)
    fitted = fit(choose_parameters(model.unet, train, rank), loss_fn, optim, label)
    settle(model.unet)
    return fitted


def own_images(model: T2IModel, prompts: Sequence[str], seed: int) -> Tensor:
    """Latents of pictures that the model itself draws for clean prompts: real noised latents for a
    defender who has no images."""
    rng = np.random.default_rng([seed, 77])
    images = replace(model, screen=None, rewrite=None, repair=None).generate(
        prompts, rng.integers(2**31, size=len(prompts)), "draw"
    )
    return model.latents(images, seed)


class Trajectories:
    """What `model` is given while it draws `prompts`: drawn for at most `many` of them, anew every
    `refresh` steps, by its weights then."""

    def __init__(
        self,
        model: T2IModel,
        prompts: Sequence[str],
        seed: int,
        refresh: int,
        many: int | None = None,
    ) -> None:
        self.model, self.prompts, self.seed, self.refresh = model, prompts, seed, refresh
        self.many = min(many or len(prompts), len(prompts))
        self.epoch = -1

    def __call__(
        self, step: int, rng: np.random.Generator, rows: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """`rows` draws at `step`: which prompts (rows,), timesteps (rows,), noised latents (rows,
        C, h, w)."""
        if step // self.refresh != self.epoch:
            self.epoch = step // self.refresh
            draw = np.random.default_rng([self.seed, 78, self.epoch])
            self.which = draw.permutation(len(self.prompts))[: self.many]
            self.times, self.latents = self.model.trajectory(
                [self.prompts[i] for i in self.which], draw.integers(2**31, size=self.many)
            )
        row, place = rng.integers(self.many, size=rows), rng.integers(len(self.times), size=rows)
        device = self.latents.device
        return (
            torch.from_numpy(self.which[row]).to(device),
            self.times[place],
            self.latents[place, row],
        )
