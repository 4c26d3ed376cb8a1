"""Before a run: whether this machine can make it, what is stored, and what is to be made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from t2i_backdoor_bench.contract import Cell, Record
from t2i_backdoor_bench.running import ray_tasks
from t2i_backdoor_bench.running.devices import find_device
from t2i_backdoor_bench.running.made_by import outdated
from t2i_backdoor_bench.running.plan import Plan
from t2i_backdoor_bench.running.settings import Config
from t2i_backdoor_bench.running.stored_cells import unfinished, whole_cell
from t2i_backdoor_bench.running.tracking import check_trackers
from t2i_backdoor_bench.store.folder import Store


@dataclass(frozen=True)
class Work:
    """The stored records by key (None where there is none), the cells to make, each once, how many
    cells of the plan need nothing, and the stages of those that older code made."""

    stored: Mapping[str, Record | None]
    todo: Sequence[Cell]
    skipped: int
    old: Mapping[str, Sequence[str]]


def ready(config: Config) -> Config:
    """The settings with the device that they mean. Raises UserError for a device, an executor or a
    tracker that is not here."""
    config = replace(config, device=find_device(config.device))
    if config.executor == "ray":
        ray_tasks.check(config)
    check_trackers(config.track)
    return config


def find_work(plan_: Plan, store: Store) -> Work:
    """Compare the plan of a run with its folder. `store` is told what older code made."""
    stored = {c.key: whole_cell(store, c) for c in plan_.cells}
    old = outdated(plan_, store, stored)
    # two names of one cell (a method and its variant with the default value) share its record
    open_ = [c for c in plan_.cells if unfinished(plan_, store, c, stored[c.key])]
    todo = list({c.key: c for c in reversed(open_)}.values())[::-1]
    return Work(stored, todo, len(plan_.cells) - len(open_), old)
