"""Tables as CSV: plain values, numbers with six significant digits."""

from __future__ import annotations

import csv
import io
from typing import Any

from t2i_backdoor_bench.report.formats import escape
from t2i_backdoor_bench.report.table import Table


def write(table: Table) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    if table.columns:
        writer.writerow(escape.csv(column.title) for column in table.columns)
        writer.writerows([number(cell.value) for cell in row.cells] for row in table.rows)
    return out.getvalue()


def number(value: Any) -> str:
    """Six significant digits, whole numbers in full, nothing for None; texts as `escape.csv` has
    them."""
    if value is None:
        return ""
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() and abs(value) < 1e15 else f"{value:.6g}"
    return escape.csv(value) if isinstance(value, str) else str(value)
