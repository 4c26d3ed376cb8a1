"""A U-Net in half precision: matrix products under autocast, and everything that adds up in
float32."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from torch import nn


class MixedUNet(UNet2DConditionModel):
    """A Stable Diffusion U-Net in half precision: takes any float input, computes under autocast in
    `compute_dtype`, gives float32."""

    compute_dtype: torch.dtype = torch.bfloat16

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        with autocast(self):
            out = super().forward(*args, **kwargs)
        if isinstance(out, tuple):
            return (out[0].float(), *out[1:])
        out.sample = out.sample.float()
        return out


def make_mixed(unet: MixedUNet, dtype: torch.dtype) -> None:
    """Compute in `dtype`; the few weights of the norms are float32, so that a norm of a float32 sum
    is one too."""
    unet.compute_dtype = dtype
    for module in unet.modules():
        if isinstance(module, (nn.GroupNorm, nn.LayerNorm)):
            module.float()


def autocast(unet: nn.Module) -> AbstractContextManager:
    """The autocast that a U-Net's passes run under: none in float32."""
    if not isinstance(unet, MixedUNet):
        return nullcontext()
    return torch.autocast(unet.device.type, unet.compute_dtype)
