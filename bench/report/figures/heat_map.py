"""A metric of every defense (rows) against every attack (columns) as a heat map."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from t2i_backdoor_bench.contract import Record
from t2i_backdoor_bench.report.figures.style import (
    BAD_TO_GOOD,
    GREYED,
    LESS_TO_MORE,
    TEXT,
    ink,
    new_figure,
)
from t2i_backdoor_bench.report.formats.escape import plot
from t2i_backdoor_bench.report.matrix import Matrix
from t2i_backdoor_bench.report.numbers import DASH
from t2i_backdoor_bench.report.resolution import decimals
from t2i_backdoor_bench.report.took_hold import took_hold

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

ROW = 0.2  # inches


def heat_map(matrix: Matrix, records: Sequence[Record]) -> Figure:
    """The matrix in colours, with its numbers and a key. Attacks that did not take hold are grey:
    their values say nothing of a defense."""
    reasons = {a: why for a, why in took_hold(records).items() if why and a in matrix.attacks}
    height = 1.1 + ROW * len(matrix.defenses) + 0.14 * len(reasons)
    figure = new_figure(min(TEXT, 2.4 + 0.6 * len(matrix.attacks)), height)
    axes = figure.add_subplot()
    image = _tiles(axes, matrix, list(reasons))
    _numbers(axes, matrix, image, decimals(records, matrix.way.name), list(reasons))
    axes.set_xticks(
        range(len(matrix.attacks)),
        [plot(a) for a in matrix.attacks],
        rotation=40,
        ha="right",
        rotation_mode="anchor",
    )
    axes.set_yticks(range(len(matrix.defenses)), [plot(d) for d in matrix.defenses])
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    better = {"higher": " (higher is better)", "lower": " (lower is better)"}
    title = plot(matrix.title) + better.get(matrix.way.better, "")
    bar = figure.colorbar(image, ax=axes, aspect=18, shrink=min(1, 1.6 / height), anchor=(0, 1))
    bar.outline.set_visible(False)
    bar.ax.tick_params(length=2)
    axes.set_title(title)
    if reasons:
        words = [plot(f"{attack}: {why}") for attack, why in reasons.items()]
        _grey_key(figure, "\n".join(["did not take hold, says nothing of a defense", *words]))
    return figure


def colours(better: str) -> Colormap:
    """Bad to good, whichever way that is; shades of one colour where neither end is better."""
    from matplotlib.colors import LinearSegmentedColormap

    ways = {"higher": BAD_TO_GOOD, "lower": BAD_TO_GOOD[::-1]}
    return LinearSegmentedColormap.from_list("values", ways.get(better, LESS_TO_MORE))


def _tiles(axes: Axes, matrix: Matrix, grey: Sequence[str]) -> AxesImage:
    held = [j for j, attack in enumerate(matrix.attacks) if attack not in grey]
    values = matrix.values[:, held]
    found = values[np.isfinite(values)]
    low, high = min(0, found.min(initial=0)), max(1e-9, found.max(initial=0))
    image = axes.imshow(
        matrix.values,
        vmin=0 if matrix.way.percent and low >= 0 else low,
        vmax=100 if matrix.way.percent else high,
        cmap=colours(matrix.way.better),
        aspect="auto",
    )
    for j, attack in enumerate(matrix.attacks):
        if attack in grey:
            at = {"ymin": 0, "ymax": 1, "lw": 0, "hatch": "/////"}
            axes.axvspan(j - 0.5, j + 0.5, facecolor=GREYED, edgecolor="#bdbdbd", **at)
    axes.set_xticks(np.arange(len(matrix.attacks) + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(len(matrix.defenses) + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="white", lw=0.6)
    axes.tick_params(which="minor", length=0)
    return image


def _numbers(
    axes: Axes, matrix: Matrix, image: AxesImage, digits: int, grey: Sequence[str]
) -> None:
    for i, j in np.ndindex(matrix.values.shape):
        v = matrix.values[i, j]
        text = DASH if np.isnan(v) else f"{v:.{digits}f}" if matrix.way.percent else matrix.text(v)
        back = image.cmap(image.norm(v))[:3] if np.isfinite(v) else (1.0, 1.0, 1.0)
        color = "#555555" if matrix.attacks[j] in grey else ink(back)
        axes.text(j, i, text, ha="center", va="center", fontsize=7, color=color)


def _grey_key(figure: Figure, text: str) -> None:
    from matplotlib.patches import Patch

    patch = Patch(facecolor=GREYED, edgecolor="#bdbdbd", hatch="/////", lw=0, label=text)
    figure.legend(handles=[patch], loc="outside lower left", frameon=False)
