"""The runs of a site, each read from its folder once."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from t2i_backdoor_bench.contract import Record, UserError
from t2i_backdoor_bench.contract.names import parts_of
from t2i_backdoor_bench.contract.printable import visible
from t2i_backdoor_bench.report.html import kept
from t2i_backdoor_bench.report.html.names import attacks_of, defenses_of
from t2i_backdoor_bench.report.html.pictures import PictureGroup, picture_groups
from t2i_backdoor_bench.report.html.protocol import papers_of
from t2i_backdoor_bench.report.ranking import Summary, summaries
from t2i_backdoor_bench.report.rows import rows
from t2i_backdoor_bench.report.site.names import cell_address, slug
from t2i_backdoor_bench.store.claims import Standing, standing
from t2i_backdoor_bench.store.folder import Store
from t2i_backdoor_bench.store.records import read_plan, stored_records

SMOKE = "smoke"
Pair = tuple[str, str]  # attack, defense


@dataclass(frozen=True)
class Run:
    """One run folder. `slug` is its name in addresses; `standing` says who made it, and whether
    others found the same."""

    slug: str
    name: str
    store: Store
    records: Sequence[Record]
    manifest: Mapping[str, Any]
    table: Sequence[Summary]
    standing: Standing

    @cached_property
    def rows(self) -> dict[Pair, dict[str, Any]]:
        """The rows of table.csv by attack and defense."""
        return {(r["attack"], r["defense"]): r for r in rows(self.records)}

    @cached_property
    def pictures(self) -> dict[str, PictureGroup]:
        """The pictures of each attack, by "attack, seed 0": drawn from stored samples, or those of
        the folder's report."""
        earlier = kept.read(self.store.path("report.html"))
        groups = picture_groups(self.store, self.records, earlier.pictures)
        return {group.summary: group for group in groups}

    @cached_property
    def papers(self) -> list[dict[str, Any]]:
        return self.manifest.get("citations") or papers_of(self.records)

    @property
    def measured_by(self) -> int:
        return max(r.measured_by for r in self.records if r.status != "missing")

    @property
    def family(self) -> str:
        return str(self.records[0].protocol.get("family") or self.records[0].cell.base)

    @property
    def scale(self) -> str:
        return str(self.records[0].protocol.get("scale", ""))

    @property
    def smoke(self) -> bool:
        """Whether its numbers say nothing of the methods: trials, too."""
        small = self.records[0].protocol.get("training", 1) < 1
        return self.scale == SMOKE or small or self.trial

    @property
    def trial(self) -> bool:
        return "first_of" in self.records[0].protocol.get("evaluation", {})

    @property
    def small(self) -> str:
        return "trial" if self.trial else SMOKE

    @property
    def address(self) -> str:
        return f"runs/{self.slug}.html"

    @property
    def pairs(self) -> list[Pair]:
        return list(dict.fromkeys((r.cell.attack, r.cell.defense) for r in self.records))

    @cached_property
    def cells(self) -> dict[Pair, str]:
        """The addresses of the pages of its cells."""
        return {pair: cell_address(self.slug, *pair) for pair in self.pairs}

    def of(self, attack: str = "", defense: str = "") -> list[Record]:
        """The records of an attack, of a defense, or of both."""
        return [
            r
            for r in self.records
            if attack in ("", r.cell.attack) and defense in ("", r.cell.defense)
        ]

    def papers_for(self, name: str) -> list[dict[str, Any]]:
        """The papers of a method, or of the parts of a composition."""
        parts = {part.split("[")[0] for part in parts_of(name)}
        return [paper for paper in self.papers if parts & set(paper["methods"])]

    def view(self) -> dict[str, Any]:
        """What pages say of a run."""
        done = sum(r.status == "done" for r in self.records)
        counts = [
            len(attacks_of(self.records)),
            len([d for d in defenses_of(self.records) if d != "none"]),
            len({r.cell.seed for r in self.records}),
            f"{done} of {len(self.records)}",
        ]
        return {
            "slug": self.slug,
            "name": self.name,
            "address": self.address,
            "by": self.standing.by or "–",
            "status": self.standing.status,
            "state": "; ".join(t for t in (self.standing.text, self.standing.signed) if t),
            "protocol": self.measured_by,
            "base": ", ".join(dict.fromkeys(r.cell.base for r in self.records)),
            "scale": f"{self.small}: says nothing of the methods"
            if self.smoke
            else f"scale {self.scale}",
            "counts": counts,
        }


def read_runs(folders: Sequence[Path], known: Path | None = None) -> list[Run]:
    """The runs in these folders; `known` lists the keys of people. Raises UserError for one that
    holds no finished cell, or is given twice."""
    found: dict[str, Run] = {}
    seen: set[Path] = set()
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"there is no run folder {folder}; name folders that runs wrote")
        if folder.resolve() in seen:
            raise UserError(f"{folder} is given twice; name each run folder once")
        seen.add(folder.resolve())
        run = _read(folder, list(found), known)
        found[run.slug] = run
    return list(found.values())


def _read(folder: Path, taken: Sequence[str], known: Path | None) -> Run:
    store = Store(folder, lambda text: print(visible(text), file=sys.stderr), read_only=True)
    records = stored_records(store)
    if not any(r.status == "done" for r in records):
        raise UserError(
            f"{folder} holds no finished cell; run the benchmark there, or leave it out"
        )
    name = folder.resolve().name
    short, n = slug(name), 2
    while short in taken:
        short, n = f"{slug(name)}-{n}", n + 1
    told = standing(store, known)
    shown = told.title or (name if n == 2 else f"{name} ({n - 1})")
    return Run(short, shown, store, records, read_plan(store), summaries(records), told)
