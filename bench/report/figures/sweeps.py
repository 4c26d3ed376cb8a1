"""Line plots of sweeps: every metric against the values of a swept option."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from t2i_backdoor_bench.contract import Record, UserError
from t2i_backdoor_bench.contract.names import label, parts_of, read
from t2i_backdoor_bench.report.figures.style import MARKERS
from t2i_backdoor_bench.report.formats import escape
from t2i_backdoor_bench.report.main_table import heading
from t2i_backdoor_bench.report.metrics import Reading, shown_in
from t2i_backdoor_bench.report.rows import rows
from t2i_backdoor_bench.report.table import Column
from t2i_backdoor_bench.store.atomic import write_atomic
from t2i_backdoor_bench.store.folder import Store

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# behind the name of several attacks in one model: which of them a row judges
WHICH = re.compile(r"#\d+$")
WIDE = 50  # the largest value over the smallest, from which an axis is logarithmic
Options = dict[str, str]
Point = tuple[str, Mapping[str, Any]]  # a value of the option, and the row of the table that has it


def swept(name: str) -> dict[str, str]:
    """The options that a variant's name holds, {"skdcag.alpha": "0.5"}."""
    found = {}
    for method, options in map(_read_stored, parts_of(WHICH.sub("", name))):
        found |= {f"{method}.{key}": value for key, value in options.items()}
    return found


def _read_stored(part: str) -> tuple[str, Options]:
    """The method and options of a name that a record holds, which may be none that this program
    wrote."""
    try:
        return read(part)
    except UserError:
        return part, {}


def lines_of(table: Sequence[Mapping[str, Any]], option: str) -> dict[str, list[Point]]:
    """The rows of the table that sweep `option`, as lines of (value, row): one line for each attack
    and for what else varies."""
    found: dict[str, list[Point]] = {}
    for row in table:
        values = swept(row["attack"]) | swept(row["defense"])
        if option not in values:
            continue
        method, key = option.rsplit(".", 1)
        names = [without(row[kind], method, key) for kind in ("attack", "defense")]
        found.setdefault(" × ".join(names), []).append((values[option], row))
    return found


def without(name: str, method: str, key: str) -> str:
    """The name of a variant without one option: "skdcag[alpha=0.5]" without alpha is "skdcag"."""
    parts, mark = [], WHICH.search(name)
    for part in parts_of(WHICH.sub("", name)):
        bare, own = _read_stored(part)
        parts.append(label(bare, {k: v for k, v in own.items() if (bare, k) != (method, key)}))
    return "+".join(parts) + (mark[0] if mark else "")


def figures_of(table: Sequence[Mapping[str, Any]]) -> dict[str, tuple[str, dict[str, list[Point]]]]:
    """The figures of a table: what stands on the horizontal axis and the lines, by the end of the
    file's name. Each swept option has one; but one that several defenses have, such as "steps", has
    one for each attack, with a line for each defense."""
    options = dict.fromkeys(o for r in table for o in swept(r["attack"]) | swept(r["defense"]))
    keys = [
        o.rsplit(".", 1)[1] for o in dict.fromkeys(o for r in table for o in swept(r["defense"]))
    ]
    found, shared = {}, {key for key in keys if keys.count(key) > 1}
    for option in options:
        key = option.rsplit(".", 1)[1]
        lines = lines_of(table, option)
        if key not in shared or any(option in swept(r["attack"]) for r in table):
            found[option] = option, lines
            continue
        for name, line in lines.items():
            attack, _, defense = name.partition(" × ")
            found.setdefault(f"{key}-{attack}", (f"{key}, against {attack}", {}))[1][defense] = line
    return found


def drawn_of(
    records: Sequence[Record],
) -> dict[str, tuple[str, dict[str, list[Point]], list[Reading]]]:
    """Of `figures_of` those with two values or more, each with the metrics that it has."""
    ways, found = shown_in("sweep", records), {}
    for name, (option, series) in figures_of(rows(records)).items():
        points = [point for line in series.values() for point in line]
        measured = [w for w in ways if any(row.get(w.name) is not None for _, row in points)]
        if measured and len({v for v, _ in points}) > 1:
            found[name] = option, series, measured
    return found


def places(values: Sequence[str]) -> dict[str, float]:
    """Where each value stands: numbers at themselves, unless they are far apart; else in a row."""
    found = [number(v) for v in values]
    if None in found or wide(found):
        return {v: i for i, v in enumerate(values)}
    return dict(zip(values, found, strict=True))


