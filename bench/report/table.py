"""A table as a value: headings, rows of cells, a caption and notes. Each format has a writer in
`report/formats/` (and the templates of `report/html/`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Column:
    """A heading. `better` is "higher", "lower" or "none"; `unit` is "%" or nothing."""

    title: str
    unit: str = ""
    better: str = "none"
    numeric: bool = True
    name: str = ""  # the metric, where the column is of one


@dataclass(frozen=True)
class Cell:
    """What stands in a row under a heading: a text that each format escapes, the value behind it,
    and the ends of its interval."""

    text: str = ""
    value: Any = None
    interval: tuple[str, str] | None = None
    bold: bool = False


@dataclass(frozen=True)
class Row:
    """Rows that follow each other with the same `block` are shown as a group."""

    cells: tuple[Cell, ...]
    block: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Table:
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    title: str = ""
    intro: str = ""  # under the title
    caption: str = ""
    notes: tuple[str, ...] = ()  # under the caption


def plain_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """A table of plain values: the columns are the keys of the first row."""
    columns = tuple(Column(str(name)) for name in (rows[0] if rows else {}))
    return Table(columns, tuple(Row(tuple(Cell(value=v) for v in r.values())) for r in rows))


def starts_block(rows: Sequence[Row], i: int) -> bool:
    """Whether row `i` is the first of its group."""
    return i == 0 or rows[i].block is None or rows[i].block != rows[i - 1].block
