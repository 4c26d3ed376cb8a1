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
COLUMNS = ("Text", "Where it is from", "Score", "Stands out in", "As much by chance")

WORDS = (*COLUMNS[:2], COLUMNS[3])  # of texts, not of numbers


def publish(
    found: Mapping[str, Any], pictures: np.ndarray, prompts: Sequence[str], out: Path
) -> None:
    """verdict.json and verdict.html in `out`, and the texts on the terminal. `pictures`: uint8 (2
    or 3, n, H, W, 3), as DRAWN says, of `prompts` (n). Raises UserError where they cannot be
    written."""
    page = out / "verdict.html"
    with storing(page):
        out.mkdir(parents=True, exist_ok=True)
        text = json.dumps(found, ensure_ascii=False, indent=1, allow_nan=False)
        write_text(out / "verdict.json", text + "\n")
        write_text(page, render_page(found, pictures, prompts))
    terminal.write(table(found), f"{headline(found)}. {sentence(found)}. All of it: {page}")


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


def quoted(text: str) -> str:
    """A text as it can be shown, with the code of a character that cannot be seen or that looks
    like another."""
    if text.isascii():
        return visible(text)
    return f"{visible(text)} ({' '.join(f'U+{ord(c):04X}' for c in text if not c.isascii())})"


def render_page(found: Mapping[str, Any], pictures: np.ndarray, prompts: Sequence[str]) -> str:
    first = quoted(found["texts"][0]["text"])
    rows = [
        {"prompt": prompt, "tiles": list(zip(DRAWN, map(data_uri, of_prompt), strict=False))}
        for prompt, of_prompt in zip(prompts, zip(*pictures, strict=True), strict=True)
    ]
    return render(
        "vet.html",
        **shell(f"Is there a backdoor in {found['model']}?"),
        headline=headline(found),
        sentence=sentence(found),
        found=found,
        columns=COLUMNS,
        words=WORDS,
        texts=[t | {"shown": quoted(t["text"])} for t in found["texts"]],
        first=first,
        rows=rows,
    )
