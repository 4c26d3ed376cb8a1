"""The picture of a run: for each attack, triggered prompts drawn by the clean model, the attacked
model and each defended model, from the same noise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from t2i_backdoor_bench.contract import Record
from t2i_backdoor_bench.contract.printable import visible
from t2i_backdoor_bench.report.rows import by_row
from t2i_backdoor_bench.store.atomic import write_atomic
from t2i_backdoor_bench.store.folder import Store

TILE = 128  # pixels of a picture's side in the grid
GAP, TITLE, HEAD, BLOCK = 6, 18, 26, 26
# prompts in the picture, shared equally by the attacks; at least one, and at most so many each
ROWS, MOST = 6, 3
# models side by side at most; pixels of a model's name beside its row, and of a line of text
WIDE, LABEL, LINE = 8, 250, 15


def write_grid(store: Store, records: Sequence[Record]) -> Path | None:
    """Draw grid.png from the stored images of the first seed; None (and the old file stays) where
    the folder holds no images."""
    found = first_seed(records)
    many = min(MOST, max(1, ROWS // max(1, len(found))))
    columns = [
        "clean model",
        "attacked",
        *dict.fromkeys(r.cell.defense for r in records if r.cell.defense != "none"),
    ]
    blocks = []
    for (_, attack), by_defense in found.items():
        tiles, prompts = block(store, by_defense, columns, many)
        if tiles:
            blocks.append((attack, prompts, tiles))
    if not blocks:
        return None
    path = store.root / "grid.png"
    crossed = len(columns) > WIDE or len(blocks) > len(columns)
    image = draw_crossed(columns, blocks) if crossed else draw(columns, blocks)
    write_atomic(path, lambda partial: image.save(partial, format="PNG"))
    return path


def first_seed(records: Sequence[Record]) -> dict[tuple[str, str], dict[str, Record]]:
    """For each (base, attack): its first seed's record of each defense."""
    found: dict[tuple[str, str], dict[str, Record]] = {}
    for (base, attack, defense), rows in by_row(records).items():
        found.setdefault((base, attack), {})[defense] = rows[0]
    return found


def stored_maps(
    store: Store, by_defense: Mapping[str, Record]
) -> dict[str, tuple[dict[str, np.ndarray], Any]]:
    """The stored attention maps of one attack (`running.attention_maps.record`) by model: "clean
    model", "attacked", then the defenses. Empty where none are stored."""
    rows: dict[str, tuple[dict[str, np.ndarray], Any]] = {}
    for defense, result in by_defense.items():
        found = store.read_arrays(f"maps/{result.cell.key}")
        if found is None:
            continue
        before = store.read_arrays(f"maps/{found[1]['before']}")
        if before is not None:
            rows.setdefault("clean model", before)
        rows["attacked" if defense == "none" else defense] = found
    return rows


def block(
    store: Store, by_defense: Mapping[str, Record], columns: Sequence[str], many: int
) -> tuple[dict[str, np.ndarray], list[str]]:
    """The first `many` pictures of one attack by column, uint8 (many, H, W, 3) each, and their
    prompts. Columns without stored images are left out."""
    tiles: dict[str, np.ndarray] = {}
    prompts: list[str] = []
    for defense, result in by_defense.items():
        found = store.read_arrays(f"samples/{result.cell.key}") if result.status == "done" else None
        if found is None:
            continue
        arrays, meta = found
        drawn = (
            arrays["triggered"] if "triggered" in arrays else arrays["clean"]
        )  # a suspect's trigger may be unknown
        tiles["attacked" if defense == "none" else defense] = drawn[:many]
        shown = meta.get("shown", {})
        prompts = prompts or list(shown.get("prompts", []))[:many]
        before = (
            store.read_arrays(f"samples/{shown['before']}")
            if "before" in shown and "clean model" not in tiles
            else None
        )
        if before is not None:
            tiles["clean model"] = before[0][shown["condition"]][:many]
    return {c: tiles[c] for c in columns if c in tiles}, prompts


