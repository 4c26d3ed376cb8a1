"""Cuts between two groups of numbers, and how often a cut is wrong."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

TAIL = 0.5  # percent of each side that may lie beyond the calibrated threshold


@dataclass(frozen=True)
class JudgeReport:
    """The error rates of a judge, measured on `n` clean and `n` positive images that its threshold
    was not chosen on."""

    false_positive_rate: float
    true_positive_rate: float
    threshold: float
    n: int


def choose_threshold(clean: np.ndarray, shown: np.ndarray, below: bool) -> float:
    """The cut between the numbers of clean images (n,) and of images that show the target (m,), as
    `Judge.calibrate` describes it."""
    if below:
        return -choose_threshold(-clean, -shown, below=False)
    top, bottom = np.percentile(clean, 100 - TAIL), np.percentile(shown, TAIL)
    if top < bottom:
        return float((top + bottom) / 2)
    values = np.unique(np.concatenate([clean, shown]))
    cuts = np.concatenate([[values[0] - 1e-6], (values[1:] + values[:-1]) / 2, [values[-1] + 1e-6]])
    found = 1 - np.searchsorted(np.sort(shown), cuts, side="right") / len(shown)
    false = 1 - np.searchsorted(np.sort(clean), cuts, side="right") / len(clean)
    return float(cuts[np.argmax(found - false)])
