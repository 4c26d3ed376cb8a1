"""From settings to stored cells: plan, find what is stored, check, and hand the rest to whoever
makes it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from t2i_backdoor_bench.contract import Cell, Data, Record
from t2i_backdoor_bench.models.batches import free_memory
from t2i_backdoor_bench.running import ray_tasks, workers
from t2i_backdoor_bench.running.cell import make_unsettled
from t2i_backdoor_bench.running.checkpoints import drop_left
from t2i_backdoor_bench.running.devices import find_device, share, use_processor
from t2i_backdoor_bench.running.display import Display
from t2i_backdoor_bench.running.forecast import forecast
from t2i_backdoor_bench.running.made_by import renew
from t2i_backdoor_bench.running.manifest import write_manifest
from t2i_backdoor_bench.running.plan import Plan, plan
from t2i_backdoor_bench.running.preflight import preflight
from t2i_backdoor_bench.running.prompts import store_prompts
from t2i_backdoor_bench.running.settings import Config
from t2i_backdoor_bench.running.shared import Shared
from t2i_backdoor_bench.running.stored_cells import settled, try_again
from t2i_backdoor_bench.running.tracking import check_trackers, tracked
from t2i_backdoor_bench.running.work import find_work
from t2i_backdoor_bench.store.folder import Store

# Exit statuses. TIME_UP is what sysexits.h calls EX_TEMPFAIL: the same command goes on.
FAILED, TIME_UP, INTERRUPTED = 1, 75, 130
NAMED = 3  # cells that a line names


def ready(config: Config) -> Config:
    """The settings with the device that they mean. Raises UserError for a device, an executor or a
    tracker that is not here."""
    config = replace(config, device=find_device(config.device))
    if config.executor == "ray":
        ray_tasks.check(config)
    check_trackers(config.track)
    return config


def run(
    config: Config, data: Data | None = None, publish: Callable[[Store], None] | None = None
) -> int:
    """Plan, and make the cells that are not stored; then `publish` is called with the run folder.
    Returns the exit status: 0, FAILED if a cell failed, TIME_UP if the time limit left cells,
    INTERRUPTED.

    Raises UserError, before any work, for what the user asked for and cannot have.
    """
    begun = time.time()
    config = ready(config)
    display, plan_ = Display(), plan(config, data)
    store = Store(config.folder, display.say, fresh=config.fresh)
    try:
        with store.working(), tracked(plan_, store, display) as ended:
            status = run_plan(plan_, data, store, display, begun, publish)
            ended += [status == 0] if status != INTERRUPTED else []
            return status
    finally:
        store.drop_locks()


def run_plan(
    plan_: Plan,
    data: Data | None,
    store: Store,
    display: Display,
    begun: float,
    publish: Callable[[Store], None] | None = None,
) -> int:
    """`run` with its plan and its folder. `begun`: when the command was started (`time.time`)."""
    config = plan_.config
    until = math.inf if config.time_limit is None else begun + config.time_limit
    work = find_work(plan_, store)
    if work.old and config.renew:
        renew(plan_, store, work.old)
        work = find_work(plan_, store)
    many, threads = share(config, plan_.base.settings, len(work.todo))
    plan_ = replace(plan_, config=replace(plan_.config, workers=many, threads=threads))
    for note in plan_.notes:
        display.say(note)
    if work.skipped:
        display.say(f"{work.skipped} of {len(plan_.cells)} cells are stored in {config.folder}")
    status, left = 0, []
    try:
        if work.todo:
            records = {k: v for k, v in work.stored.items() if v is not None}
            make_cells(plan_, data, work.todo, store, display, records, until)
    except KeyboardInterrupt:
        status = INTERRUPTED
    finally:
        display.close()
    if not status and time.time() >= until:
        left = [cell for cell in work.todo if not settled(plan_, store, cell)]
        status = TIME_UP if left else 0
    results = {c.key: found for c in plan_.cells if (found := store.read_result(c.key)) is not None}
    finished = [c for c in plan_.cells if c.key in results and results[c.key].status == "done"]
    drop_left(plan_, store, finished)
    if status:
        display.say(why_ended(plan_, len(finished), left))
    # a run that was stopped before its first cell has nothing to show
    readable = not status or (status == TIME_UP and bool(results))
    command = {
        "wall_seconds": round(time.time() - begun, 1),
        "cells_made": display.done,
        "cells": len(plan_.cells),
        "workers": many,
        "unix_time": int(time.time()),
    }
    end(plan_, store, results, command, publish if readable else None)
    return status or (FAILED if len(finished) < len(plan_.cells) else 0)


def why_ended(plan_: Plan, done: int, left: Sequence[Cell]) -> str:
    """The line for a run that was interrupted, or that the time limit ended with cells `left`."""
    how, cells = " without --fresh" if plan_.config.fresh else "", len(plan_.cells)
    if not left:
        return f"interrupted: {done} of {cells} cells are done; the same command{how} resumes"
    named = "; ".join(f"{c.attack} x {c.defense}, seed {c.seed}" for c in left[:NAMED])
    more = f"; and {len(left) - NAMED} more" if len(left) > NAMED else ""
    return (
        f"the time limit is up: {len(left)} of {cells} cells are left ({named}{more}); the same"
        f" command{how} goes on"
    )


def end(
    plan_: Plan,
    store: Store,
    results: dict[str, Record],
    command: dict[str, Any],
    publish: Callable[[Store], None] | None,
) -> None:
    """Write what describes the run and, where it has results to `publish`, what readers get."""
    write_manifest(plan_, store, results, command)
    if publish is not None:
        store_prompts(store, plan_.data, results.values())
        publish(store)


def make_cells(
    plan_: Plan,
    data: Data | None,
    todo: Sequence[Cell],
    store: Store,
    display: Display,
    stored: dict[str, Record],
    until: float = math.inf,
) -> None:
    """Make the cells of `todo`, in this process or in others, as the settings say; from the moment
    `until` none is begun."""
    config = plan_.config
    use_processor(config)
    shared = Shared(plan_, store, display, until=until)
    for line in forecast(plan_, todo):
        display.say(line)
    preflight(shared, todo)
    write_manifest(plan_, store, stored)  # a killed run leaves its plan
    for cell in todo:
        if cell.key in stored and stored[cell.key].status == "failed":
            try_again(store, stored[cell.key])
    display.open(len(todo))
    if config.workers == 1 and config.executor == "local":
        make_unsettled(shared, todo)
        return
    del shared  # its models are not needed in this process
    free_memory()
    spread = ray_tasks.run_tasks if config.executor == "ray" else workers.run_workers
    spread(plan_, data, todo, store, display, until)
