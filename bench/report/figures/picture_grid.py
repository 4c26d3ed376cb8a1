"""The picture of a run: for each attack, triggered prompts drawn by the clean model, the attacked
model and each defended model, from the same noise, with the judge's verdict on each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL.Image import Image

from t2i_backdoor_bench.contract import Record
from t2i_backdoor_bench.report.figures.blocks import MOST, block, first_seed
from t2i_backdoor_bench.report.figures.grid_drawing import draw, draw_crossed
from t2i_backdoor_bench.store.atomic import write_atomic
from t2i_backdoor_bench.store.folder import Store

ROWS = 6  # prompts in the picture, shared equally by the attacks; at least one each
WIDE = 8  # models side by side at most


def write_grid(store: Store, records: Sequence[Record]) -> Path | None:
    """Draw grid.png from the stored images of the first seed; None (and the old file stays) where
    the folder holds no images."""
    image, path = grid(store, records), store.path("grid.png")
    if image is None:
        return None
    write_atomic(path, lambda partial: image.save(partial, format="PNG"))
    return path


def grid(store: Store, records: Sequence[Record]) -> Image | None:
    """The picture of the stored images of the first seed; None where the folder holds no images."""
    found = first_seed(records)
    many = min(MOST, max(1, ROWS // max(1, len(found))))
    columns = [
        "clean model",
        "attacked",
        *dict.fromkeys(r.cell.defense for r in records if r.cell.defense != "none"),
    ]
    blocks = [block(store, a, by_defense, columns, many) for (_, a), by_defense in found.items()]
    blocks = [b for b in blocks if b.pictures]
    if not blocks:
        return None
    crossed = len(columns) > WIDE or len(blocks) > len(columns)
    return draw_crossed(columns, blocks) if crossed else draw(columns, blocks)
