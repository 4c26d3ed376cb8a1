"""The sections Trade-off, Curves and Training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from t2i_backdoor_bench.contract import Record
from t2i_backdoor_bench.report.figures.losses import methods, summary
from t2i_backdoor_bench.report.figures.sweeps import drawn_of, number, places
from t2i_backdoor_bench.report.figures.tradeoff import EVEN, NOT_DRAWN, SIGNED, axes_of, compared
from t2i_backdoor_bench.report.findings import given, percent
from t2i_backdoor_bench.report.html.svg import Point, bands, curves, sample, scatter
from t2i_backdoor_bench.report.main_table import heading
from t2i_backdoor_bench.report.metrics import LEAD, Reading
from t2i_backdoor_bench.report.numbers import shown
from t2i_backdoor_bench.report.ranking import Summary, summaries

# metric: its name, its axis, and whether the axis is logarithmic
AXES = {
    "kid_change": ("change of KID", "Change of KID of clean prompts", False),
    "fid_change": ("change of FID, %", "Change of FID of clean prompts, %", False),
    "fid": ("FID", "FID of clean prompts (lower is better)", False),
    "seconds": ("Seconds", "Seconds of the defense (log scale)", True),
}


def tradeoff(records: Sequence[Record]) -> dict[str, Any] | None:
    """Restoration against what KID does and against cost, means over attacks. A number beside each
    point, and a key of them."""
    table, left_out = compared(records)
    undefended = next((s for s in summaries(records) if s.defense == "none"), None)
    needs = list(dict.fromkeys(s.needs for s in table))
    panels = []
    for metric in axes_of(table):
        name, label, log = AXES[metric]
        points = [
            p for i, s in enumerate(table) if (p := _point(s, metric, i, needs.index(s.needs)))
        ]
        known = undefended.means.get(metric) if undefended and metric == "fid" else None
        line = ("undefended", known.value) if known else None
        line = ("undefended", 0.0) if metric in SIGNED else line
        far = metric == "fid_change" and any(abs(p.x) > 5 * EVEN for p in points)
        title, even = f"Restored against {name}", EVEN if far else 0
        panels.append(scatter(title, points, label, "Restored, %", log, 101, line, even))
    panels = [panel for panel in panels if panel is not None]
    if not panels:
        return None
    groups = [
        {
            "name": given(n).capitalize(),
            "mark": sample(given(n), k),
            "points": [(i + 1, s.defense) for i, s in enumerate(table) if s.needs == n],
        }
        for k, n in enumerate(needs)
    ]
    note = f"{NOT_DRAWN}: {', '.join(s.defense for s in left_out)}." if left_out else ""
    return {"groups": groups, "panels": panels, "note": note}


def _point(s: Summary, metric: str, i: int, group: int) -> Point | None:
    name, _, log = AXES[metric]
    x, y = s.means.get(metric), s.means[LEAD]
    if x is None or (log and x.value <= 0):
        return None
    factor = 100 if metric == "fid_change" else 1
    text = shown(x.value, metric == "fid_change")
    tip = f"{s.defense}: {percent(y)} restored, {name} {text}"
    xs, ys = (
        tuple(None if v is None else f * v for v in ends)
        for f, ends in ((factor, x[1:]), (100, y[1:]))
    )
    return Point(str(i + 1), factor * x.value, 100 * y.value, xs, ys, group, tip)


def swept(records: Sequence[Record]) -> dict[str, Any] | None:
    """What each value of a swept option changes: a group for each figure (`figures.sweeps`), with a
    panel for each metric and a key of its lines."""
    groups = []
    for option, series, ways in drawn_of(records).values():
        values = sorted(
            {v for line in series.values() for v, _ in line},
            key=lambda v: (number(v) is None, number(v) or 0.0, v),
        )
        at = places(values)
        names = {at[v]: v for v in values}
        panels = []
        for way in ways:
            column = heading(records, way)
            unit = f"{column.title}, {column.unit}" if column.unit else column.title
            lines = [_curve(n, line, way, at, i) for i, (n, line) in enumerate(series.items())]
            if any(lines):
                title = f"{column.title} by {option}"
                chart = curves(title, [line for line in lines if line], (option, unit), names)
                panels.append({"title": column.title, "chart": chart})
        key = [(name, sample(name, i)) for i, name in enumerate(series)]
        groups.append({"title": option, "panels": panels, "key": key})
    return {"groups": groups} if groups else None


def _curve(
    name: str, line: Sequence[Any], way: Reading, at: dict[str, float], group: int
) -> list[Point]:
    """The points of a line that have this metric, in the order of their places."""
    factor, found = 100 if way.percent else 1, []
    for value, row in line:
        if (y := row.get(way.name)) is not None:
            ends = (row.get(f"{way.name}_lo"), row.get(f"{way.name}_hi"))
            ys = tuple(None if e is None else factor * e for e in ends)
            tip = f"{name}, {value}: {shown(y, way.percent)}"
            found.append(Point("", at[value], factor * y, ys=ys, group=group, tip=tip))
    return sorted(found, key=lambda p: p.x)


def training(records: Sequence[Record]) -> dict[str, Any] | None:
    """The losses of attacks and defenses: one panel a method, its runs as a median in bands."""
    out = []
    for name, method in methods(records).items():
        places, rows = summary(method.curves)
        labels = ("Share of the training", "Loss")
        group = 1 if method.kind == "attack" else 2
        chart = bands(f"Loss of {name}", places.tolist(), rows.tolist(), group, labels)
        out.append({"name": name, "of": f"{method.kind}, {method.of}", "chart": chart})
    return {"panels": out} if out else None
