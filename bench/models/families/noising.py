"""How a family noises latents, what its denoiser should predict, and the steps of a drawing."""

from __future__ import annotations

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
    `timesteps`, and go on with `step(out, t, x)`."""

    def __init__(self, scheduler: Any, steps: int, device: torch.device) -> None:
        self.scheduler = type(scheduler).from_config(scheduler.config)
        self.scheduler.set_timesteps(steps, device=device)
        self.timesteps: Tensor = self.scheduler.timesteps

    def start(self, noise: Tensor) -> Tensor:
        return noise * self.scheduler.init_noise_sigma

    def given(self, x: Tensor, t: Tensor) -> Tensor:
        return self.scheduler.scale_model_input(x, t)

    def step(self, out: Tensor, t: Tensor, x: Tensor) -> Tensor:
        return self.scheduler.step(out, t, x).prev_sample
