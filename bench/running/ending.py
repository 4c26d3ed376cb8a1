"""The end of a run, whole or not: what describes it, what readers get, and its exit status."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from t2i_backdoor_bench.contract import Cell
from t2i_backdoor_bench.running.checkpoints import drop_left
from t2i_backdoor_bench.running.display import Display
from t2i_backdoor_bench.running.manifest import write_manifest
from t2i_backdoor_bench.running.plan import Plan
from t2i_backdoor_bench.running.prompts import store_prompts
from t2i_backdoor_bench.running.stored_cells import settled
from t2i_backdoor_bench.store.folder import Store

# Exit statuses. TIME_UP is what sysexits.h calls EX_TEMPFAIL: the same command goes on.
FAILED, TIME_UP, INTERRUPTED = 1, 75, 130
NAMED = 3  # cells that a line names


def end(
    plan_: Plan,
    store: Store,
    todo: Sequence[Cell],
    display: Display,
    begun: float,
    until: float,
    interrupted: bool,
    publish: Callable[[Store], None] | None,
) -> int:
    """Write what describes a run and, where it has results, `publish` them; say why cells are left.
    Returns the exit status. `begun`: when the command was started, `until`: the time limit
    (`time.time`)."""
    late = not interrupted and time.time() >= until
    left = [cell for cell in todo if not settled(plan_, store, cell)] if late else []
    status = INTERRUPTED if interrupted else TIME_UP if left else 0
    results = {c.key: found for c in plan_.cells if (found := store.read_result(c.key)) is not None}
    finished = [c for c in plan_.cells if c.key in results and results[c.key].status == "done"]
    drop_left(plan_, store, finished)
    if status:
        display.say(why_ended(plan_, len(finished), left))
    command = {
        "wall_seconds": round(time.time() - begun, 1),
        "cells_made": display.done,
        "cells": len(plan_.cells),
        "workers": plan_.config.workers,
        "phases": display.clock.seconds,
        "unix_time": int(time.time()),
    }
    write_manifest(plan_, store, results, command)
    # a run that was stopped before its first cell has nothing to show
    if not status or (status == TIME_UP and results):
        store_prompts(store, plan_.data, results.values())
        if publish is not None:
            publish(store)
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
