"""The sections Trade-off and Training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from t2i_backdoor_bench.contract import Record
from t2i_backdoor_bench.contract.names import parts_of
from t2i_backdoor_bench.report.findings import given, percent
from t2i_backdoor_bench.report.html.svg import Chart, Point, curves, scatter
from t2i_backdoor_bench.report.metrics import LEAD
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
    """Restoration against what KID does and against cost, means over attacks."""
    every = [s for s in summaries(records) if LEAD in s.means and s.done == s.attacks]
    table = [s for s in every if s.defense != "none"]
    undefended = next((s for s in every if s.defense == "none"), None)
    changes = ("kid_change", "fid_change")  # the second is of the first protocol
    quality = next((m for m in changes if any(m in s.means for s in table)), "fid")
    needs = list(dict.fromkeys(s.needs for s in table))
    panels = []
    for metric in (quality, "seconds"):
        name, label, log = AXES[metric]
        points = [p for s in table if (p := _point(s, metric, needs.index(s.needs)))]
        known = undefended.means.get(metric) if undefended and metric == "fid" else None
        line = ("undefended", known.value) if known else None
        title = f"Restored against {name}"
        panels.append(scatter(title, points, label, "Restored, %", log, 101, line))
    panels = [panel for panel in panels if panel is not None]
    return {"groups": [given(n) for n in needs], "panels": panels} if panels else None


def _point(s: Summary, metric: str, group: int) -> Point | None:
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
    return Point(s.defense, factor * x.value, 100 * y.value, xs, ys, group, tip)


def training(records: Sequence[Record]) -> dict[str, Any] | None:
    """The losses of attacks and defenses: one panel a method, one line an attack (or a seed)."""
    panels: dict[str, dict[str, tuple[float, list[float]]]] = {}
    for record in records:
        cell, cost = record.cell, record.cost
        if cost.get("losses_attack"):
            steps = _steps(record, "attack", cell.attack)
            lines = panels.setdefault(cell.attack, {})
            lines.setdefault(f"seed {cell.seed}", (steps, cost["losses_attack"]))
        for part, losses in (cost.get("losses") or {}).items():
            name = next((p for p in parts_of(cell.defense) if p.split("[")[0] == part), part)
            lines, steps = panels.setdefault(name, {}), _steps(record, "defense", part)
            lines.setdefault(f"{cell.attack}, seed {cell.seed}", (steps, losses))
    out = [_panel(name, lines) for name, lines in panels.items()]
    return {"panels": out} if out else None


def _panel(name: str, lines: dict[str, tuple[float, list[float]]]) -> dict[str, Chart | Any | None]:
    series = [(k, steps, values) for k, (steps, values) in lines.items()]
    chart = curves(f"Loss of {name}", series, "Step", "Loss")
    return {"name": name, "chart": chart, "lines": list(lines)}


def _steps(record: Record, kind: str, name: str) -> float:
    """The steps of a method, from the configuration that the record holds."""
    found = record.cell.config.get(kind, {})
    parts, method = found if isinstance(found, list) else [found], name.split("[")[0]
    own = (p["options"].get("steps", 100) for p in parts if p.get("name") == method)
    return float(next(own, 100))
