"""Names and headings in the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from t2i_backdoor_bench.contract import Record
from t2i_backdoor_bench.report.metrics import Reading

ARROWS = {"higher": " ↑", "lower": " ↓"}


def attacks_of(records: Sequence[Record]) -> list[str]:
    return list(dict.fromkeys(r.cell.attack for r in records))


def defenses_of(records: Sequence[Record]) -> list[str]:
    """The undefended model first."""
    found = dict.fromkeys(r.cell.defense for r in records)
    return sorted(found, key=lambda name: name != "none")


def counted(n: int, word: str) -> str:
    return f"{n} {word}{'' if n == 1 else 's'}"


def heading(way: Reading) -> str:
    return f"{way.short}{' %' if way.percent else ''}{ARROWS.get(way.better, '')}"


def flat(value: Mapping[str, Any]) -> list[tuple[str, str]]:
    """A nested mapping as pairs of words."""
    return [
        (k, ", ".join(f"{a} {b}" for a, b in v.items()) if isinstance(v, Mapping) else str(v))
        for k, v in value.items()
        if v not in ("", None)
    ]
