"""A record as JSON values, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from t2i_backdoor_bench.contract import Cell, Record, Score
from t2i_backdoor_bench.contract.hashing import plain

# fields of a record that lie one level lower in its file
EXTRA = (
    "metric_keys",
    "directions",
    "protocol",
    "provenance",
    "edits",
    "knowledge",
    "attack",
    "done_before",
)


def as_json(record: Record) -> dict[str, Any]:
    """The record as its file holds it."""
    fields = plain(record)
    extra = {k: fields.pop(k) for k in EXTRA}
    if not record.done_before:
        del extra["done_before"]
    return fields | {"extra": extra}


def parse_result(payload: Mapping[str, Any]) -> Record:
    """The inverse of `as_json`. Raises ValueError or TypeError where a field is not what
    it must be: records travel."""
    fields = {k: v for k, v in payload.items() if k != "extra"}
    fields["cell"] = Cell(**fields["cell"])
    fields["scores"] = {name: Score(**score) for name, score in fields["scores"].items()}
    fields["needs"] = tuple(fields["needs"])
    extra = {k: v for k, v in dict(payload.get("extra", {})).items() if k in EXTRA}
    for name in (
        "provenance",
        "protocol",
        "knowledge",
        "attack",
    ):  # what a stranger wrote there may be anything
        extra[name] = extra[name] if isinstance(extra.get(name), Mapping) else {}
    record = Record(**fields, **extra)
    record.knowledge = {k: n for k, n in record.knowledge.items() if isinstance(n, int)}
    cell = record.cell
    numbers = [v for s in record.scores.values() for v in (s.value, s.low, s.high)]
    networks = [s.network for s in record.scores.values()]
    texts = [cell.base, cell.attack, cell.defense, cell.key, record.status]
    if not all(isinstance(t, str) for t in [*texts, *record.needs, *networks]):
        raise ValueError("a name is no text")
    if not isinstance(cell.seed, int):
        raise ValueError("the seed is no number")
    if not all(v is None or isinstance(v, (int, float)) for v in numbers):
        raise ValueError("a score is no number")
    return record
