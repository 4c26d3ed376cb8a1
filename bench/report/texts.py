"""Every table of a run folder as the text of its file, from the records alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from t2i_backdoor_bench.contract import Record
from t2i_backdoor_bench.report import leaderboard, matrix, paper_table
from t2i_backdoor_bench.report.formats import csv, latex, markdown
from t2i_backdoor_bench.report.main_table import main_table
from t2i_backdoor_bench.report.rows import long_rows, rows
from t2i_backdoor_bench.report.table import plain_table
from t2i_backdoor_bench.store.atomic import write_text


def texts(records: Sequence[Record], style: str = "full") -> dict[str, str]:
    """The tables by file name; "" for one that these records have nothing for."""
    table = main_table(records)
    found = {
        "table.csv": csv.write(plain_table(rows(records))),
        "rows.csv": csv.write(plain_table(long_rows(records))),
        "table.tex": latex.write(table, "tab:t2i-backdoor-bench"),
        "table.md": markdown.write(table),
        "leaderboard.md": leaderboard.to_markdown(records),
        "matrix.md": matrix.to_markdown(records),
    }
    return found | (paper_table.texts(records) if style == "paper" else {})


def write(records: Sequence[Record], folder: Path, style: str = "full") -> list[Path]:
    """Write the tables. One that the records have nothing for is removed: an older one would say
    what no longer holds."""
    paths = []
    for name, text in texts(records, style).items():
        if text:
            write_text(folder / name, text)
            paths.append(folder / name)
        else:
            (folder / name).unlink(missing_ok=True)
    return paths
