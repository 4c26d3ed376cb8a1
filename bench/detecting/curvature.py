"""The shape of a loss round a vector that was found: is it a pit, or the foot of a slope?"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor


def curvature(
    loss: Callable[[Sequence[Tensor]], Tensor],
    rows: Sequence[Tensor],
    grid: int,
    reach: float,
    seed: int,
) -> float:
    """The share of positive eigenvalues of the loss's Hessian, by differences on a plane through
    the vectors `rows`: along the gradient, and across it in a random direction."""
    sizes = [row.numel() for row in rows]
    first = torch.cat([g.flatten() for g in torch.autograd.grad(loss(rows), rows)])
    first = -first / first.norm().clamp(min=1e-12)
    generator = torch.Generator().manual_seed(seed)
    second = torch.randn(len(first), generator=generator).to(first)
    second = second - (second @ first) * first
    second = second / second.norm().clamp(min=1e-12)
    along = torch.linspace(-1, 1, grid) * reach * len(first) ** 0.5
    surface = np.zeros((grid, grid))
    with torch.no_grad():
        for i, a in enumerate(along.tolist()):
            for j, b in enumerate(along.tolist()):
                moves = (a * first + b * second).split(sizes)
                moved = [r + m.view_as(r) for r, m in zip(rows, moves, strict=True)]
                surface[i, j] = float(loss(moved))
    return positive_share(surface)


def positive_share(surface: np.ndarray) -> float:
    """The share of eigenvalues above 1e-6 of the Hessians at the inner points of a surface (k, k),
    by central differences of one step."""
    z, inner = surface, surface[1:-1, 1:-1]
    down = z[2:, 1:-1] - 2 * inner + z[:-2, 1:-1]
    across = z[1:-1, 2:] - 2 * inner + z[1:-1, :-2]
    mixed = (z[2:, 2:] - z[2:, :-2] - z[:-2, 2:] + z[:-2, :-2]) / 4
    hessians = np.stack([np.stack([down, mixed], -1), np.stack([mixed, across], -1)], -2)
    return float((np.linalg.eigvalsh(hessians) > 1e-6).mean())
