"""The figures of a run as files for a paper, plots/NAME.png and .pdf: pure functions of the stored
records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from t2i_backdoor_bench.contract import Record
from t2i_backdoor_bench.contract.hashing import digest
from t2i_backdoor_bench.report import ranking as standings
from t2i_backdoor_bench.report import rows as tables
from t2i_backdoor_bench.report.formats.escape import plot
from t2i_backdoor_bench.report.matrix import Pivot, pivots
from t2i_backdoor_bench.report.ranking import LEAD
from t2i_backdoor_bench.store.atomic import write_atomic
from t2i_backdoor_bench.store.folder import Store
from t2i_backdoor_bench.store.provenance import source_digest

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MADE = "plots/made"  # of what, and which files
COLUMN, TEXT, PAGE = (
    3.3,
    6.9,
    9.5,
)  # inches: one column, the whole width and the height of a two-column page
COLORS = (
    "#2b5fab",
    "#b4511b",
    "#0f7a70",
    "#8a3d8f",
    "#6b6b00",
    "#a3264f",
)  # by needs; apart in gray and for colour-blind readers
BAD_TO_GOOD = ("#c96826", "#f6efe2", "#167a74")
MARKERS = "osD^vP*X"
STYLE = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "pdf.fonttype": 42,  # TrueType: some submission systems refuse the default
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def write_figures(store: Store, records: Sequence[Record]) -> list[Path]:
    """Write every figure that the records have something for; those that the same code drew of the
    same records are kept."""
    of = {"records": digest(records), "code": source_digest(), "matplotlib": version("matplotlib")}
    made = store.read_record(MADE)
    made = made if isinstance(made, dict) else {}
    before = [store.root / "plots" / Path(str(name)).name for name in made.get("files", [])]
    if made.get("of") == of and all(path.is_file() for path in before):
        return before
    import matplotlib  # drawing takes seconds

    makers = {"attacks": attacks, "tradeoff": tradeoff, "rates": rates, "losses": losses}
    makers |= {
        p.view.name: partial(lambda _, p: heat(p), p=p)
        for p in pivots(records)
        if p.view.name != "removal"
    }
    paths = []
    with matplotlib.rc_context(STYLE):
        for name, make in makers.items():
            figure = make(records)
            if figure is not None:
                paths += save(figure, store.root / "plots" / name)
    for path in set(before) - set(paths):  # of what the records have nothing for any more
        path.unlink(missing_ok=True)
    store.write_record(MADE, {"of": of, "files": [path.name for path in paths]})
    return paths


def save(figure: Figure, path: Path) -> list[Path]:
    """As PNG and as PDF, without the time in it, so that the same records give the same bytes."""
    for ending, more in (
        (".png", {"dpi": 300, "metadata": {"Software": None}}),
        (".pdf", {"metadata": {"CreationDate": None}}),
    ):
        write_atomic(
            path.with_suffix(ending),
            lambda partial, e=ending, m=more: figure.savefig(partial, format=e[1:], **m),
        )
    return [path.with_suffix(ending) for ending in (".png", ".pdf")]


def new(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


AXES = {
    "fid_change": "Change of FID of clean prompts, %",
    "fid": "FID of clean prompts",
    "seconds": "Seconds of the defense",
}


def tradeoff(records: Sequence[Record]) -> Figure | None:
    """Restoration against what FID does and against seconds, means over attacks, with 95 %
    intervals where there are several seeds. FID is against the undefended model's, seed by seed;
    where that has none, it is itself."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    table = [
        s
        for s in standings.standings(records)
        if s.defense != "none" and LEAD in s.means and s.done == s.attacks
    ]
    fid = "fid_change" if any("fid_change" in s.means for s in table) else "fid"
    panels = [
        m
        for m in (fid, "seconds")
        if any(m in s.means and (s.means[m].value > 0 or m == "fid_change") for s in table)
    ]
    if not panels:
        return None
    many, needs = len(table) > len(MARKERS), list(dict.fromkeys(s.needs for s in table))
    figure = new(TEXT if len(panels) == 2 else COLUMN, 2.5 + (0.14 * len(table) / 3 if many else 0))
    for k, metric in enumerate(panels):
        axes, points = figure.add_subplot(1, len(panels), k + 1), {}
        for i, s in enumerate(table):
            x, y = s.means.get(metric), s.means[LEAD]
            if x is None or (x.value <= 0 and metric != "fid_change"):
                continue
            factor, least = (
                (100, -np.inf) if metric == "fid_change" else (1, 0 if metric == "fid" else 1e-3)
            )
            color, bars = COLORS[needs.index(s.needs) % len(COLORS)], {}
            if y.low is not None:
                bars["yerr"] = [[100 * (y.value - y.low)], [100 * (y.high - y.value)]]
            if x.low is not None:
                bars["xerr"] = [
                    [factor * max(0, x.value - max(x.low, least))],
                    [factor * (x.high - x.value)],
                ]
            label, style = (
                (f"{i + 1} {plot(s.defense)}", "o") if many else (plot(s.defense), MARKERS[i])
            )
            axes.errorbar(
                factor * x.value,
                100 * y.value,
                fmt=style,
                color=color,
                ms=4,
                lw=0.8,
                label=label,
                **bars,
            )
            if many:  # more than there are marks that can be told apart
                points[i + 1] = (factor * x.value, 100 * y.value)
        axes.set_ylabel("Restored, %")
        axes.set_xlabel(AXES[metric])
        if metric == "seconds":
            axes.set_xscale("log")
            low, high = axes.get_xlim()
            axes.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
            axes.xaxis.set_minor_locator(LogLocator(subs=(2, 5)))
            axes.xaxis.set_minor_formatter(
                FuncFormatter(lambda v, _: f"{v:g}") if high < 100 * low else NullFormatter()
            )
        number(axes, points)
        axes.grid(alpha=0.25, lw=0.5)
    handles, names = figure.axes[0].get_legend_handles_labels()
    figure.legend(
        handles,
        names,
        loc="outside lower center",
        ncols=min(3 if many else 4, len(names)),
        frameon=False,
    )
    return figure


