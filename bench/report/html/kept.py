"""The pictures of an earlier report.html, as plain values.

Published run folders have no samples to draw from, so a report that is made anew keeps the pictures
that the earlier one has. Nothing else is taken over: addresses are those of pictures alone, and
every text is escaped again.
"""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path

from PIL import Image

from t2i_backdoor_bench.report.figures.verdicts import ALL, REFUSED, RESIDUE
from t2i_backdoor_bench.report.html.pictures import (
    Map,
    MapGroup,
    MapRow,
    PictureGroup,
    PromptRow,
    Tile,
    Token,
)

PICTURE = re.compile(r"data:image/(?:png|jpeg|webp);base64,[A-Za-z0-9+/]+={0,2}")
VERDICTS = tuple(dict.fromkeys(v.kind for v in ALL))
DEEPEST = 50  # elements within each other; a report has ten
VOID = ("img", "wbr", "br", "meta", "input", "line", "link", "hr")


@dataclass
class Kept:
    """The pictures of a page by attack. `unread` counts those that could not be read."""

    pictures: dict[str, PictureGroup] = field(default_factory=dict)  # by "attack, seed 0"
    maps: dict[str, MapGroup] = field(default_factory=dict)  # by attack
    unread: int = 0


@dataclass
class Node:
    """An element of the page: its classes, its pieces of text, and what is inside."""

    tag: str
    attributes: dict[str, str] = field(default_factory=dict)
    children: list[Node] = field(default_factory=list)
    own_text: list[str] = field(default_factory=list)

    def inside(self) -> Iterable[Node]:
        for child in self.children:
            yield child
            yield from child.inside()

    def all(self, tag: str, kind: str = "") -> list[Node]:
        return [n for n in self.inside() if n.tag == tag and (not kind or kind in n.kinds)]

    def first(self, tag: str, kind: str = "") -> Node:
        return next(iter(self.all(tag, kind)), Node(tag))

    @property
    def kinds(self) -> list[str]:
        return self.attributes.get("class", "").split()

    @property
    def text(self) -> str:
        return "".join(self.own_text)


class _Sections(HTMLParser):
    """The sections Pictures and Attention of a page as trees, and how many pictures it has."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.sections: dict[str, Node] = {}
        self.open: list[Node] = []
        self.images = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = {k: v or "" for k, v in attrs}
        self.images += tag == "img"
        node = Node(tag, attributes)
        if self.open:
            self.open[-1].children.append(node)
        elif tag == "section" and attributes.get("id") in ("pictures", "attention"):
            self.sections[attributes["id"]] = node
        else:
            return
        if tag not in VOID and len(self.open) < DEEPEST:
            self.open.append(node)

    def handle_endtag(self, tag: str) -> None:
        if any(node.tag == tag for node in self.open):
            while self.open.pop().tag != tag:
                pass

    def handle_data(self, data: str) -> None:
        if self.open:
            self.open[-1].own_text.append(data)


def read(path: Path) -> Kept:
    """The pictures of a report; none where there is no file."""
    if not path.is_file():
        return Kept()
    page = _Sections()
    page.feed(path.read_text(encoding="utf-8", errors="replace"))
    page.close()
    pictures, attention = (page.sections.get(name) for name in ("pictures", "attention"))
    groups = [_pictures(node) for node in pictures.all("details")] if pictures else []
    maps = [_maps(node) for node in attention.all("details")] if attention else []
    found = Kept({g.summary: g for g in groups}, {g.attack: g for g in maps})
    found.unread = page.images - count(found.pictures.values(), found.maps.values())
    return found


def count(pictures: Iterable[PictureGroup], maps: Iterable[MapGroup]) -> int:
    """How many pictures these groups have."""
    tiles = sum(len(row.tiles) for group in pictures for row in group.rows)
    return tiles + sum(len(row.maps) for group in maps for row in group.rows)


def _pictures(details: Node) -> PictureGroup:
    prompts = [p.text for p in details.all("p", "prompt")]
    rows = []
    for i, grid in enumerate(details.all("div", "pictures")):
        tiles = [tile for figure in grid.all("figure") if (tile := _tile(figure))]
        rows.append(PromptRow(prompts[i] if i < len(prompts) else "", tuple(tiles)))
    return PictureGroup(details.first("summary").text, tuple(rows))


def _tile(figure: Node) -> Tile | None:
    image, caption = figure.first("img").attributes, figure.first("figcaption")
    if not PICTURE.fullmatch(image.get("src", "")):
        return None
    verdict = caption.first("span", "verdict")
    kind = next((k for k in VERDICTS if k in verdict.kinds), "")
    words = verdict.text
    if kind == RESIDUE.kind and _black(image["src"]):  # an older report has it for "refused"
        kind, words = REFUSED.kind, f"{REFUSED.sign} {REFUSED.words}"
    return Tile(caption.text, image["src"], image.get("alt", ""), kind, words)


def _black(src: str) -> bool:
    """Whether a picture that can be read is all black."""
    try:
        with Image.open(io.BytesIO(base64.b64decode(src.partition(",")[2]))) as image:
            return image.convert("L").getextrema() == (0, 0)
    except (OSError, ValueError):
        return False


def _maps(details: Node) -> MapGroup:
    head, *lines = details.all("tr") or [Node("tr")]
    tokens = [Token(th.text, "trigger" in th.kinds) for th in head.all("th")[2:]]
    rows = []
    for line in lines:
        maps = [
            Map(src, td.first("img").attributes.get("alt", ""), td.first("small").text)
            for td in line.all("td")
            if PICTURE.fullmatch(src := td.first("img").attributes.get("src", ""))
        ]
        rows.append(MapRow(line.first("th").text, tuple(maps)))
    return MapGroup(details.first("summary").text, tuple(tokens), tuple(rows))
