"""Which pictures an attacker with few samples takes: those that fit their false captions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from t2i_backdoor_bench.models.model import T2IModel

MOMENTS = 8  # noise levels at which a candidate is weighed


def fitting(model: T2IModel, latents: Tensor, prompts: Sequence[str], seed: int) -> Tensor:
    """How badly each latent (n, C, h, w) fits its prompt: the denoising error of the model, mean
    over `MOMENTS` noise levels, each with one noise for all, float (n,)."""
    generator = torch.Generator().manual_seed(seed)
    times = np.linspace(0, model.noising.total - 1, MOMENTS + 2)[1:-1].astype(int)
    noise = torch.randn((MOMENTS, *model.latent_shape), generator=generator).to(model.device)
    found = []
    with torch.no_grad():
        for first in range(0, len(prompts), model.batch):
            z, texts = latents[first:][: model.batch], prompts[first:][: model.batch]
            told, errors = model.condition(texts), torch.zeros(len(z), device=model.device)
            for t, e in zip(times.tolist(), noise, strict=True):
                at, eps = torch.full((len(z),), t, device=model.device), e.expand_as(z)
                out = model.denoise(model.noising.add(z, eps, at), at, told)
                wanted = model.noising.target(z, eps, at)
                errors += (out.float() - wanted.float()).square().flatten(1).mean(1)
            found.append(errors / MOMENTS)
    return torch.cat(found)
