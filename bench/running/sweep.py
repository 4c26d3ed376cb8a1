"""Sweeps: one method with several values of an option, each a row of its own, and their line
plots."""

from __future__ import annotations

import itertools
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from t2i_backdoor_bench.contract import Record, UserError, suggest
from t2i_backdoor_bench.contract import printable as plaintext
from t2i_backdoor_bench.contract.names import label, parts_of, read
from t2i_backdoor_bench.report import rows as tables
from t2i_backdoor_bench.store.folder import Store, write_atomic

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MARK = re.compile(
    r"#\d+$"
)  # behind the name of several attacks in one model: which of them a row judges
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


def parse(
    texts: Sequence[str], used: Collection[str], fixed: Mapping[str, Options]
) -> dict[str, list[Options]]:
    """ "name.option=v1,v2" to {name: [{option: v1}, {option: v2}]}; several options of one method
    are crossed. Raises UserError."""
    found: dict[str, dict[str, list[str]]] = {}
    for text in texts:
        target, equals, listed = text.partition("=")
        name, dot, key = target.strip().rpartition(".")
        values = list(dict.fromkeys(v.strip() for v in listed.split(",") if v.strip()))
        if not (equals and dot and name and key and values):
            raise UserError(
                f"--sweep {text!r} is not of the form name.option=value,value, such as"
                " skdcag.alpha=0,0.5,1"
            )
        if name not in used:
            raise UserError(
                f"--sweep {text}: {name!r} is not in this run; {suggest(name, used, 'in this run')}"
            )
        if key in fixed.get(name, {}) or key in found.get(name, {}):
            raise UserError(
                f"--sweep {text}: {name}.{key} is set twice; give it to --sweep or to --set, once"
            )
        found.setdefault(name, {})[key] = values
    return {
        n: [dict(zip(o, values, strict=True)) for values in itertools.product(*o.values())]
        for n, o in found.items()
    }


def expand(
    name: str, sweeps: Mapping[str, Sequence[Options]]
) -> dict[str, list[tuple[str, Options]]]:
    """A method, a variant or a composition to its variants: {"a[alpha=0.5]+b": [("a", {"alpha":
    "0.5"}), ("b", {})]}. Raises UserError where the name gives an option that is swept."""
    choices = []
    for method, own in map(read, parts_of(name)):
        options = sweeps.get(method, [{}])
        if twice := set(own) & set(options[0]):
            raise UserError(
                f"{name}: {method}.{min(twice)} is set in the name and by --sweep; set it once"
            )
        choices.append([(method, own | more) for more in options])
    return {
        "+".join(label(*part) for part in parts): list(parts)
        for parts in itertools.product(*choices)
    }


def swept(name: str) -> dict[str, str]:
    """The options that a variant's name holds, {"skdcag.alpha": "0.5"}."""
    found = {}
    for method, options in map(_read_stored, parts_of(MARK.sub("", name))):
        found |= {f"{method}.{key}": value for key, value in options.items()}
    return found


def _read_stored(part: str) -> tuple[str, Options]:
    """The method and options of a name that a record holds, which may be none that this program
    wrote."""
    try:
        return read(part)
    except UserError:
        return part, {}


def lines(table: Sequence[Mapping[str, Any]], option: str) -> dict[str, list[Point]]:
    """The rows of the table that sweep `option`, as lines of (value, row): one line for each attack
    and for what else varies."""
    found: dict[str, list[Point]] = {}
    for row in table:
        values = swept(row["attack"]) | swept(row["defense"])
        if option not in values:
            continue
        method, key = option.rsplit(".", 1)
        names = [strip(row[kind], method, key) for kind in ("attack", "defense")]
        found.setdefault(" × ".join(names), []).append((values[option], row))
    return found


def strip(name: str, method: str, key: str) -> str:
    """The name of a variant without one option: "skdcag[alpha=0.5]" without alpha is "skdcag"."""
    parts, mark = [], MARK.search(name)
    for part in parts_of(MARK.sub("", name)):
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
        series = lines(table, option)
        metrics = [
            m
            for m in PANELS
            if any(row.get(m) is not None for line in series.values() for _, row in line)
        ]
        if not metrics or len({v for line in series.values() for v, _ in line}) < 2:
            continue
        figure = plot(option, series, metrics, records)
        path = store.root / f"sweep-{plaintext.filename(option)}.png"
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
            shown = plaintext.plot(name)
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
        axes.set_xlabel(plaintext.plot(option), fontsize=9)
        axes.tick_params(labelsize=8)
        axes.grid(alpha=0.25)
        if not numeric:
            axes.set_xticks(list(place.values()), [plaintext.plot(v) for v in values])
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
