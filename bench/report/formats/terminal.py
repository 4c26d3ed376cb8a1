"""What a run prints at its end: the table in 100 columns, what was learned, what failed, and where
the files are."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING

from t2i_backdoor_bench.contract import Record
from t2i_backdoor_bench.contract.printable import visible
from t2i_backdoor_bench.report.findings import cells_without_result, findings, smoke_note
from t2i_backdoor_bench.report.main_table import attacks_alone, columns, main_table
from t2i_backdoor_bench.report.rows import rows
from t2i_backdoor_bench.report.table import Table, starts_block

if TYPE_CHECKING:
    from rich.console import Console

WIDTH = 100
MOST_FAILURES = 5
# they would leave too little for the names
TOO_WIDE = (
    "diversity",
    "kid_second",
    "fid_floor",
    "fid_before",
    "fidelity_before",
    "seconds_picture",
    "removal_accuracy",  # 100 - ASR
    "residue",  # 100 - ASR - restored
    "settings_tried",
)
ARROWS = {"higher": "↑", "lower": "↓"}
SHORTER = {"Seconds": "Sec", "Restored": "Rest", "Parameters": "Params"}
SHORTER_NEEDS = {
    "clean model": "model",
    "clean text encoder": "encoder",
    "clean pairs": "pairs",
    "clean prompts": "prompts",
    "prompts of a stream": "streamed",
}


def make_console(file: IO[str] | None = None) -> Console:
    """A console of at most 100 columns; on a pipe exactly 100, without colours."""
    from rich.console import Console

    console = Console(file=file or sys.stdout, highlight=False)
    if not console.is_terminal:  # a pipe has no width of its own
        return Console(file=file or sys.stdout, width=WIDTH, highlight=False, no_color=True)
    console.width = min(console.width, WIDTH)
    return console


def show(records: Sequence[Record], file: IO[str] | None = None) -> None:
    """The main table on the terminal."""
    table = rows(records)
    ways = [way for way in columns(records, table) if way.name not in TOO_WIDE]
    leads = any(way.name == "kid" for way in ways)  # older records have no other than FID
    ways = [way for way in ways if way.name != "fid" or not leads]
    note = "Protocol and intervals: table.md"
    if not attacks_alone(table):
        best = "Best of each attack in green."
        note = f"Rest: restored, no longer backdoored and as asked. {best} {note}"
    write(main_table(records, ways), note, file)


def write(table: Table, note: str, file: IO[str] | None = None) -> None:
    """A table on the terminal, `note` below. A name that is too long goes on in the next line;
    numbers are never cut."""
    from rich.box import SIMPLE_HEAD
    from rich.markup import escape
    from rich.table import Table as RichTable
    from rich.text import Text

    style = {"show_edge": False, "pad_edge": False, "padding": (0, 1, 0, 0), "header_style": "bold"}
    out = RichTable(box=SIMPLE_HEAD, **style)
    out.caption, out.caption_justify = note, "left"
    for column in table.columns:
        title = column.title.split(" (")[0]  # without the feature space
        title = SHORTER.get(title, title)
        head = escape(visible(title)) + column.unit + ARROWS.get(column.better, "")
        how = {"justify": "right", "no_wrap": True} if column.numeric else {"overflow": "fold"}
        out.add_column(head, **how)
    titles = [column.title for column in table.columns]
    for i, row in enumerate(table.rows):
        first = starts_block(table.rows, i)
        if first and i > 0 and row.block:
            out.add_section()
        cells = [escape(visible(cell.text)) for cell in row.cells]
        cells = [f"[bold green]{t}[/]" if c.bold else t for c, t in zip(row.cells, cells)]
        if "Needs" in titles:  # a table without defenses has no such column
            needs = titles.index("Needs")
            for long, short in SHORTER_NEEDS.items():
                cells[needs] = re.sub(rf"(\d+ )?{long}", short, cells[needs])
        out.add_row(*(cells if first else ["", *cells[1:]]))
    console = make_console(file)
    console.print(out)
    for text in table.notes:
        console.print(Text(visible(text), "yellow"))


def summary(
    records: Sequence[Record], root: Path, written: Sequence[Path], file: IO[str] | None = None
) -> None:
    """What was learned, what failed, and where the files are."""
    from rich.text import Text

    console = make_console(file)
    for text in findings(records):
        console.print(Text(visible(text)))
    if note := smoke_note(records):
        console.print(Text(note))
    wrong = cells_without_result(records)
    for name, text in wrong[:MOST_FAILURES]:
        console.print(Text.assemble(("no result ", "bold red"), visible(f"{name}: {text}")))
    if len(wrong) > MOST_FAILURES:
        more = f"and {len(wrong) - MOST_FAILURES} more cells without a result"
        console.print(Text(more, "bold red"))
    done = f"{len(records) - len(wrong)} of {len(records)} cells done"
    names = dict.fromkeys(f"{p.parent.name}/" if p.parent != root else p.name for p in written)
    console.print(Text(visible(f"{done}. {root}: {', '.join(names)}")))
    if any(p.name == "report.html" for p in written):
        print(visible(f"Read {root / 'report.html'}"), file=file or sys.stdout)
