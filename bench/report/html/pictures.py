"""The sections Pictures and Attention: pictures as data URIs, in groups of one attack."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from PIL import Image

from t2i_backdoor_bench.contract import Record
from t2i_backdoor_bench.contract.printable import lines
from t2i_backdoor_bench.report.figures.blocks import MOST, Block, block, first_seed, stored_maps
from t2i_backdoor_bench.report.figures.verdicts import ALL, REFUSED
from t2i_backdoor_bench.store.folder import Store

PICTURES = 600  # in a page, if one prompt an attack leaves it so few: a small one takes 5 kB
SIDE = 256  # larger pictures are made smaller, and compressed with loss
MAGMA = (
    (0, 0, 4),
    (40, 17, 89),
    (114, 31, 129),
    (183, 55, 121),
    (241, 96, 93),
    (254, 175, 119),
    (252, 253, 191),
)


@dataclass(frozen=True)
class Tile:
    """A picture by one model: its address, and what the judge says of it."""

    name: str
    src: str
    alt: str
    kind: str = ""  # the class of the verdict
    verdict: str = ""


@dataclass(frozen=True)
class PromptRow:
    prompt: str
    tiles: tuple[Tile, ...]


@dataclass(frozen=True)
class PictureGroup:
    """The pictures of one attack."""

    summary: str
    rows: tuple[PromptRow, ...]


@dataclass(frozen=True)
class Map:
    """A picture (without a share) or the attention map of a token."""

    src: str
    alt: str
    share: str = ""


@dataclass(frozen=True)
class MapRow:
    name: str
    maps: tuple[Map, ...]


@dataclass(frozen=True)
class Token:
    text: str
    trigger: bool


@dataclass(frozen=True)
class MapGroup:
    """The attention maps of one attack: one row a model, one column a token, one colour scale a
    column."""

    attack: str
    tokens: tuple[Token, ...]
    rows: tuple[MapRow, ...]


def data_uri(picture: np.ndarray) -> str:
    """A picture uint8 (H, W, 3) as an address that holds it: PNG up to 256 px, smaller WebP
    above."""
    image, out = Image.fromarray(picture), io.BytesIO()
    large = max(image.size) > SIDE
    if large:
        image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    how = {"format": "WEBP", "quality": 85} if large else {"format": "PNG", "optimize": True}
    image.save(out, **how)
    kind, text = "webp" if large else "png", base64.b64encode(out.getvalue()).decode()
    return f"data:image/{kind};base64,{text}"


def magma(values: np.ndarray, top: float) -> np.ndarray:
    """A map (h, w) of 0..top in the colours of magma: uint8 (h, w, 3)."""
    place = np.clip(values / max(top, 1e-12), 0, 1) * (len(MAGMA) - 1)
    low = np.minimum(place.astype(int), len(MAGMA) - 2)
    part, colors = (place - low)[..., None], np.array(MAGMA, np.float64)
    return np.round(colors[low] * (1 - part) + colors[low + 1] * part).astype(np.uint8)


def model_names(records: Sequence[Record]) -> list[str]:
    """The models whose pictures stand side by side."""
    defenses = dict.fromkeys(r.cell.defense for r in records if r.cell.defense != "none")
    return ["clean model", "attacked", *defenses]


def picture_groups(
    store: Store, records: Sequence[Record], kept: Mapping[str, PictureGroup]
) -> list[PictureGroup]:
    """For each attack of the first seed, the same prompts from the same noise by every model. What
    has no stored images is taken from `kept`."""
    models, attacks, out = model_names(records), first_seed(records), []
    columns = [lines(name) for name in models]  # as the earlier report has them
    many = max(1, min(MOST, PICTURES // (len(columns) * max(1, len(attacks)))))
    for (_, attack), by_defense in attacks.items():
        seed = next(iter(by_defense.values())).cell.seed
        name = lines(f"{attack}, seed {seed}")
        drawn = _drawn(block(store, attack, by_defense, models, many), name)
        group = _merged(drawn, kept[name], columns) if name in kept else drawn
        out += [group] if group.rows else []
    return out


def _drawn(found: Block, name: str) -> PictureGroup:
    rows = []
    for i in range(max(map(len, found.pictures.values()), default=0)):
        prompt = lines("".join(found.prompts[i : i + 1]))
        tiles = [_tile(found, model, i, prompt) for model in found.pictures]
        rows.append(PromptRow(prompt, tuple(tile for tile in tiles if tile)))
    return PictureGroup(name, tuple(rows))


def _tile(found: Block, model: str, i: int, prompt: str) -> Tile | None:
    pictures, said = found.pictures[model], found.verdict(model, i)
    if i >= len(pictures):
        return None
    kind, words = (said.kind, f"{said.sign} {said.words}") if said else ("", "")
    words = "no trigger" if model == "clean model" else words
    # a model that refuses stores a black picture
    picture = np.full_like(pictures[i], 224) if said is REFUSED else pictures[i]
    return Tile(lines(model), data_uri(picture), lines(f"{model}: {prompt}"), kind, words)


def _merged(drawn: PictureGroup, kept: PictureGroup, columns: Sequence[str]) -> PictureGroup:
    """The pictures that were drawn, and of the models that none was drawn of those that are
    kept."""
    models = {tile.name for row in drawn.rows for tile in row.tiles}
    missing = [name for name in columns if name not in models]
    rows = {row.prompt: row for row in drawn.rows}
    for row in kept.rows:
        tiles = tuple(tile for tile in row.tiles if tile.name in missing)
        known = rows.get(row.prompt, replace(row, tiles=()))
        both = sorted((*known.tiles, *tiles), key=lambda tile: columns.index(tile.name))
        if both:
            rows[row.prompt] = replace(known, tiles=tuple(both))
    return replace(drawn, rows=tuple(rows.values()))


def picture_view(groups: Sequence[PictureGroup]) -> dict[str, Any] | None:
    """The groups, and a key of the verdicts that are in them; None where there are none."""
    said = [tile.verdict for group in groups for row in group.rows for tile in row.tiles]
    key = [v for v in ALL if any(v.words in text for text in said)]
    return {"groups": groups, "key": key} if groups else None


def map_groups(
    store: Store, records: Sequence[Record], kept: Mapping[str, MapGroup]
) -> list[MapGroup]:
    """The attention maps of each attack whose maps are stored, or else kept."""
    out = []
    for (_, attack), by_defense in first_seed(records).items():
        rows = stored_maps(store, by_defense)
        if rows:
            out.append(_map_group(lines(attack), rows))
        elif lines(attack) in kept:
            out.append(kept[lines(attack)])
    return out


def _map_group(attack: str, rows: Mapping[str, tuple[Mapping[str, np.ndarray], Any]]) -> MapGroup:
    meta = next(iter(rows.values()))[1]
    texts, trigger = [lines(token) for token in meta["tokens"]], set(meta["trigger"])
    top = np.max([arrays["maps"].max((1, 2)) for arrays, _ in rows.values()], axis=0)
    models = []
    for name, (arrays, _) in rows.items():
        name = lines(name)
        maps = [Map(data_uri(arrays["picture"][0]), f"picture by {name}")]
        for j, token in enumerate(texts):
            share = f"{100 * float(arrays['maps'][j].mean()):.1f} %"
            src = data_uri(magma(arrays["maps"][j], float(top[j])))
            maps.append(Map(src, f"{name}, {token}: {share}", share))
        models.append(MapRow(name, tuple(maps)))
    tokens = tuple(Token(text, j in trigger) for j, text in enumerate(texts))
    return MapGroup(attack, tokens, tuple(models))
