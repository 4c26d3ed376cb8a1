"""How a family noises latents, what its denoiser should predict, and the steps of a drawing."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from diffusers import DDPMScheduler
from torch import Tensor


class Noising:
    """The noise levels of a diffusion model's training, epsilon or v-prediction."""

    def __init__(self, scheduler: DDPMScheduler) -> None:
        self.scheduler = scheduler

    @property
    def total(self) -> int:
        """Timesteps are whole numbers in [0, total)."""
        return self.scheduler.config.num_train_timesteps

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


class DrawingSteps:
    """A drawing step by step: from `start(noise)`, ask the denoiser for `given(x, t)` at each of
    `timesteps`, and go on with `step(out, t, x)`. A scheduler that adds noise at each step adds the
    same to every row, from a seed of the step."""

    def __init__(self, scheduler: Any, steps: int, device: torch.device) -> None:
        self.scheduler = type(scheduler).from_config(scheduler.config)
        self.scheduler.set_timesteps(steps, device=device)
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
