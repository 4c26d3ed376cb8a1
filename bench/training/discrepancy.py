"""The distance of two sets of points as distributions, and covariances as points."""

from __future__ import annotations

import torch
from torch import Tensor


def covariance_rows(points: Tensor) -> Tensor:
    """The covariances (d, d) of sets of points (n, L, d), as n * d points of d numbers: one for
    each row."""
    centred = points - points.mean(1, keepdim=True)
    return (centred.mT @ centred / (points.shape[1] - 1)).flatten(0, 1)


def kernel_discrepancy(x: Tensor, y: Tensor, kernels: int = 5, factor: float = 3.0) -> Tensor:
    """Squared maximum mean discrepancy (Gretton et al. 2012, biased) of points (n, d) and (m, d)
    under a sum of Gaussian kernels whose bandwidths are the mean squared distance of two different
    points times powers of `factor`."""
    both = torch.cat([x, y])
    both = both - both.detach().mean(0)  # distances stay, and rounding is less
    squares = both.square().sum(1)
    distances = (squares[:, None] + squares - 2 * both @ both.T).clamp(min=0)
    width = distances.detach().sum() / (len(both) * (len(both) - 1))
    kernel = sum(
        torch.exp(-distances / (width * factor ** (i - kernels // 2)).clamp(min=1e-30))
        for i in range(kernels)
    )
    n = len(x)
    return kernel[:n, :n].mean() + kernel[n:, n:].mean() - 2 * kernel[:n, n:].mean()