def number(axes: Axes, points: Mapping[int, tuple[float, float]], near: float = 8) -> None:
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


def attacks(records: Sequence[Record]) -> Figure | None:
    """Of a run without defenses: each attack's success, on captions and at its own protocol, and
    what it adds to FID."""
    rows = tables.rows(records)
    if not tables.attacks_alone(rows) or all(r.get("asr") is None for r in rows):
        return None
    figure = new(TEXT, 0.7 + 0.2 * len(rows))
    panels = {
        "% of triggered pictures": {"asr": "on captions", "asr_own": "own protocol"},
        "FID added, %": {"fid_added": "FID added"},
    }
    for k, (label, metrics) in enumerate(panels.items()):
        axes = figure.add_subplot(1, 2, k + 1)
        for j, (metric, name) in enumerate(metrics.items()):
            drawn = [(i, r) for i, r in enumerate(rows) if r.get(metric) is not None]
            x, (low, high) = (
                [100 * r[metric] for _, r in drawn],
                ([r.get(f"{metric}_{end}") for _, r in drawn] for end in ("lo", "hi")),
            )
            bars = [
                [0 if a is None else abs(v - 100 * a) for v, a in zip(x, ends, strict=True)]
                for ends in (low, high)
            ]
            y = [i + 0.15 * (2 * j + 1 - len(metrics)) for i, _ in drawn]
            axes.errorbar(
                x,
                y,
                xerr=bars,
                fmt="vod"[k + j],
                color=COLORS[(1, 0, 2)[k + j]],
                ms=3,
                lw=0.8,
                label=name,
            )
        axes.set_xlabel(label)
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_yticks(range(len(rows)), [plot(r["attack"]) if k == 0 else "" for r in rows])
        axes.grid(axis="x", alpha=0.25, lw=0.5)
        if k == 0:
            axes.set_xlim(-3, 103)
            axes.legend(loc="lower left", frameon=False)
    return figure


def heat(pivot: Pivot) -> Figure:
    """A metric of every defense (rows) against every attack (columns) as a heat map with its
    numbers."""
    from matplotlib.colors import LinearSegmentedColormap

    top, low = (100, 0) if pivot.percent else (1, 0)
    bad, neutral, good = BAD_TO_GOOD
    colors = (good, neutral, bad) if pivot.view.metric == "refusal_rate" else BAD_TO_GOOD
    figure = new(min(TEXT, 1.7 + 0.72 * len(pivot.attacks)), 0.9 + 0.24 * len(pivot.defenses))
    axes = figure.add_subplot()
    axes.imshow(
        pivot.values,
        vmin=low,
        vmax=top,
        cmap=LinearSegmentedColormap.from_list("bad to good", colors),
        aspect="auto",
    )
    for i, j in np.ndindex(pivot.values.shape):
        v = pivot.values[i, j]
        axes.text(
            j,
            i,
            pivot.text(v),
            ha="center",
            va="center",
            fontsize=7,
            color="white" if not 0.25 <= v / top <= 0.75 else "black",
        )
    axes.set_xticks(
        range(len(pivot.attacks)),
        [plot(a) for a in pivot.attacks],
        rotation=30,
        ha="right",
        rotation_mode="anchor",
    )
    axes.set_yticks(range(len(pivot.defenses)), [plot(d) for d in pivot.defenses])
    axes.set_title(pivot.view.title)
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    return figure


