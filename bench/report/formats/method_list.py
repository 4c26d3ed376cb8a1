"""The list of methods on the terminal."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import IO

from t2i_backdoor_bench.contract import citations
from t2i_backdoor_bench.contract.listing import Listed, listed

WIDTH = 180  # on a pipe
KINDS = {"attack": "edits", "defense": "needs", "metric": "better"}  # and what is said of each


def show(
    bases: Sequence[str], suites: Mapping[str, str], file: IO[str] | None = None, only: str = ""
) -> None:
    """Every method: name, groups, what it edits or needs or which way is better, its papers, and
    one line; the bases; every suite with what it asks. `only` "attacks", "defenses", "metrics",
    "bases" or "suites" leaves out the rest."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console(file=file or sys.stdout, highlight=False)
    if not console.is_terminal:
        console = Console(file=file or sys.stdout, width=WIDTH, highlight=False, no_color=True)
    for kind, fact in KINDS.items():
        if only not in ("", f"{kind}s"):
            continue
        table = Table(title=f"{kind}s", title_justify="left", header_style="bold")
        for column in ("name", "groups", fact, "paper", "what"):
            table.add_column(column, no_wrap=column == "name")
        methods = listed(kind)
        for method in sorted(methods, key=lambda m: (bool(m.parts), m.name)):
            table.add_row(*map(escape, _row(method, fact)))
        console.print(table)
    if only in ("", "bases"):
        known = ", ".join(bases)
        console.print(f"bases: {known}, a local diffusers folder, or a hub id", markup=False)
    if only in ("", "suites"):
        table = Table(title="suites", title_justify="left", header_style="bold")
        for column in ("name", "what"):
            table.add_column(column, no_wrap=column == "name")
        for name, what in suites.items():
            table.add_row(name, escape(what))
        console.print(table)


def _row(method: Listed, fact: str) -> list[str]:
    groups = ", ".join(method.groups)
    if method.parts:
        return [method.name, groups, "", "", method.parts]
    value = method.facts.get(fact, "none" if fact == "better" else "")
    words = value if isinstance(value, str) and fact != "needs" else ", ".join(value) or "nothing"
    unfit = ", ".join(method.facts.get("not_on", ()))
    what = f"{method.summary} Not on: {unfit}." if unfit else method.summary
    return [method.name, groups, words, citations.short(method), what]
