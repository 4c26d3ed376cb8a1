"""The records of a run, in the order of its plan."""

from __future__ import annotations

from dataclasses import replace

from t2i_backdoor_bench.contract import PROTOCOL, Cell, Record
from t2i_backdoor_bench.store.folder import Store


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
    manifest = store.read_record("run")
    if manifest is None:
        return store.all_results()
    try:
        extra = {"directions": manifest["directions"], "protocol": manifest["protocol"]}
        base, needs = manifest["protocol"]["base"], manifest["needs"]
        planned = [
            Cell(base, str(c["attack"]), str(c["defense"]), int(c["seed"]), str(c["key"]))
            for c in manifest["cells"]
        ]
        absent_ones = [
            Record(cell, "missing", needs=tuple(map(str, needs[cell.defense])), **extra)
            for cell in planned
        ]
    except (KeyError, TypeError, ValueError, AttributeError):
        store.say(
            f"{store.root}/run.json describes no run of this program: all records of the folder are"
            " shown"
        )
        return store.all_results()
    records = []
    for cell, absent in zip(planned, absent_ones, strict=True):
        result = store.read_result(cell.key) or absent
        renamed = replace(result.cell, attack=cell.attack, defense=cell.defense)
        records.append(replace(result, cell=renamed))
    return records
