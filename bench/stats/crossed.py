"""The variance of a mean over attacks, training seeds and pictures, which share one another.

Every attack is measured with the same seeds, and with one seed all attacks draw the same prompts
from the same noise. The numbers are therefore not independent, and a mean over attacks and seeds is
less certain than its many pictures say. Here its variance is that of a crossed design (attack x
seed, two-way random effects; Searle, Casella, McCulloch 1992), with degrees of freedom by
Satterthwaite (1946).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

Values = Mapping[str, Mapping[int, "np.ndarray | Sequence[float] | float"]]


class Mean(NamedTuple):
    """A mean over attacks of means over seeds: its variance (None where one number is all there
    is), the degrees of freedom of that variance, and how many pictures it is of (infinite where
    cells hold one number each)."""

    value: float
    variance: float | None
    df: float
    n: float


def crossed_mean(values: Values, attacks_fixed: bool = False) -> Mean:
    """Mean over attacks of the means over their seeds, and the variance that it has when attacks,
    seeds and prompts are drawn anew.

    `values[attack][seed]` holds the pictures of one cell, (n,), or one number. The variance is that
    between attacks, plus that between seeds, minus what both contain (attack x seed), plus the part
    of the prompts that all cells share; it is at least that of the pictures within the cells. The
    degrees of freedom are at most those of the larger of the two, attacks or seeds.
    `attacks_fixed` leaves out what is between attacks: the mean is then of these attacks alone.
    Where an attack lacks a seed nothing is subtracted, so that the variance is rather too large.

    Raises ValueError where there is no attack, an attack without a seed or a cell without a number.
    """
    cells = {
        attack: {s: np.atleast_1d(np.asarray(v, np.float64)) for s, v in by_seed.items()}
        for attack, by_seed in values.items()
    }
    every = [v for by_seed in cells.values() for v in by_seed.values()]
    if not all(cells.values()) or not every or not all(v.size for v in every):
        raise ValueError("pooling needs at least one seed, and at least one image in each")
    seeds = list(dict.fromkeys(s for by_seed in cells.values() for s in by_seed))
    means = np.array(
        [[c[s].mean() if s in c else np.nan for s in seeds] for c in cells.values()], np.float64
    )
    value, sizes = float(np.nanmean(means, 1).mean()), [v.size for v in every]
    n = float(sum(sizes)) if max(sizes) > 1 else np.inf
    if len(seeds) == 1 and (attacks_fixed or len(cells) == 1):
        return Mean(value, *_of_pictures(every), n)
    pictures = sum(
        float(v.var(ddof=1)) / v.size / (len(c) * len(cells)) ** 2
        for c in cells.values()
        for v in c.values()
        if v.size > 1
    )
    prompts = _shared_prompts(cells, seeds)
    of_attacks, of_seeds, both = components(means, attacks_fixed)
    between = max(of_attacks + of_seeds - both, of_attacks, of_seeds)
    variance = max(between + prompts, pictures)
    units = [len(seeds)] if attacks_fixed else [size for size in means.shape if size > 1]
    below = of_attacks**2 / max(len(cells) - 1, 1) + of_seeds**2 / max(len(seeds) - 1, 1)
    df = (between + prompts) ** 2 / below if below > 0 else min(units) - 1
    return Mean(value, variance, float(np.clip(df, min(units) - 1, max(units) - 1)), n)


def _of_pictures(cells: Sequence[np.ndarray]) -> tuple[float | None, float]:
    """Variance of the mean of cells (n,) of one seed, with its degrees of freedom, where nothing
    but prompts and noise is drawn anew: prompt by prompt where all cells have equally many, as they
    then share them. None where a cell has one number alone."""
    sizes = [v.size for v in cells]
    if min(sizes) < 2:
        return None, 1.0
    if len(set(sizes)) == 1:
        return float(np.mean(cells, 0).var(ddof=1) / sizes[0]), float(sizes[0] - 1)
    return float(sum(v.var(ddof=1) / v.size for v in cells) / len(cells) ** 2), min(sizes) - 1.0


def components(means: np.ndarray, attacks_fixed: bool = False) -> tuple[float, float, float]:
    """The variance of the mean of cells (attacks, seeds), nan where one is missing: what is between
    attacks, what is between seeds, and the attack x seed part that both contain. Without missing
    cells these are the mean squares of the two-way table over its number of cells."""
    attacks, seeds = means.shape
    there = ~np.isnan(means)
    center = np.nanmean(means, 1, keepdims=True)
    rest = means - (center if attacks_fixed else center.mean())
    weighted = np.where(there, rest, 0) / (there.sum(1, keepdims=True) * attacks)
    of_attacks = 0.0 if attacks_fixed else _of_sum(weighted.sum(1))
    of_seeds = _of_sum(weighted.sum(0))
    both = 0.0
    if there.all() and attacks > 1 and seeds > 1 and not attacks_fixed:
        rest = means - means.mean(0) - means.mean(1, keepdims=True) + means.mean()
        both = float((rest**2).sum() / ((attacks - 1) * (seeds - 1) * means.size))
    return of_attacks, of_seeds, both


def _of_sum(parts: np.ndarray) -> float:
    """Variance of a sum of independent parts (k,) that add up to 0; 0 where there is one."""
    k = len(parts)
    return float(k / (k - 1) * (parts**2).sum()) if k > 1 else 0.0


def _shared_prompts(cells: Mapping[str, Mapping[int, np.ndarray]], seeds: Sequence[int]) -> float:
    """The variance that is of prompts drawn anew and that differences between cells do not show:
    that of prompts which are the same in all seeds, or with one seed in all attacks.

    A picture's place in its cell is its prompt. Where prompts differ from cell to cell the part is
    0 on average, and it is 0 where cells have other numbers of pictures or an attack lacks a seed.
    """
    sizes = {v.size for by_seed in cells.values() for v in by_seed.values()}
    if len(sizes) > 1 or sizes == {1} or any(len(c) < len(seeds) for c in cells.values()):
        return 0.0
    table = np.array([[by_seed[s] for s in seeds] for by_seed in cells.values()])
    units = table.mean(0) if len(seeds) > 1 else table[:, 0]
    k, n = units.shape
    if k == 1:
        return 0.0
    of_prompts = k * units.mean(0).var(ddof=1)
    rest = units - units.mean(0) - units.mean(1, keepdims=True) + units.mean()
    return float(max(0.0, of_prompts - (rest**2).sum() / ((k - 1) * (n - 1))) / (k * n))
