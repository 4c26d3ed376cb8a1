"""Sizes, colours and fonts that figures share, and how they are written."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from t2i_backdoor_bench.store.atomic import write_atomic

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# inches: one column, the whole width and the height of a two-column page
COLUMN, TEXT, PAGE = 3.3, 6.9, 9.5
# by needs; apart in gray and for colour-blind readers
COLORS = ("#2b5fab", "#b4511b", "#0f7a70", "#8a3d8f", "#6b6b00", "#a3264f")
BAD_TO_GOOD = ("#b8571c", "#f6efe2", "#0f6e68")
LESS_TO_MORE = ("#f2f4f8", "#2b5fab")
GREYED = "#e4e4e4"  # what says nothing
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


def ink(back: tuple[float, float, float]) -> str:
    """Black or white, whichever has more contrast to a colour of red, green and blue in 0..1
    (WCAG 2)."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in back]
    light = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return "#000" if (light + 0.05) ** 2 > 1.05 * 0.05 else "#fff"


def new_figure(width: float, height: float) -> Figure:
    """An empty figure; sizes in inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")
