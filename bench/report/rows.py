"""Rows as plain values, pure functions of records: table.csv (one row an attack x defense, pooled
over seeds) and rows.csv (one row a cell and metric)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import numpy as np

from t2i_backdoor_bench.contract import Record, Score, UserError
from t2i_backdoor_bench.report.attack_line import attack_columns
from t2i_backdoor_bench.report.metrics import COST, COUNTS, metric_names, reading
from t2i_backdoor_bench.report.numbers import known_by, needs_text
from t2i_backdoor_bench.report.paired import (
    changes,
    corrected,
    difference,
    kid_change,
    larger_p,
    paired_p,
    reference,
    rival,
)
from t2i_backdoor_bench.report.pooling import pool
from t2i_backdoor_bench.stats.estimates import Estimate, pool_values
from t2i_backdoor_bench.store import provenance

PAIRED = {"removal": "removal_accuracy", "restoration": "restoration_accuracy"}
NO_SCORE = {"done": "not measured", "failed": "the cell failed", "missing": "the cell has not run"}
ONLY = {
    "screens": "not available: this defense has no detector",
    "locates": "not available: this defense locates no trigger",
    "probe": "not measured: run with --probe",
    "resampled": "not measured: --scale study, --scale full and --probe draw by other samplers",
    "weights": "not available: the weights of its network are not here",
    "undefended": "not measured: it says what an attack does, and is of undefended rows",
    "adapter": "not measured: this attack makes no adapter",
    "own": "not measured apart: the attack's paper evaluates on captions, as `asr` does",
}
ONLY |= dict.fromkeys(
    ("paraphrase", "incomplete", "unseen_words", "broken_syntax"),
    "not measured: the attack's paper makes no such claim",
)
Key = tuple[str, str, str]  # base, attack, defense


def by_row(records: Sequence[Record]) -> dict[Key, list[Record]]:
    """Records of one row of the table (base, attack, defense) by seed: the undefended row first in
    its block, otherwise in the order in which the names first appear."""
    found: dict[Key, list[Record]] = {}
    for r in records:
        found.setdefault((r.cell.base, r.cell.attack, r.cell.defense), []).append(r)
    order = [list(dict.fromkeys(key[i] for key in found)) for i in range(3)]
    order[2].sort(key=lambda name: name != "none")
    places = [{name: place for place, name in enumerate(names)} for names in order]
    keys = sorted(found, key=lambda key: [at[name] for at, name in zip(places, key, strict=True)])
    return {key: sorted(found[key], key=lambda r: r.cell.seed) for key in keys}


def one_protocol(records: Sequence[Record]) -> None:
    """Raise UserError where finished records were measured by several protocols: a number of one
    says nothing beside a number of the other."""
    found = sorted({r.measured_by for r in records if r.status == "done"})
    if len(found) > 1:
        names = " and ".join(map(str, found))
        raise UserError(f"records of the protocols {names} cannot stand in one table")


# within `remembering`: records (kept, so that their ids stay theirs) and their rows, by those ids
_KNOWN: ContextVar[dict[tuple[int, ...], tuple[Sequence[Record], list[dict[str, Any]]]] | None] = (
    ContextVar("known", default=None)
)


@contextmanager
def remembering() -> Iterator[None]:
    """Within it `rows` of the same records is computed once: every part of a report asks for it.
    Nothing may change records meanwhile."""
    token = _KNOWN.set({})
    try:
        yield
    finally:
        _KNOWN.reset(token)


def rows(records: Sequence[Record]) -> list[dict[str, Any]]:
    """One row an attack x defense: the columns of table.csv, numbers as numbers, None where there
    is none.

    `status` is "done", "failed", "missing" (not run yet), or "partial" where only some seeds are
    done: the numbers are then of those. Raises UserError for records of several protocols.
    """
    if (known := _KNOWN.get()) is None:
        return _rows(records)
    key = tuple(map(id, records))
    if key not in known:
        known[key] = list(records), _rows(records)
    return [dict(row) for row in known[key][1]]


def _rows(records: Sequence[Record]) -> list[dict[str, Any]]:
    one_protocol(records)
    names, versus, split = metric_names(records), reference(records), by_row(records)
    table = [_row(key, split, names, versus) for key in split]
    for short in PAIRED if versus else ():
        _correct(table, f"p_{short}_vs_{versus.split('[')[0]}_holm")
    return table


def _correct(table: Sequence[dict[str, Any]], column: str) -> None:
    """Holm's correction of a column of p-values, over the attacks of each defense."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in table:
        groups.setdefault((row["base"], row["defense"]), []).append(row)
    for group in groups.values():
        for row, p in zip(group, corrected([row[column] for row in group]), strict=True):
            row[column] = p


