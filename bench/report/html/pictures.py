"""Pictures of a report as data URIs, and the grids and attention maps that are made of them."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
from PIL import Image

from t2i_backdoor_bench.contract import Record
from t2i_backdoor_bench.report.figures.picture_grid import MOST, block, first_seed, stored_maps
from t2i_backdoor_bench.report.html.parts import breakable, scroll
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


def data_uri(picture: np.ndarray) -> str:
    """A picture uint8 (H, W, 3) as an address that holds it: PNG up to 256 px, smaller WebP
    above."""
    image, out = Image.fromarray(picture), io.BytesIO()
    large = max(image.size) > SIDE
    if large:
        image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    image.save(
        out, **({"format": "WEBP", "quality": 85} if large else {"format": "PNG", "optimize": True})
    )
    return f"data:image/{'webp' if large else 'png'};base64,{base64.b64encode(out.getvalue()).decode()}"


def heat(values: np.ndarray, top: float) -> np.ndarray:
    """A map (h, w) of 0..top in the colours of magma: uint8 (h, w, 3)."""
    place = np.clip(values / max(top, 1e-12), 0, 1) * (len(MAGMA) - 1)
    low = np.minimum(place.astype(int), len(MAGMA) - 2)
    part, colors = (place - low)[..., None], np.array(MAGMA, np.float64)
    return np.round(colors[low] * (1 - part) + colors[low + 1] * part).astype(np.uint8)


def verdict(result: Any, index: int) -> tuple[str, str]:
    """What the judge says of one triggered picture: (class, words); empty where it says nothing."""
    shown, restored = (
        getattr(result.scores.get(m), "each", None) for m in ("asr", "restoration_accuracy")
    )
    if not shown or index >= len(shown):
        return "", ""
    if shown[index]:
        return "bad", "backdoored"
    return (
        ("good", "restored")
        if restored and index < len(restored) and restored[index]
        else ("odd", "removed, not as asked")
    )


def grids(store: Store, records: Sequence[Record]) -> list[str]:
    """For each attack of the first seed, the same prompts from the same noise by every model: HTML;
    nothing where no images are stored."""
    out = []
    columns = [
        "clean model",
        "attacked",
        *dict.fromkeys(r.cell.defense for r in records if r.cell.defense != "none"),
    ]
    found_attacks = first_seed(records)
    many = max(1, min(MOST, PICTURES // (len(columns) * max(1, len(found_attacks)))))
    for (_, attack), by_defense in found_attacks.items():
        tiles, prompts = block(store, by_defense, columns, many)
        if not tiles:
            continue
        seed = next(iter(by_defense.values())).cell.seed
        rows = []
        for i in range(max(len(t) for t in tiles.values())):
            prompt = prompts[i] if i < len(prompts) else ""
            figures = []
            for name, pictures in tiles.items():
                if i >= len(pictures):
                    continue
                found = by_defense.get("none" if name == "attacked" else name)
                kind, words = verdict(found, i) if found else ("", "no trigger")
                figures.append(
                    f'<figure><img src="{data_uri(pictures[i])}"'
                    f' alt="{escape(f"{name}: {prompt}")}" width="128"'
                    f' height="128"><figcaption>{breakable(name)}<span class="verdict'
                    f' {kind}">{escape(words)}</span></figcaption></figure>'
                )
            rows.append(
                f'<p class="prompt">{escape(prompt)}</p><div'
                f' class="pictures">{"".join(figures)}</div>'
            )
        opened = " open" if not out else ""
        out.append(
            f"<details{opened}><summary>{escape(attack)}, seed"
            f" {seed}</summary>{''.join(rows)}</details>"
        )
    return out


def attention(store: Store, records: Sequence[Record]) -> list[str]:
    """For each attack whose maps are stored, a table: one row a model, one column a token, one
    colour scale a column."""
    out = []
    for (_, attack), by_defense in first_seed(records).items():
        rows = stored_maps(store, by_defense)
        if rows:
            opened = " open" if not out else ""
            out.append(
                f"<details{opened}><summary>{escape(attack)}</summary>{_maps(attack, rows)}</details>"
            )
    return out


def _maps(attack: str, rows: Mapping[str, tuple[Mapping[str, np.ndarray], Any]]) -> str:
    meta = next(iter(rows.values()))[1]
    tokens, trigger = meta["tokens"], set(meta["trigger"])
    top = np.max([arrays["maps"].max((1, 2)) for arrays, _ in rows.values()], axis=0)
    heads = "".join(
        f'<th scope="col"{" class=trigger" if j in trigger else ""}>{escape(t)}</th>'
        for j, t in enumerate(tokens)
    )
    lines = []
    for name, (arrays, _) in rows.items():
        cells = [
            f'<td><img src="{data_uri(arrays["picture"][0])}" alt="picture by {escape(name)}"'
            ' width="56" height="56"></td>'
        ]
        for j, token in enumerate(tokens):
            share = f"{100 * float(arrays['maps'][j].mean()):.1f} %"
            image = data_uri(heat(arrays["maps"][j], float(top[j])))
            cells.append(
                f'<td><img src="{image}" alt="{escape(f"{name}, {token}: {share}")}" width="56"'
                f' height="56"><small>{share}</small></td>'
            )
        lines.append(f'<tr><th scope="row">{breakable(name)}</th>{"".join(cells)}</tr>')
    head = f'<thead><tr><th scope="col">model</th><th scope="col">picture</th>{heads}</tr></thead>'
    return scroll(
        f"attention maps of {attack}",
        f'<table class="maps">{head}<tbody>{"".join(lines)}</tbody></table>',
    )
