"""LaTeX tables that go on over several pages, for the packages array, booktabs, longtable and
pdflscape.

LaTeX gives a longtable the width that its columns ask for, and none can be scaled down as a whole.
So their width is estimated here from the number of letters: the table gets the largest type in
which its numbers fit beside its names, and stands on turned pages where upright ones are too
narrow. Names that are still too long are broken into lines.
"""

from __future__ import annotations

from collections.abc import Sequence

from t2i_backdoor_bench.report.formats import escape
from t2i_backdoor_bench.report.table import Column, Table, starts_block

# points: the text of `article` on upright and on turned pages; most venues have more
UPRIGHT, TURNED = 345, 550
SIZES = {"footnotesize": 4.9, "scriptsize": 4.4, "tiny": 3.5}  # points of a letter, at most
GAP = 3  # points to each side of a column
LEAST = 20  # letters of a name in a line, at least
BREAKS = ("+", r"\_", "[", "/")  # behind these a name may go on in the next line


def write(
    table: Table,
    label: str,
    heads: Sequence[str],
    rows: Sequence[Sequence[str]],
    intervals: bool = False,
) -> str:
    """The table with its head on every page. `heads` and `rows` are LaTeX. A group's name stands in
    each of its rows, as a page may begin anywhere. In a document of two columns it gets pages of
    one column, as a longtable needs."""
    letters = [_letters(table, j, intervals) for j in range(len(heads))]
    size, turned, widths = _layout(table.columns, letters)
    broken = [not c.numeric and width is not None for c, width in zip(table.columns, widths)]
    many, head = len(heads), " & ".join(heads) + r" \\"
    lines = [
        "% needs the packages array, booktabs, longtable and pdflscape",
        r"\begingroup\makeatletter",
        r"\if@twocolumn\onecolumn\let\afterlongtable\twocolumn"
        r"\else\let\afterlongtable\relax\fi\makeatother",
        *([r"\begin{landscape}"] if turned else []),
        rf"\{size}",
        rf"\setlength{{\tabcolsep}}{{{GAP}pt}}\setlength{{\LTcapwidth}}{{\linewidth}}",
        rf"\begin{{longtable}}{{{''.join(map(_kind, table.columns, widths))}}}",
        rf"\caption{{{escape.latex(table.caption)}}}\label{{{label}}} \\",
        *(r"\toprule", head, r"\midrule", r"\endfirsthead"),
        rf"\multicolumn{{{many}}}{{l}}{{\tablename~\thetable, continued}} \\",
        *(r"\toprule", head, r"\midrule", r"\endhead"),
        *(r"\bottomrule", r"\endfoot", r"\bottomrule", r"\endlastfoot"),
    ]
    for i, cells in enumerate(rows):
        grouped = table.rows[i].block is not None and i > 0
        lines += [r"\midrule"] if grouped and starts_block(table.rows, i) else []
        texts = [breakable(c) if b else c for c, b in zip(cells, broken, strict=True)]
        lines.append(" & ".join(texts) + r" \\")
    notes = [rf"\par {escape.latex(note)}" for note in table.notes]
    end = [r"\end{landscape}"] if turned else []
    return "\n".join([*lines, r"\end{longtable}", *notes, *end, r"\afterlongtable\endgroup", ""])


def breakable(text: str) -> str:
    """A name in LaTeX that may be broken."""
    for sign in BREAKS:
        text = text.replace(sign, sign + r"\allowbreak{}")
    return text


def _letters(table: Table, j: int, intervals: bool) -> int:
    """The length of the longest text of a column; a heading is as long as its unit and arrow."""
    column = table.columns[j]
    more = 0 if intervals else 2 * bool(column.unit) + 2 * (column.better in ("higher", "lower"))
    found = [len(column.title) + more]
    for row in table.rows:
        cell = row.cells[j]
        ends = len(", ".join(cell.interval)) + 3 if intervals and cell.interval else 0
        found.append(len(cell.text) + ends)
    return max(found)


def _layout(
    columns: Sequence[Column], letters: Sequence[int]
) -> tuple[str, bool, list[float | None]]:
    """The type, whether pages are turned, and for each column its width in points where its texts
    are to be broken. Upright where all fit unbroken; else turned, in the largest type in which
    names keep `LEAST` letters in a line."""
    names = [j for j, c in enumerate(columns) if not c.numeric]
    for size, letter in list(SIZES.items())[:2]:
        if letter * sum(letters) + 2 * GAP * len(columns) <= UPRIGHT:
            return size, False, [None] * len(columns)
    for size, letter in SIZES.items():
        numbers = letter * sum(n for n, c in zip(letters, columns, strict=True) if c.numeric)
        room = TURNED - 2 * GAP * len(columns) - numbers
        if room >= letter * sum(min(LEAST, letters[j]) for j in names) or size == "tiny":
            break
    asked = [letter * letters[j] for j in names]
    widths: list[float | None] = [None] * len(columns)
    if sum(asked) > room:
        for j, width in zip(names, _share(asked, max(room, letter * len(names))), strict=True):
            widths[j] = width
    return size, True, widths


def _share(asked: Sequence[float], room: float) -> list[float]:
    """Divides the room: who asks for less than an equal share gets that, the others share the
    rest."""
    out, left = [0.0] * len(asked), room
    for done, j in enumerate(sorted(range(len(asked)), key=asked.__getitem__)):
        out[j] = min(asked[j], left / (len(asked) - done))
        left -= out[j]
    return out


def _kind(column: Column, width: float | None) -> str:
    if width is not None:
        return rf">{{\raggedright\arraybackslash}}p{{{width:.0f}pt}}"
    return "r" if column.numeric else "l"
