"""From settings to stored cells: plan, find what is stored, check, and hand the rest to whoever
makes it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from t2i_backdoor_bench.contract import Cell, Data, Record
from t2i_backdoor_bench.models.batches import free_memory
from t2i_backdoor_bench.running import ray_tasks, workers
from t2i_backdoor_bench.running.cell import make_unsettled
from t2i_backdoor_bench.running.checkpoints import drop_left
from t2i_backdoor_bench.running.devices import find_device, share, use_processor
from t2i_backdoor_bench.running.display import Display
from t2i_backdoor_bench.running.forecast import forecast
from t2i_backdoor_bench.running.made_by import outdated, renew
from t2i_backdoor_bench.running.manifest import write_manifest
from t2i_backdoor_bench.running.plan import Plan, plan
from t2i_backdoor_bench.running.preflight import preflight
from t2i_backdoor_bench.running.prompts import store_prompts
from t2i_backdoor_bench.running.settings import Config
from t2i_backdoor_bench.running.shared import Shared
from t2i_backdoor_bench.running.stored_cells import try_again, unfinished, whole_cell
from t2i_backdoor_bench.store.folder import Store


def run(
    config: Config, data: Data | None = None, publish: Callable[[Store], None] | None = None
) -> int:
    """Plan, and make the cells that are not stored; then `publish` is called with the run folder.
    Returns the exit status: 0, 1 if a cell failed, 130 if interrupted.

    Raises UserError, before any work, for what the user asked for and cannot have.
    """
    config = replace(config, device=find_device(config.device))
    if config.executor == "ray":
        ray_tasks.check(config)
    display, plan_ = Display(), plan(config, data)
    store = Store(config.folder, display.say, fresh=config.fresh)
    stored = {c.key: whole_cell(store, c) for c in plan_.cells}
    old = outdated(plan_, store, stored)
    if old and config.renew:
        renew(plan_, store, old)
        stored = {c.key: whole_cell(store, c) for c in plan_.cells}
    # two names of one cell (a method and its variant with the default value) share its record
    open_cells = [c for c in plan_.cells if unfinished(plan_, store, c, stored[c.key])]
    todo = list({c.key: c for c in reversed(open_cells)}.values())[::-1]
    many, threads = share(config, plan_.base.settings, len(todo))
    plan_ = replace(plan_, config=replace(plan_.config, workers=many, threads=threads))
    for note in plan_.notes:
        display.say(note)
    begun, skipped, status = time.perf_counter(), len(plan_.cells) - len(open_cells), 0
    if skipped:
        display.say(f"{skipped} of {len(plan_.cells)} cells are stored in {config.folder}")
    try:
        if todo:
            records = {k: v for k, v in stored.items() if v is not None}
            make_cells(plan_, data, todo, store, display, records)
    except KeyboardInterrupt:
        status = 130
    finally:
        display.close()
        store.drop_locks()
    results = {c.key: found for c in plan_.cells if (found := store.read_result(c.key)) is not None}
    finished = [c for c in plan_.cells if c.key in results and results[c.key].status == "done"]
    done = len(finished)
    drop_left(plan_, store, finished)
    if status:
        how = " without --fresh" if config.fresh else ""
        counts = f"{done} of {len(plan_.cells)} cells are done"
        display.say(f"interrupted: {counts}; the same command{how} resumes")
    command = {
        "wall_seconds": round(time.perf_counter() - begun, 1),
        "cells_made": display.done,
        "cells": len(plan_.cells),
        "workers": many,
        "unix_time": int(time.time()),
    }
    write_manifest(plan_, store, results, command)
    if status:
        return status
    store_prompts(store, plan_.data, results.values())
    if publish is not None:
        publish(store)
    return int(done < len(plan_.cells))


def make_cells(
    plan_: Plan,
    data: Data | None,
    todo: Sequence[Cell],
    store: Store,
    display: Display,
    stored: dict[str, Record],
) -> None:
    """Make the cells of `todo`, in this process or in others, as the settings say."""
    config = plan_.config
    use_processor(config)
    shared = Shared(plan_, store, display)
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
    spread(plan_, data, todo, store, display)