def _row(
    key: Key, split: Mapping[Key, list[Record]], names: Sequence[str], versus: str
) -> dict[str, Any]:
    base, attack, defense = key
    cells, undefended = split[key], split.get((base, attack, "none"), [])
    done = [r for r in cells if r.status == "done"]
    protocol, states = cells[0].protocol, {r.status for r in cells}
    row: dict[str, Any] = {"base": base, "attack": attack, "defense": defense}
    needs = " ".join(cells[0].needs)
    row |= {"needs": needs, "given": needs_text(needs, known_by(done)), "seeds": len(done)}
    evaluation = protocol.get("evaluation", {})
    row["n"] = evaluation.get("n")
    row |= {k: evaluation[k] for k in ("first_of",) if k in evaluation}  # of a trial alone
    for name in names:
        scores = [r.scores[name] for r in done if name in r.scores]
        found = pool(scores, reading(cells, name).share)
        row |= {name: found.value, f"{name}_lo": found.low, f"{name}_hi": found.high}
    if versus:
        row |= _changes(cells, undefended, names)
    for short, metric in PAIRED.items() if versus else ():
        against = rival(defense, versus, {name for _, _, name in split})
        other = split.get((base, attack, against), [])
        tested = defense != against
        found = difference(cells, other, metric) if tested else None
        name = f"p_{short}_vs_{versus.split('[')[0]}"
        row[name] = paired_p(cells, other, metric) if tested else None
        row[f"{name}_seeds"] = found.p if found else None
        row[f"{name}_holm"] = larger_p(found, row[name])
    for name in (*COST, *COUNTS):
        values = [v for v in (cost_of(r, name) for r in done) if v is not None]
        row[name] = float(np.mean(values)) if values else None
    row |= attack_columns(cells)
    row["scorer"] = protocol.get("scorer", "")
    row["status"] = states.pop() if len(states) == 1 else "partial" if done else "failed"
    return row


def _changes(
    cells: Sequence[Record], undefended: Sequence[Record], names: Sequence[str]
) -> dict[str, float | None]:
    """What a defense does to the quality of clean prompts: the difference of KID; of records of the
    first protocol the share by which FID grew."""
    defended = cells[0].cell.defense != "none"
    none, found = Estimate(None, None, None), {}
    if "kid" in names and cells[0].measured_by > 1:
        found["kid_change"] = (kid_change(cells, undefended) if defended else None) or none
    elif "fid" in names:
        moved = changes(cells, undefended, "fid") if defended else {}
        found["fid_change"] = pool_values(list(moved.values())) if moved else none
    return {
        name: value
        for m, e in found.items()
        for name, value in ((m, e.value), (f"{m}_lo", e.low), (f"{m}_hi", e.high))
    }


def cost_of(record: Record, name: str) -> float | None:
    """A cost or a count of a cell."""
    if name == "seconds_per_step":
        steps = record.cost.get("steps")
        return record.cost["seconds"] / steps if steps and "seconds" in record.cost else None
    return record.cost.get(name)


def value_of(record: Record, metric: str) -> float | None:
    """One number of a cell: a score, or a cost."""
    if metric in (*COST, *COUNTS):
        return cost_of(record, metric)
    return record.scores[metric].value if metric in record.scores else None


def long_rows(records: Sequence[Record]) -> list[dict[str, Any]]:
    """One row a cell and metric: the columns of rows.csv."""
    table, names = [], metric_names(records)
    only = {name: reading(records, name).only for name in (*names, *COUNTS)}
    only |= dict.fromkeys(COST, "")
    for cells in by_row(records).values():
        for record in cells:
            cell, origin = record.cell, provenance.columns(record)
            start = {"base": cell.base, "attack": cell.attack, "defense": cell.defense}
            for metric in [*names, *(m for m in (*COST, *COUNTS) if m in record.directions)]:
                score = record.scores.get(metric) or Score(
                    None, note=_why_no_score(record, only[metric])
                )
                row = start | {"seed": cell.seed, "metric": metric, "value": score.value}
                row |= {"low": score.low, "high": score.high, "n": score.n}
                row |= {"network": score.network, "status": record.status, "note": score.note}
                table.append(row | {"key": cell.key[:16]} | origin)
    return table


def _why_no_score(record: Record, only: str) -> str:
    """Why a cell has no score of a metric that is measured only under a condition (`only`)."""
    if record.status == "done":
        return ONLY.get(only, NO_SCORE["done"])
    return NO_SCORE[record.status]
