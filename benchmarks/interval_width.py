"""How wide an interval the pictures of each condition buy: what a scale draws is chosen by this.

    python benchmarks/interval_width.py results/core
    python benchmarks/interval_width.py results/core --shares 0.5,1

Reads the records of a run, which have the value of each picture, and makes the intervals again as
if only the first half of a condition had been drawn, and so on. A row is a metric and a number of
its pictures (of prompts, for diversity): half the width of the interval of one cell, and of a
defense's mean over attacks and seeds, which tables print; each the median over the rows of the
table. Shares are in points. A control is left out, as is a condition that a cell does not draw.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import numpy as np
from ended import ended

from t2i_backdoor_bench.contract import Record, UserError
from t2i_backdoor_bench.report.bases import CONTROLS
from t2i_backdoor_bench.stats.estimates import mean_over_attacks
from t2i_backdoor_bench.stats.scores import mean, proportion
from t2i_backdoor_bench.store.folder import Store
from t2i_backdoor_bench.store.records import stored_records

# what each condition of a scale is drawn for
METRICS = {
    "restoration_accuracy": "triggered",
    "false_trigger_rate": "clean",
    "robustness": "perturbed",
    "diversity": "diverse",
    "asr_moved": "moved",
    "asr_decoy": "decoys_after",
}
SHARES = (0.25, 0.5, 0.75, 1.0)

Values = dict[str, dict[str, dict[int, np.ndarray]]]  # of pictures, by defense, attack and seed


def values(records: Sequence[Record], metric: str) -> Values:
    """What each picture gives, of all cells that are done and measure the metric."""
    found: Values = {}
    for record in records:
        score, cell = record.scores.get(metric), record.cell
        if record.status != "done" or cell.defense in CONTROLS or not score or not score.each:
            continue
        of_defense = found.setdefault(cell.defense, {}).setdefault(cell.attack, {})
        of_defense[cell.seed] = np.asarray(score.each)
    return found


def first(those: np.ndarray, share: float) -> np.ndarray:
    return those[: max(1, round(share * len(those)))]


def width_of_cell(those: np.ndarray) -> float:
    """Half the width of the interval of one cell."""
    score = proportion(those) if those.dtype == bool else mean(those)
    return (score.high - score.low) / 2


def widths(found: Values, share: float) -> tuple[float, float | None]:
    """The median half width of a cell and of a defense's mean, None where a mean has none."""
    cells = [
        width_of_cell(first(those, share))
        for by_attack in found.values()
        for by_seed in by_attack.values()
        for those in by_seed.values()
    ]
    means = [
        mean_over_attacks(
            {a: {s: first(v, share) for s, v in by.items()} for a, by in by_attack.items()}
        )
        for by_attack in found.values()
    ]
    known = [(m.high - m.low) / 2 for m in means if m.low is not None and m.high is not None]
    return median(cells), median(known) if known else None


def lines(records: Sequence[Record], shares: Sequence[float]) -> list[str]:
    """What is printed of a run. Raises UserError where no record has the values of its pictures."""
    out = [f"{'metric':24}{'condition':14}{'n':>6}{'a cell':>10}{'the mean':>10}"]
    for metric, condition in METRICS.items():
        if not (found := values(records, metric)):
            continue
        every = [v for by in found.values() for of in by.values() for v in of.values()]
        points = 100 if every[0].dtype == bool else 1
        for share in shares:
            n = median(len(first(v, share)) for v in every)
            cell, whole = widths(found, share)
            said = "-" if whole is None else f"{points * whole:.3g}"
            out.append(f"{metric:24}{condition:14}{n:6.0f}{points * cell:10.3g}{said:>10}")
    if len(out) == 1:
        raise UserError("no cell of this run has the values of its pictures; name another folder")
    return out


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path, help="a run folder")
    parser.add_argument("--shares", default=",".join(map(str, SHARES)), help="of the pictures")
    flags = parser.parse_args()
    try:
        shares = [float(share) for share in flags.shares.split(",")]
    except ValueError:
        shares = []
    if not shares or not all(0 < share <= 1 for share in shares):
        raise UserError("--shares takes numbers above 0 and up to 1; give such as 0.5,1")
    store = Store(flags.folder, print, read_only=True)
    print("\n".join(lines(stored_records(store), shares)))
    return 0


if __name__ == "__main__":
    raise SystemExit(ended(main))
