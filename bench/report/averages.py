"""Means over the attacks of a run, with their intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

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
    share = reading(records, metric).percent and all(v.min() >= 0 and v.max() <= 1 for v in every)
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
