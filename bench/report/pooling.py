"""One score of the scores of several seeds."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from t2i_backdoor_bench.contract import Score
from t2i_backdoor_bench.stats import estimates

ONE_SEED = "one training seed: the interval is of its pictures, not of training anew"


def interval_words(seeds: int) -> str:
    """What a caption says of the intervals of a table with so many training seeds."""
    if seeds == 1:
        return (
            "95 % intervals: table.csv; with one training seed they are of its pictures alone and"
            " do not say how another training would turn out."
        )
    return "95 % intervals, Student's t between training seeds: table.csv."


def pool(scores: Sequence[Score], share: bool = False) -> Score:
    """One score of the scores of several seeds; `share`: a number from 0 to 1. Seeds without a
    value are left out, and the note says so; it also says where one seed is all there is."""
    kept = [s for s in scores if s.value is not None]
    if not kept:
        return scores[0] if scores else Score(None, note="not measured")
    n, network = sum(s.n for s in kept), kept[0].network
    notes = list(dict.fromkeys(s.note for s in scores if s.note))
    if len(kept) < len(scores):
        notes.append(f"{len(kept)} of {len(scores)} seeds")
    if len(kept) == 1:
        notes.append(ONE_SEED)
        low, high, each = kept[0].low, kept[0].high, kept[0].each
        return Score(kept[0].value, low, high, n, network, "; ".join(notes), each)
    lists = [pictures(s) for s in kept]
    if any(v is None for v in lists):
        own = [(s.low, s.high) for s in kept]
        whole = all(low is not None and high is not None for low, high in own)
        values = [s.value for s in kept]
        found = estimates.pool_values(values, own if whole else None, share and in_unit(values))
    elif all(v.dtype == bool for v in lists) or (share and in_unit(lists)):
        found = estimates.pool_proportion(lists)
    else:
        found = estimates.pool_mean(lists)
    return Score(found.value, found.low, found.high, n, network, "; ".join(notes))


def pictures(score: Score) -> np.ndarray | None:
    """The values of a score's pictures, (n,); None where it has none, or not of every picture."""
    return np.asarray(score.each) if score.each and None not in score.each else None


def in_unit(values: Sequence[np.ndarray | float]) -> bool:
    """Whether all values are from 0 to 1."""
    return all(np.min(v) >= 0 and np.max(v) <= 1 for v in values)
