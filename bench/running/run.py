"""From settings to stored cells: plan, find what is stored, check, and hand the rest to whoever
makes it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from t2i_backdoor_bench.contract import Cell, Data, Record
from t2i_backdoor_bench.models.batches import free_memory
from t2i_backdoor_bench.running import ray_tasks, workers
from t2i_backdoor_bench.running.cell import make_unsettled
from t2i_backdoor_bench.running.devices import share, use_processor
from t2i_backdoor_bench.running.display import Display
from t2i_backdoor_bench.running.ending import INTERRUPTED, end
from t2i_backdoor_bench.running.forecast import forecast
from t2i_backdoor_bench.running.made_by import renew
from t2i_backdoor_bench.running.manifest import write_manifest
from t2i_backdoor_bench.running.plan import Plan, plan
from t2i_backdoor_bench.running.preflight import preflight
from t2i_backdoor_bench.running.repeated import forget, remember
from t2i_backdoor_bench.running.settings import Config
from t2i_backdoor_bench.running.shared import Shared
from t2i_backdoor_bench.running.stored_cells import try_again
from t2i_backdoor_bench.running.tracking import tracked
from t2i_backdoor_bench.running.work import find_work, ready
from t2i_backdoor_bench.store.folder import Store


def run(
    config: Config, data: Data | None = None, publish: Callable[[Store], None] | None = None
) -> int:
    """Plan, and make the cells that are not stored; then `publish` is called with the run folder.
    Returns the exit status: 0, FAILED if a cell failed, TIME_UP if the time limit left cells,
    INTERRUPTED.

    Raises UserError, before any work, for what the user asked for and cannot have.
    """
    begun, asked = time.time(), config
    config = ready(config)
    display, plan_ = Display(), plan(config, data)
    store = Store(config.folder, display.say, fresh=config.fresh)
    try:
        with store.working(), tracked(plan_, store, display) as ended:
            forget(store)
            status, old = run_plan(plan_, data, store, display, begun, publish)
            if not (status or old or data):
                remember(asked, store, plan_.notes)
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
) -> tuple[int, bool]:
    """`run` with its plan and its folder: the exit status, and whether older code made some of the
    cells. `begun`: when the command was started (`time.time`)."""
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
    interrupted = False
    try:
        if work.todo:
            records = {k: v for k, v in work.stored.items() if v is not None}
            make_cells(plan_, data, work.todo, store, display, records, until)
    except KeyboardInterrupt:
        interrupted = True
    finally:
        display.close()
    status = end(plan_, store, work.todo, display, begun, until, interrupted, publish)
    return status, bool(work.old)


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
