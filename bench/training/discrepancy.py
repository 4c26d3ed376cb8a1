"""The distance of two sets of points as distributions, and covariances as points, with gradients
that are finite everywhere."""

from __future__ import annotations

import torch
from torch import Tensor


def log_covariance(points: Tensor, floor: float = 1e-6) -> Tensor:
    """log(C + floor I) of the covariance C (d, d) of points (L, d)."""
    cov = torch.cov(points.T)
    return MatrixLog.apply(cov + floor * torch.eye(len(cov), dtype=cov.dtype, device=cov.device))


class MatrixLog(torch.autograd.Function):
    """The logarithm of a symmetric positive definite matrix. Its derivative is that of Daleckii and
    Krein, which holds where eigenvalues are equal; that of the eigenvectors, which torch would use,
    is infinite there, and a prompt has fewer tokens than maps have pixels.
    """

    @staticmethod
    def forward(ctx, matrix: Tensor) -> Tensor:
        values, vectors = torch.linalg.eigh(matrix.double())
        values = values.clamp(min=1e-12)
        ctx.save_for_backward(values, vectors)
        return (vectors * values.log() @ vectors.T).to(matrix.dtype)

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        values, vectors = ctx.saved_tensors
        a, b = values[:, None], values[None]
        ratio = (a - b) / b  # log a - log b = log1p(ratio), exact where a and b are close
        slopes = torch.where(
            ratio.abs() > 1e-9,
            torch.log1p(ratio) / (a - b).where(ratio.abs() > 1e-9, torch.ones_like(ratio)),
            2 / (a + b),
        )
        inner = vectors.T @ ((grad + grad.T) / 2).double() @ vectors
        return (vectors @ (slopes * inner) @ vectors.T).to(grad.dtype)


def kernel_discrepancy(x: Tensor, y: Tensor, kernels: int = 5, factor: float = 3.0) -> Tensor:
    """Squared maximum mean discrepancy (Gretton et al. 2012, biased) of points (n, d) and (m, d)
    under a sum of Gaussian kernels whose bandwidths are the mean squared distance of two different
    points times powers of `factor`."""
    both = torch.cat([x, y])
    distances = (both[:, None] - both[None]).square().sum(2)
    width = distances.detach().sum() / (len(both) * (len(both) - 1))
    kernel = sum(
        torch.exp(-distances / (width * factor ** (i - kernels // 2)).clamp(min=1e-12))
        for i in range(kernels)
    )
    n = len(x)
    return kernel[:n, :n].mean() + kernel[n:, n:].mean() - 2 * kernel[:n, n:].mean()
