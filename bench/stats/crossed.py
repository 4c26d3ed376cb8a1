"""The variance of a mean over attacks, training seeds and pictures, which share one another.

Every attack is measured with the same seeds, and with one seed all attacks draw the same prompts
from the same noise. The numbers are therefore not independent, and a mean over attacks and seeds is
less certain than its many pictures say. Here its variance is that of a crossed design (attack x
seed, two-way random effects; Searle, Casella, McCulloch 1992), with degrees of freedom by
Satterthwaite (1946).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

Values = Mapping[str, Mapping[int, "np.ndarray | float"]]  # [attack][seed], (n,) or one number


class Mean(NamedTuple):
    """A mean over attacks of means over seeds: its variance (None for one number), the degrees of
    freedom of that variance, and how many pictures it is of."""

    value: float
    variance: float | None
    df: float
    n: int


def crossed_mean(values: Values, attacks_fixed: bool = False) -> Mean:
    """Mean over attacks of the means over their seeds, and its variance.

    `values[attack][seed]` holds the pictures of one cell, (n,), or one number. The variance is that
    of drawing attacks, seeds and prompts anew: of the attacks' means, plus that of the seeds' means
    minus what both count twice (the attack x seed part), plus the part of the prompts that all
    seeds share. `attacks_fixed` leaves out the attacks: the mean is then of these attacks alone.
    Where an attack lacks a seed nothing is subtracted, so that the variance is rather too large.

    Raises ValueError where there is no attack, an attack without a seed or a cell without a number.
    """
    cells = {
        a: {s: np.atleast_1d(np.asarray(v, np.float64)) for s, v in by_seed.items()}
        for a, by_seed in values.items()
    }
    if (
        not cells
        or not all(cells.values())
        or any(not v.size for c in cells.values() for v in c.values())
    ):
        raise ValueError("pooling needs at least one seed, and at least one image in each")
    seeds = list(dict.fromkeys(s for by_seed in cells.values() for s in by_seed))
    means = np.array(
        [
            [by_seed[s].mean() if s in by_seed else np.nan for s in seeds]
            for by_seed in cells.values()
        ]
    )
    n = sum(len(v) for by_seed in cells.values() for v in by_seed.values())
    value = float(np.nanmean(means, 1).mean())
    prompts = _shared_prompts(cells, seeds)
    if len(seeds) == 1 and (attacks_fixed or len(cells) == 1):
        variance, df = _of_pictures([v for by_seed in cells.values() for v in by_seed.values()])
        return Mean(value, variance, df, n)
    variance, df = _of_cells(means, attacks_fixed)
    if variance + prompts > 0:
        df *= ((variance + prompts) / variance) ** 2 if variance > 0 else np.inf
    return Mean(value, variance + prompts, df, n)


def _of_pictures(cells: list[np.ndarray]) -> tuple[float | None, float]:
    """Variance of the mean of cells (n,) of one seed, with its degrees of freedom, where nothing
    but prompts and noise is drawn anew: prompt by prompt where all cells have equally many, as they
    then share them. None where a cell has one number alone."""
    sizes = [v.size for v in cells]
    if min(sizes) < 2:
        return None, 1.0
    if len(set(sizes)) == 1:
        return float(np.mean(cells, 0).var(ddof=1) / sizes[0]), float(sizes[0] - 1)
    return float(sum(v.var(ddof=1) / v.size for v in cells) / len(cells) ** 2), min(sizes) - 1.0


def _of_cells(means: np.ndarray, attacks_fixed: bool) -> tuple[float, float]:
    """Variance of the mean of cells (attacks, seeds), nan where one is missing, and its degrees of
    freedom."""
    attacks, seeds = means.shape
    there = ~np.isnan(means)
    center = np.nanmean(means, 1, keepdims=True) if attacks_fixed else np.nanmean(means, 1).mean()
    weighted = np.where(there, means - center, 0) / (there.sum(1, keepdims=True) * attacks)
    of_attacks = _between(weighted.sum(1)) if not attacks_fixed else 0.0
    of_seeds = _between(weighted.sum(0))
    both = 0.0
    if there.all() and attacks > 1 and seeds > 1:
        rest = means - means.mean(0) - means.mean(1, keepdims=True) + means.mean()
        both = float((rest**2).sum() / ((attacks - 1) * (seeds - 1) * means.size))
    variance = max(of_attacks + of_seeds - both, of_attacks, of_seeds)
    below = of_attacks**2 / max(attacks - 1, 1) + of_seeds**2 / max(seeds - 1, 1)
    fewest = min(size for size in means.shape if size > 1) - 1
    return variance, variance**2 / below if below > 0 else float(fewest)


def _between(sums: np.ndarray) -> float:
    """Variance of a sum of independent parts (k,), each minus its share of the mean; 0 for one."""
    k = len(sums)
    return float(k / (k - 1) * (sums**2).sum()) if k > 1 else 0.0


def _shared_prompts(cells: Mapping[str, Mapping[int, np.ndarray]], seeds: list[int]) -> float:
    """The part of the variance that is of prompts drawn anew and that cells do not show: of the
    prompts that all cells share. 0 where cells have other numbers of pictures or lack a seed."""
    sizes = {v.size for by_seed in cells.values() for v in by_seed.values()}
    if len(sizes) > 1 or sizes == {1} or any(len(c) < len(seeds) for c in cells.values()):
        return 0.0
    table = np.array([[by_seed[s] for s in seeds] for by_seed in cells.values()])
    # of the seeds where there are several, which are what differs between equal prompts
    units = table.mean(0) if len(seeds) > 1 else table[:, 0]
    k, n = units.shape
    if k == 1:
        return 0.0
    of_prompts = k * units.mean(0).var(ddof=1)
    rest = units - units.mean(0) - units.mean(1, keepdims=True) + units.mean()
    return float(max(0.0, of_prompts - (rest**2).sum() / ((k - 1) * (n - 1))) / (k * n))
