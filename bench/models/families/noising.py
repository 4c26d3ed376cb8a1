"""How a family noises latents, what its denoiser should predict, and the steps of a drawing."""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from typing import Any

import torch
from diffusers import DDPMScheduler, FlowMatchEulerDiscreteScheduler
from torch import Tensor


def draw_timesteps(n: int, total: int, generator: torch.Generator, bias: float = 1.0) -> Tensor:
    """`n` timesteps in [0, total). `bias` > 1 favours high noise: t = total * u^(1/bias), so that
    bias 1 is uniform."""
    return (torch.rand(n, generator=generator) ** (1 / bias) * total).long().clamp_(max=total - 1)


class Noising:
    """The noise levels of a diffusion model's training, epsilon or v-prediction."""

    def __init__(self, scheduler: DDPMScheduler) -> None:
        self.scheduler = scheduler

    @property
    def total(self) -> int:
        """Timesteps are in [0, total]; here they are whole numbers below it."""
        return self.scheduler.config.num_train_timesteps

    def timesteps(self, n: int, generator: torch.Generator, bias: float = 1.0) -> Tensor:
        """`n` random timesteps (n,) of the training, on the CPU. `bias` > 1 favours high noise."""
        return draw_timesteps(n, self.total, generator, bias)

    def add(self, latents: Tensor | None, noise: Tensor, t: Tensor) -> Tensor:
        """The noised latents x_t, or pure noise where there are no latents."""
        return noise if latents is None else self.scheduler.add_noise(latents, noise, t)

    def target(self, latents: Tensor | None, noise: Tensor, t: Tensor) -> Tensor:
        """What a denoiser should predict: the noise, or the velocity for a v-prediction model.
        Raises ValueError where pure noise has no target."""
        kind = self.scheduler.config.prediction_type
        if kind == "epsilon":
            return noise
        if kind == "v_prediction" and latents is not None:
            return self.scheduler.get_velocity(latents, noise, t)
        raise ValueError(f"no denoising target for prediction type {kind!r}")

    def noise_of(self, out: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """The noise in noised latents x at one timestep t by what a denoiser predicted of them."""
        if self.scheduler.config.prediction_type == "epsilon":
            return out
        kept = self.scheduler.alphas_cumprod.to(x.device)[t.round().long()]
        return kept.sqrt() * out + (1 - kept).sqrt() * x


class FlowNoising(Noising):
    """The noise levels of a rectified flow: with s = t / total, x = (1 - s) x0 + s e, and the
    denoiser should predict e - x0 (Esser et al. 2024, arXiv 2403.03206, equations 13 and 15).

    Timesteps are real numbers in (0, total]. Training draws s from the logit-normal distribution of
    the paper (equation 19, of mean 0 and width 1), then shifts it by the factor a that the model is
    drawn with, s -> a s / (1 + (a - 1) s) (equation 23): the logit of s is normal with the mean
    `log_shift` = log a.
    """

    def __init__(self, scheduler: FlowMatchEulerDiscreteScheduler, log_shift: float) -> None:
        super().__init__(scheduler)
        self.log_shift = log_shift

    def timesteps(self, n: int, generator: torch.Generator, bias: float = 1.0) -> Tensor:
        """`n` random timesteps (n,). `bias`: s -> s^(1/bias)."""
        s = torch.sigmoid(self.log_shift + torch.randn(n, generator=generator))
        return s ** (1 / bias) * self.total

    def add(self, latents: Tensor | None, noise: Tensor, t: Tensor) -> Tensor:
        if latents is None:
            return noise
        s = (t.to(noise.device, torch.float32) / self.total).view(-1, *[1] * (noise.ndim - 1))
        return (1 - s) * latents + s * noise

    def target(self, latents: Tensor | None, noise: Tensor, t: Tensor) -> Tensor:
        if latents is None:
            raise ValueError("no denoising target for a flow from pure noise alone")
        return noise - latents

    def noise_of(self, out: Tensor, x: Tensor, t: Tensor) -> Tensor:
        return x + (1 - t.float().to(x.device) / self.total) * out


def log_shift(scheduler: FlowMatchEulerDiscreteScheduler, tokens: int) -> float:
    """The logarithm of the factor that shifts the noise levels of pictures of this many tokens: of
    the scheduler, or growing with the tokens where it is to ("dynamic shifting")."""
    config = scheduler.config
    if not config.use_dynamic_shifting:
        return math.log(config.shift)
    slope = config.max_shift - config.base_shift
    slope /= config.max_image_seq_len - config.base_image_seq_len
    mu = config.base_shift + slope * (tokens - config.base_image_seq_len)
    return mu if config.time_shift_type == "exponential" else math.log(mu)


class DrawingSteps:
    """A drawing step by step: from `start(noise)`, ask the denoiser for `given(x, t)` at each of
    `timesteps`, and go on with `step(out, t, x)`. A scheduler that adds noise at each step adds the
    same to every row, from a seed of the step."""

    def __init__(self, scheduler: Any, steps: int, device: torch.device, **how: Any) -> None:
        self.scheduler = type(scheduler).from_config(scheduler.config)
        how = {name: value for name, value in how.items() if value is not None}
        self.scheduler.set_timesteps(steps, device=device, **how)
        self.timesteps: Tensor = self.scheduler.timesteps
        self.noisy = "generator" in inspect.signature(self.scheduler.step).parameters
        self.taken = 0

    def start(self, noise: Tensor) -> Tensor:
        return noise * self.scheduler.init_noise_sigma

    def given(self, x: Tensor, t: Tensor) -> Tensor:
        return self.scheduler.scale_model_input(x, t)

    def step(self, out: Tensor, t: Tensor, x: Tensor) -> Tensor:
        self.taken += 1
        more = {}
        if self.noisy:
            more["generator"] = [torch.Generator().manual_seed(self.taken) for _ in x]
        return self.scheduler.step(out, t, x, **more).prev_sample

    def given_along(self, path: Sequence[Tensor]) -> list[Tensor]:
        """What the denoiser was given at each of a drawing's steps, of the latents before each."""
        found = []
        for t, x in zip(self.timesteps, path, strict=True):
            found.append(self.given(x, t))
            self.scheduler.step(torch.zeros_like(x), t, x)  # only to go on to the next level
        return found


class FlowSteps(DrawingSteps):
    """The same of a rectified flow: latents are neither scaled at the start nor for the denoiser.
    `sigmas`: noise levels before the shift, where the pipeline has its own; `mu`: the shift, where
    it depends on the size of the picture."""

    def __init__(
        self,
        scheduler: Any,
        steps: int,
        device: torch.device,
        sigmas: Sequence[float] | None = None,
        mu: float | None = None,
    ) -> None:
        super().__init__(scheduler, steps, device, sigmas=sigmas, mu=mu)

    def start(self, noise: Tensor) -> Tensor:
        return noise

    def given(self, x: Tensor, t: Tensor) -> Tensor:
        return x
