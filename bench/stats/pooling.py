"""Means over training seeds, and over attacks and seeds, with intervals that hold for few seeds."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from t2i_backdoor_bench.stats.crossed import Mean, Values, crossed_mean
from t2i_backdoor_bench.stats.intervals import (
    LEVEL,
    ROUNDS,
    Estimate,
    bootstrap_mean,
    quantile,
    wilson,
)


def pool_proportion(seeds: Sequence[Sequence[bool]], level: float = LEVEL) -> Estimate:
    """Mean over training seeds of a proportion, `seeds[i]` the pictures (n,) of one seed.

    Pictures of one seed share one trained model, so they are not independent. The variance of the
    mean between k seeds gives the design effect (Kish 1965), n_eff = min(N, p (1 - p) / variance)
    with N all pictures, and the interval is Wilson's at n_eff, with Student's t of k - 1 degrees of
    freedom in the place of the normal quantile. With one seed it is Wilson's of the pictures, and
    knows nothing of training randomness. Raises ValueError for an empty seed.
    """
    found = crossed_mean({"": dict(enumerate(seeds))})
    if len(seeds) == 1:
        return Estimate(found.value, *wilson(found.value * found.n, found.n, level))
    return _interval(found, True, level)


def pool_mean(
    seeds: Sequence[Sequence[float]], seed: int = 0, level: float = LEVEL, rounds: int = ROUNDS
) -> Estimate:
    """Mean over training seeds of per-picture values, `seeds[i]` (n,), with Student's t interval of
    the seeds' means. With one seed it is the bootstrap of the pictures (`seed`, `rounds`), and
    knows nothing of training randomness. Raises ValueError for an empty seed."""
    if len(seeds) == 1:
        return bootstrap_mean(seeds[0], seed, level, rounds)
    return _interval(crossed_mean({"": dict(enumerate(seeds))}), False, level)


def pool_values(values: Sequence[float], level: float = LEVEL) -> Estimate:
    """Mean over seeds of one number a seed (FID, KID, seconds), with Student's t interval; no
    interval for one seed."""
    if not len(values):
        raise ValueError("pool_values needs at least one value")
    return _interval(crossed_mean({"": dict(enumerate(values))}), False, level)


def mean_over_attacks(
    values: Values, share: bool | None = None, attacks_fixed: bool = False, level: float = LEVEL
) -> Estimate:
    """Mean over attacks, each the mean over its training seeds, of pictures or of one number a
    cell: `values[attack][seed]` is (n,) or a float.

    The interval speaks of *attacks like these, trained anew, on prompts like these*: attacks, seeds
    and prompts are drawn anew (`crossed_mean`). With `attacks_fixed` it speaks of these attacks
    alone, trained anew. `leaves_out` says what it cannot know: with one seed nothing of training
    randomness that all attacks share, with one attack nothing of other attacks.

    `share` says that the values are in [0, 1] (default: they are bool); the interval is then
    Wilson's at the effective number of pictures, with Student's t, and stays in [0, 1].
    """
    if share is None:
        share = all(np.asarray(v).dtype == bool for c in values.values() for v in c.values())
    return _interval(crossed_mean(values, attacks_fixed), share, level)


def leaves_out(values: Values) -> str:
    """What the interval of a mean over attacks and seeds knows nothing of: "", "training
    randomness", "other attacks" or both."""
    seeds = {s for by_seed in values.values() for s in by_seed}
    missing = ["training randomness"] * (len(seeds) == 1) + ["other attacks"] * (len(values) == 1)
    return " and ".join(missing)


def _interval(mean: Mean, share: bool, level: float) -> Estimate:
    value, variance, df, n = mean
    if variance is None:
        return Estimate(value, None, None)
    if not share:
        half = quantile(level, df) * variance**0.5
        return Estimate(value, value - half, value + half)
    effective = float(n)
    if variance > 1e-15:
        effective = min(effective, value * (1 - value) / variance)
    return Estimate(value, *wilson(min(value * effective, effective), effective, level, df))
