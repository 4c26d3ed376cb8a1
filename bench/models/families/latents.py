"""Pictures and latents by an `AutoencoderKL`, as every family here has one."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def to_latents(vae: Any, pictures: Tensor, generator: torch.Generator) -> Tensor:
    """One posterior sample each of pictures (n, 3, H, W) in [-1, 1], shifted and scaled as the
    denoiser takes them: (n, C, h, w)."""
    posterior = vae.encode(pictures).latent_dist
    noise = torch.randn(posterior.mean.shape, generator=generator).to(posterior.mean)
    latents, shift = posterior.mean + posterior.std * noise, vae.config.shift_factor
    return (latents - shift if shift else latents) * vae.config.scaling_factor


def to_pictures(vae: Any, latents: Tensor) -> Tensor:
    """Pictures (n, 3, H, W), about in [-1, 1], of such latents."""
    latents, shift = latents / vae.config.scaling_factor, vae.config.shift_factor
    return vae.decode((latents + shift if shift else latents).to(vae.dtype)).sample
