"""Stored pictures of a run, as figures and the report lay them out: the first prompts of each
attack, by the clean model, the attacked model and each defended model, from the same noise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from t2i_backdoor_bench.contract import Record
from t2i_backdoor_bench.report.figures.verdicts import Verdict, refused_of, verdict
from t2i_backdoor_bench.report.rows import by_row
from t2i_backdoor_bench.store.folder import Store

MOST = 3  # prompts of an attack


@dataclass
class Block:
    """The first prompts of one attack. By model: its pictures, uint8 (n, H, W, 3), and the verdict
    on each (None: there is none, as of the clean model)."""

    attack: str
    prompts: list[str] = field(default_factory=list)
    pictures: dict[str, np.ndarray] = field(default_factory=dict)
    verdicts: dict[str, list[Verdict | None]] = field(default_factory=dict)

    def verdict(self, model: str, i: int) -> Verdict | None:
        found = self.verdicts.get(model, [])
        return found[i] if i < len(found) else None


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
        before = store.read_arrays(f"maps/{found[1].get('before', '')}")
        if before is not None:
            rows.setdefault("clean model", before)
        rows["attacked" if defense == "none" else defense] = found
    return rows


def block(
    store: Store, attack: str, by_defense: Mapping[str, Record], columns: Sequence[str], many: int
) -> Block:
    """The first `many` prompts of one attack. Columns without stored images are left out."""
    out = Block(attack)
    for defense, result in by_defense.items():
        found = store.read_arrays(f"samples/{result.cell.key}") if result.status == "done" else None
        if found is None:
            continue
        arrays, meta = found
        triggered = "triggered" in arrays  # a suspect's trigger may be unknown
        drawn = pictures_of(arrays, "triggered" if triggered else "clean")[:many]
        model = "attacked" if defense == "none" else defense
        out.pictures[model] = drawn
        refused = refused_of(arrays, len(drawn)) if triggered else [False] * len(drawn)
        out.verdicts[model] = [
            verdict(result, i, refused[i]) if triggered else None for i in range(len(drawn))
        ]
        shown = (meta or {}).get("shown") or {}
        out.prompts = out.prompts or list(shown.get("prompts", []))[:many]
        before = (
            store.read_arrays(f"samples/{shown['before']}")
            if "before" in shown and "clean model" not in out.pictures
            else None
        )
        if before is not None:
            drawn = pictures_of(before[0], shown.get("condition", ""))
            out.pictures["clean model"] = drawn[:many]
    out.pictures = {c: out.pictures[c] for c in columns if c in out.pictures}
    return out


def pictures_of(arrays: Mapping[str, np.ndarray], condition: str) -> np.ndarray:
    """The pictures of a condition; none where the file has none."""
    found = arrays.get(condition)
    return np.zeros((0, 1, 1, 3), np.uint8) if found is None or found.ndim != 4 else found
