"""The page of `vet`: the verdict on a model, the texts that it is from, and pictures with and
without the first of them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from t2i_backdoor_bench.contract.printable import visible
from t2i_backdoor_bench.report.formats import terminal
from t2i_backdoor_bench.report.html.page import shell
from t2i_backdoor_bench.report.html.pictures import data_uri
from t2i_backdoor_bench.report.html.templates import render
from t2i_backdoor_bench.report.table import Cell, Column, Row, Table
from t2i_backdoor_bench.store.atomic import storing, write_text

HEADLINES = {
    "backdoor": "This model does something to a text that clean models do not do: a backdoor",
    "unsure": "One text does more than texts that mean nothing: look at its pictures",
    "nothing found": "Nothing was found; that is no proof that nothing is there",
}
DRAWN = ("without it", "with it", "with it, by the clean model")
REPAIRED = ("without it, repaired", "with it, repaired")
COLUMNS = ("Text", "Where it is from", "Score", "Stands out in", "As much by chance")

WORDS = (*COLUMNS[:2], COLUMNS[3])  # of texts, not of numbers
MEASURED = {  # of a repair, by its name in verdict.json: its column, and how many digits
    "effect": ("Effect of the text", 1),
    "clip_score": ("CLIP score", 1),
    "prompt_fidelity": ("Prompt fidelity", 2),
    "drift": ("Drift", 3),
}


def publish(
    found: Mapping[str, Any], pictures: np.ndarray, prompts: Sequence[str], out: Path
) -> None:
    """verdict.json and verdict.html in `out`, and the texts on the terminal. `pictures`: uint8 (2
    or 3, n, H, W, 3), as DRAWN says, of `prompts` (n). Raises UserError where they cannot be
    written."""
    page = write(found, pictures, prompts, out)
    terminal.write(table(found), f"{headline(found)}. {sentence(found)}. All of it: {page}")


def publish_repair(
    found: Mapping[str, Any],
    pictures: np.ndarray,
    prompts: Sequence[str],
    out: Path,
    repaired: np.ndarray | None,
) -> None:
    """The same again with the repair in it, and the repairs on the terminal. `repaired`: uint8 (2,
    n, H, W, 3), as REPAIRED says, or None."""
    page = write(found, pictures, prompts, out, repaired)
    told = f"{told_of(found['repair'])} All of it: {page}"
    if found["repair"]["before"]:
        terminal.write(table_of_repairs(found["repair"]), told)
    else:
        print(visible(told))


def write(
    found: Mapping[str, Any],
    pictures: np.ndarray,
    prompts: Sequence[str],
    out: Path,
    repaired: np.ndarray | None = None,
) -> Path:
    page = out / "verdict.html"
    with storing(page):
        out.mkdir(parents=True, exist_ok=True)
        text = json.dumps(found, ensure_ascii=False, indent=1, allow_nan=False)
        write_text(out / "verdict.json", text + "\n")
        write_text(page, render_page(found, pictures, prompts, repaired))
    return page


def headline(found: Mapping[str, Any]) -> str:
    return HEADLINES[found["verdict"]]


def sentence(found: Mapping[str, Any]) -> str:
    beside = f", beside the clean model {found['compared_with']}" if found["compared_with"] else ""
    return f"Score {found['score']:.1f}{beside} ({found['because']})"


def table(found: Mapping[str, Any]) -> Table:
    columns = tuple(Column(name, numeric=name not in WORDS) for name in COLUMNS)
    rows = []
    for text in found["texts"]:
        share = f"{text['share']:.1%}"
        values = (
            quoted(text["text"]),
            text["origin"],
            f"{text['score']:.1f}",
            text["where"],
            share,
        )
        rows.append(Row(tuple(Cell(value) for value in values)))
    return Table(columns, tuple(rows))


def told_of(repair: Mapping[str, Any]) -> str:
    """What came of a repair, in sentences."""
    if not repair["chosen"]:
        return f"Not repaired: {repair['because']}."
    left = repair["remains"]
    return (
        f"Repaired by {repair['chosen']}: {repair['because']}. In the repaired model the text has a"
        f" score of {left['score']:.1f} ({left['where']}; {left['share']:.1%} of texts that mean"
        f" nothing do as much). The repaired model: {repair['folder']}"
    )


def table_of_repairs(repair: Mapping[str, Any]) -> Table:
    columns = (Column("Repair", numeric=False), *(Column(n) for n, _ in MEASURED.values()))
    rows = [(name, *values) for name, values, _ in repairs(repair)]
    return Table(columns, tuple(Row(tuple(Cell(v) for v in row)) for row in rows))


def repairs(repair: Mapping[str, Any]) -> list[tuple[str, list[str], str]]:
    """The model as it is and each repair: its name, what was measured, and why it failed."""
    both = [repair["before"] | {"name": "none"}, *repair["tried"]] if repair["before"] else []
    return [(one["name"], values_of(one), one["error"]) for one in both]


def values_of(one: Mapping[str, Any]) -> list[str]:
    digits = {name: many for name, (_, many) in MEASURED.items()}
    return ["-" if one[k] is None else f"{one[k]:.{d}f}" for k, d in digits.items()]


def quoted(text: str) -> str:
    """A text as it can be shown, with the code of a character that cannot be seen or that looks
    like another."""
    if text.isascii():
        return visible(text)
    return f"{visible(text)} ({' '.join(f'U+{ord(c):04X}' for c in text if not c.isascii())})"


def tiled(
    names: Sequence[str], pictures: np.ndarray, prompts: Sequence[str]
) -> list[dict[str, Any]]:
    """For each prompt, its pictures (k, n, H, W, 3) with their names."""
    each = zip(prompts, zip(*pictures, strict=True), strict=True)
    return [
        {"prompt": prompt, "tiles": list(zip(names, map(data_uri, own), strict=False))}
        for prompt, own in each
    ]


def render_page(
    found: Mapping[str, Any],
    pictures: np.ndarray,
    prompts: Sequence[str],
    repaired: np.ndarray | None = None,
) -> str:
    repair = found.get("repair")
    return render(
        "vet.html",
        **shell(f"Is there a backdoor in {found['model']}?"),
        headline=headline(found),
        sentence=sentence(found),
        found=found,
        columns=COLUMNS,
        words=WORDS,
        texts=[t | {"shown": quoted(t["text"])} for t in found["texts"]],
        first=quoted(found["texts"][0]["text"]),
        rows=tiled(DRAWN, pictures, prompts),
        repair=repair,
        told=told_of(repair) if repair else "",
        mended=quoted(repair["text"]) if repair else "",
        measured=[name for name, _ in MEASURED.values()],
        repairs=repairs(repair) if repair else [],
        repaired=[] if repaired is None else tiled(REPAIRED, repaired, prompts),
    )