def write_plots(store: Store, records: Sequence[Record]) -> list[Path]:
    """The figures of a run's sweeps, sweep-NAME.png (`figures_of`): every metric against the values
    of an option, with 95 % intervals."""
    paths = []
    for name, (option, series, ways) in drawn_of(records).items():
        figure = plot(option, series, [(way, heading(records, way)) for way in ways])
        path = store.path(f"sweep-{escape.filename(name)}.png")
        write_atomic(
            path, lambda partial, figure=figure: figure.savefig(partial, dpi=150, format="png")
        )
        paths.append(path)
    for path in store.files("", ".png"):  # of what the records have nothing for any more
        if path.name.startswith("sweep-") and path not in paths:
            path.unlink(missing_ok=True)
    return paths


def plot(
    option: str, series: Mapping[str, Sequence[Point]], panels: Sequence[tuple[Reading, Column]]
) -> Figure:
    """One panel a metric, one line a series."""
    from matplotlib.figure import Figure

    columns = min(3, len(panels))
    height = -(-len(panels) // columns)
    figure = Figure(figsize=(4.2 * columns, 3.0 * height + 0.5), layout="constrained")
    values = list(dict.fromkeys(v for line in series.values() for v, _ in line))
    numeric = all(number(v) is not None for v in values)
    place = {v: number(v) if numeric else i for i, v in enumerate(values)}
    for k, (way, column) in enumerate(panels):
        axes = figure.add_subplot(height, columns, k + 1)
        for i, (name, line) in enumerate(series.items()):
            points = [(place[v], row) for v, row in line if row.get(way.name) is not None]
            if points:
                beside = 3.5 * (i - (len(series) - 1) / 2)
                _line(axes, sorted(points, key=lambda p: p[0]), way, MARKERS[i % 8], name, beside)
        unit = f" {column.unit}" if column.unit else ""
        arrow = {"higher": " ↑", "lower": " ↓"}.get(column.better, "")
        axes.set_title(f"{escape.plot(column.title)}{unit}{arrow}", fontsize=10)
        axes.set_xlabel(escape.plot(option), fontsize=9)
        axes.tick_params(labelsize=8)
        axes.grid(alpha=0.25)
        if numeric and wide(list(place.values())):  # 0 has a place, too
            least = min(v for v in place.values() if v)
            axes.set_xscale("symlog", linthresh=least, linscale=0.3)
            axes.set_xticks(list(place.values()), [escape.plot(v) for v in values])
            axes.set_xticks([], minor=True)
        if not numeric:
            axes.set_xticks(list(place.values()), [escape.plot(v) for v in values])
    handles, names = figure.axes[0].get_legend_handles_labels()
    style = {"ncols": min(3, len(names)), "fontsize": 8, "frameon": False}
    figure.legend(handles, names, loc="outside lower center", **style)
    return figure


def _line(
    axes: Axes,
    points: Sequence[tuple[float, Mapping[str, Any]]],
    way: Reading,
    marker: str,
    name: str,
    beside: float,
) -> None:
    """One line with its intervals, `beside` points to the right, so that lines do not cover each
    other's intervals."""
    from matplotlib.transforms import ScaledTranslation

    factor = 100 if way.percent else 1
    x, y = [p for p, _ in points], [factor * row[way.name] for _, row in points]
    ends = [(row.get(f"{way.name}_lo"), row.get(f"{way.name}_hi")) for _, row in points]
    below = [0 if lo is None else max(0, v - factor * lo) for v, (lo, _) in zip(y, ends)]
    above = [0 if hi is None else max(0, factor * hi - v) for v, (_, hi) in zip(y, ends)]
    style = {"marker": marker, "ms": 4, "lw": 1.2, "capsize": 2}
    drawn = axes.errorbar(x, y, [below, above], label=escape.plot(name), **style)
    shift = ScaledTranslation(beside / 72, 0, axes.figure.dpi_scale_trans)
    for part in (drawn[0], *drawn[1], *drawn[2]):
        part.set_transform(axes.transData + shift)


def wide(places: Sequence[float]) -> bool:
    """Whether values from 0 up are so far apart that a line of equal steps would hide the small
    ones."""
    some = [v for v in places if v]
    return min(places) >= 0 and len(some) > 1 and max(some) / min(some) >= WIDE


def number(text: str) -> float | None:
    """The number that a value of an option is, if it is one."""
    try:
        return float(text)
    except ValueError:
        return None
