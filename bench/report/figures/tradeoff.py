"""Restoration against quality and cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from t2i_backdoor_bench.contract import Record
from t2i_backdoor_bench.report.figures.style import COLORS, COLUMN, MARKERS, TEXT, new_figure
from t2i_backdoor_bench.report.formats.escape import plot
from t2i_backdoor_bench.report.metrics import LEAD
from t2i_backdoor_bench.report.ranking import Summary, summaries
from t2i_backdoor_bench.stats.estimates import Estimate

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


AXES = {
    "fid_change": "Change of FID of clean prompts, %",
    "fid": "FID of clean prompts",
    "seconds": "Seconds of the defense",
}


def tradeoff(records: Sequence[Record]) -> Figure | None:
    """Restoration against what FID does and against seconds, means over attacks, with 95 %
    intervals where there are several seeds. FID is against the undefended model's, seed by seed;
    where that has none, it is itself."""
    table = [
        s
        for s in summaries(records)
        if s.defense != "none" and LEAD in s.means and s.done == s.attacks
    ]
    fid = "fid_change" if any("fid_change" in s.means for s in table) else "fid"
    panels = [m for m in (fid, "seconds") if any(_drawable(s.means.get(m), m) for s in table)]
    if not panels:
        return None
    many = len(table) > len(MARKERS)  # more than there are marks that can be told apart
    height = 2.5 + (0.14 * len(table) / 3 if many else 0)
    figure = new_figure(TEXT if len(panels) == 2 else COLUMN, height)
    for k, metric in enumerate(panels):
        axes = figure.add_subplot(1, len(panels), k + 1)
        _panel(axes, table, metric, many)
    handles, names = figure.axes[0].get_legend_handles_labels()
    columns = min(3 if many else 4, len(names))
    figure.legend(handles, names, loc="outside lower center", ncols=columns, frameon=False)
    return figure


def _drawable(found: Estimate | None, metric: str) -> bool:
    return found is not None and (found.value > 0 or metric == "fid_change")


def _panel(axes: Axes, table: Sequence[Summary], metric: str, many: bool) -> None:
    """One point a defense; numbered where there are `many`."""
    needs, points = list(dict.fromkeys(s.needs for s in table)), {}
    factor = 100 if metric == "fid_change" else 1
    for i, s in enumerate(table):
        x, y = s.means.get(metric), s.means[LEAD]
        if not _drawable(x, metric):
            continue
        color = COLORS[needs.index(s.needs) % len(COLORS)]
        label, style = (
            (f"{i + 1} {plot(s.defense)}", "o") if many else (plot(s.defense), MARKERS[i])
        )
        at, how = (factor * x.value, 100 * y.value), {"ms": 4, "lw": 0.8, "label": label}
        axes.errorbar(*at, fmt=style, color=color, **how, **_bars(x, y, metric, factor))
        if many:
            points[i + 1] = at
    axes.set_ylabel("Restored, %")
    axes.set_xlabel(AXES[metric])
    if metric == "seconds":
        _log_scale(axes)
    write_numbers(axes, points)
    axes.grid(alpha=0.25, lw=0.5)


def _bars(x: Estimate, y: Estimate, metric: str, factor: float) -> dict[str, list[list[float]]]:
    """The intervals as matplotlib takes them; none reaches below what the axis can show."""
    least = {"fid_change": -np.inf, "fid": 0}.get(metric, 1e-3)
    bars = {}
    if y.low is not None:
        bars["yerr"] = [[100 * (y.value - y.low)], [100 * (y.high - y.value)]]
    if x.low is not None:
        low = max(0, x.value - max(x.low, least))
        bars["xerr"] = [[factor * low], [factor * (x.high - x.value)]]
    return bars


def _log_scale(axes: Axes) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.set_xscale("log")
    low, high = axes.get_xlim()
    plain = FuncFormatter(lambda v, _: f"{v:g}")
    axes.xaxis.set_major_formatter(plain)
    axes.xaxis.set_minor_locator(LogLocator(subs=(2, 5)))
    axes.xaxis.set_minor_formatter(plain if high < 100 * low else NullFormatter())


def write_numbers(axes: Axes, points: Mapping[int, tuple[float, float]], near: float = 8) -> None:
    """Write the number of each of `points` (data coordinates) beside it; where others lie within
    `near` (1/72 inch) of it, theirs, too."""
    axes.get_xlim(), axes.get_ylim()  # brings the limits, and so transData, up to the data
    groups: list[tuple[np.ndarray, tuple[float, float], list[int]]] = []
    for i, point in points.items():
        at = axes.transData.transform(point) * 72 / axes.figure.dpi
        group = next(
            (numbers for first, _, numbers in groups if np.hypot(*(at - first)) < near), None
        )
        if group is None:
            groups.append((at, point, [i]))
        else:
            group.append(i)
    for _, point, numbers in groups:
        axes.annotate(
            ", ".join(map(str, numbers)), point, (3, 2), textcoords="offset points", fontsize=5
        )
