"""One metric of every defense (rows) against every attack (columns), as tables that fit on a
page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from t2i_backdoor_bench.contract import Record
from t2i_backdoor_bench.report.formats import escape, markdown
from t2i_backdoor_bench.report.main_table import attacks_alone, caption
from t2i_backdoor_bench.report.metrics import Reading, shown_in
from t2i_backdoor_bench.report.numbers import DASH, needs_text
from t2i_backdoor_bench.report.rows import rows
from t2i_backdoor_bench.report.table import Cell, Column, Row, Table
from t2i_backdoor_bench.store import provenance


@dataclass(frozen=True)
class Matrix:
    """values (defenses, attacks), float64, in percent where the metric is a share; NaN where there
    is none."""

    way: Reading
    defenses: list[str]
    attacks: list[str]
    values: np.ndarray

    @property
    def name(self) -> str:
        """The file name of its figure."""
        return self.way.figure or self.way.name

    @property
    def title(self) -> str:
        comma = "" if "," in self.way.title else ","
        return f"{self.way.title}{comma} %" if self.way.percent else self.way.title

    @property
    def meaning(self) -> str:
        """What the values mean, in one sentence."""
        first, stop, _ = self.way.about.partition(". ")
        return first + (stop and ".")

    @property
    def means(self) -> np.ndarray:
        """The mean over the attacks, (defenses,); NaN where one is missing."""
        return self.values.mean(1)

    def text(self, value: float) -> str:
        if np.isnan(value):
            return DASH
        return f"{value:.1f}" if self.way.percent else f"{value:.2f}"

    def table(self, needs: Mapping[str, str]) -> Table:
        heads = [Column("Defense", numeric=False), Column("Needs", numeric=False)]
        heads += [Column(name) for name in (*self.attacks, "Mean")]
        lines = []
        for defense, values, mean in zip(self.defenses, self.values, self.means, strict=True):
            numbers = [Cell(self.text(v), None if np.isnan(v) else v) for v in (*values, mean)]
            lines.append(Row((Cell(defense), Cell(needs[defense]), *numbers)))
        return Table(tuple(heads), tuple(lines), self.title, self.meaning)


def matrices(records: Sequence[Record]) -> list[Matrix]:
    """A matrix for each metric that the records have values for, the undefended model and then the
    best first; none of attacks that nothing defends against."""
    table = rows(records)
    if attacks_alone(table):
        return []
    found = (_matrix(table, way) for way in shown_in("matrix", records, lead=True))
    return [matrix for matrix in found if matrix is not None]


def _matrix(rows: Sequence[Mapping[str, Any]], way: Reading) -> Matrix | None:
    table = {(r["defense"], r["attack"]): r.get(way.name) for r in rows}
    attacks = list(dict.fromkeys(a for _, a in table))
    names = dict.fromkeys(d for d, _ in table)
    defenses = [d for d in names if any(table.get((d, a)) is not None for a in attacks)]
    if not defenses:
        return None
    values = np.array([[table.get((d, a)) for a in attacks] for d in defenses], np.float64)
    values = values * (100 if way.percent else 1)
    # rounded: the order does not depend on a last bit
    means = (np.nanmean(values, 1) * (-1 if way.better == "higher" else 1)).round(9)
    order = sorted(range(len(defenses)), key=lambda i: (defenses[i] != "none", means[i]))
    return Matrix(way, [defenses[i] for i in order], attacks, values[order])


def to_markdown(records: Sequence[Record]) -> str:
    """matrix.md; "" where there is nothing to lay out: one attack, or no defense."""
    found = matrices(records)
    if len({r.cell.attack for r in records}) < 2 or not found:
        return ""
    needs = {r.cell.defense: needs_text(" ".join(r.needs)) for r in records}
    warning = provenance.warning(records)
    parts = [
        "# Matrix",
        *(markdown.write(matrix.table(needs)) for matrix in found),
        escape.markdown(caption(records, marked=False)),
        *([escape.markdown(warning)] if warning else []),
    ]
    return markdown.page(parts)
