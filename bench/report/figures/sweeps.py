"""Line plots of sweeps: every metric against the values of a swept option."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from t2i_backdoor_bench.contract import Record, UserError
from t2i_backdoor_bench.contract.names import label, parts_of, read
from t2i_backdoor_bench.report import rows as tables
from t2i_backdoor_bench.report.formats import escape
from t2i_backdoor_bench.store.atomic import write_atomic
from t2i_backdoor_bench.store.folder import Store

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# behind the name of several attacks in one model: which of them a row judges
WHICH = re.compile(r"#\d+$")
Options = dict[str, str]
Point = tuple[str, Mapping[str, Any]]  # a value of the option, and the row of the table that has it
PANELS = (
    "asr",
    "removal_accuracy",
    "restoration_accuracy",
    "false_trigger_rate",
    "fid",
    "clip_score",
)


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


def write_plots(store: Store, records: Sequence[Record]) -> list[Path]:
    """One figure for each swept option, sweep-NAME.OPTION.png: every metric against its values,
    with 95 % intervals."""
    table = tables.rows(records)
    options = list(
        dict.fromkeys(o for row in table for o in swept(row["attack"]) | swept(row["defense"]))
    )
    paths = []
    for option in options:
        series = lines_of(table, option)
        metrics = [
            m
            for m in PANELS
            if any(row.get(m) is not None for line in series.values() for _, row in line)
        ]
        if not metrics or len({v for line in series.values() for v, _ in line}) < 2:
            continue
        figure = plot(option, series, metrics, records)
        path = store.root / f"sweep-{escape.filename(option)}.png"
        write_atomic(
            path, lambda partial, figure=figure: figure.savefig(partial, dpi=150, format="png")
        )
        paths.append(path)
    return paths


def plot(
    option: str,
    series: Mapping[str, Sequence[Point]],
    metrics: Sequence[str],
    records: Sequence[Record],
) -> Figure:
    """One panel a metric, one line a series."""
    from matplotlib.figure import Figure

    columns = min(3, len(metrics))
    height = -(-len(metrics) // columns)
    figure = Figure(figsize=(4.2 * columns, 3.0 * height + 0.5), layout="constrained")
    values = list(dict.fromkeys(v for line in series.values() for v, _ in line))
    numeric = all(_number(v) is not None for v in values)
    place = {v: _number(v) if numeric else i for i, v in enumerate(values)}
    markers = "osD^vP*X"
    for k, metric in enumerate(metrics):
        axes = figure.add_subplot(height, columns, k + 1)
        way = tables.direction(records, metric)
        factor = 100 if way["percent"] else 1
        for i, (name, line) in enumerate(series.items()):
            shown = escape.plot(name)
            points = sorted(
                ((place[v], row) for v, row in line if row.get(metric) is not None),
                key=lambda p: p[0],
            )
            if not points:
                continue
            x, y = [p for p, _ in points], [factor * row[metric] for _, row in points]
            ends = [(row.get(f"{metric}_lo"), row.get(f"{metric}_hi")) for _, row in points]
            below = [
                v - factor * lo if lo is not None else 0 for v, (lo, _) in zip(y, ends, strict=True)
            ]
            above = [
                factor * hi - v if hi is not None else 0 for v, (_, hi) in zip(y, ends, strict=True)
            ]
            axes.errorbar(
                x,
                y,
                [[max(0, v) for v in below], [max(0, v) for v in above]],
                marker=markers[i % 8],
                ms=4,
                lw=1.2,
                capsize=2,
                label=shown,
            )
        axes.set_title(tables.heading(records, metric, " ↑", " ↓", " %"), fontsize=10)
        axes.set_xlabel(escape.plot(option), fontsize=9)
        axes.tick_params(labelsize=8)
        axes.grid(alpha=0.25)
        if not numeric:
            axes.set_xticks(list(place.values()), [escape.plot(v) for v in values])
    handles, names = figure.axes[0].get_legend_handles_labels()
    figure.legend(
        handles,
        names,
        loc="outside lower center",
        ncols=min(3, len(names)),
        fontsize=8,
        frameon=False,
    )
    return figure


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
