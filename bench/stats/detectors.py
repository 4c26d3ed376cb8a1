"""How well a score tells two samples apart: area under the ROC curve, F1, thresholds."""

from __future__ import annotations

import numpy as np
from scipy import special

from t2i_backdoor_bench.stats.intervals import LEVEL, Estimate, wilson

FEWEST = 5  # negatives that an AUROC is computed from


def mean_ranks(values: np.ndarray) -> np.ndarray:
    """The ranks of values (n,) from 1 on; equal ones share the mean of theirs. `scipy.stats` has
    them too, and takes longer to import than a table to be written."""
    _, place, many = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(many) - (many - 1) / 2)[place]


def auroc(negative: np.ndarray, positive: np.ndarray) -> float:
    """Share of pairs in which the positive score (m,) is above the negative (n,), ties half: the
    area under the ROC curve."""
    ranks = mean_ranks(np.concatenate([negative, positive]))[len(negative) :]
    n, m = len(negative), len(positive)
    return float((ranks.sum() - m * (m + 1) / 2) / (n * m))


def threshold_at(scores: np.ndarray, rate: float) -> float:
    """The lowest of the scores (n,) that at most a share `rate` of them is above."""
    return float(np.sort(scores)[len(scores) - 1 - int(rate * len(scores) + 1e-9)])


def tpr_at(negative: np.ndarray, positive: np.ndarray, rate: float) -> np.ndarray:
    """Which positive scores (m,) are above the lowest threshold that at most a share `rate` of the
    negative scores (n,) is above."""
    return positive > threshold_at(negative, rate)


def auroc_of_kinds(negatives: np.ndarray, positives: np.ndarray, kinds: np.ndarray) -> str:
    """The AUROC of positives (m,) against the negatives (n,) of each kind (n,), in words: "; rare
    0.91, word 0.64". Kinds of fewer than five negatives are left out."""
    if len(kinds) != len(negatives):
        return ""
    found = [
        f"{kind} {auroc(negatives[kinds == kind], positives):.2f}"
        for kind in dict.fromkeys(kinds.tolist())
        if (kinds == kind).sum() >= FEWEST
    ]
    return f"; by kind {', '.join(found)}" if found else ""


def f1(negative: np.ndarray, positive: np.ndarray) -> float:
    """F1 of flags (0 or 1) on negatives (n,) and positives (m,), with both kinds equally frequent;
    0 where nothing is flagged."""
    false, true = float(np.mean(negative)), float(np.mean(positive))
    return 2 * true / (1 + true + false)


def auroc_estimate(negative: np.ndarray, positive: np.ndarray, level: float = LEVEL) -> Estimate:
    """Area under the ROC curve of negatives (n,) and positives (m,), with an interval that has a
    width at 0 and 1, too; none where a sample has fewer than two.

    It is Wilson's at the number of trials that has the same variance: the larger of what DeLong,
    DeLong and Clarke-Pearson (1988) find in the scores, which is 0 at an area of 1, and of what
    Hanley and McNeil (1982) expect of this area, as in Newcombe's (2006) fifth method.
    """
    value = auroc(negative, positive)
    n, m = len(negative), len(positive)
    if min(n, m) < 2:
        return Estimate(value, None, None)
    # for each score, the share of the other sample that it is on the right side of
    all_ranks = mean_ranks(np.concatenate([negative, positive]))
    above = (all_ranks[n:] - mean_ranks(positive)) / n
    below = 1 - (all_ranks[:n] - mean_ranks(negative)) / m
    found = above.var(ddof=1) / m + below.var(ddof=1) / n
    half = (n + m) / 2 - 1
    expected = n * m / (1 + half * ((1 - value) / (2 - value) + value / (1 + value)))
    trials = min(expected, value * (1 - value) / found) if found > 1e-15 else expected
    return Estimate(value, *wilson(min(value * trials, trials), trials, level))


def _exact(k: int, n: int, level: float) -> tuple[float, float]:
    """The interval of Clopper and Pearson for `k` of `n`."""
    tail = 0.5 - level / 2
    low = 0.0 if k == 0 else float(special.betaincinv(k, n - k + 1, tail))
    return low, 1.0 if k == n else float(special.betaincinv(k + 1, n - k, 1 - tail))


def f1_estimate(negative: np.ndarray, positive: np.ndarray, level: float = LEVEL) -> Estimate:
    """`f1` of flags on negatives (n,) and positives (m,), with an interval from the exact intervals
    of the two rates (Clopper, Pearson 1934) by recovered variances (MOVER; Donner, Zou 2012): it
    has a width at 0 and 1, too. None where a sample has fewer than two."""
    value = f1(negative, positive)
    if min(len(negative), len(positive)) < 2:
        return Estimate(value, None, None)
    false, true = float(np.mean(negative)), float(np.mean(positive))
    (least_false, most_false), (least_true, most_true) = (
        _exact(int(np.sum(flags)), len(flags), level) for flags in (negative, positive)
    )

    def of(false: float, true: float) -> float:
        return 2 * true / (1 + true + false)

    down = np.hypot(value - of(false, least_true), value - of(most_false, true))
    up = np.hypot(of(false, most_true) - value, of(least_false, true) - value)
    return Estimate(value, float(max(0.0, value - down)), float(min(1.0, value + up)))
