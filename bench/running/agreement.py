"""Whether the records of a run folder agree with each other and with the plan of the run that
`run.json` describes. Nothing is drawn: what a record says of itself is compared with what the
program gives for the same settings.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import yaml

from t2i_backdoor_bench.contract import Cell, Record, UserError, registry
from t2i_backdoor_bench.contract.hashing import digest, plain
from t2i_backdoor_bench.running.compare import MEASURED, differences, name_of
from t2i_backdoor_bench.running.described import other_scale, read_config
from t2i_backdoor_bench.running.manifest import description, protocol, yaml_of
from t2i_backdoor_bench.running.plan import Plan
from t2i_backdoor_bench.running.prompts import prompts_of
from t2i_backdoor_bench.running.settings import FIELDS, Config
from t2i_backdoor_bench.running.yaml_file import read_yaml
from t2i_backdoor_bench.store import provenance
from t2i_backdoor_bench.store.commits import is_clone, source_at
from t2i_backdoor_bench.store.folder import WRONG, Store
from t2i_backdoor_bench.store.guard import entries
from t2i_backdoor_bench.store.packed import PACKED, read_packed
from t2i_backdoor_bench.store.prompts import prompts_key

# of run.json: read back as settings, and what says where the cells were made
APART = ("config", "commit", "versions", "hardware")
COSTS = (  # scores that are computed of the costs alone
    *("seconds", "seconds_picture", "peak_memory_mb", "detection_ms"),
    *("parameters", "settings_tried", "settings_tried_attack"),
)
FEW = 3  # differences that are named of one part of run.json


@dataclass(frozen=True)
class CostsAlone:
    """What these scores read of a cell's samples."""

    cost: Mapping[str, Any]


def disagreements(
    plan_: Plan,
    wide: Plan,
    store: Store,
    manifest: Mapping[str, Any],
    records: Mapping[str, Record],
) -> list[str]:
    """One line for each thing in a run folder that does not agree with the plan of its run.json.
    `plan_` has the metrics of run.json, `wide` those of the records as well; `records` are the
    stored ones by the name of their file."""
    cells, wrong = {cell.key: cell for cell in plan_.cells}, []
    for key, record in records.items():
        cell = cells.get(key)
        who = name_of(record.cell if cell is None else cell)
        found = _guarded(who, lambda r=record, k=key: about_record(plan_, wide, store, r, k))
        wrong += [f"{who}: {text}" for text in found]
    wrong += _guarded("run.json", lambda: about_run(plan_, store, manifest, records))
    done = [r for r in records.values() if r.status == "done"]
    wrong += _guarded("a record", lambda: [*twice(done), *codes(done, manifest)])
    return list(dict.fromkeys(wrong))


def _guarded(who: str, check: Callable[[], list[str]]) -> list[str]:
    """What a check of a stranger's values finds; where they are of types that it cannot compare,
    that they are damaged."""
    try:
        return check()
    except (*WRONG, UserError) as error:
        return [f"{who} is damaged: it has values of wrong types ({type(error).__name__}: {error})"]


# -------------------------------------------------------------------------------------- the run
def about_run(
    plan_: Plan, store: Store, manifest: Mapping[str, Any], records: Mapping[str, Record]
) -> list[str]:
    """Where run.json and run.yaml are not what the program writes for the settings of the run."""
    now = description(plan_, records)
    config = read_config(manifest)
    wrong = other_scale(config.scale)
    for part in (name for name in now if name not in APART):
        found = differences({part: manifest.get(part)}, {part: plain(now[part])})
        more = [f"{part}: and {len(found) - FEW} more"] if len(found) > FEW else []
        wrong += [f"run.json, {text}" for text in [*found[:FEW], *more]]
    if not isinstance(manifest.get("commit", ""), str):
        wrong.append("run.json, commit: no text")
    path = store.path("run.yaml")
    if path.is_file():
        written = read_yaml(path)
        if written.get("n") == config.scale.n:  # it may be given or not
            del written["n"]
        asked, usual = yaml.safe_load(yaml_of(replace(plan_, config=config))), vars(Config())
        asked = {k: v for k, v in asked.items() if k in written or v != usual[FIELDS[k]]}
        wrong += [f"run.yaml, {text}" for text in differences(written, asked)]
    return wrong


