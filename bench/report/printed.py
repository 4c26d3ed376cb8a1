"""What a command prints of the results of a run folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from t2i_backdoor_bench.contract import Record
from t2i_backdoor_bench.report import paper_table
from t2i_backdoor_bench.report.formats import markdown, terminal


def print_results(
    records: Sequence[Record], root: Path, written: Sequence[Path], style: str = "full"
) -> None:
    """The table, what was learned, and which files were written."""
    if style == "paper":
        print(markdown.write(paper_table.paper_table(records)))
    else:
        terminal.show(records)
    terminal.summary(records, root, written)
