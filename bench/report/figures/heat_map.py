"""A metric of every defense (rows) against every attack (columns) as a heat map."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from t2i_backdoor_bench.report.figures.style import BAD_TO_GOOD, TEXT, new_figure
from t2i_backdoor_bench.report.formats.escape import plot
from t2i_backdoor_bench.report.matrix import Matrix

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def heat_map(matrix: Matrix) -> Figure:
    """The matrix in colours, with its numbers."""
    from matplotlib.colors import LinearSegmentedColormap

    top = 100 if matrix.way.percent else max(1, np.nanmax(matrix.values))
    bad, neutral, good = BAD_TO_GOOD
    colors = (good, neutral, bad) if matrix.way.better == "lower" else BAD_TO_GOOD
    figure = new_figure(
        min(TEXT, 1.7 + 0.72 * len(matrix.attacks)), 0.9 + 0.24 * len(matrix.defenses)
    )
    axes = figure.add_subplot()
    axes.imshow(
        matrix.values,
        vmin=0,
        vmax=top,
        cmap=LinearSegmentedColormap.from_list("bad to good", colors),
        aspect="auto",
    )
    for i, j in np.ndindex(matrix.values.shape):
        v = matrix.values[i, j]
        axes.text(
            j,
            i,
            matrix.text(v),
            ha="center",
            va="center",
            fontsize=7,
            color="white" if not 0.25 <= v / top <= 0.75 else "black",
        )
    axes.set_xticks(
        range(len(matrix.attacks)),
        [plot(a) for a in matrix.attacks],
        rotation=30,
        ha="right",
        rotation_mode="anchor",
    )
    axes.set_yticks(range(len(matrix.defenses)), [plot(d) for d in matrix.defenses])
    axes.set_title(plot(matrix.title))
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    return figure
