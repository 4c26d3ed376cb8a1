"""One score of the scores of several seeds."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from t2i_backdoor_bench.contract import Score
from t2i_backdoor_bench.stats import estimates


def pool(scores: Sequence[Score]) -> Score:
    """One score of the scores of several seeds. Seeds without a value are left out, and the note
    says so."""
    kept = [s for s in scores if s.value is not None]
    if not kept:
        return scores[0] if scores else Score(None, note="not measured")
    n, network = sum(s.n for s in kept), kept[0].network
    notes = list(dict.fromkeys(s.note for s in scores if s.note))
    if len(kept) < len(scores):
        notes.append(f"{len(kept)} of {len(scores)} seeds")
    note = "; ".join(notes)
    if len(scores) == 1:
        return Score(kept[0].value, kept[0].low, kept[0].high, n, network, note, kept[0].each)
    lists = [s.each if s.each and None not in s.each else None for s in kept]
    if all(lists) and all(isinstance(v, bool) for each in lists for v in each):
        found = estimates.pool_proportion(lists)
    elif all(lists):
        found = _pool_mean(tuple(map(tuple, lists)))
    else:
        found = estimates.pool_values([s.value for s in kept])
    return Score(found.value, found.low, found.high, n, network, note)


@lru_cache(maxsize=20_000)
def _pool_mean(seeds: tuple[tuple[float, ...], ...]) -> estimates.Estimate:
    """The bootstrap takes most of the time of a report, and every table asks for the same ones."""
    return estimates.pool_mean(seeds)
