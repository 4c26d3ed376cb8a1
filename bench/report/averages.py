"""Means over the attacks of a run, with their intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from t2i_backdoor_bench.contract import Record
from t2i_backdoor_bench.report.metrics import reading
from t2i_backdoor_bench.report.paired import changes
from t2i_backdoor_bench.report.pooling import in_unit, pictures
from t2i_backdoor_bench.report.rows import by_row, value_of
from t2i_backdoor_bench.stats.estimates import Estimate, Values, mean_over_attacks


def over_attacks(records: Sequence[Record], metric: str) -> Estimate | None:
    """Mean of a metric over the attacks of one defense's records, each over its training seeds,
    with an interval for attacks like these, trained anew, on prompts like these
    (`mean_over_attacks`). None without a value."""
    values = by_attack_and_seed(records, metric)
    if not values:
        return None
    every = [v for by_seed in values.values() for v in by_seed.values()]
    return mean_over_attacks(values, reading(records, metric).share and in_unit(every))


def by_attack_and_seed(records: Sequence[Record], metric: str) -> Values:
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


def fid_change(records: Sequence[Record], defense: str) -> Estimate | None:
    """By what share FID is above the undefended model's of the same attack and seed: the mean over
    attacks and seeds, with its interval. None where there is nothing to compare."""
    found: dict[str, Mapping[int, float]] = {}
    split = by_row(records)
    for (base, attack, name), cells in split.items():
        if name == defense != "none":
            moved = changes(cells, split.get((base, attack, "none"), []), "fid")
            found |= {attack: moved} if moved else {}
    return mean_over_attacks(found) if found else None
