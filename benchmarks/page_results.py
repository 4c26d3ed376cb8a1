"""The committed results by attack and defense, and how their numbers are written in a page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from t2i_backdoor_bench.contract import Record
from t2i_backdoor_bench.report.numbers import DASH, shown
from t2i_backdoor_bench.report.rows import rows as rows_of
from t2i_backdoor_bench.report.table import Cell
from t2i_backdoor_bench.store.folder import Store
from t2i_backdoor_bench.store.records import stored_records

FOLDERS = ("reference", "matrix", "attacks")  # where two have a row, the first is taken
CORE = "core"  # of protocol 2, and no part of tables of the others
Rows = dict[tuple[str, str], dict[str, Any]]  # (attack, defense) -> its row of table.csv


class Results:
    """The committed results: rows by attack and defense, and the records behind them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.rows: dict[str, Rows] = {}
        self.records: dict[str, list[Record]] = {}
        for name in (*FOLDERS, CORE):
            if (root / name).is_dir():
                records = [r for r in stored_records(Store(root / name)) if r.status == "done"]
                self.records[name] = records
                self.rows[name] = {(row["attack"], row["defense"]): row for row in rows_of(records)}

    def row(self, attack: str, defense: str) -> dict[str, Any] | None:
        found = (self.rows[name] for name in FOLDERS if name in self.rows)
        return next((rows[attack, defense] for rows in found if (attack, defense) in rows), None)

    def cells(self, attack: str, defense: str) -> list[Record]:
        """The records behind `row`."""
        for name in FOLDERS:
            if (attack, defense) in self.rows.get(name, {}):
                return [
                    r
                    for r in self.records[name]
                    if (r.cell.attack, r.cell.defense) == (attack, defense)
                ]
        return []

    @property
    def attacks(self) -> list[str]:
        return list(
            dict.fromkeys(a for n in FOLDERS for a, _ in self.rows.get(n, {}) if "[" not in a)
        )


def share(row: dict[str, Any] | None, metric: str) -> str:
    if row is None or row.get(metric) is None:
        return DASH
    return (
        f"{shown(row[metric], True)} [{shown(row[f'{metric}_lo'], True)},"
        f" {shown(row[f'{metric}_hi'], True)}]"
    )


def text_of(cell: Cell) -> str:
    """A number with its interval."""
    return f"{cell.text} [{', '.join(cell.interval)}]" if cell.interval else cell.text


def table(heads: Sequence[str], lines: Sequence[Sequence[str]], left: int = 1) -> str:
    rule = "|" + "---|" * left + "---:|" * (len(heads) - left)
    return "\n".join(
        [f"| {' | '.join(heads)} |", rule, *(f"| {' | '.join(line)} |" for line in lines)]
    )
