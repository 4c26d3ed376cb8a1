"""What a run prints at its end: the table in 100 columns, what was learned, what failed, and where
the files are."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING

from t2i_backdoor_bench.contract.printable import visible
from t2i_backdoor_bench.report import ranking as standings
from t2i_backdoor_bench.report.rows import (
    Record,
    attacks_alone,
    best,
    columns,
    heading,
    lead,
    needs_text,
    rows,
    text_of,
)
from t2i_backdoor_bench.store import provenance

if TYPE_CHECKING:
    from rich.table import Table

WIDTH = 100
LIST_WIDTH = 180  # of --list on a pipe
MOST_FAILURES = 5
SHORT_NEEDS = {"clean model": "model", "clean pairs": "pairs"}


def make_console(file: IO[str] | None = None):
    """A console of at most 100 columns; on a pipe exactly 100, without colours."""
    from rich.console import Console

    console = Console(file=file or sys.stdout, highlight=False)
    if not console.is_terminal:  # a pipe has no width of its own
        return Console(file=file or sys.stdout, width=WIDTH, highlight=False, no_color=True)
    console.width = min(console.width, WIDTH)
    return console


def show(records: Sequence[Record], file: IO[str] | None = None) -> None:
    """The main columns on the terminal. A name that is too long goes on in the next line; numbers
    are never cut."""
    from rich.box import SIMPLE_HEAD
    from rich.markup import escape
    from rich.table import Table
    from rich.text import Text

    table = rows(records)
    names = [
        m for m in columns(table) if m != "diversity"
    ]  # it would leave too little for the names
    bold = {m: best(records, table, m) for m in names}
    alone = attacks_alone(table)
    note = (
        ""
        if alone
        else "Rest: restored, no longer backdoored and as asked. Best of each attack in green. "
    )
    note += "Protocol and intervals: table.md"
    out = Table(
        box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold"
    )
    out.caption, out.caption_justify = note, "left"
    for name in lead(table):
        out.add_column(name, overflow="fold")
    for m in names:
        head = (
            heading(records, m, "↑", "↓", "%")
            .replace("Seconds", "Sec")
            .replace("Restored", "Rest")
            .replace("Parameters", "Params")
        )
        out.add_column(head, justify="right", no_wrap=True)
    for i, row in enumerate(table):
        again = i > 0 and table[i - 1]["attack"] == row["attack"]
        if not again and i > 0 and not alone:
            out.add_section()
        needs = escape(visible(needs_text(row["needs"])))
        for long, short in SHORT_NEEDS.items():
            needs = needs.replace(long, short)
        cells = [
            "" if again else escape(visible(row["attack"])),
            escape(visible(row["defense"])),
            needs,
        ][: len(lead(table))]
        for m in names:
            text = text_of(records, row, m)
            cells.append(f"[bold green]{text}[/]" if i in bold[m] else text)
        out.add_row(*cells)
    console = make_console(file)
    console.print(out)
    if warning := provenance.warning(records):
        console.print(Text(visible(warning), "yellow"))


def summary(
    records: Sequence[Record], root: Path, written: Sequence[Path], file: IO[str] | None = None
) -> None:
    """What was learned, what failed, and where the files are."""
    from rich.text import Text

    console = make_console(file)
    for text in standings.learned(records):
        console.print(Text(visible(text)))
    wrong = standings.troubles(records)
    for name, text in wrong[:MOST_FAILURES]:
        console.print(Text.assemble(("no result ", "bold red"), visible(f"{name}: {text}")))
    if len(wrong) > MOST_FAILURES:
        console.print(
            Text(f"and {len(wrong) - MOST_FAILURES} more cells without a result", "bold red")
        )
    done = f"{len(records) - len(wrong)} of {len(records)} cells done"
    names = dict.fromkeys(f"{p.parent.name}/" if p.parent != root else p.name for p in written)
    console.print(Text(visible(f"{done}. {root}: {', '.join(names)}")))
    if any(p.name == "report.html" for p in written):
        print(visible(f"Read {root / 'report.html'}"), file=file or sys.stdout)


def list_methods(file: IO[str] | None = None, kind: str = "") -> None:
    """Every method: name, groups, what it edits or needs or which way is better, its papers, and
    one line; or only those of a kind: "attacks", "defenses", "metrics" or "bases"."""
    from rich.console import Console

    from t2i_backdoor_bench.models.catalog import BASES

    console = Console(file=file or sys.stdout, highlight=False)
    if not console.is_terminal:
        console = Console(file=file or sys.stdout, width=LIST_WIDTH, highlight=False, no_color=True)
    for name, extra in (("attack", "edits"), ("defense", "needs"), ("metric", "better")):
        if kind in ("", f"{name}s"):
            console.print(_methods_table(name, extra))
    if kind in ("", "bases"):
        bases = ", ".join(BASES)
        console.print(f"bases: {bases}, a local diffusers folder, or a hub id", markup=False)


def _methods_table(kind: str, extra: str) -> Table:
    """The methods of a kind; `extra` is the fact in the third column."""
    from rich.markup import escape
    from rich.table import Table

    from t2i_backdoor_bench.contract import citations
    from t2i_backdoor_bench.contract.listing import listed

    table = Table(title=f"{kind}s", title_justify="left", header_style="bold")
    for column in ("name", "groups", extra, "paper", "what"):
        table.add_column(column, no_wrap=column == "name")
    methods = listed(kind)
    for method in [m for m in methods if not m.parts]:
        fact = method.facts.get(extra, "")
        words = fact if isinstance(fact, str) else ", ".join(fact)
        words = words or ("nothing" if kind == "defense" else "")
        texts = (method.name, ", ".join(method.groups), words)
        table.add_row(*map(escape, (*texts, citations.short(method), method.summary)))
    for method in [m for m in methods if m.parts]:
        table.add_row(*map(escape, (method.name, ", ".join(method.groups), "", "", method.parts)))
    return table