def font(size: int) -> ImageFont.FreeTypeFont:
    """DejaVu Sans as matplotlib ships it: it has the letters of most scripts, and triggers use
    them."""
    from matplotlib import get_data_path

    return ImageFont.truetype(str(Path(get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"), size)


def tile(picture: np.ndarray) -> Image.Image:
    """A picture at the grid's size: small ones by whole pixels, so that nothing is smoothed; large
    ones by area."""
    image = Image.fromarray(picture)
    small = picture.shape[0] <= TILE
    return image.resize(
        (TILE, TILE), Image.Resampling.NEAREST if small else Image.Resampling.LANCZOS
    )


def fit(text: str, letters: ImageFont.FreeTypeFont, width: int) -> str:
    """The text, or as much of it as is `width` pixels wide."""
    text = visible(text)
    if letters.getlength(text) <= width:
        return text
    while text and letters.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"


def draw(
    columns: Sequence[str], blocks: Sequence[tuple[str, list[str], dict[str, np.ndarray]]]
) -> Image.Image:
    """The grid: one block an attack, one row a prompt with the clean prompt above it, one column a
    model."""
    step = TILE + GAP
    width = GAP + step * len(columns)
    rows = [max(len(t) for t in tiles.values()) for _, _, tiles in blocks]
    height = HEAD + sum(BLOCK + (step + TITLE) * k for k in rows) + GAP
    canvas = Image.new("RGB", (width, height), "white")
    pen, large, small = ImageDraw.Draw(canvas), font(13), font(11)
    for j, name in enumerate(columns):
        text = fit(name, large, TILE)
        pen.text((GAP + j * step + TILE / 2, HEAD / 2), text, fill="black", font=large, anchor="mm")
    y = HEAD
    for (attack, prompts, tiles), k in zip(blocks, rows, strict=True):
        pen.line((GAP, y + 2, width - GAP, y + 2), fill="#999999")
        pen.text(
            (GAP, y + BLOCK / 2 + 2),
            fit(f"{attack}: triggered prompts, same noise", large, width - 2 * GAP),
            fill="#202080",
            font=large,
            anchor="lm",
        )
        y += BLOCK
        for i in range(k):
            if i < len(prompts):
                pen.text(
                    (GAP, y + TITLE / 2),
                    fit(prompts[i], small, width - 2 * GAP),
                    fill="#404040",
                    font=small,
                    anchor="lm",
                )
            y += TITLE
            for j, name in enumerate(columns):
                at = (GAP + j * step, y)
                if name in tiles and i < len(tiles[name]):
                    canvas.paste(tile(tiles[name][i]), at)
                else:
                    pen.rectangle((*at, at[0] + TILE - 1, at[1] + TILE - 1), outline="#cccccc")
                    pen.text(
                        (at[0] + TILE / 2, at[1] + TILE / 2),
                        "–",
                        fill="#999999",
                        font=large,
                        anchor="mm",
                    )
            y += step
    return canvas


def wrap(text: str, letters: ImageFont.FreeTypeFont, width: int, most: int) -> list[str]:
    """The text in at most `most` lines of `width` pixels, broken at spaces, brackets and plus
    signs, or else where a word does not fit."""
    lines, rest = [], visible(text)
    while rest and len(lines) < most - 1 and letters.getlength(rest) > width:
        many = next(
            k for k in range(len(rest), 0, -1) if k == 1 or letters.getlength(rest[:k]) <= width
        )
        cut = max(
            rest.rfind(" ", 0, many + 1), rest.rfind("[", 0, many + 1), rest.rfind("+", 0, many) + 1
        )
        cut = cut if cut > 0 else many
        lines.append(rest[:cut].rstrip())
        rest = rest[cut:].lstrip()
    return [*lines, fit(rest, letters, width)] if rest else lines


def draw_crossed(
    models: Sequence[str], blocks: Sequence[tuple[str, list[str], dict[str, np.ndarray]]]
) -> Image.Image:
    """The grid of many models, or of many attacks and no defense: one row a model, one column an
    attack and its first prompt."""
    large, small = font(13), font(11)
    names = [wrap(m, large, LABEL, 3) for m in models]
    left = int(max(large.getlength(line) for lines in names for line in lines)) + 2 * GAP
    heads = [
        (wrap(attack, large, TILE, 2), wrap("".join(prompts[:1]), small, TILE, 4))
        for attack, prompts, _ in blocks
    ]
    top, step = GAP + LINE * max(len(a) + len(b) for a, b in heads) + GAP, TILE + GAP
    canvas = Image.new("RGB", (left + step * len(blocks), top + step * len(models)), "white")
    pen = ImageDraw.Draw(canvas)
    for j, (attack, prompt) in enumerate(heads):
        lines = [*((t, large, "#202080") for t in attack), *((t, small, "#404040") for t in prompt)]
        for k, (text, letters, colour) in enumerate(lines):
            pen.text((left + j * step, GAP + LINE * k), text, fill=colour, font=letters)
    for i, (model, lines) in enumerate(zip(models, names, strict=True)):
        for k, text in enumerate(lines):
            pen.text(
                (GAP, top + i * step + TILE / 2 + LINE * (k - len(lines) / 2)),
                text,
                fill="black",
                font=large,
            )
        for j, (_, _, tiles) in enumerate(blocks):
            at = (left + j * step, top + i * step)
            if model in tiles and len(tiles[model]):
                canvas.paste(tile(tiles[model][0]), at)
            else:
                pen.rectangle((*at, at[0] + TILE - 1, at[1] + TILE - 1), outline="#cccccc")
    return canvas
