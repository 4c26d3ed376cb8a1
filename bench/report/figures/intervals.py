"""Shares of every attack and defense with their 95 % intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from t2i_backdoor_bench.contract import Record
from t2i_backdoor_bench.report.figures.style import COLORS, COLUMN, PAGE, TEXT, new_figure
from t2i_backdoor_bench.report.formats.escape import plot
from t2i_backdoor_bench.report.main_table import attacks_alone
from t2i_backdoor_bench.report.metrics import LEAD
from t2i_backdoor_bench.report.rows import rows
from t2i_backdoor_bench.report.took_hold import took_hold

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


Bars = list[list[float]]
# metric, name, colour and marker: together all triggered pictures, where residue is measured
SERIES = (
    ("asr", "ASR (backdoored)", COLORS[1], "v"),
    ("residue", "Residue", COLORS[3], "D"),
    (LEAD, "Restored", COLORS[2], "o"),
)
NEAR = 0.5  # percent from an end, within which the axis is even; further away it is logarithmic
TICKS = (0, 1, 5, 20, 50, 80, 95, 99, 100)
AXIS = "% of triggered pictures (an axis that widens toward 0 and 100)"


def toward_ends(percent: np.ndarray) -> np.ndarray:
    """Places on an axis that widens toward 0 and 100 alike and holds both: logarithmic in the
    distance to the nearer end, even within `NEAR` of it (asinh)."""
    percent = np.asarray(percent, np.float64)
    return np.arcsinh(percent / NEAR) - np.arcsinh((100 - percent) / NEAR)


def from_ends(places: np.ndarray) -> np.ndarray:
    """The inverse of `toward_ends` for 0..100, within 1e-3; at the ends outside."""
    percent = from_table()
    return np.interp(places, toward_ends(percent), percent)


@cache
def from_table() -> np.ndarray:
    """Percents, denser toward 0 and 100."""
    return 50 - 50 * np.cos(np.linspace(0, np.pi, 20001))


def _bars(rows: Sequence[Mapping[str, Any]], metric: str) -> tuple[list[float], Bars]:
    """A metric, shares in percent, and the lengths of its intervals to both sides."""
    unit = 1 if metric == "kid_added" else 100
    values = [unit * r[metric] for r in rows]
    ends = [(r.get(f"{metric}_lo"), r.get(f"{metric}_hi")) for r in rows]
    below = [0 if lo is None else max(0, v - unit * lo) for v, (lo, _) in zip(values, ends)]
    above = [0 if hi is None else max(0, unit * hi - v) for v, (_, hi) in zip(values, ends)]
    return values, [below, above]


def attacks(records: Sequence[Record]) -> Figure | None:
    """Of a run without defenses: each attack's success, on captions and at its own protocol, and
    what it adds to KID."""
    table = rows(records)
    if not attacks_alone(table) or all(r.get("asr") is None for r in table):
        return None
    figure = new_figure(TEXT, 0.7 + 0.2 * len(table))
    panels = {"% of triggered pictures": {"asr": "on captions", "asr_own": "own protocol"}}
    old = any(r.get("fid_added") is not None for r in table)  # of the first protocol
    panels |= {"FID added, %": {"fid_added": ""}} if old else {"KID added": {"kid_added": ""}}
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
    """What becomes of the triggered pictures of every row, with 95 % intervals: one panel an
    attack. None for more than a page holds."""
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
    height = lines * (0.5 + 0.19 * len(defenses)) + 0.6
    if height > PAGE:
        return None
    figure, weak = new_figure(TEXT if columns > 1 else COLUMN, height), took_hold(records)
    for k, (attack, found) in enumerate(by_attack.items()):
        axes = figure.add_subplot(lines, columns, k + 1)
        _rates_of_attack(axes, found, defenses, bool(weak[attack]))
        why = f"\n(did not take hold: {weak[attack]})" if weak[attack] else ""
        axes.set_title(plot(attack) + why, color="#555555" if why else "black")
        names = [plot(d) if k % columns == 0 else "" for d in defenses]
        axes.set_yticks(range(len(defenses)), names)
        if k + columns < len(by_attack):
            axes.tick_params(labelbottom=False)
    figure.supxlabel(AXIS if columns > 1 else AXIS.replace(" (", "\n("), fontsize=8)
    handles, names = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper center", ncols=3, frameon=False)
    return figure


def _rates_of_attack(
    axes: Axes, found: Sequence[Mapping[str, Any]], defenses: Sequence[str], faint: bool
) -> None:
    series = [s for s in SERIES if any(r.get(s[0]) is not None for r in found)]
    for j, (metric, name, color, marker) in enumerate(series):
        drawn = [r for r in found if r.get(metric) is not None]
        x, bars = _bars(drawn, metric)
        shift = 0.24 * (j - (len(series) - 1) / 2)
        y = [defenses.index(r["defense"]) + shift for r in drawn]
        how = {"ms": 3, "lw": 0.8, "label": name, "alpha": 0.35 if faint else 1}
        axes.errorbar(x, y, xerr=bars, fmt=marker, color=color, clip_on=False, **how)
    axes.set_xscale("function", functions=(toward_ends, from_ends))
    axes.set_xlim(0, 100)
    axes.set_xticks(TICKS, map(str, TICKS))
    axes.set_ylim(len(defenses) - 0.5, -0.5)
    axes.grid(axis="x", alpha=0.3, lw=0.5)
    for row in range(1, len(defenses), 2):
        axes.axhspan(row - 0.5, row + 0.5, color="#f3f3f3", lw=0, zorder=0)
