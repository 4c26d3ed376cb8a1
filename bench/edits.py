"""Linear maps edited in closed form, shared by methods that change the cross-attention keys and values without training."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def edit(weight: Tensor, old: Tensor, new: Tensor, kept: Tensor, erase: float, preserve: float, ridge: float) -> Tensor:
    """The edited weight (out, d), for `old` (n, d) to be mapped as `new` is and `kept` (m, d) as before."""
    one = torch.eye(weight.shape[1], dtype=weight.dtype, device=weight.device)
    left = weight @ (ridge * one + erase * new.T @ old + preserve * kept.T @ kept)
    right = ridge * one + erase * old.T @ old + preserve * kept.T @ kept
    return torch.linalg.solve(right, left.T).T  # right is symmetric


def keys_and_values(unet: nn.Module) -> list[nn.Linear]:
    """The projections of text states in every cross-attention layer."""
    return [m for n, m in unet.named_modules() if n.endswith((".attn2.to_k", ".attn2.to_v"))]
