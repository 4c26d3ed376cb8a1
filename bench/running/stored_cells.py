"""Which cells are stored, and what they lack."""

from __future__ import annotations

from dataclasses import replace

from t2i_backdoor_bench.contract import Cell, Record
from t2i_backdoor_bench.running.attention_maps import has_maps
from t2i_backdoor_bench.running.plan import Plan
from t2i_backdoor_bench.running.saved_models import has_saved
from t2i_backdoor_bench.store.folder import Store


def whole_cell(store: Store, cell: Cell) -> Record | None:
    """The stored cell, or None where its record is absent or damaged, or its images are damaged.
    Records without images are whole: that is how results are published."""
    found, name = store.read_result(cell.key), f"samples/{cell.key}.safetensors"
    return None if found is not None and store.damaged(name) else found


def missing_metrics(plan_: Plan, cell: Cell, stored: Record | None) -> list[str]:
    """The metrics of the plan that a stored cell does not have, or has with other options. All of
    them for a failed cell."""
    wanted = plan_.metrics_of(cell.attack, cell.defense)
    if stored is None or stored.status != "done":
        return wanted
    keys = stored.metric_keys
    return [m for m in wanted if m not in stored.scores or keys.get(m) != plan_.metric_key(m)]


def unfinished(plan_: Plan, store: Store, cell: Cell, stored: Record | None) -> bool:
    """Whether a cell has metrics to compute, attention maps to draw, or models to save."""
    has_trigger = "trigger" not in plan_.attacks[cell.attack].instance.withheld
    wants_maps = plan_.config.attention_maps and has_trigger and not has_maps(store, cell)
    wants = wants_maps or not has_saved(plan_, store, cell)
    return bool(missing_metrics(plan_, cell, stored)) or wants


def settled(plan_: Plan, store: Store, cell: Cell) -> bool:
    """Whether a cell is stored whole, or has failed in this run (`try_again` has removed what
    failed in an earlier one)."""
    stored = whole_cell(store, cell)
    return stored is not None and (
        stored.status == "failed" or not unfinished(plan_, store, cell, stored)
    )


def try_again(store: Store, record: Record) -> None:
    """Forget that a cell failed: it is no longer there, or, where it was done and a further metric
    failed, it is as it was before that."""
    if record.done_before:
        store.write_result(replace(record, status="done", error="", done_before=False))
    else:
        store.drop_result(record.cell.key)
