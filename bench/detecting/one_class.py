"""A model of clean prompts alone: how far a prompt's features are from theirs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor


@dataclass(frozen=True)
class OneClass:
    """Mean (d,), standard deviation (d,) and inverse correlation (d, d) of clean features."""

    mean: np.ndarray
    std: np.ndarray
    inverse: np.ndarray

    def scaled(self, features: np.ndarray) -> np.ndarray:
        """Features (n, d) in standard deviations from the clean mean."""
        return (features - self.mean) / self.std

    def distance(self, features: np.ndarray) -> np.ndarray:
        """The Mahalanobis distance of features (n, d): float (n,)."""
        z = self.scaled(features)
        return np.sqrt(np.einsum("nd,de,ne->n", z, self.inverse, z))


def one_class(clean: np.ndarray, shrinkage: float = 0.0) -> OneClass:
    """The model of clean features (n, d). The correlation is shrunk towards the identity:
    (1 - shrinkage) R + shrinkage I. Standard deviations are at least a millionth of the feature's
    size, so that a feature that never changes is no division by zero."""
    mean = clean.mean(0)
    std = np.maximum(clean.std(0), 1e-6 * (1 + np.abs(mean)))
    z = (clean - mean) / std
    one = np.eye(len(mean))
    correlation = (1 - shrinkage) * z.T @ z / len(z) + shrinkage * one
    return OneClass(mean, std, np.linalg.inv(correlation) if shrinkage else one)


def offset(plain: Tensor, other: Tensor) -> Tensor:
    """The distance of tensors (n, ...) over the size of the plain ones: float64 (n,)."""
    plain, other = (x.double().flatten(1) for x in (plain, other))
    return (other - plain).norm(dim=1) / plain.norm(dim=1).clamp(min=1e-12)


def worst_segment(z: np.ndarray, segment: int) -> np.ndarray:
    """The largest mean of |z| (n, k) over `segment` adjacent columns: float (n,)."""
    windows = np.lib.stride_tricks.sliding_window_view(np.abs(z), segment, axis=1)
    return windows.mean(2).max(1)


def log_change(noise: Tensor) -> Tensor:
    """log d_t of predictions (steps, n, ...): float64 (steps - 1, n)."""
    e = noise.double().flatten(2)
    size = e.norm(dim=2).clamp(min=1e-12)
    apart = e.diff(dim=0).square().sum(2) / (size[1:] * size[:-1])
    return apart.clamp(min=1e-12).log()
