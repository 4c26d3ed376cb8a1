"""The records of a run, in the order of its plan."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from t2i_backdoor_bench.contract import PROTOCOL, Cell, Record
from t2i_backdoor_bench.store.folder import Store
from t2i_backdoor_bench.store.record_format import PLAN


def read_plan(store: Store) -> dict[str, Any]:
    """What `run.json` says of the folder's last run; {} where it is absent or damaged."""
    return store.read_record("run", PLAN) or {}


def stored_records(store: Store) -> list[Record]:
    """The records of the folder's last plan, in its order, with a stand-in for each cell that has
    not run; without a plan, all records. Only those of the newest protocol among them: numbers of
    two protocols never stand in one table."""
    return _of_one_protocol(store, _planned(store))


def _of_one_protocol(store: Store, records: list[Record]) -> list[Record]:
    newest = max((r.measured_by for r in records if r.status != "missing"), default=PROTOCOL)
    others = sorted({r.measured_by for r in records if r.measured_by < newest})
    if others:
        many = sum(r.measured_by < newest for r in records)
        store.say(
            f"{many} records of protocol {', '.join(map(str, others))} are left out: the others are"
            f" of protocol {newest}, and the two do not compare"
        )
    if newest < PROTOCOL and records:
        store.say(
            f"{store.root} was measured by protocol {newest}; this version measures by protocol"
            f" {PROTOCOL}, and the two do not compare"
        )
    return [r for r in records if r.measured_by >= newest]


def _planned(store: Store) -> list[Record]:
    manifest = read_plan(store)
    if not manifest:
        return store.all_results()
    extra = {"directions": manifest["directions"], "protocol": manifest["protocol"]}
    records = []
    for found in manifest["cells"]:
        cell = Cell(manifest["protocol"]["base"], **found)
        needs = tuple(manifest["needs"].get(cell.defense, ()))
        result = store.read_result(cell.key) or Record(cell, "missing", needs=needs, **extra)
        renamed = replace(result.cell, attack=cell.attack, defense=cell.defense)
        records.append(replace(result, cell=renamed))
    return records
