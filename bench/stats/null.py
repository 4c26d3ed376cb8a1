"""How unusual numbers are among those of a null distribution."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Standing(NamedTuple):
    """`z` and `p`, float (parts,), of each number alone; `joint`, the p of the more unusual."""

    z: np.ndarray
    p: np.ndarray
    joint: float


def against_null(values: np.ndarray, null: np.ndarray) -> Standing:
    """Where numbers (parts,) stand among those of k cases of the null (k, parts): large is unusual.

    z: their distance to the mean of the null in its standard deviations. p: the share of the k + 1
    cases, the given one among them, that are at least as large (a Monte Carlo test: Davison and
    Hinkley 1997, section 4.2). `joint` is the same of the larger of the parts, each standardized by
    all k + 1 cases: they are alike under the null, so that it is at most alpha in a share alpha of
    them, however the parts depend on each other. Raises ValueError for fewer than two cases.
    """
    values, null = np.asarray(values, np.float64), np.asarray(null, np.float64)
    if null.ndim != 2 or len(null) < 2 or values.shape != null.shape[1:]:
        raise ValueError(f"numbers of shape {values.shape} have no null of shape {null.shape}")
    z = (values - null.mean(0)) / np.maximum(null.std(0, ddof=1), 1e-9)
    every = np.vstack([null, values])
    p = (every >= values).mean(0)
    largest = ((every - every.mean(0)) / np.maximum(every.std(0), 1e-9)).max(1)
    # sums in another order differ in the last digits: alike counts as at least as large
    joint = float((largest >= largest[-1] - 1e-9).mean())
    return Standing(z, p, joint)
