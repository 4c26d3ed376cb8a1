"""Check a run folder: see that its records agree with each other and with its plan, make cells of
it again in another folder, and compare the two."""

from __future__ import annotations

import dataclasses
import random
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from t2i_backdoor_bench.contract import PROTOCOL, Cell, Record, UserError, registry
from t2i_backdoor_bench.contract.printable import visible
from t2i_backdoor_bench.running.agreement import damaged_files, disagreements, forgotten
from t2i_backdoor_bench.running.cell import make_cell
from t2i_backdoor_bench.running.compare import (
    compare_costs,
    compare_pictures,
    compare_records,
    name_of,
)
from t2i_backdoor_bench.running.cost import machine
from t2i_backdoor_bench.running.described import not_here, read_config
from t2i_backdoor_bench.running.devices import find_device, use_processor
from t2i_backdoor_bench.running.display import Display
from t2i_backdoor_bench.running.manifest import hardware
from t2i_backdoor_bench.running.plan import Plan, plan, with_metrics
from t2i_backdoor_bench.running.preflight import preflight
from t2i_backdoor_bench.running.settings import Config
from t2i_backdoor_bench.running.shared import Shared
from t2i_backdoor_bench.store import provenance
from t2i_backdoor_bench.store.commits import is_clone
from t2i_backdoor_bench.store.folder import WRONG, Store
from t2i_backdoor_bench.store.records import read_plan

MOST = 12  # differences that are printed


@dataclass
class Found:
    """What a check found: differences, what was measured and is shown alone, and how much was
    compared."""

    wrong: list[str] = field(default_factory=list)
    measured: list[str] = field(default_factory=list)
    scores: int = 0
    pictures: int = 0


def verify(
    folder: Path,
    changed_files: Callable[[Store], list[str]],
    every: bool = False,
    fetch: bool = False,
) -> int:
    """See that all records of the run in `folder` agree with its plan, and that its files are whole
    and its tables are what the records give (`changed_files` says which are not). Then make one
    cell, chosen at random, or `every` cell again in a temporary folder, from the base model on, and
    compare it with the stored one. The folder is only read; what it names is not fetched from the
    hub, unless `fetch`.

    Returns 0 where everything is equal, 1 where something differs. Raises UserError where the
    folder is not a finished run.
    """
    display = Display()
    store, manifest, config = open_run(folder, fetch)
    with tempfile.TemporaryDirectory() as elsewhere:
        plan_ = plan(to_redo(config, Path(elsewhere)))
        records = stored_by_key(plan_, store, manifest)
        done = [r for r in records.values() if r.status == "done"]
        check_protocol(store, done)
        known = registry.metrics.entries
        wide = with_metrics(plan_, {m for r in records.values() for m in r.scores if m in known})
        found = Found(disagreements(plan_, wide, store, manifest, records))
        agree = not found.wrong
        found.wrong += [*damaged_files(store), *_changed(changed_files, store)]
        stored = list(records.values())  # those that failed, too: so a good name would be hidden
        chosen = stored if every else [random.SystemRandom().choice(stored)]
        cells = [c for c in wide.cells if c.key in {r.cell.key for r in chosen}]
        who = f"all {len(cells)} cells" if every else name_of(cells[0] if agree else chosen[0].cell)
        if agree:
            display.say(f"verify {who}, of {len(done)} finished cells")
            make_again(plan_, wide, cells, records, Path(elsewhere), display, store, found)
    if not found.wrong:
        say_equal(folder, who, found, every)
    else:
        say_different(folder, who, found.wrong, agree, reasons(manifest, chosen, config))
    for text in not_looked_at(plan_, store, records) if agree else ():
        print(f"  {text}")
    return int(bool(found.wrong))


def not_looked_at(plan_: Plan, store: Store, records: Mapping[str, Record]) -> list[str]:
    """What of a run folder was not compared with anything."""
    found = []
    if left := forgotten(plan_, store):
        found.append(f"{left} more records are of no cell of this run, and were not looked at")
    if absent := len({c.key for c in plan_.cells} - set(records)):
        found.append(f"{absent} of its {len(plan_.cells)} cells are not in the folder")
    codes = [c for record in records.values() for c in provenance.codes_of(record) if c]
    if not is_clone():
        found.append("this is no git clone: the commits that the records name were not looked at")
    elif any(code["dirty"] for code in codes):
        found.append("records name code with changes that no commit has, and it was not looked at")
    return found


def open_run(folder: Path, fetch: bool) -> tuple[Store, Mapping[str, Any], Config]:
    """The folder, its run.json and the settings in it. Raises UserError where there are none, or
    where what they name would have to be fetched and may not be."""
    if not folder.is_dir():
        raise UserError(f"there is no run folder {folder} to verify")
    said: list[str] = []  # what is damaged `damaged_files` says, too
    store = Store(folder, said.append, read_only=True)
    manifest = read_plan(store)
    if not manifest:
        why = f" ({said[0].partition(': it counts')[0]})" if said else ""
        raise UserError(
            f"{folder} holds no run.json with a finished cell: there is nothing to verify{why}"
        )
    config = read_config(manifest)
    if not fetch and (names := not_here(config)):
        raise UserError(
            f"run.json names {' and '.join(names)}, which may have to be fetched; a run folder may"
            " be a stranger's: give --fetch to let it"
        )
    return store, manifest, config


