"""Shares of every attack and defense with their 95 % intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from t2i_backdoor_bench.contract import Record
from t2i_backdoor_bench.report.figures.style import COLORS, COLUMN, PAGE, TEXT, new_figure
from t2i_backdoor_bench.report.formats.escape import plot
from t2i_backdoor_bench.report.main_table import attacks_alone
from t2i_backdoor_bench.report.metrics import LEAD
from t2i_backdoor_bench.report.rows import rows

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


Bars = list[list[float]]


def _bars(rows: Sequence[Mapping[str, Any]], metric: str) -> tuple[list[float], Bars]:
    """A metric in percent and the lengths of its intervals to both sides."""
    values = [100 * r[metric] for r in rows]
    ends = [(r.get(f"{metric}_lo"), r.get(f"{metric}_hi")) for r in rows]
    below = [0 if lo is None else max(0, v - 100 * lo) for v, (lo, _) in zip(values, ends)]
    above = [0 if hi is None else max(0, 100 * hi - v) for v, (_, hi) in zip(values, ends)]
    return values, [below, above]


def attacks(records: Sequence[Record]) -> Figure | None:
    """Of a run without defenses: each attack's success, on captions and at its own protocol, and
    what it adds to FID."""
    table = rows(records)
    if not attacks_alone(table) or all(r.get("asr") is None for r in table):
        return None
    figure = new_figure(TEXT, 0.7 + 0.2 * len(table))
    panels = {
        "% of triggered pictures": {"asr": "on captions", "asr_own": "own protocol"},
        "FID added, %": {"fid_added": "FID added"},
    }
    for k, (label, metrics) in enumerate(panels.items()):
        axes = figure.add_subplot(1, 2, k + 1)
        for j, (metric, name) in enumerate(metrics.items()):
            drawn = [(i, r) for i, r in enumerate(table) if r.get(metric) is not None]
            x, bars = _bars([r for _, r in drawn], metric)
            y = [i + 0.15 * (2 * j + 1 - len(metrics)) for i, _ in drawn]
            how = {"fmt": "vod"[k + j], "color": COLORS[(1, 0, 2)[k + j]], "ms": 3, "lw": 0.8}
            axes.errorbar(x, y, xerr=bars, label=name, **how)
        axes.set_xlabel(label)
        axes.set_ylim(len(table) - 0.5, -0.5)
        axes.set_yticks(range(len(table)), [plot(r["attack"]) if k == 0 else "" for r in table])
        axes.grid(axis="x", alpha=0.25, lw=0.5)
        if k == 0:
            axes.set_xlim(-3, 103)
            axes.legend(loc="lower left", frameon=False)
    return figure


def rates(records: Sequence[Record]) -> Figure | None:
    """Attack success rate and restoration of every row with 95 % intervals: one panel an attack.
    None for more than a page holds."""
    by_attack: dict[str, list[dict[str, Any]]] = {}
    table = rows(records)
    for row in [] if attacks_alone(table) else table:
        if row.get(LEAD) is not None and row.get("asr") is not None:
            by_attack.setdefault(row["attack"], []).append(row)
    if not by_attack:
        return None
    columns = min(3, len(by_attack))
    lines = -(-len(by_attack) // columns)
    defenses = sorted(
        dict.fromkeys(r["defense"] for found in by_attack.values() for r in found),
        key=lambda d: d != "none",
    )
    height = lines * (0.55 + 0.19 * len(defenses)) + 0.3
    if height > PAGE:
        return None
    figure = new_figure(TEXT if columns > 1 else COLUMN, height)
    for k, (attack, found) in enumerate(by_attack.items()):
        axes = figure.add_subplot(lines, columns, k + 1)
        _rates_of_attack(axes, found, defenses)
        axes.set_title(plot(attack))
        names = [plot(d) if k % columns == 0 else "" for d in defenses]
        axes.set_yticks(range(len(defenses)), names)
        if k + columns >= len(by_attack):
            axes.set_xlabel("% of triggered pictures")
    handles, names = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=2, frameon=False)
    return figure


def _rates_of_attack(
    axes: Axes, found: Sequence[Mapping[str, Any]], defenses: Sequence[str]
) -> None:
    series = (("asr", "ASR", COLORS[1], "v", -0.12), (LEAD, "Restored", COLORS[2], "o", 0.12))
    for metric, name, color, marker, shift in series:
        x, bars = _bars(found, metric)
        y = [defenses.index(r["defense"]) + shift for r in found]
        axes.errorbar(x, y, xerr=bars, fmt=marker, color=color, ms=3, lw=0.8, label=name)
    axes.set_xlim(-3, 103)
    axes.set_ylim(len(defenses) - 0.5, -0.5)
    axes.grid(axis="x", alpha=0.25, lw=0.5)
