"""Scores of one cell, a share or a mean of its pictures."""

from __future__ import annotations

import numpy as np

from t2i_backdoor_bench.contract import Score
from t2i_backdoor_bench.stats.intervals import bootstrap_mean, wilson


def proportion(flags: np.ndarray, network: str = "", note: str = "") -> Score:
    """Score of a share of images: `flags` bool (n,), Wilson 95 % interval. Nothing to count gives
    no value."""
    flags = np.asarray(flags, bool)
    if not len(flags):
        return Score(None, note=note or "no images", network=network)
    low, high = wilson(int(flags.sum()), len(flags))
    return Score(float(flags.mean()), low, high, len(flags), network, note, flags.tolist())


def mean(values: np.ndarray, network: str = "", note: str = "", seed: int = 0) -> Score:
    """Score of a mean of per-image values: float (n,), seeded bootstrap 95 % interval. Nothing to
    average gives no value."""
    values = np.asarray(values, np.float64)
    if not len(values):
        return Score(None, note=note or "no images", network=network)
    value, low, high = bootstrap_mean(values, seed)
    return Score(value, low, high, len(values), network, note, values.tolist())