def stored_by_key(plan_: Plan, store: Store, manifest: Mapping[str, Any]) -> dict[str, Record]:
    """The records of a run by the name of their file: of the cells of its plan, and of those that
    run.json lists."""
    listed = manifest.get("cells")
    listed = listed if isinstance(listed, list) else []
    named = [c.get("key") for c in listed if isinstance(c, Mapping)]
    keys = [*(c.key for c in plan_.cells), *(key for key in named if isinstance(key, str))]
    found = {key: store.read_result(key) for key in dict.fromkeys(keys)}
    return {key: record for key, record in found.items() if record is not None}


def check_protocol(store: Store, done: Sequence[Record]) -> None:
    """Raise UserError where no cell is finished, or all are measured by another protocol."""
    if not done:
        why = next((f" ({text})" for text in damaged_files(store)), "")
        raise UserError(f"{store.root} holds no finished cell: there is nothing to verify{why}")
    newest = max(record.measured_by for record in done)
    if newest != PROTOCOL:
        raise UserError(
            f"{store.root} was measured by protocol {newest}, and this version measures by"
            f" protocol {PROTOCOL}: verify it with the version that made it (run.json names its"
            " commit)"
        )


def _changed(changed_files: Callable[[Store], list[str]], store: Store) -> list[str]:
    try:
        return changed_files(store)
    except WRONG as error:
        return [f"no table can be made of the records: they are damaged ({type(error).__name__})"]


def to_redo(config: Config, out: Path) -> Config:
    """The settings of a run for another folder, in one process."""
    once = {"fresh": False, "renew": False, "attention_maps": False, "save_models": ()}
    once |= {"time_limit": None, "track": ()}
    return dataclasses.replace(config, out=out, workers=1, executor="local", **once)


def make_again(
    plan_: Plan,
    wide: Plan,
    cells: Sequence[Cell],
    records: Mapping[str, Record],
    folder: Path,
    display: Display,
    store: Store,
    found: Found,
) -> None:
    """Make cells from the base model on, in a new store in `folder`, and add to `found` how they
    compare with the stored ones."""
    find_device(plan_.config.device)
    use_processor(plan_.config)
    twin = Store(folder, display.say)
    shared = Shared(wide, twin, display)
    preflight(shared, cells)
    display.open(len(cells))
    try:
        for cell in {c.key: c for c in cells}.values():
            display.start(name_of(cell))
            again = make_cell(shared, cell)
            display.finish(cell.key)
            compare(records[cell.key], again, plan_, cell, found, len(cells) > 1)
    finally:
        display.close()
    wrong, found.pictures = compare_pictures(store, twin)
    found.wrong += wrong


def compare(
    stored: Record, again: Record, plan_: Plan, cell: Cell, found: Found, named: bool
) -> None:
    """Add to `found` how a cell that was made again compares with the stored one."""
    about = f"{name_of(cell)}: " if named else ""
    wrong = compare_records(stored, again, plan_.metrics_of(cell.attack, cell.defense))
    lines, far = compare_costs(stored, again)
    if stored.origin("machine") == machine(plan_.config.device) and again.status == "done":
        wrong += far
    found.wrong += [f"{about}{text}" for text in wrong]
    found.measured += [f"{about}{text}" for text in lines]
    found.scores += len(again.scores)


def say_equal(folder: Path, who: str, found: Found, every: bool) -> None:
    pictures = f" and {found.pictures} images" if found.pictures else ""
    have = "have" if every else "has"
    lines = [
        f"{folder}: all records agree with run.json, the tables are what they give, and {who}, made"
        f" again, {have} the same {found.scores} scores{pictures}"
    ]
    lines += [f"  measured, and not compared: {text}" for text in found.measured[:MOST]]
    print("\n".join(visible(line) for line in lines))


def say_different(
    folder: Path, who: str, wrong: Sequence[str], agree: bool, why: Sequence[str]
) -> None:
    head = (
        f"{folder}: {who}, made again, is not what is stored"
        if agree
        else f"{folder}: its records are not those of the run that its run.json describes to this"
        " version; no cell was made again"
    )
    rest = [f"and {len(wrong) - MOST} more differences"] if len(wrong) > MOST else []
    print("\n".join(visible(line) for line in [head, *(f"  {t}" for t in wrong[:MOST])]))
    for text in [*rest, *why]:
        print(f"  {visible(text)}")


def reasons(manifest: Mapping[str, Any], records: Sequence[Record], config: Config) -> list[str]:
    """Possible reasons for differences. Numbers are only reproducible with the same code, libraries
    and machine."""
    here = provenance.current_code()
    codes = provenance.distinct(c for record in records for c in provenance.codes_of(record))
    found = []
    if any(c.get("source") != here["source"] for c in codes):
        names = ", ".join(dict.fromkeys(c.get("commit", "")[:9] or "unknown" for c in codes))
        found.append(
            f"the stored cell was made by other code (commit {names}; here"
            f" {here['commit'][:9] or 'unknown'}): check that commit out to verify its numbers"
        )
    before = codes[-1].get("versions") or _mapping(manifest.get("versions"))
    for name, version in here["versions"].items():
        if before.get(name) != version:
            found.append(
                f"the stored cell was made with {name} {before.get(name, 'none')} (here {version})"
            )
    then, now = _mapping(manifest.get("hardware")), hardware(config.device)
    for name in ("cpu", "gpu", "threads"):
        if (was := then.get(name)) != now.get(name):
            found.append(f"the run was made on {name} {was} (here {now.get(name)})")
    return found


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
