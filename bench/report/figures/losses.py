"""The training losses of each method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from t2i_backdoor_bench.contract import Record
from t2i_backdoor_bench.report.figures.style import TEXT, new_figure
from t2i_backdoor_bench.report.formats.escape import plot

if TYPE_CHECKING:
    from matplotlib.figure import Figure


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
    figure = new_figure(TEXT, 1.4 * lines + 0.3)
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