def rates(records: Sequence[Record]) -> Figure | None:
    """Attack success rate and restoration of every row with 95 % intervals: one panel an attack.
    None for more than a page holds."""
    by_attack: dict[str, list[dict[str, Any]]] = {}
    table = tables.rows(records)
    for row in [] if tables.attacks_alone(table) else table:
        if row.get(LEAD) is not None and row.get("asr") is not None:
            by_attack.setdefault(row["attack"], []).append(row)
    if not by_attack:
        return None
    columns = min(3, len(by_attack))
    lines = -(-len(by_attack) // columns)
    defenses = sorted(
        {r["defense"]: None for rows in by_attack.values() for r in rows}, key=lambda d: d != "none"
    )
    height = lines * (0.55 + 0.19 * len(defenses)) + 0.3
    if height > PAGE:
        return None
    figure = new(TEXT if columns > 1 else COLUMN, height)
    for k, (attack, rows) in enumerate(by_attack.items()):
        axes = figure.add_subplot(lines, columns, k + 1)
        for metric, color, marker, shift in (
            ("asr", COLORS[1], "v", -0.12),
            (LEAD, COLORS[2], "o", 0.12),
        ):
            x = [100 * r[metric] for r in rows]
            y = [defenses.index(r["defense"]) + shift for r in rows]
            ends = [(r.get(f"{metric}_lo"), r.get(f"{metric}_hi")) for r in rows]
            bars = [
                [
                    max(0, v - 100 * lo) if lo is not None else 0
                    for v, (lo, _) in zip(x, ends, strict=True)
                ]
            ]
            bars += [
                [
                    max(0, 100 * hi - v) if hi is not None else 0
                    for v, (_, hi) in zip(x, ends, strict=True)
                ]
            ]
            axes.errorbar(
                x,
                y,
                xerr=bars,
                fmt=marker,
                color=color,
                ms=3,
                lw=0.8,
                label="ASR" if metric == "asr" else "Restored",
            )
        axes.set_title(plot(attack))
        axes.set_xlim(-3, 103)
        axes.set_ylim(len(defenses) - 0.5, -0.5)
        axes.set_yticks(
            range(len(defenses)),
            [plot(d) for d in defenses] if k % columns == 0 else [""] * len(defenses),
        )
        axes.grid(axis="x", alpha=0.25, lw=0.5)
        if k + columns >= len(by_attack):
            axes.set_xlabel("% of triggered pictures")
    handles, names = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=2, frameon=False)
    return figure


def losses(records: Sequence[Record]) -> Figure | None:
    """The training losses of each method over its share of the training."""
    panels: dict[str, list[Sequence[float]]] = {}
    seen: set[tuple[str, str, int]] = set()
    for result in records:
        cell, cost = result.cell, result.cost
        found: Mapping[str, Sequence[float]] = {
            f"{cell.defense}: {k}" if "+" in cell.defense else cell.defense: v
            for k, v in (cost.get("losses") or {}).items()
        }
        for name, values in found.items():
            panels.setdefault(name, []).append(values)
        if cost.get("losses_attack") and (cell.base, cell.attack, cell.seed) not in seen:
            seen.add((cell.base, cell.attack, cell.seed))
            panels.setdefault(cell.attack, []).append(cost["losses_attack"])
    if not panels:
        return None
    columns = min(4, len(panels))
    lines = -(-len(panels) // columns)
    figure = new(TEXT, 1.4 * lines + 0.3)
    for k, (name, curves) in enumerate(panels.items()):
        axes = figure.add_subplot(lines, columns, k + 1)
        for values in curves:
            axes.plot((np.arange(len(values)) + 0.5) / len(values), values, lw=0.7, alpha=0.8)
        every = [v for values in curves for v in values]
        if min(every) > 0 and max(every) > 20 * min(every):
            axes.set_yscale("log")
        axes.set_title(
            plot(name).replace("+", "+\n").replace(": ", ":\n")
        )  # no wider than the panel
        axes.grid(alpha=0.25, lw=0.5)
    figure.supxlabel("share of the training", fontsize=8)
    figure.supylabel("loss", fontsize=8)
    return figure
