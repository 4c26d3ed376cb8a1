"""Stored cross-attention maps as one picture an attack: rows of models, columns of tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from t2i_backdoor_bench.contract import Record
from t2i_backdoor_bench.report.figures.blocks import first_seed, stored_maps
from t2i_backdoor_bench.report.formats import escape
from t2i_backdoor_bench.store.atomic import write_atomic
from t2i_backdoor_bench.store.folder import Store

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def write_pictures(store: Store, records: Sequence[Record]) -> list[Path]:
    """attention-ATTACK.png for each attack whose first seed has stored maps: one row a model, one
    column a token."""
    paths = []
    for (_, attack), by_defense in first_seed(records).items():
        rows = stored_maps(store, by_defense)
        if rows:
            path, figure = store.path(f"attention-{escape.filename(attack)}.png"), draw(rows)
            write_atomic(
                path, lambda partial, figure=figure: figure.savefig(partial, dpi=110, format="png")
            )
            paths.append(path)
    return paths


def draw(rows: Mapping[str, tuple[Mapping[str, np.ndarray], Mapping[str, Any]]]) -> Figure:
    """Rows of models; the triggered picture, then each token's map. A column has one scale, so that
    what is taken away shows."""
    from matplotlib.figure import Figure

    first = next(iter(rows.values()))[1]
    tokens, trigger = first["tokens"], set(first["trigger"])
    figure = Figure(
        figsize=(0.95 * (len(tokens) + 1) + 1.2, 1.0 * len(rows) + 0.9), layout="constrained"
    )
    axes = figure.subplots(len(rows), len(tokens) + 1, squeeze=False)
    top = np.max([arrays["maps"].max((1, 2)) for arrays, _ in rows.values()], axis=0)
    for i, (name, (arrays, _)) in enumerate(rows.items()):
        axes[i, 0].imshow(arrays["picture"][0])
        axes[i, 0].set_ylabel(escape.plot(name), rotation=0, ha="right", va="center", fontsize=9)
        for j in range(len(tokens)):
            axes[i, j + 1].imshow(
                arrays["maps"][j], vmin=0, vmax=max(float(top[j]), 1e-9), cmap="magma"
            )
            share = arrays["maps"][j].mean()
            axes[i, j + 1].set_xlabel(f"{100 * share:.1f} %", fontsize=7, labelpad=1)
    for j, token in enumerate(["", *tokens]):
        special = j - 1 in trigger
        axes[0, j].set_title(
            escape.plot(token),
            fontsize=9,
            color="#c00020" if special else "black",
            weight="bold" if special else None,
        )
    for axis in axes.flat:
        axis.set_xticks([])
        axis.set_yticks([])
    figure.supxlabel(
        "attention mass of each token (mean over pixels); trigger tokens in red; one color scale a"
        " column",
        fontsize=8,
    )
    return figure
