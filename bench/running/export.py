"""`export CELL FOLDER`: the model of one cell of a run, written for others."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch

from t2i_backdoor_bench.contract import Cell, UserError
from t2i_backdoor_bench.running.devices import find_device
from t2i_backdoor_bench.running.display import Display
from t2i_backdoor_bench.running.model_card import ATTACKED, REPAIRED
from t2i_backdoor_bench.running.plan import Plan, plan
from t2i_backdoor_bench.running.saved_models import Form, check_target, write_model
from t2i_backdoor_bench.running.shared import Shared
from t2i_backdoor_bench.running.verify import open_run
from t2i_backdoor_bench.store.folder import Store

MOST_SHOWN = 6


def export(name: str, to: Path, run: Path, form: str = "folder", rank: int | None = None) -> int:
    """Write the model of a cell of the run folder `run` into the new folder `to`. The repaired
    model is made again from the stored attacked weights; that of a cell without a defense is the
    attacked one. Returns 0. Raises UserError for a cell that the run does not have."""
    check_target(to)
    if rank is not None and (form != "lora" or rank < 1):
        raise UserError("--rank, 1 or more, goes with --form lora")
    _, _, config = open_run(run, fetch=False)
    once = {"fresh": False, "renew": False, "attention_maps": False, "save_models": ()}
    find_device(config.device)
    plan_ = plan(dataclasses.replace(config, out=run, workers=1, executor="local", **once))
    cell = find_cell(name, plan_, run)
    if config.threads:
        torch.set_num_threads(config.threads)
    display = Display()
    shared = Shared(plan_, Store(run, display.say), display)
    record = shared.store.read_result(cell.key)
    kind = ATTACKED if cell.defense == "none" else REPAIRED
    given = Form(form) if rank is None else Form(form, rank)
    try:
        with shared.store.working():
            shared.load()
            write_model(shared, cell, kind, record, to, given)
    finally:
        shared.store.drop_locks()
    print(f"{to}: the {kind} model of {cell.attack} x {cell.defense}, seed {cell.seed} ({form})")
    return 0


def find_cell(name: str, plan_: Plan, run: Path) -> Cell:
    """The cell with a key that begins with the name, with the name's record, or called
    "ATTACK/DEFENSE" or "ATTACK/DEFENSE/SEED"."""
    stem = Path(name).stem if name.endswith(".json") else name
    called = {f"{c.attack}/{c.defense}/{c.seed}": c for c in plan_.cells}
    found = [c for text, c in called.items() if stem in (text, text.rpartition("/")[0])]
    if not found and len(stem) >= 6:
        found = [c for c in plan_.cells if c.key.startswith(stem)]
    if len({c.key for c in found}) == 1:
        return found[0]
    known = ", ".join(list(called)[:MOST_SHOWN]) + (", ..." if len(called) > MOST_SHOWN else "")
    why = f"{len(found)} cells are called" if found else "no cell is called"
    raise UserError(f"{why} {name!r} in {run}; name one as ATTACK/DEFENSE/SEED: {known}")
