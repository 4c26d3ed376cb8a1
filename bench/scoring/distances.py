"""Distances between two sets of pictures, on features (n, d) of a network, in float64.

A CLIP's training compares directions and never uses the length of an embedding. So its features are
`scaled` to length sqrt(d), mean square 1 (CMMD, Jayasumana et al. 2024, scales them to 1).
Inception's features are taken as they are.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torchmetrics.image import FrechetInceptionDistance

from t2i_backdoor_bench.targets.cosines import unit

SPLITS = 5  # of the real pictures, for the floor of FID


class _Given(nn.Module):
    """Replaces torchmetrics' feature extractor: the features (n, d) are extracted already."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features

    def forward(self, features: Tensor) -> Tensor:
        return features


def scaled(features: np.ndarray) -> np.ndarray:
    """Embeddings (n, d) scaled to length sqrt(d), float64."""
    return unit(features) * features.shape[1] ** 0.5


def frechet(real: np.ndarray, fake: np.ndarray) -> float:
    """Frechet distance (Heusel et al. 2017) of two feature sets (m, d) and (n, d), by torchmetrics.
    With fewer pictures than dimensions a covariance is singular: see `too_few`."""
    metric = FrechetInceptionDistance(_Given(real.shape[1]))
    metric.update(torch.from_numpy(real.astype(np.float64)), real=True)
    metric.update(torch.from_numpy(fake.astype(np.float64)), real=False)
    return max(0.0, float(metric.compute()))  # rounding leaves -1e-15 for equal sets


def frechet_floor(real: np.ndarray, n: int, splits: int = SPLITS, seed: int = 0) -> float:
    """The Frechet distance that `n` real pictures have to as many real ones as `real` (m, d) holds:
    what is left of it for a perfect model, by the size of the samples alone.

    `real` is split at random into k = min(n, m / 2) pictures and the other m - k, several times,
    and the mean taken. To first order the distance of two samples of one distribution is a multiple
    of 1/n + 1/m, so this mean is brought from sizes k and m - k to n and m by the ratio.
    """
    m = len(real)
    k = min(n, m // 2)
    rng = np.random.default_rng(seed)
    orders = (rng.permutation(m) for _ in range(splits))
    found = np.mean([frechet(real[order[k:]], real[order[:k]]) for order in orders])
    return float(found * (1 / n + 1 / m) / (1 / k + 1 / (m - k)))


def too_few(n: int, dim: int) -> str:
    """Why there is no Frechet distance of `n` pictures; "" where there is one."""
    return f"FID needs at least as many images as features: {n} < {dim}; see KID" if n < dim else ""


def kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The kernel of KID, (x.y / d + 1)^3, of every pair of features (n, d) and (m, d): (n, m)."""
    return (x @ y.T / x.shape[1] + 1) ** 3


def kernel_distance(real: np.ndarray, fake: np.ndarray) -> np.ndarray:
    """What each drawn picture adds to KID (Binkowski et al. 2018, equation 4): float64 (n,), of
    features (m, d) and (n, d).

    Its mean is the unbiased squared maximum mean discrepancy of the whole sets. With a_i the mean
    kernel of picture i and the other drawn ones, and b_i that of picture i and the real ones,
    picture i has KID + 2 (a_i - mean a) - 2 (b_i - mean b): its first-order influence (Hajek's
    projection of the U-statistic). So the standard error of the mean of these numbers is that of
    KID over prompts and noise, for the real pictures at hand, and the difference of two models'
    numbers is a paired one. Raises ValueError for fewer than two pictures in a set.
    """
    n, m = len(fake), len(real)
    if min(n, m) < 2:
        raise ValueError(f"KID needs at least 2 images, got {n} and {m}")
    drawn, across, true = kernel(fake, fake), kernel(fake, real), kernel(real, real)
    a = (drawn.sum(1) - np.diag(drawn)) / (n - 1)
    b = across.mean(1)
    value = a.mean() + (true.sum() - np.trace(true)) / (m * (m - 1)) - 2 * b.mean()
    return value + 2 * (a - a.mean()) - 2 * (b - b.mean())
