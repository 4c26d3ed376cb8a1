"""Says what a run on a real model will need (`running.budget`), before any work."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import psutil
import torch

from t2i_backdoor_bench.attacking.badt2i import BadT2I
from t2i_backdoor_bench.contract import Cell
from t2i_backdoor_bench.models.size import Size, count
from t2i_backdoor_bench.running import budget
from t2i_backdoor_bench.running.budget import Machine, Training
from t2i_backdoor_bench.running.method import Method
from t2i_backdoor_bench.running.plan import Plan


def machine_of(device: str, dtype: str, ways: tuple[str, ...]) -> Machine:
    """The device of a run and the memory that is free there."""
    if device.startswith("cuda"):
        return Machine(device, float(torch.cuda.mem_get_info(torch.device(device))[0]), dtype, ways)
    return Machine(device, float(psutil.virtual_memory().available), dtype, ways)


def trainings_of(plan: Plan, cells: Sequence[Cell]) -> list[Training]:
    """The trainings of a plan's attacks and defenses, each once."""

    def one(method: Method, edits: str = "") -> Training:
        found = budget.training_of(method.name, vars(method.instance), edits)
        # its batch is that of each of two terms
        twice = isinstance(method.instance, BadT2I)
        return replace(found, rows=2 * found.rows) if twice else found

    found = []
    for name in dict.fromkeys(c.attack for c in cells):
        method = plan.attacks[name]
        found += [one(part, part.entry.edits) for part in method.trained]
    for name in dict.fromkeys(c.defense for c in cells):
        found += [one(part) for part in plan.defenses[name]]
    return list({t.name: t for t in found}.values())


def forecast(plan: Plan, cells: Sequence[Cell]) -> list[str]:
    """The lines for the cells that are to be made: none for the embedded bases."""
    config = plan.config
    if plan.base.settings != "sd":
        return []
    try:
        size = count(plan.base.source)
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        why = f"{type(error).__name__}: {error}"
        return [f"estimate: none, as {config.base} cannot be counted ({why})"]
    machine = machine_of(config.device, config.dtype, tuple(config.memory))
    trainings = trainings_of(plan, cells)
    needs = [budget.need(size, t, machine) for t in trainings]
    total = _total(plan, cells, size, machine, needs)
    lines = [f"estimate, {need.text}" for need in needs if need.trained]
    rate = f"{machine.rate / 1e12:g}"
    lines.append(
        f"estimate, all {len(cells)} cells: {budget.hours(total)} at {rate}"
        " TFLOP/s, pictures included; nothing of this is measured"
    )
    warning = budget.advice(size, trainings, machine)
    return [*lines, *([warning] if warning else [])]


def all_hours(plan: Plan, cells: Sequence[Cell]) -> float:
    """Hours of one process for these cells, counted as `forecast` does, on any base."""
    config, size = plan.config, count(plan.base.source)
    machine = machine_of(config.device, config.dtype, tuple(config.memory))
    needs = [budget.need(size, t, machine) for t in trainings_of(plan, cells)]
    return _total(plan, cells, size, machine, needs)


def _total(
    plan: Plan, cells: Sequence[Cell], size: Size, machine: Machine, needs: Sequence[budget.Need]
) -> float:
    """Hours of all trainings of these cells, each attack once a seed, and of their pictures."""
    times, n = {need.name: need.hours for need in needs}, plan.config.size.n
    attacks = {(c.attack, c.seed) for c in cells}
    total = sum(_hours(plan.attacks[a], times) for a, _ in attacks)
    total += sum(times[p.name] for c in cells for p in plan.defenses[c.defense])
    return total + budget.drawing_hours(size, machine, len(cells), n, plan.base.sampler.steps)


def _hours(method: Method, times: dict[str, float]) -> float:
    return sum(times[part.name] for part in method.trained)
