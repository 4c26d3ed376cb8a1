"""Tables as Markdown; shares with their 95 % interval."""

from __future__ import annotations

from collections.abc import Sequence

from t2i_backdoor_bench.report.formats import escape
from t2i_backdoor_bench.report.table import Cell, Column, Table

ARROWS = {"higher": " ↑", "lower": " ↓"}


def write(table: Table) -> str:
    """A table with its title, and with its caption and notes as paragraphs below."""
    lines = [f"## {escape.markdown(table.title)}", ""] if table.title else []
    lines += [escape.markdown(table.intro), ""] if table.intro else []
    lines.append(
        "|" + "".join(f" {text} |" if text else " |" for text in map(_head, table.columns))
    )
    lines.append("|" + "".join("---:|" if c.numeric else "---|" for c in table.columns))
    for row in table.rows:
        cells = [_cell(c, column) for c, column in zip(row.cells, table.columns, strict=True)]
        lines.append(f"| {' | '.join(cells)} |")
    for text in (table.caption, *table.notes):
        lines += ["", escape.markdown(text)] if text else []
    return "\n".join([*lines, ""])


def page(parts: Sequence[str]) -> str:
    """Paragraphs and tables below each other. Texts of others in them are escaped already."""
    return "\n".join(part.rstrip("\n") + "\n" for part in parts)


def _head(column: Column) -> str:
    unit = f" {column.unit}" if column.unit else ""
    return f"{escape.markdown(column.title)}{unit}{ARROWS.get(column.better, '')}"


def _cell(cell: Cell, column: Column) -> str:
    text = escape.markdown(cell.text)
    text = f"**{text}**" if cell.bold else text
    return f"{text} [{', '.join(cell.interval)}]" if cell.interval and column.unit else text
