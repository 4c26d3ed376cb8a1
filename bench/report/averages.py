"""Means over the attacks of a run, with their intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from t2i_backdoor_bench.contract import Record
from t2i_backdoor_bench.report.metrics import reading
from t2i_backdoor_bench.report.paired import changes
from t2i_backdoor_bench.report.pooling import pictures
from t2i_backdoor_bench.report.rows import by_row, value_of
from t2i_backdoor_bench.stats.estimates import Estimate, mean_over_attacks, pool_values


def over_attacks(records: Sequence[Record], metric: str) -> Estimate | None:
    """Mean of a metric over the attacks of one defense's records, each over its training seeds,
    with an interval for attacks like these, trained anew, on prompts like these. None without a
    value."""
    values = by_attack_and_seed(records, metric)
    if not values:
        return None
    every = [np.asarray(v) for by_seed in values.values() for v in by_seed.values()]
    share = reading(records, metric).percent and all(0 <= v.min() and v.max() <= 1 for v in every)
    return mean_over_attacks(values, share)


def by_attack_and_seed(
    records: Sequence[Record], metric: str
) -> Mapping[str, Mapping[int, np.ndarray | float]]:
    """The values of one defense's pictures, `[attack][seed]` (n,), or one number a cell where the
    metric has no value for each picture. Cells without a value are left out."""
    found: dict[str, dict[int, np.ndarray | float]] = {}
    for record in records:
        value = value_of(record, metric)
        if record.status == "done" and value is not None:
            each = pictures(record.scores[metric]) if metric in record.scores else None
            cells = found.setdefault(record.cell.attack, {})
            cells[record.cell.seed] = value if each is None else each
    return found


def average(rows: Sequence[Mapping[str, Any]], metric: str) -> Estimate | None:
    """Mean over attacks of a share. The attacks are a fixed list, not a sample of attacks, so the
    interval has the errors of the measurements alone: that of a sum of independent estimates by
    recovered variances (MOVER, Zou & Donner 2008), which keeps the asymmetry of the Wilson
    intervals. It takes the attacked models as independent of each other."""
    found = [
        (r[metric], r.get(f"{metric}_lo"), r.get(f"{metric}_hi"))
        for r in rows
        if r.get(metric) is not None
    ]
    if not found:
        return None
    k = len(found)
    value = sum(v for v, _, _ in found) / k
    if any(lo is None or hi is None for _, lo, hi in found):
        return Estimate(value, None, None)
    down = math.sqrt(sum((v - lo) ** 2 for v, lo, _ in found)) / k
    up = math.sqrt(sum((hi - v) ** 2 for v, _, hi in found)) / k
    return Estimate(value, value - down, value + up)


def average_by_seed(records: Sequence[Record], metric: str) -> Estimate | None:
    """Mean over attacks of a number such as FID, whose attacks share prompts, noise and real
    images: the attacks of each seed are averaged first, and the interval is Student's over seeds.
    Only seeds that every attack has."""
    by_seed: dict[int, dict[str, float]] = {}
    for record in records:
        if record.status == "done" and (value := value_of(record, metric)) is not None:
            by_seed.setdefault(record.cell.seed, {})[record.cell.attack] = value
    return over_seeds(by_seed)


def over_seeds(by_seed: Mapping[int, Mapping[str, float]]) -> Estimate | None:
    """Mean and Student's interval over seeds of each seed's mean over attacks
    (`by_seed[seed][attack]`): of the seeds that have all of them, or None where none has."""
    attacks = {attack for found in by_seed.values() for attack in found}
    whole = [
        sum(found.values()) / len(attacks)
        for found in by_seed.values()
        if len(found) == len(attacks)
    ]
    return pool_values(whole) if whole else None


def fid_change(records: Sequence[Record], defense: str) -> Estimate | None:
    """By what share FID is above the undefended model's: of each seed the mean over the attacks,
    then Student's interval over seeds."""
    by_seed: dict[int, dict[str, float]] = {}
    split = by_row(records)
    for (base, attack, name), cells in split.items():
        if name == defense != "none":
            undefended = split.get((base, attack, "none"), [])
            for seed, value in changes(cells, undefended, "fid").items():
                by_seed.setdefault(seed, {})[attack] = value
    return over_seeds(by_seed)
