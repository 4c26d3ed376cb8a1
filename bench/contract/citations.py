"""The papers behind each method, as BibTeX (bench/contract/references.bib).

A method names its papers with `paper="key"` (or several keys, separated by commas) when it is
registered. Without `paper`, they are those that its docstring cites as "arXiv 2305.04175" or "Zhai
et al., MM 2023". `paper` may also be a whole BibTeX entry.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Protocol

FILE = Path(__file__).with_name("references.bib")
EVERY_RUN = (
    "rombach2022high",
    "lu2022dpm",
    "radford2021learning",
)  # the base's architecture, the sampler, the scorer
_CITED = re.compile(
    r"([^\W\d_][\w-]+)(?: et al\.| and [^\W\d_][\w-]+)[,;]? (?:[A-Z][\w-]*,? )?((?:19|20)\d\d)"
)


class Cites(Protocol):
    """What may have papers: a `registry.Entry` or a `listing.Listed`."""

    @property
    def name(self) -> str: ...

    @property
    def paper(self) -> str: ...

    @property
    def doc(self) -> str: ...


@dataclass(frozen=True)
class Paper:
    """One BibTeX entry: its text, and what is needed to find it and to name it in one line."""

    key: str
    bibtex: str
    authors: tuple[str, ...] = ()  # surnames
    year: str = ""
    eprint: str = ""

    @property
    def short(self) -> str:
        """ "Zhai et al. 2023"."""
        names = (
            self.authors[0]
            if len(self.authors) == 1
            else " and ".join(self.authors)
            if len(self.authors) == 2
            else ""
        )
        return (
            f"{names or f'{self.authors[0]} et al.'} {self.year}".strip()
            if self.authors
            else self.key
        )


def parse(text: str) -> list[Paper]:
    """The entries of a BibTeX text, found by counting braces. A field may stand in braces or
    quotes."""
    found = []
    for match in re.finditer(r"@\w+\s*\{\s*([^,\s{}]+)\s*,", text):
        depth, end = 1, match.end()
        while depth and end < len(text):
            depth += {"{": 1, "}": -1}.get(text[end], 0)
            end += 1
        body = text[match.end() : end - 1]
        authors = tuple(
            _surname(a) for a in re.split(r"\s+and\s+", _field(body, "author")) if a.strip()
        )
        found.append(
            Paper(
                match[1],
                text[match.start() : end],
                authors,
                _field(body, "year"),
                _field(body, "eprint"),
            )
        )
    return found


def _field(body: str, name: str) -> str:
    match = re.search(
        rf"\b{name}\s*=\s*(?:\{{((?:[^{{}}]|\{{[^{{}}]*\}})*)\}}|\"([^\"]*)\"|(\w+))", body
    )
    return next((part for part in match.groups() if part is not None), "") if match else ""


def _surname(author: str) -> str:
    """The surname of "Binkowski, Mikolaj" or "Mikolaj Binkowski", without accents."""
    name = author.split(",")[0] if "," in author else author.split()[-1]
    return plain(
        re.sub(r"[{}]", "", re.sub(r"\\l\b", "l", re.sub(r"\\['\"`^~]", "", name)))
    ).strip()


def plain(text: str) -> str:
    """Letters without their accents."""
    return "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))


@cache
def papers() -> dict[str, Paper]:
    return {paper.key: paper for paper in parse(FILE.read_text(encoding="utf-8"))}


def cited(text: str) -> list[Paper]:
    """The known papers that a docstring cites, in its order."""
    flat, places = plain(" ".join(text.split())), []
    for paper in papers().values():
        if paper.eprint and (at := flat.find(paper.eprint)) >= 0:
            places.append((at, paper))
    for match in _CITED.finditer(flat):
        places += [
            (match.start(), p)
            for p in papers().values()
            if p.authors[:1] == (match[1],) and p.year == match[2]
        ]
    return list(dict.fromkeys(paper for _, paper in sorted(places, key=lambda place: place[0])))


def of_method(entry: Cites) -> list[Paper]:
    """The papers of a method."""
    named = entry.paper
    if not named:
        return cited(entry.doc)
    if "@" in named:
        return parse(named)
    return [
        papers().get(key.strip(), Paper(key.strip(), "")) for key in named.split(",") if key.strip()
    ]


def short(entry: Cites) -> str:
    """The papers of a method in a few words, for a table; "" where it has none."""
    return ", ".join(paper.short for paper in of_method(entry))


def of_run(entries: Iterable[Cites]) -> list[tuple[Paper, list[str]]]:
    """The papers of a run's methods, each with the names of its methods; last, the papers behind
    every run."""
    found: dict[Paper, list[str]] = {}
    for entry in entries:
        for paper in of_method(entry):
            found.setdefault(paper, []).append(entry.name)
    for key in EVERY_RUN:
        found.setdefault(papers()[key], [])
    return list(found.items())
