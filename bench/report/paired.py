"""What two defenses, or a defense and none, do to the same prompts drawn from the same noise."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence

import numpy as np

from t2i_backdoor_bench.contract import Record, Score
from t2i_backdoor_bench.report.pooling import pictures
from t2i_backdoor_bench.stats import estimates as stats
from t2i_backdoor_bench.store.provenance import other_weights


def pairs(
    row: Sequence[Record], against: Sequence[Record], metric: str
) -> dict[tuple[str, int], tuple[Score, Score]]:
    """By attack and seed, a metric of two defenses of one attacked model. A cell whose record names
    other attacked weights than its partner's is left out: an attack that was trained anew on
    another machine is another model."""
    ours, theirs = (
        {
            (r.cell.attack, r.cell.seed): (r.scores[metric], r.origin("attack_weights"))
            for r in rs
            if r.status == "done" and metric in r.scores
        }
        for rs in (row, against)
    )
    both = {k: (*ours[k], *theirs[k]) for k in sorted(ours) if k in theirs}
    return {k: (a, b) for k, (a, mine, b, other) in both.items() if not other_weights(mine, other)}


def paired_p(row: Sequence[Record], against: Sequence[Record], metric: str) -> float | None:
    """McNemar's p of two defenses on the same prompts and noise, over the attacks and seeds that
    both have (`pairs`)."""
    found = [
        (a.each, b.each)
        for a, b in pairs(row, against, metric).values()
        if a.each and b.each and len(a.each) == len(b.each)
    ]
    if not found:
        return None
    a, b = (np.concatenate([np.asarray(pair[side], bool) for pair in found]) for side in (0, 1))
    return float(stats.mcnemar(a, b))


def difference(
    row: Sequence[Record], against: Sequence[Record], metric: str, attacks_fixed: bool = False
) -> stats.Difference | None:
    """By how much a metric of one defense is above that of another, over the attacks and seeds that
    both have (`pairs`): picture by picture where both have one value for each, otherwise cell by
    cell. Its interval is of differences between seeds and attacks (`paired_difference`). None where
    there is nothing to compare."""
    return _difference(pairs(row, against, metric), attacks_fixed)


def of_two_metrics(records: Sequence[Record], one: str, other: str) -> stats.Difference | None:
    """By how much one metric is above another in the same cells, such as ASR above the false
    trigger rate: of these attacks, trained anew. None where no cell has both."""
    found = {
        (r.cell.attack, r.cell.seed): (r.scores[one], r.scores[other])
        for r in records
        if r.status == "done" and {one, other} <= set(r.scores)
    }
    return _difference(found, attacks_fixed=True)


def _difference(
    cells: Mapping[tuple[str, int], tuple[Score, Score]], attacks_fixed: bool
) -> stats.Difference | None:
    ours: dict[str, dict[int, np.ndarray | float]] = {}
    theirs: dict[str, dict[int, np.ndarray | float]] = {}
    for (attack, seed), (a, b) in cells.items():
        if a.value is None or b.value is None:
            continue
        of_a, of_b = pictures(a), pictures(b)
        paired = of_a is not None and of_b is not None and len(of_a) == len(of_b)
        ours.setdefault(attack, {})[seed] = of_a if paired else a.value
        theirs.setdefault(attack, {})[seed] = of_b if paired else b.value
    return stats.paired_difference(ours, theirs, attacks_fixed) if ours else None


def larger_p(found: stats.Difference | None, pictures: float | None) -> float | None:
    """The larger p of Student's test of seeds (of `difference`) and of McNemar's of `pictures`
    (`paired_p`): the first takes a few equal seeds for certainty, the second knows nothing of
    training anew. None where there is nothing to test."""
    if found is None or found.p is None:
        return None
    return found.p if pictures is None else max(found.p, pictures)


def corrected(ps: Sequence[float | None]) -> list[float | None]:
    """Holm's correction of the p-values that are known."""
    known = iter(stats.holm([p for p in ps if p is not None]))
    return [None if p is None else next(known) for p in ps]


def changes(row: Sequence[Record], undefended: Sequence[Record], metric: str) -> dict[int, float]:
    """By seed that both have (`pairs`), by what share a metric of a model defended against one
    attack is above that of the attacked one (0.02: two percent)."""
    found = {
        seed: (a.value, b.value) for (_, seed), (a, b) in pairs(row, undefended, metric).items()
    }
    return {seed: a / b - 1 for seed, (a, b) in found.items() if a is not None and b}


def kid_change(
    row: Sequence[Record], undefended: Sequence[Record], attacks_fixed: bool = False
) -> stats.Estimate | None:
    """By how much KID is above that of the undefended model, on the same prompts and noise. None
    where there is nothing to compare, and of the first protocol, whose KID had no pictures to
    pair."""
    kept = [r for r in row if r.measured_by > 1]
    found = difference(kept, undefended, "kid", attacks_fixed)
    return None if found is None else stats.Estimate(found.value, found.low, found.high)


def reference(records: Sequence[Record]) -> str:
    """The defense that the others are tested against: skdcag, or else the first that does
    something."""
    names = list(dict.fromkeys(r.cell.defense for r in records))
    swept = [n for n in names if n.startswith("skdcag[")]
    return (
        "skdcag"
        if "skdcag" in names
        else next(iter([*swept, *(n for n in names if n != "none")]), "")
    )


def rival(defense: str, versus: str, names: Collection[str]) -> str:
    """Whom a row is tested against: `versus`, or for a swept method its variant with the same value
    ("skd[steps=50]" against "skdcag[steps=50]")."""
    match = re.fullmatch(r"[^\[+]+(\[.+\])", defense)
    same = f"{versus.split('[')[0]}{match[1]}" if match else ""
    return same if same in names and same != defense else versus
