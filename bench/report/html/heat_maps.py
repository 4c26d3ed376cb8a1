"""The section Matrix: one heat map a metric, defenses down and attacks across."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from t2i_backdoor_bench.contract import Record
from t2i_backdoor_bench.report.html.names import attacks_of, defenses_of, heading
from t2i_backdoor_bench.report.metrics import Reading, shown_in
from t2i_backdoor_bench.report.numbers import interval, shown
from t2i_backdoor_bench.report.rows import rows

STOPS = ((201, 104, 38), (246, 239, 226), (22, 122, 116))  # bad (orange), neutral, good (teal)
Pair = tuple[str, str]  # attack, defense


def shade(place: float) -> str:
    """Colours of a value between bad (0) and good (1), and black or white for the text on it."""
    low, part = (STOPS[:2], place * 2) if place < 0.5 else (STOPS[1:], place * 2 - 1)
    color = [round(a + (b - a) * part) for a, b in zip(*low, strict=True)]
    linear = [
        c / 255 / 12.92 if c / 255 <= 0.04045 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in color
    ]
    light = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    # the ink of more contrast (WCAG 2)
    ink = "#000" if (light + 0.05) ** 2 > 1.05 * 0.05 else "#fff"
    return f"background:rgb({color[0]} {color[1]} {color[2]});color:{ink}"


def stylesheet() -> str:
    """One class for each percent between bad and good: the page has no style attributes. They
    are as specific as it takes to hold under the pointer."""
    return "".join(f"table.heat td.shade{i}{{{shade(i / 100)}}}" for i in range(101))


def view(records: Sequence[Record]) -> dict[str, Any] | None:
    """None where no metric has a value."""
    table = {(r["attack"], r["defense"]): r for r in rows(records)}
    first: dict[Pair, int] = {}
    for i, record in enumerate(records):
        first.setdefault((record.cell.attack, record.cell.defense), i)
    attacks, maps = attacks_of(records), []
    for way in shown_in("heat", records, lead=True):
        values = [r[way.name] for r in table.values() if r.get(way.name) is not None]
        if not values:
            continue
        span = (0.0, 1.0) if way.percent else (min(values), max(values))
        lines = [
            {
                "defense": d,
                "cells": [_cell(table.get((a, d)), way, span, first.get((a, d))) for a in attacks],
            }
            for d in defenses_of(records)
        ]
        maps.append({"metric": way.name, "name": heading(way), "rows": lines})
    return {"attacks": attacks, "maps": maps} if maps else None


def _cell(
    row: Mapping[str, Any] | None, way: Reading, span: tuple[float, float], first: int | None
) -> dict[str, Any]:
    """One value, its colour, and the link to the first of its cells."""
    if row is None:
        return {"shade": "", "link": ""}
    value, (low, high) = row.get(way.name), span
    place = 0.5 if value is None or high <= low else (value - low) / (high - low)
    place = {"lower": 1 - place, "none": 0.5}.get(way.better, place)
    text = shown(value, way.percent)
    return {
        "shade": "" if value is None else f"shade{round(100 * min(max(place, 0), 1))}",
        "link": f"#cell-{first}",
        "label": f"{row['attack']} x {row['defense']}: {text}",
        "text": text,
        "interval": interval(row.get(f"{way.name}_lo"), row.get(f"{way.name}_hi"), way.percent),
    }
