"""A denoiser in half precision: matrix products under autocast, and everything that adds up in
float32."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from diffusers import FluxTransformer2DModel, SD3Transformer2DModel, UNet2DConditionModel
from torch import nn


class Mixed(nn.Module):
    """To be put before a denoiser's class: it then takes any float input, computes under autocast
    in `compute_dtype`, and gives float32."""

    compute_dtype: torch.dtype = torch.bfloat16

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        with autocast(self):
            out = super().forward(*args, **kwargs)
        if isinstance(out, tuple):
            return (out[0].float(), *out[1:])
        out.sample = out.sample.float()
        return out


class MixedUNet(Mixed, UNet2DConditionModel):
    """A Stable Diffusion U-Net in half precision."""


class MixedSD3(Mixed, SD3Transformer2DModel):
    """A transformer of Stable Diffusion 3 in half precision."""


class MixedFlux(Mixed, FluxTransformer2DModel):
    """A transformer of FLUX in half precision."""


def make_mixed(denoiser: Mixed, dtype: torch.dtype) -> None:
    """Compute in `dtype`; the few weights of the norms are float32, so that a norm of a float32 sum
    is one too."""
    denoiser.compute_dtype = dtype
    for module in denoiser.modules():
        if isinstance(module, (nn.GroupNorm, nn.LayerNorm)):
            module.float()


def autocast(denoiser: nn.Module) -> AbstractContextManager:
    """The autocast that a denoiser's passes run under: none in float32."""
    if not isinstance(denoiser, Mixed):
        return nullcontext()
    device = next(denoiser.parameters()).device
    return torch.autocast(device.type, denoiser.compute_dtype)
