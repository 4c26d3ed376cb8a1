"""File names in a site, from names that others chose."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Any

from t2i_backdoor_bench.contract import citations

MOST = 60  # letters of a name that stay
EPRINT = re.compile(r"\d{4}\.\d{4,5}(v\d+)?")
LINKS = (
    ("Boards", "index.html"),
    ("Methods", "methods/index.html"),
    ("Compare", "compare.html"),
)  # above every page


def slug(name: str) -> str:
    """A name as a file name of small letters, digits and dashes. Another name has another one: what
    is lost is made up for by a digest."""
    short = re.sub(r"[^a-z0-9_]+", "-", name.lower()).strip("-")[:MOST]
    if short == name and short:
        return short
    mark = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return f"{short}-{mark}" if short else mark


def method_address(kind: str, name: str) -> str:
    return f"methods/{kind}-{slug(name)}.html"


def cell_address(run: str, attack: str, defense: str) -> str:
    """The page of an attack and a defense in the run with this slug."""
    return f"cells/{run}/{slug(attack)}--{slug(defense)}.html"


def around(here: str) -> dict[str, Any]:
    """The links above the page at an address."""
    return {"root": "../" * here.count("/"), "links": LINKS, "here": here}


def paper_link(bibtex: str) -> str:
    """The address of a paper on arXiv; "" where its entry names none."""
    found = [paper.eprint for paper in citations.parse(bibtex)]
    return f"https://arxiv.org/abs/{found[0]}" if found and EPRINT.fullmatch(found[0]) else ""


def paper_view(paper: Mapping[str, Any]) -> dict[str, str]:
    """A paper that a run cites: its name in a few words, and its address."""
    return {"short": paper["short"], "link": paper_link(paper["bibtex"])}