# ---------------------------------------------------------------------------------- one record
def about_record(plan_: Plan, wide: Plan, store: Store, record: Record, key: str) -> list[str]:
    """Where a record does not agree with its configuration, its key and the plan, and with what is
    stored beside it. `key` is the name of its file."""
    config = record.cell.config
    if not (digest(config) == key == record.cell.key):
        return ["the key of its configuration is not the one that it and its file are named by"]
    same = [cell for cell in plan_.cells if cell.key == key]
    if not same:
        return other_configuration(plan_, record.cell)
    names = [(c.base, c.attack, c.defense, c.seed) for c in same]
    own = (record.cell.base, record.cell.attack, record.cell.defense, record.cell.seed)
    if own not in names:
        return [f"its record calls itself {name_of(record.cell)} on {record.cell.base}"]
    cell = same[0]
    expected = {
        "needs": list(plan_.needs(cell.defense)),
        "protocol": protocol(plan_),
        "edits": plan_.attacks[cell.attack].entry.edits,
    }
    expected |= {"error": ""} if record.status == "done" else {}
    stored = {name: plain(vars(record)[name]) for name in expected}
    wrong = differences(stored, plain(expected))
    if record.status == "done":
        wrong += about_metrics(record, plan_.metrics_of(cell.attack, cell.defense), wide, cell)
        wrong += [*about_origin(record), *about_cost(record, wide)]
        wrong += about_files(plan_, store, record, cell)
    return wrong


def about_metrics(record: Record, asked: Sequence[str], wide: Plan, cell: Cell) -> list[str]:
    """Scores that the run does not have or has by other options, and those of the metrics that it
    is `asked` for that are missing."""
    known = registry.metrics.entries
    possible = wide.metrics_of(cell.attack, cell.defense)
    wrong = [f"{m} is no metric of this program" for m in record.scores if m not in known]
    wrong += [f"{m}: not stored, and run.json names it" for m in asked if m not in record.scores]
    for name in [m for m in record.scores if m in known]:
        if name not in possible:
            wrong.append(
                f"{name}: stored, and a run as run.json describes it does not measure it here"
                " (other settings, or network weights that are not on this machine)"
            )
        elif record.metric_keys.get(name) != wide.metric_key(name):
            wrong.append(f"{name}: measured with other options, or by another network, than here")
    wrong += [
        f"{m}: it has the key of a score, and no score"
        for m in record.metric_keys
        if m not in record.scores
    ]
    wrong += [
        f"{m}: of {s.n} pictures, and it has {len(s.each)} values"
        for m, s in record.scores.items()
        if s.each and len(s.each) != s.n
    ]
    for name, found in record.directions.items():
        if name not in known:
            wrong.append(f"directions name {name}, which is no metric of this program")
        elif differences(found, plain(known[name].reading)):
            wrong.append(f"{name}: to be read in another way than here")
    return wrong


def about_origin(record: Record) -> list[str]:
    """Where the provenance of a record does not say what the rest of it says."""
    if not record.provenance:
        return []
    networks = {name: s.network for name, s in record.scores.items() if s.network}
    now = provenance.config_hashes(record.cell.config)
    now |= {"seed": record.cell.seed, "networks": networks}
    stored = {name: record.provenance.get(name) for name in now}
    return [f"provenance, {text}" for text in differences(stored, now)]


def about_cost(record: Record, wide: Plan) -> list[str]:
    """Scores that are nothing but costs, and are not what they are of the record's costs."""
    wrong = []
    for name in (n for n in COSTS if n in record.scores and n in wide.metrics):
        now = wide.metrics[name].instance.compute(CostsAlone(record.cost), None)
        found = differences(plain(record.scores[name]), plain(now))
        wrong += [f"{name}, {text} by its costs" for text in found]
    return wrong


def about_files(plan_: Plan, store: Store, record: Record, cell: Cell) -> list[str]:
    """Where the weights and the pictures that are stored are not those that a record names."""
    weights = store.checksum(f"models/{plan_.attack_key(cell.attack, cell.seed)}.safetensors")
    wrong = []
    if provenance.other_weights(record.origin("attack_weights"), weights):
        wrong.append("made of other attacked weights than those that are stored")
    if (found := store.read_arrays(f"samples/{record.cell.key}")) is not None:
        cost = found[1]["cost"]
        stored = {name: record.cost.get(name) for name in cost}
        wrong += [f"cost, {text} (beside its pictures)" for text in differences(stored, cost)]
    name = f"prompts/{prompts_key(record)}"
    if (prompts := store.read_record(name)) is not None:
        right = {"target": prompts_of(plan_.data, record)}
        wrong += [f"{name}.json, {text}" for text in differences(prompts, right)][:FEW]
    return wrong


