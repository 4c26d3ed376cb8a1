"""Is one defense better than another? Differences on the same attacked models, prompts and noise.

Tests between pictures (McNemar's) speak of the models that were trained. Differences of seeds speak
of training anew, too. A tie is equivalence with a margin, never the lack of a small p.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import special

from t2i_backdoor_bench.stats.crossed import Values, crossed_mean
from t2i_backdoor_bench.stats.intervals import LEVEL, quantile

ONE_SIDED = 0.05  # of each of the two tests of equivalence, and of non-inferiority


class Difference(NamedTuple):
    """How much larger one mean is than another, with its two-sided 95 % interval and the p-value of
    "no difference". `error` is its standard error and `df` the degrees of freedom of that; all but
    `value` are None where there is one number alone."""

    value: float
    low: float | None
    high: float | None
    p: float | None
    error: float | None = None
    df: float | None = None


def mcnemar(a: Sequence[bool] | np.ndarray, b: Sequence[bool] | np.ndarray) -> float:
    """Exact two-sided McNemar test (McNemar 1947) of two paired lists of bools (n,), such as two
    defenses on the same prompts and noise.

    Returns the p-value of "both succeed equally often"; 1 where no pair differs. Raises ValueError
    when the lengths differ.
    """
    a, b = np.asarray(a, bool), np.asarray(b, bool)
    if a.shape != b.shape or a.ndim != 1:
        raise ValueError(
            f"mcnemar compares pairs: the two lists have shapes {a.shape} and {b.shape}"
        )
    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    if only_a + only_b == 0:
        return 1.0
    from scipy import stats  # here: it takes half a second, and few tables compare pictures

    return float(stats.binomtest(only_a, only_a + only_b, 0.5).pvalue)


def paired_difference(
    a: Values, b: Values, attacks_fixed: bool = False, level: float = LEVEL
) -> Difference:
    """Mean of a - b over the attacks and seeds that both have: `a[attack][seed]` is (n,) pictures
    on the same prompts and noise, or one number a cell. Raises ValueError where no cell is in both,
    or where two cells have other numbers of pictures.

    The interval and p are Student's, from differences of seeds and attacks (`crossed_mean`): they
    speak of attacks like these, trained anew; with `attacks_fixed`, or with one attack, of these
    alone. With one seed they know nothing of training randomness (`leaves_out`), and one attack
    with one seed is compared by its pictures: by McNemar's p where they are bools.

    Differences of bools have the variance of one more pair that differs each way (Agresti, Min
    2005, add half a pair to each of the four counts) at least, so that two defenses that agree on
    every picture are not known to be the same for ever.
    """
    both = {
        (attack, seed): (np.atleast_1d(a[attack][seed]), np.atleast_1d(b[attack][seed]))
        for attack in a
        if attack in b
        for seed in a[attack]
        if seed in b[attack]
    }
    if not both:
        raise ValueError("a paired difference needs an attack and a seed that both have")
    if any(ours.shape != theirs.shape for ours, theirs in both.values()):
        raise ValueError("paired cells have the same number of pictures")
    gaps: dict[str, dict[int, np.ndarray]] = {}
    for (attack, seed), (ours, theirs) in both.items():
        gaps.setdefault(attack, {})[seed] = ours.astype(np.float64) - theirs.astype(np.float64)
    value, variance, df, n = crossed_mean(gaps, attacks_fixed)
    if variance is None:
        return Difference(value, None, None, None)
    flags = all(ours.dtype == theirs.dtype == bool for ours, theirs in both.values())
    if flags:
        every = np.concatenate([gap for by_seed in gaps.values() for gap in by_seed.values()])
        differ = float((every**2).sum())
        variance = max(variance, (differ + 1 - every.sum() ** 2 / (n + 2)) / (n + 2) ** 2)
    error = variance**0.5
    half = quantile(level, df) * error
    low, high = value - half, value + half
    p = float(2 * special.stdtr(df, -abs(value) / error)) if error > 0 else float(value == 0)
    if flags:
        low, high = max(low, -1.0), min(high, 1.0)
        p = mcnemar(*next(iter(both.values()))) if len(both) == 1 else p
    return Difference(value, low, high, p, error, df)


def holm(ps: Sequence[float]) -> list[float]:
    """Holm's (1979) adjusted p-values, in the order of `ps`: compared with a level, they keep the
    chance of any false rejection below that level."""
    values = np.asarray(ps, np.float64)
    order = np.argsort(values, kind="stable")
    scaled = (len(values) - np.arange(len(values))) * values[order]
    out = np.empty(len(values))
    out[order] = np.minimum(1.0, np.maximum.accumulate(scaled))
    return out.tolist()


def _one_sided(difference: Difference) -> tuple[float, float] | None:
    """The ends of the interval that each leave 5 % outside: together one of 90 %."""
    value, _, _, _, error, df = difference
    if error is None or df is None:
        return None
    half = quantile(1 - 2 * ONE_SIDED, df) * error
    return value - half, value + half


def equivalent(difference: Difference, margin: float) -> bool:
    """Whether two defenses are shown to differ by less than `margin`: two one-sided tests at 5 %
    (Schuirmann 1987), that is a 90 % interval inside (-margin, margin). False where there is no
    interval."""
    ends = _one_sided(difference)
    return ends is not None and -margin < ends[0] and ends[1] < margin


def non_inferior(difference: Difference, margin: float, better: str) -> bool | None:
    """Whether ours (the first of the difference) is shown to be worse by less than `margin`, in a
    one-sided test at 5 %; `better` is "higher" or "lower". None where there is no interval."""
    if better not in ("higher", "lower"):
        raise ValueError(f'better is "higher" or "lower", got {better!r}')
    if (ends := _one_sided(difference)) is None:
        return None
    return ends[0] > -margin if better == "higher" else ends[1] < margin
