"""The section Matrix: one heat map a metric, defenses down and attacks across."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from t2i_backdoor_bench.contract import Record
from t2i_backdoor_bench.report.figures.style import BAD_TO_GOOD, ink
from t2i_backdoor_bench.report.html.names import attacks_of, defenses_of, heading
from t2i_backdoor_bench.report.metrics import Reading, shown_in
from t2i_backdoor_bench.report.numbers import interval, shown
from t2i_backdoor_bench.report.resolution import decimals
from t2i_backdoor_bench.report.rows import rows
from t2i_backdoor_bench.report.took_hold import left_out_text, took_hold

STEPS = 8  # colours in the key
Pair = tuple[str, str]  # attack, defense


def shade(place: float) -> str:
    """Colours of a value between bad (0) and good (1), and black or white for the text on it."""
    stops = [tuple(int(c[i : i + 2], 16) / 255 for i in (1, 3, 5)) for c in BAD_TO_GOOD]
    low, part = (stops[:2], place * 2) if place < 0.5 else (stops[1:], place * 2 - 1)
    color = tuple(a + (b - a) * part for a, b in zip(*low, strict=True))
    red, green, blue = (round(255 * c) for c in color)
    return f"background:rgb({red} {green} {blue});color:{ink(color)}"


def stylesheet() -> str:
    """One class for each percent between bad and good: the page has no style attributes. They
    are as specific as it takes to hold under the pointer."""
    return "".join(
        f"table.heat td.shade{i},.ramp .shade{i}{{{shade(i / 100)}}}" for i in range(101)
    )


def view(
    records: Sequence[Record], links: Mapping[Pair, str] | None = None
) -> dict[str, Any] | None:
    """None where no metric has a value. A cell leads to its page in `links`, or else to its details
    in the same page."""
    table = {(r["attack"], r["defense"]): r for r in rows(records)}
    first: dict[Pair, str] = {}
    for i, record in enumerate(records):
        pair = (record.cell.attack, record.cell.defense)
        first.setdefault(pair, links[pair] if links else f"#cell-{i}")
    attacks, maps, reasons = attacks_of(records), [], took_hold(records)
    grey = [a for a in attacks if reasons.get(a)]
    for way in shown_in("heat", records, lead=True):
        values = [
            r[way.name]
            for r in table.values()
            if r.get(way.name) is not None and r["attack"] not in grey
        ]
        if not any(r.get(way.name) is not None for r in table.values()):
            continue
        span = (0.0, 1.0) if way.percent or not values else (min(values), max(values))
        digits = decimals(records, way.name) if way.percent else None
        lines = [
            {
                "defense": d,
                "cells": [
                    _cell(table.get((a, d)), way, span, digits, first.get((a, d)), a in grey)
                    for a in attacks
                ],
            }
            for d in defenses_of(records)
        ]
        found = {"metric": way.name, "name": heading(way), "rows": lines}
        maps.append(found | {"key": _key(way, span, digits)})
    heads = [{"name": a, "grey": a in grey} for a in attacks]
    note = left_out_text(reasons)
    return {"attacks": heads, "maps": maps, "note": note} if maps else None


def _key(way: Reading, span: tuple[float, float], digits: int | None) -> dict[str, Any]:
    """The colours from the least to the most, and what those are."""
    places = [_place(low / STEPS, (0.0, 1.0), way) for low in range(STEPS + 1)]
    low, high = (_text(v, way, digits) for v in span)
    return {"low": low, "high": high, "shades": [f"shade{round(100 * p)}" for p in places]}


def _place(value: float | None, span: tuple[float, float], way: Reading) -> float:
    """Where a value stands between bad and good, 0..1; in the middle where neither end is."""
    low, high = span
    place = 0.5 if value is None or high <= low else (value - low) / (high - low)
    place = {"lower": 1 - place, "none": 0.5}.get(way.better, place)
    return min(max(place, 0.0), 1.0)


def _text(value: float | None, way: Reading, digits: int | None) -> str:
    """Whole percents where a picture is one."""
    return f"{100 * value:.0f}" if digits == 0 and value is not None else shown(value, way.percent)


def _cell(
    row: Mapping[str, Any] | None,
    way: Reading,
    span: tuple[float, float],
    digits: int | None,
    first: str | None,
    grey: bool,
) -> dict[str, Any]:
    """One value, its colour, and the link to the first of its cells."""
    if row is None:
        return {"shade": "", "link": ""}
    value = row.get(way.name)
    text = _text(value, way, digits)
    color = "grey" if grey else f"shade{round(100 * _place(value, span, way))}"
    return {
        "shade": "" if value is None else color,
        "link": first or "",
        "label": f"{row['attack']} × {row['defense']}:",
        "text": text,
        "interval": interval(row.get(f"{way.name}_lo"), row.get(f"{way.name}_hi"), way.percent),
    }
