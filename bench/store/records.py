"""The records of a run, in the order of its plan."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

from t2i_backdoor_bench.contract import PROTOCOL, Cell, Record, UserError
from t2i_backdoor_bench.store.folder import Store
from t2i_backdoor_bench.store.record_format import PLAN


def read_plan(store: Store) -> dict[str, Any]:
    """What `run.json` says of the folder's last run; {} where it is absent or damaged."""
    return store.read_record("run", PLAN) or {}


def stored_records(store: Store) -> list[Record]:
    """The records of the folder's last plan, in its order, with a stand-in for each cell that has
    not run; without a plan, all records. Only those of the newest protocol among them: numbers of
    two protocols never stand in one table. Raises UserError where no plan says which of several
    records of a cell are of one run."""
    manifest = read_plan(store)
    if manifest:
        return _of_one_protocol(store, _planned(store, manifest))
    return _once_each(store, _of_one_protocol(store, store.all_results()))


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


def _once_each(store: Store, records: list[Record]) -> list[Record]:
    """The records, where there are no two of one cell, as of two settings of a defense."""
    cells = Counter((r.cell.base, r.cell.attack, r.cell.defense, r.cell.seed) for r in records)
    twice = [
        f"{attack} x {defense}, seed {s}" for (_, attack, defense, s), n in cells.items() if n > 1
    ]
    if twice:
        raise UserError(
            f"{store.root} has several records of {twice[0]}{', and others' if twice[1:] else ''},"
            " and no plan (run.json) that is whole says which are of one run: give that run's"
            " command again; what is stored stays"
        )
    return records


def _planned(store: Store, manifest: dict[str, Any]) -> list[Record]:
    extra = {"directions": manifest["directions"], "protocol": manifest["protocol"]}
    records = []
    for found in manifest["cells"]:
        cell = Cell(manifest["protocol"]["base"], **found)
        needs = tuple(manifest["needs"].get(cell.defense, ()))
        result = store.read_result(cell.key) or Record(cell, "missing", needs=needs, **extra)
        renamed = replace(result.cell, attack=cell.attack, defense=cell.defense)
        records.append(replace(result, cell=renamed))
    return records
