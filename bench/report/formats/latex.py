"""Tables as LaTeX. Up to 30 rows: a float for the packages booktabs and graphicx; one that is wider
than the text is scaled down to it. More rows: a longtable over several pages (`long_table`)."""

from __future__ import annotations

from t2i_backdoor_bench.report.formats import escape, long_table
from t2i_backdoor_bench.report.numbers import DASH
from t2i_backdoor_bench.report.table import Cell, Column, Table, starts_block

ARROWS = {"higher": r"\,$\uparrow$", "lower": r"\,$\downarrow$"}
MOST_ROWS = 30  # of a float, which has to fit on a page with its caption


def write(table: Table, label: str, wide: bool = True, intervals: bool = False) -> str:
    """`wide` spans both columns of a page. Intervals stand in small print behind the numbers; units
    and arrows are then left out of the headings."""
    heads = [_head(c, plain=intervals) for c in table.columns]
    rows = [
        [_cell(c, k, intervals) for c, k in zip(row.cells, table.columns, strict=True)]
        for row in table.rows
    ]
    if len(rows) > MOST_ROWS:
        return long_table.write(table, label, heads, rows, intervals)
    environment = "table*" if wide else "table"
    blocks = any(row.block for row in table.rows)
    lines = [
        rf"\begin{{{environment}}}[t]",
        r"\centering",
        rf"\caption{{{escape.latex(table.caption)}}}",
        rf"\label{{{label}}}",
        r"\footnotesize",
        *([r"\setlength{\tabcolsep}{3.5pt}"] if wide else []),
        r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
        rf"\begin{{tabular}}{{{''.join('r' if c.numeric else 'l' for c in table.columns)}}}",
        r"\toprule",
        " & ".join(heads) + r" \\",
        *([] if blocks else [r"\midrule"]),
    ]
    for i, cells in enumerate(rows):
        first = starts_block(table.rows, i)
        lines += [r"\midrule"] if blocks and first else []
        lines.append(" & ".join(cells if first else ["", *cells[1:]]) + r" \\")
    notes = [rf"\par {escape.latex(note)}" for note in table.notes]
    end = [r"\bottomrule", r"\end{tabular}}", *notes, rf"\end{{{environment}}}", ""]
    return "\n".join([*lines, *end])


def _head(column: Column, plain: bool) -> str:
    unit = rf"\,{escape.latex(column.unit)}" if column.unit else ""
    more = "" if plain else unit + ARROWS.get(column.better, "")
    return escape.latex(column.title) + more


def _cell(cell: Cell, column: Column, intervals: bool) -> str:
    text = escape.latex(cell.text).replace(DASH, "--")
    text = f"${text}$" if column.numeric and text.startswith("-") and text != "--" else text
    text = rf"\textbf{{{text}}}" if cell.bold else text
    if intervals and cell.interval:
        text += rf" {{\scriptsize[{', '.join(cell.interval)}]}}"
    return text
