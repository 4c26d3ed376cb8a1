"""Restoration against quality and cost."""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import fill
from typing import TYPE_CHECKING

import numpy as np

from t2i_backdoor_bench.contract import Record
from t2i_backdoor_bench.report.figures.labels import Line, write_labels
from t2i_backdoor_bench.report.figures.style import COLORS, COLUMN, MARKERS, TEXT, new_figure
from t2i_backdoor_bench.report.findings import given
from t2i_backdoor_bench.report.formats.escape import plot
from t2i_backdoor_bench.report.metrics import LEAD
from t2i_backdoor_bench.report.places import MARGIN
from t2i_backdoor_bench.report.ranking import Summary, summaries
from t2i_backdoor_bench.stats.estimates import Estimate

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


AXES = {
    "kid_change": "change of KID of clean prompts",
    "fid_change": "change of FID of clean prompts, %",
    "fid": "FID of clean prompts",
    "seconds": "seconds of the defense",
}
WIDE = 36  # letters of a text of the key, up to which three columns fit
NOT_DRAWN = f"Not drawn, as at most {100 * MARGIN:.0f} points better than no defense"
SIGNED = ("kid_change", "fid_change")  # the second is of the first protocol
EVEN = 10  # percent of change, up to which an axis of large changes is even
LETTERS = 115  # of a line across the page


def compared(records: Sequence[Record]) -> tuple[list[Summary], list[Summary]]:
    """The defenses that are done on every attack: those to draw, and those that restore hardly more
    than the undefended model does without them."""
    every = [s for s in summaries(records) if LEAD in s.means and s.done == s.attacks]
    table = [s for s in every if s.defense != "none"]
    idle = [s for s in table if s.over_none is not None and s.over_none.value <= MARGIN]
    return [s for s in table if s not in idle], idle


def axes_of(table: Sequence[Summary]) -> tuple[str, str]:
    """The metrics that restoration is drawn against: one of quality, and the cost."""
    quality = next((m for m in SIGNED if any(m in s.means for s in table)), "fid")
    return quality, "seconds"


