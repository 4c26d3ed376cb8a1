"""One metric of every defense (rows) against every attack (columns), as tables that fit on a
page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from t2i_backdoor_bench.contract import Record
from t2i_backdoor_bench.report.formats import escape, markdown
from t2i_backdoor_bench.report.main_table import attacks_alone, caption
from t2i_backdoor_bench.report.marks import Pair, doubted, marked, note
from t2i_backdoor_bench.report.metrics import Reading, shown_in
from t2i_backdoor_bench.report.numbers import DASH, needs_text
from t2i_backdoor_bench.report.rows import rows
from t2i_backdoor_bench.report.table import Cell, Column, Row, Table
from t2i_backdoor_bench.report.took_hold import left_out_text, took_hold
from t2i_backdoor_bench.store import provenance

OUT = "‡"  # beside an attack that did not take hold


@dataclass(frozen=True)
class Matrix:
    """values (defenses, attacks), float64, in percent where the metric is a share; NaN where there
    is none. `left_out` says by attack why it did not take hold, and is in no mean; `doubts` which
    values have a judge that disagrees with the pixels' truth, by attack and defense."""

    way: Reading
    defenses: list[str]
    attacks: list[str]
    values: np.ndarray
    left_out: Mapping[str, str] = field(default_factory=dict)
    doubts: Mapping[Pair, set[str]] = field(default_factory=dict)

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
        """The mean over the attacks that took hold, (defenses,); NaN where one is missing or none
        did."""
        kept = [not self.left_out.get(a) for a in self.attacks]
        none = np.full(len(self.defenses), np.nan)
        return self.values[:, kept].mean(1) if any(kept) else none

    def text(self, value: float) -> str:
        if np.isnan(value):
            return DASH
        return f"{value:.1f}" if self.way.percent else f"{value:.2f}"

    def table(self, needs: Mapping[str, str]) -> Table:
        heads = [Column("Defense", numeric=False), Column("Needs", numeric=False)]
        names = [f"{a} {OUT}" if self.left_out.get(a) else a for a in self.attacks]
        heads += [Column(name) for name in (*names, "Mean")]
        lines = []
        for defense, values, mean in zip(self.defenses, self.values, self.means, strict=True):
            numbers = [
                self._cell(v, self.doubts.get((attack, defense), set()))
                for attack, v in zip(self.attacks, values, strict=True)
            ]
            numbers.append(self._cell(mean, set()))
            lines.append(Row((Cell(defense), Cell(needs[defense]), *numbers)))
        return Table(tuple(heads), tuple(lines), self.title, self.meaning)

    def _cell(self, value: float, doubts: set[str]) -> Cell:
        text = marked(self.text(value), self.way.name, doubts)
        return Cell(text, None if np.isnan(value) else value)


def matrices(records: Sequence[Record]) -> list[Matrix]:
    """A matrix for each metric that the records have values for, the undefended model and then the
    best first; none of attacks that nothing defends against."""
    table = rows(records)
    if attacks_alone(table):
        return []
    left_out, doubts = took_hold(records), doubted(records)
    found = (
        _matrix(table, way, left_out, doubts) for way in shown_in("matrix", records, lead=True)
    )
    return [matrix for matrix in found if matrix is not None]


def _matrix(
    rows: Sequence[Mapping[str, Any]],
    way: Reading,
    left_out: Mapping[str, str],
    doubts: Mapping[Pair, set[str]],
) -> Matrix | None:
    table = {(r["defense"], r["attack"]): r.get(way.name) for r in rows}
    attacks = list(dict.fromkeys(a for _, a in table))
    names = dict.fromkeys(d for d, _ in table)
    defenses = [d for d in names if any(table.get((d, a)) is not None for a in attacks)]
    if not defenses:
        return None
    values = np.array([[table.get((d, a)) for a in attacks] for d in defenses], np.float64)
    values = values * (100 if way.percent else 1)
    found = Matrix(way, defenses, attacks, values, left_out, doubts)
    kept = [j for j, a in enumerate(attacks) if not left_out.get(a)] or range(len(attacks))
    order = _best_first(found, values[:, kept])
    return replace(found, defenses=[defenses[i] for i in order], values=values[order])


def _best_first(matrix: Matrix, values: np.ndarray) -> list[int]:
    """The rows, the undefended one first, then by the mean of the values (defenses, attacks) that
    are there; those without any last."""
    there = ~np.isnan(values)
    sums = np.where(there, values, 0).sum(1) * (-1 if matrix.way.better == "higher" else 1)
    # rounded: the order does not depend on a last bit
    means = np.where(there.any(1), sums / np.maximum(there.sum(1), 1), np.inf).round(9)
    names = matrix.defenses
    return sorted(range(len(names)), key=lambda i: (names[i] != "none", means[i]))


def to_markdown(records: Sequence[Record]) -> str:
    """matrix.md; "" where there is nothing to lay out: one attack, or no defense."""
    found = matrices(records)
    if len({r.cell.attack for r in records}) < 2 or not found:
        return ""
    needs = {r.cell.defense: needs_text(" ".join(r.needs)) for r in records}
    left_out = left_out_text(took_hold(records))
    texts = [f"{OUT}: {left_out}" if left_out else "", *note(records)]
    texts += [caption(records, marked=False), provenance.warning(records)]
    parts = [
        "# Matrix",
        *(markdown.write(matrix.table(needs)) for matrix in found),
        *(escape.markdown(text) for text in texts if text),
    ]
    return markdown.page(parts)
