"""`validate`: what a run would do, and what of it would be refused, without running anything."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import replace

from t2i_backdoor_bench.contract import Cell, Data, UserError
from t2i_backdoor_bench.contract.printable import visible
from t2i_backdoor_bench.running import budget
from t2i_backdoor_bench.running.devices import share
from t2i_backdoor_bench.running.disk import disk_of, there
from t2i_backdoor_bench.running.display import Reporter
from t2i_backdoor_bench.running.forecast import all_hours, forecast
from t2i_backdoor_bench.running.plan import Plan, plan
from t2i_backdoor_bench.running.preflight import preflight
from t2i_backdoor_bench.running.settings import Config
from t2i_backdoor_bench.running.shared import Shared
from t2i_backdoor_bench.running.work import Work, find_work, ready
from t2i_backdoor_bench.store.folder import Store
from t2i_backdoor_bench.store.records import read_plan

REFUSED = 2  # the exit status, as for a bad flag
MOST = 6  # cells that a line names


def validate(config: Config, data: Data | None = None) -> int:
    """Say what a run with these settings would make, what it would refuse, and what it needs, and
    make nothing. The base model is loaded, as `run` does before any work: only it can tell whether
    a trigger gets through, and whether a method works on it.

    Returns 0, or REFUSED where a cell would be refused or the disk is too small. Raises UserError
    for what refuses the whole run.
    """
    lines, bad = checked(config, data)
    print("\n".join(visible(line) for line in lines))
    return REFUSED if bad else 0


def checked(config: Config, data: Data | None = None) -> tuple[list[str], bool]:
    """What `validate` says, and whether something is refused. Raises UserError as it does."""
    config = ready(config)
    plan_, said = plan(config, data), list[str]()
    check_writable(config)
    # what --fresh is not to read is all that is older than now
    since = time.time_ns() if config.fresh else 0
    store = Store(config.folder, said.append, read_only=True, since=since)
    work = find_work(plan_, store)
    if config.renew:
        work = replace(work, todo=[c for c in plan_.cells if c in work.todo or c.key in work.old])
    many, threads = share(config, plan_.base.settings, len(work.todo))
    plan_ = replace(plan_, config=replace(plan_.config, workers=many, threads=threads))
    display = Reporter(lambda event: said.append(event[1]))
    shared = Shared(plan_, store, display)
    refused: dict[str, list[Cell]] = {}
    if work.todo:
        shared.load()
        refused = refusals(shared, work.todo)
    lines = [*counts(plan_, work, many), *plan_.notes, *dict.fromkeys(said)]
    lines += [f"refused, {names(cells)}: {why}" for why, cells in refused.items()]
    lines += estimates(plan_, store, work)
    bad = bool(refused)
    if work.todo and not refused:
        disk = disk_of(shared, work.todo)
        lines.append(disk.text)
        bad = disk.needed > disk.free
        lines += ["refused: the disk is too small"] if bad else []
    lines.append("not valid: mend what is refused" if bad else "valid")
    return lines, bad


def check_writable(config: Config) -> None:
    """Raise UserError where the run folder could not be written."""
    place = there(config.folder)
    if not (place.is_dir() and os.access(place, os.W_OK | os.X_OK)):
        why = "read-only" if place.is_dir() else "no folder"
        raise UserError(
            f"cannot write to the output folder {config.folder}: {place} is {why}; choose another"
            " with --out"
        )


def counts(plan_: Plan, work: Work, many: int) -> list[str]:
    """How many cells there are, and in which state."""
    config, cells = plan_.config, len(plan_.cells)
    failed = sum(1 for c in work.todo if (r := work.stored[c.key]) and r.status == "failed")
    partly = sum(1 for c in work.todo if (r := work.stored[c.key]) and r.status == "done")
    more = [f"{failed} of them failed before"] if failed else []
    more += [f"{partly} of them lack metrics or files alone"] if partly else []
    inside = f" ({', '.join(more)})" if more else ""
    at_a_time = f", {many} at a time" if many > 1 else ""
    return [
        f"plan of {config.folder}: {len(plan_.attacks)} attacks, {len(plan_.defenses)} defenses,"
        f" {len(plan_.seeds)} seeds, {config.size.n} prompts a condition (scale"
        f" {config.size.name}) on {config.base}, {config.device}",
        f"{cells} cells: {work.skipped} are stored, {len(work.todo)} are to be made"
        f"{inside}{at_a_time}",
    ]


def refusals(shared: Shared, cells: Sequence[Cell]) -> dict[str, list[Cell]]:
    """The cells that would be refused on the loaded model, by the reason."""
    found: dict[str, list[Cell]] = {}
    for cell in cells:
        try:
            preflight(shared, [cell])
        except UserError as error:
            found.setdefault(" ".join(str(error).split()), []).append(cell)
    return found


def names(cells: Sequence[Cell]) -> str:
    found = [f"{c.attack}/{c.defense}/{c.seed}" for c in cells]
    more = f" and {len(found) - MOST} more" if len(found) > MOST else ""
    return ", ".join(found[:MOST]) + more


def spent(store: Store) -> tuple[int, float]:
    """The cells that earlier commands made in a folder, and the seconds of all their processes."""
    cells, seconds = 0, 0.0
    for command in read_plan(store).get("commands", []):
        found = [command.get(k) for k in ("cells_made", "wall_seconds", "workers")]
        if all(isinstance(value, (int, float)) for value in found) and found[0] > 0:
            cells, seconds = cells + found[0], seconds + found[1] * found[2]
    return cells, seconds


def estimates(plan_: Plan, store: Store, work: Work) -> list[str]:
    """Hours that the cells to make will take: counted, and by what earlier commands in this folder
    took for theirs."""
    if not work.todo:
        return []
    lines = forecast(plan_, work.todo)
    if not lines:  # of the embedded bases a run says nothing
        total = all_hours(plan_, work.todo)
        lines = [
            f"estimate, all {len(work.todo)} cells: {budget.hours(total)} of one process, counted"
            " from the steps and the size of the model; nothing of this is measured"
        ]
    cells, seconds = spent(store)
    if cells:
        workers = plan_.config.workers or 1
        hours = seconds / cells * len(work.todo) / workers / 3600
        lines.append(
            f"measured: {cells} cells were made here in {budget.hours(seconds / 3600)} of one"
            f" process; at this pace the others take {budget.hours(hours)} with {workers}"
        )
    return lines