def tradeoff(records: Sequence[Record]) -> Figure | None:
    """Restoration against what KID does and against seconds, means over attacks, with 95 %
    intervals where there are several seeds. KID is against the undefended model's, pair by pair;
    records of the first protocol have the change of FID, or FID itself. A number beside each point,
    and a key of them; what is no better than doing nothing is named below."""
    table, left_out = compared(records)
    panels = [m for m in axes_of(table) if any(_drawable(s.means.get(m), m) for s in table)]
    if not panels:
        return None
    names = ", ".join(s.defense for s in left_out)
    note = fill(f"{NOT_DRAWN}: {names}", LETTERS * len(panels) // 2)
    groups = list(dict.fromkeys(s.needs for s in table))
    columns = 3 if len(panels) == 2 else 1  # of the key: a single panel is narrow
    lines = -(-(len(table) + len(groups)) // columns) + (note.count("\n") + 1 if left_out else 0)
    figure = new_figure(TEXT if len(panels) == 2 else COLUMN, 3.1 + 0.14 * lines)
    for k, metric in enumerate(panels):
        _panel(figure.add_subplot(1, len(panels), k + 1), table, groups, metric)
    title = plot(note).replace(r"\x0a", "\n") if left_out else ""
    _key(figure, table, groups, title, columns)
    figure.draw_without_rendering()  # the layout: labels are placed in it
    for axes, metric in zip(figure.axes, panels, strict=True):
        points = {str(i + 1): p for i, s in enumerate(table) if (p := _point(s, metric))}
        bars = [bar for s in table for bar in _ends(s, metric)]
        write_labels(axes, points, bars)
    return figure


def _drawable(found: Estimate | None, metric: str) -> bool:
    return found is not None and (found.value > 0 or metric in SIGNED)


def _point(s: Summary, metric: str) -> tuple[float, float] | None:
    x = s.means.get(metric)
    if not _drawable(x, metric):
        return None
    return (100 if metric == "fid_change" else 1) * x.value, 100 * s.means[LEAD].value


def _panel(axes: Axes, table: Sequence[Summary], groups: Sequence[str], metric: str) -> None:
    """One point a defense, in the colour and shape of what it is given."""
    for s in table:
        point, group = _point(s, metric), groups.index(s.needs)
        if point is None:
            continue
        how = {"color": COLORS[group % len(COLORS)], "ms": 4, "elinewidth": 0.7}
        bars = _bars(s.means[metric], s.means[LEAD], metric)
        how |= {"mec": "white", "mew": 0.3}
        drawn = axes.errorbar(*point, fmt=MARKERS[group % len(MARKERS)], **how, **bars)
        for line in drawn.lines[2]:
            line.set_alpha(0.45)
    axes.set_ylabel("Restored, %")
    axes.set_xlabel(AXES[metric])
    axes.margins(0.08)
    if metric == "seconds":
        _log_scale(axes)
    elif metric == "fid_change":
        _far_scale(axes, [100 * s.means[metric].value for s in table if metric in s.means])
    if metric in SIGNED:
        axes.axvline(0, color="#888888", lw=0.6, ls="--", zorder=0)
    axes.grid(alpha=0.25, lw=0.5)


def _bars(x: Estimate, y: Estimate, metric: str) -> dict[str, list[list[float]]]:
    """The intervals as matplotlib takes them; none reaches below what the axis can show."""
    least = {**dict.fromkeys(SIGNED, -np.inf), "fid": 0}.get(metric, 1e-3)
    factor, bars = 100 if metric == "fid_change" else 1, {}
    if y.low is not None:
        bars["yerr"] = [[100 * (y.value - y.low)], [100 * (y.high - y.value)]]
    if x.low is not None:
        low = max(0, x.value - max(x.low, least))
        bars["xerr"] = [[factor * low], [factor * (x.high - x.value)]]
    return bars


def _ends(s: Summary, metric: str) -> list[Line]:
    """The intervals of a point as lines."""
    point, found = _point(s, metric), []
    if point is not None:
        (x, y), bars = point, _bars(s.means[metric], s.means[LEAD], metric)
        if "xerr" in bars:
            (low,), (high,) = bars["xerr"]
            found.append(((x - low, y), (x + high, y)))
        if "yerr" in bars:
            (low,), (high,) = bars["yerr"]
            found.append(((x, y - low), (x, y + high)))
    return found


def _key(
    figure: Figure, table: Sequence[Summary], groups: Sequence[str], note: str, most: int
) -> None:
    """Which number is which defense, under what it is given, in at most `most` columns; the note
    above."""
    from matplotlib.lines import Line2D

    blank, heads, handles = {"ls": "", "label": " "}, [], []
    for k, needs in enumerate(groups):
        handles.append(Line2D([], [], ls="", label=given(needs).capitalize()))
        heads.append(handles[-1])
        look = {"marker": MARKERS[k % len(MARKERS)], "color": COLORS[k % len(COLORS)], "ms": 4}
        handles += [
            Line2D([], [], ls="", label=f"{i + 1}  {plot(s.defense)}", **look)
            for i, s in enumerate(table)
            if s.needs == needs
        ]
    wide = max(len(handle.get_label()) for handle in handles) > WIDE
    columns = min(most, 2 if wide else 3)
    for _ in heads:  # no head stands alone at the foot of a column
        feet = (
            np.cumsum([len(column) for column in np.array_split(range(len(handles)), columns)]) - 1
        )
        alone = next((i for i in feet[:-1] if i >= 0 and handles[i] in heads), None)
        if alone is not None:
            handles.insert(alone, Line2D([], [], **blank))
    place = {"loc": "outside lower center", "ncols": columns, "frameon": False}
    more = {"handletextpad": 0.2, "labelspacing": 0.25, "alignment": "left"}
    legend = figure.legend(handles=handles, title=note or None, title_fontsize=7, **place, **more)
    for handle, text in zip(handles, legend.get_texts(), strict=True):
        text.set_weight("bold" if handle in heads else "normal")


def _far_scale(axes: Axes, values: Sequence[float]) -> None:
    """Where some changes are far larger than most, an axis that is even to 10 % and logarithmic
    beyond."""
    from matplotlib.ticker import FuncFormatter, NullLocator

    if max(map(abs, values)) <= 5 * EVEN:
        return
    axes.set_xscale("symlog", linthresh=EVEN, linscale=1)
    low, high = axes.get_xlim()
    ticks = [t for t in (-100, -50, -20, -10, -5, 0, 5, 10, 20, 50, 100, 200, 500, 1000, 2000)
             if low <= t <= high]  # fmt: skip
    axes.set_xticks(ticks)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))


def _log_scale(axes: Axes) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.set_xscale("log")
    low, high = axes.get_xlim()
    plain = FuncFormatter(lambda v, _: f"{v:g}")
    axes.xaxis.set_major_formatter(plain)
    axes.xaxis.set_minor_locator(LogLocator(subs=(2, 5)))
    axes.xaxis.set_minor_formatter(plain if high < 100 * low else NullFormatter())
