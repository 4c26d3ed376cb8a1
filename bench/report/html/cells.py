"""The sections Table, Cells and Failures: down to each row, cell and prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from t2i_backdoor_bench.contract import Record
from t2i_backdoor_bench.report.html.names import ARROWS
from t2i_backdoor_bench.report.main_table import columns, main_table
from t2i_backdoor_bench.report.metrics import LEAD, metric_names, reading
from t2i_backdoor_bench.report.numbers import needs_text
from t2i_backdoor_bench.report.rows import rows
from t2i_backdoor_bench.report.table import Cell, Column
from t2i_backdoor_bench.store.folder import Store
from t2i_backdoor_bench.store.prompts import PROMPTS, prompts_key

RATES = {"false_positive_rate", "true_positive_rate", "threshold", "n"}  # of a judge
VERDICTS = {
    "asr": "asr",
    "restored": "restoration_accuracy",
    "residue": "residue",
    "leak": "false_trigger_rate",
}


def table_view(records: Sequence[Record]) -> dict[str, Any]:
    """Every row with the main columns, to sort and to filter."""
    found = rows(records)
    ways = columns(records, found)
    if LEAD in metric_names(records) and all(way.name != LEAD for way in ways):
        ways = [reading(records, LEAD), *ways]
    ways = sorted(ways, key=lambda way: way.name != LEAD)
    table = main_table(records, ways, status=True)
    return {
        "caption": table.caption,
        "notes": table.notes,
        "heads": [_head(column) for column in table.columns],
        "rows": [
            [_cell(cell, column) for cell, column in zip(row.cells, table.columns, strict=True)]
            for row in table.rows
        ],
    }


def _head(column: Column) -> str:
    unit = f" {column.unit}" if column.unit else ""
    return f"{column.title}{unit}{ARROWS.get(column.better, '')}"


def _cell(cell: Cell, column: Column) -> dict[str, Any]:
    value = "" if cell.value is None else repr(cell.value)
    return {
        "text": cell.text,
        "value": value,
        "numeric": column.numeric,
        "best": cell.bold,
        "interval": cell.interval,
    }


def chooser(records: Sequence[Record]) -> dict[str, Any]:
    """The chooser of a cell; the script fills the panel."""
    return {"names": [_name(r) + _mark(r) for r in records]}


def _name(record: Record) -> str:
    return f"{record.cell.attack} × {record.cell.defense}, seed {record.cell.seed}"


def _mark(record: Record) -> str:
    return "" if record.status == "done" else f" ({record.status})"


def failures(records: Sequence[Record]) -> dict[str, Any] | None:
    """Each cell without a result: its message, and the whole traceback to open."""
    out = []
    for record in records:
        if record.status != "done":
            lines = record.error.strip().splitlines()
            summary = f"{_name(record)}: {lines[-1] if lines else 'has not run yet'}"
            error = record.error or "The same command goes on with it."
            out.append({"summary": summary, "error": error})
    return {"cells": out} if out else None


def payload(store: Store, records: Sequence[Record]) -> dict[str, Any]:
    """What the script shows of each cell."""
    out, prompts = [], {}
    for record in records:
        cell, config = record.cell, record.cell.config
        key = prompts_key(record) if record.status == "done" else ""
        if key and key not in prompts:
            prompts[key] = store.read_record(f"prompts/{key}", PROMPTS) or {}
        found = {"attack": cell.attack, "defense": cell.defense, "seed": cell.seed}
        found |= {"status": record.status, "error": record.error, "prompts": key}
        found |= {"about": about(record), "options": options_of(config)}
        found["scores"] = {
            m: [s.value, s.low, s.high, s.n, s.network, s.note] for m, s in record.scores.items()
        }
        found["verdicts"] = {k: bits(record, m) for k, m in VERDICTS.items()}
        out.append(found)
    names = dict.fromkeys(m for r in records for m in r.directions)
    ways = {m: reading(records, m) for m in names}
    metrics = {
        m: {"better": w.better, "percent": w.percent, "title": w.title} for m, w in ways.items()
    }
    return {"cells": out, "prompts": prompts, "metrics": metrics}


def bits(record: Record, metric: str) -> str:
    """The verdicts on every prompt, "0" or "1" each; "" where the metric has none, or not one a
    prompt."""
    score = record.scores.get(metric)
    each = (score.each if score else None) or []
    n = record.cell.config.get("evaluation", {}).get("n", len(each))
    whole = all(isinstance(v, bool) for v in each) and len(each) == n
    return "".join("1" if v else "0" for v in each) if whole else ""


def about(record: Record) -> list[tuple[str, Any]]:
    """What a cell was, in pairs of words."""
    trigger, target = record.backdoor.get("trigger") or {}, record.backdoor.get("target") or {}
    pairs: list[tuple[str, Any]] = [("needs", needs_text(" ".join(record.needs), record.knowledge))]
    if trigger:
        replaced = trigger.get("replaces")
        rest = f"for {replaced!r}" if replaced else f"as {trigger.get('place', '?')}"
        pairs.append(("trigger", f"{trigger.get('text', '')!r} {rest}"))
    if target:
        pairs.append(("target", ", ".join(f"{k} {v}" for k, v in target.items())))
    judge = record.judge
    if judge.keys() >= RATES:
        rates = (
            f"false positives {100 * judge['false_positive_rate']:.1f} %, true positives"
            f" {100 * judge['true_positive_rate']:.1f} %"
        )
        pairs.append(("judge", f"{rates}, measured on {judge['n']} pictures each"))
    costs = {k: v for k, v in record.cost.items() if isinstance(v, (int, float))}
    if costs:
        pairs.append(("cost", ", ".join(f"{k} {v:.5g}" for k, v in sorted(costs.items()))))
    return [*pairs, ("record", f"cells/{record.cell.key}.json")]


def options_of(config: Mapping[str, Any]) -> list[tuple[str, Any]]:
    parts = [config.get("attack") or {}, *(config.get("defense") or [])]
    return [(p["name"], p.get("options", {})) for p in parts if p.get("name")]
