"""How many decimals a share deserves."""

from __future__ import annotations

from collections.abc import Sequence

from t2i_backdoor_bench.contract import Record
from t2i_backdoor_bench.report.rows import by_row

HUNDRED = 100  # a share of at most so many pictures moves in whole percents


def decimals(records: Sequence[Record], metric: str) -> int:
    """Of a share in percent, for all its values in a table: 0 where none is of more than 100
    pictures (all seeds of a row together), so that one picture is a whole percent; otherwise 1."""
    counts = [
        sum(r.scores[metric].n for r in cells if metric in r.scores)
        for cells in by_row(records).values()
    ]
    return 0 if 0 < max(counts, default=0) <= HUNDRED else 1