def other_configuration(plan_: Plan, cell: Cell) -> list[str]:
    """How the configuration of a stored cell differs from that of the plan's cell of its names."""
    named = (cell.attack, cell.defense, cell.seed)
    same = [c for c in plan_.cells if (c.attack, c.defense, c.seed) == named]
    if not same:
        return ["its attack, defense and seed are not in the run that run.json describes"]
    return differences(cell.config, plain(same[0].config)) or ["its key is of another format"]


# ------------------------------------------------------------------------------- several records
def twice(done: Sequence[Record]) -> list[str]:
    """Records of two seeds with the same scores. Other noise and other prompts never give the same
    distances of pictures, to the last bit: one is a copy."""
    found: dict[str, Record] = {}
    wrong = []
    for record in done:
        scores = {k: s for k, s in record.scores.items() if k not in MEASURED}
        if sum(s.network != "" and isinstance(s.value, float) for s in scores.values()) < 2:
            continue
        first = found.setdefault(digest(scores), record)
        if first.cell.seed != record.cell.seed:
            wrong.append(f"{name_of(record.cell)} has every score of {name_of(first.cell)}")
    return wrong


def codes(done: Iterable[Record], manifest: Mapping[str, Any]) -> list[str]:
    """Commits that do not have the source files that their records name, and run.json where it
    names a commit of other code than its cells."""
    named = [code for record in done for code in provenance.codes_of(record) if code]
    clean = [c for c in provenance.distinct(named) if not c["dirty"] and c["commit"]]
    if not is_clone():
        return []  # `verify` says that nothing was compared
    wrong = []
    for code in clean:
        there = source_at(code["commit"])
        if there != code["source"]:
            why = "does not have the source files that they name" if there else "is not known here"
            wrong.append(f"records name the commit {code['commit'][:12]}, which {why}")
    commit = str(manifest.get("commit", ""))
    if len(clean) == len(provenance.distinct(named)) > 0:
        sources = {code["source"] for code in clean}
        if commit and source_at(commit) not in sources:
            wrong.append(f"run.json names the commit {commit[:12]}, which made none of its cells")
    return wrong


# ------------------------------------------------------------------------------------- the files
def damaged_files(store: Store) -> list[str]:
    """The files of a run folder that do not fit their checksums, whether or not a table shows what
    is in them."""
    wrong = []
    names = [path.relative_to(store.root).as_posix() for path in entries(store.root)]
    for name in names:
        if name.endswith(".sha256"):
            if name.removesuffix(".sha256") not in names:
                wrong.append(f"{name.removesuffix('.sha256')} is gone, and its checksum is there")
        elif name.endswith(".safetensors"):
            if f"{name}.sha256" not in names:
                wrong.append(f"{name} has no checksum")
            elif store.damaged(name):
                wrong.append(f"{name} is damaged: it does not fit its checksum")
        elif name == PACKED:
            wrong += _damaged_pack(store)
        elif name.endswith(".json") and "/" in name:
            wrong += _damaged_record(store, name.removesuffix(".json"))
    return wrong


def _damaged_pack(store: Store) -> list[str]:
    try:
        keys = list(read_packed(store.path(PACKED)))
    except (ValueError, OSError, RecursionError) as error:
        return [f"{PACKED} is damaged: {error}"]
    return [text for key in keys for text in _damaged_record(store, f"cells/{key}")]


def _damaged_record(store: Store, name: str) -> list[str]:
    room, _, key = name.partition("/")
    found = store.read_result(key) if room == "cells" else store.read_record(name)
    if found is None:
        return [f"{name}.json is damaged"]
    if room == "sources" and digest(found)[:16] != key:
        return [f"{name}.json is not the list of files that it is named by"]
    return []


def forgotten(plan_: Plan, store: Store) -> int:
    """How many records in the folder are of no cell of the plan, and in no table."""
    keys = {cell.key for cell in plan_.cells}
    return sum(key not in keys for key in store.record_keys())
