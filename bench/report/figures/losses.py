"""The training losses of each method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from t2i_backdoor_bench.contract import Record
from t2i_backdoor_bench.report.figures.style import COLORS, TEXT, new_figure
from t2i_backdoor_bench.report.formats.escape import plot

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMNS, LINES = 4, 5  # of panels on a page
LETTERS = 23  # of a title in a line
FEW = 3  # runs, of which a middle half would say nothing


@dataclass
class Method:
    """The trainings of one method: its kind, its curves, and of how many attacks and seeds."""

    kind: str
    curves: list[Sequence[float]] = field(default_factory=list)
    attacks: set[str] = field(default_factory=set)
    seeds: set[int] = field(default_factory=set)

    def add(self, record: Record, values: Sequence[float]) -> None:
        self.curves.append(values)
        self.attacks.add(record.cell.attack)
        self.seeds.add(record.cell.seed)

    @property
    def of(self) -> str:
        """ "7 attacks, 3 seeds": what its curves are of."""
        many = [(len(self.attacks), "attack")] if self.kind == "defense" else []
        many += [(len(self.seeds), "seed")]
        return ", ".join(f"{n} {word}{'' if n == 1 else 's'}" for n, word in many)


def methods(records: Sequence[Record]) -> dict[str, Method]:
    """Every method that was trained, attacks first. Where a chain of methods trains several, each
    is one."""
    attacks: dict[str, Method] = {}
    defenses: dict[str, Method] = {}
    seen: set[tuple[str, str, int]] = set()
    for record in records:
        cell, losses = record.cell, record.cost.get("losses") or {}
        for part, values in losses.items():
            name = f"{cell.defense}: {part}" if len(losses) > 1 else cell.defense
            if len(values):
                defenses.setdefault(name, Method("defense")).add(record, values)
        own, key = record.cost.get("losses_attack"), (cell.base, cell.attack, cell.seed)
        if own and key not in seen:
            seen.add(key)
            attacks.setdefault(cell.attack, Method("attack")).add(record, own)
    return attacks | defenses


def summary(curves: Sequence[Sequence[float]]) -> tuple[np.ndarray, np.ndarray]:
    """Curves at equal shares of their training: (m,) shares in 0..1, and (5, m) the least, lower
    quartile, median, upper quartile and most of all curves there. m is the length of the longest;
    shorter ones are interpolated."""
    many = max(map(len, curves))
    places = (np.arange(many) + 0.5) / many
    rows = [np.interp(places, (np.arange(len(c)) + 0.5) / len(c), c) for c in curves]
    return places, np.quantile(np.array(rows), (0, 0.25, 0.5, 0.75, 1), axis=0)


def losses(records: Sequence[Record]) -> list[Figure]:
    """The training losses of each method over its share of the training, one panel a method: the
    median of its runs (of every attack and seed), and in bands their middle half and their whole
    range. One figure a page."""
    found, most = list(methods(records).items()), COLUMNS * LINES
    return [_page(dict(found[i : i + most])) for i in range(0, len(found), most)]


def _page(panels: Mapping[str, Method]) -> Figure:
    columns = min(COLUMNS, len(panels))
    lines = -(-len(panels) // columns)
    titles = {name: _title(name, method) for name, method in panels.items()}
    heads = [title.count("\n") for title in titles.values()]
    tall = sum(max(heads[i : i + columns]) for i in range(0, len(heads), columns))
    figure = new_figure(TEXT, 1.05 * lines + 0.12 * tall + 0.6)
    for k, (name, method) in enumerate(panels.items()):
        axes = figure.add_subplot(lines, columns, k + 1)
        _panel(axes, method)
        axes.set_title(titles[name], fontsize=7)
        axes.set_xlim(0, 1)
        axes.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
        if k + columns < len(panels):
            axes.tick_params(labelbottom=False)
    figure.supxlabel("share of the training", fontsize=8)
    figure.supylabel("loss", fontsize=8)
    figure.legend(handles=_key(panels), loc="outside upper center", ncols=5, frameon=False)
    return figure


def _panel(axes: Axes, method: Method) -> None:
    from matplotlib.ticker import NullFormatter

    color = COLORS[1] if method.kind == "attack" else COLORS[2]
    x, (low, lower, middle, upper, high) = summary(method.curves)
    if len(method.curves) > 1:
        axes.fill_between(x, low, high, color=color, alpha=0.18, lw=0)
    if len(method.curves) > FEW:
        axes.fill_between(x, lower, upper, color=color, alpha=0.35, lw=0)
    axes.plot(x, middle, color=color, lw=0.9)
    if low.min() > 0 and high.max() > 10 * low.min():
        axes.set_yscale("log")
        axes.yaxis.set_minor_formatter(NullFormatter())
    axes.grid(alpha=0.25, lw=0.5)


def _title(name: str, method: Method) -> str:
    """A name broken behind its plus signs and colons and before its options into lines that a panel
    holds, and what its curves are of."""
    out: list[str] = []
    broken = plot(name).replace("+", "+\n").replace(": ", ":\n").replace("[", "\n[")
    for piece in broken.split("\n"):
        if out and len(out[-1]) + len(piece) <= LETTERS:
            out[-1] += f" {piece}" if out[-1].endswith(":") else piece
        else:
            out.append(piece)
    return "\n".join([*out, f"({method.of})"])


def _key(panels: Mapping[str, Method]) -> list[Artist]:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    kinds = {m.kind for m in panels.values()}
    colors = {"attack": COLORS[1], "defense": COLORS[2]}
    out: list[Artist] = [
        Line2D([], [], color=c, lw=1.2, label=f"median, {k}")
        for k, c in colors.items()
        if k in kinds
    ]
    runs = max(len(m.curves) for m in panels.values())
    if runs > FEW:
        out.append(Patch(color="#555555", alpha=0.45, lw=0, label="middle half of the runs"))
    if runs > 1:
        out.append(Patch(color="#555555", alpha=0.18, lw=0, label="all runs"))
    return out
