"""Do two lists of the same methods agree on which is better? Kendall's tau-b (Kendall 1945)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from t2i_backdoor_bench.stats.intervals import LEVEL, Estimate

Cells = Mapping[str, Mapping[str, "np.ndarray | Sequence[float]"]]
DRAWS = 2000


def tau_b(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Kendall's tau-b of two lists (..., methods): 1 where they have the same order, -1 where one
    is the other's reverse. Pairs that one list has level count for nothing, and make the
    denominator smaller. NaN where a list has every pair level."""
    one, two = (np.sign(x[..., :, None] - x[..., None, :]) for x in (a, b))
    both, ones, twos = ((p * q).sum((-1, -2)) for p, q in ((one, two), (one, one), (two, two)))
    with np.errstate(invalid="ignore"):
        return both / np.sqrt(ones * twos)


def rank_correlation(
    a: Cells, b: Cells, draws: int = DRAWS, level: float = LEVEL
) -> Estimate | None:
    """Tau-b between the means that methods have in two places, such as on two base models:
    `a[method][attack]` holds the pictures of an attack, (n,) or one number, and a method's mean is
    that of its attacks' means.

    The interval is of a percentile bootstrap: attacks are drawn anew, the same in both places, and
    pictures in each, the same for all methods, which share prompts and noise. A draw in which a
    list has every pair level counts as 0. Methods are not drawn: it speaks of these. None with
    fewer than three methods, or with a list that has every pair level. Raises ValueError
    where the two do not have the same methods and attacks, or methods not as many pictures.
    """
    methods, attacks = sorted(a), sorted(next(iter(a.values()), {}))
    if sorted(b) != methods or not attacks:
        raise ValueError("a rank correlation needs the same methods, and an attack, in both places")
    if any(sorted(place[m]) != attacks for place in (a, b) for m in methods):
        raise ValueError("a rank correlation needs the same attacks of every method")
    if len(methods) < 3:
        return None
    rng = np.random.default_rng(0)
    picked = rng.integers(len(attacks), size=(draws, len(attacks)))
    means, drawn = [], []
    for place in (a, b):
        found = []  # for each attack: means (methods, 1 + draws)
        for attack in attacks:
            sizes = {np.size(place[m][attack]) for m in methods}
            if len(sizes) > 1:
                raise ValueError(f"the methods have other numbers of pictures under {attack}")
            table = np.stack([np.atleast_1d(np.asarray(place[m][attack], float)) for m in methods])
            n = table.shape[1]
            counts = rng.multinomial(n, np.full(n, 1 / n), size=draws)
            found.append(np.column_stack([table.mean(1), table @ counts.T / n]))
        every = np.stack(found)  # (attacks, methods, 1 + draws)
        means.append(every[..., 0].mean(0))
        of_draws = every[..., 1:].transpose(2, 0, 1)  # (draws, attacks, methods)
        drawn.append(np.take_along_axis(of_draws, picked[..., None], 1).mean(1))
    # rounded: equal means are equal whatever the order of their sums
    value = float(tau_b(*(m.round(9) for m in means)))
    if np.isnan(value):
        return None
    taus = np.nan_to_num(tau_b(*(d.round(9) for d in drawn)))
    low, high = np.quantile(taus, [(1 - level) / 2, (1 + level) / 2])
    return Estimate(value, float(low), float(high))
