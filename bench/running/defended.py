"""The second stage of a cell: the defended model. The parts of a composition run one after the
other, each with its own view."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from t2i_backdoor_bench.contract import Cell, DefenderView, Trigger, amounts
from t2i_backdoor_bench.models.checkpoints import Checkpoints
from t2i_backdoor_bench.models.finite import check_weights
from t2i_backdoor_bench.models.model import T2IModel
from t2i_backdoor_bench.running.attacked import attacked
from t2i_backdoor_bench.running.checkpoints import of_defense
from t2i_backdoor_bench.running.cost import measured
from t2i_backdoor_bench.running.handed_over import untouched
from t2i_backdoor_bench.running.known_pictures import draws_as
from t2i_backdoor_bench.running.method import Method
from t2i_backdoor_bench.running.shared import Shared
from t2i_backdoor_bench.running.stored_pictures import Arrays, read_arrays, weights_of
from t2i_backdoor_bench.running.view import view

SUMMED = ("seconds", "steps", "images")
LARGEST = ("parameters", "peak_memory_mb", "guidance_ratio")


@dataclass
class Defended:
    """The defended model, what the defense cost, what each of its parts was shown, and the stored
    pictures of its twin, if it has one (`defended`)."""

    model: T2IModel
    cost: dict[str, Any]
    twin: Arrays | None = None
    views: list[DefenderView] = field(default_factory=list)

    @property
    def knowledge(self) -> dict[str, int]:
        """How much the defense read (`contract.view.amounts`). The twin read the same clean prompts
        as a part that is given the same trigger would have, or fewer."""
        own, twins = amounts(self.views), self.twin[1].get("knowledge", {}) if self.twin else {}
        return own | {name: max(own.get(name, 0), n) for name, n in twins.items()}


def defended(shared: Shared, cell: Cell, whole: bool = True) -> Defended:
    """The defended model of a cell.

    Where a part locates the trigger, the later ones are given the located trigger and not the true
    one; they are left out where none was located. Where the located trigger is the true one, the
    rest does what the same defense does that is given the trigger: the twin, a cell of its own.
    Unless the `whole` model is asked for, that is not done again if the twin's pictures are stored:
    the model comes as it is before the rest, with the twin's pictures, and its cost is added.
    """
    base, (start, attack_cost) = shared.model, attacked(shared, cell.attack, cell.seed)
    # other cells too ask for the undefended model, whether or not it is in the run
    has_parts = cell.defense != "none" or "none" in shared.plan.defenses
    parts = shared.plan.defenses[cell.defense] if has_parts else ()
    shared.display.phase("defend")
    result = Defended(start, {"steps": 0, "images": 0, "parameters": 0})
    losses: dict[str, Any] = {}
    kept = of_defense(shared, cell, weights_of(shared, cell))
    with (
        shared.offloaded(base, start),
        untouched(start, f"defense {cell.defense}"),
        untouched(base, f"defense {cell.defense}"),
        measured(start.device) as clock,
    ):
        given: set[str] = set()
        for i, part in enumerate(parts):
            located = result.model.located if "trigger" in given else None
            if "trigger" in set(part.entry.needs) & given and located is None:
                continue
            if not whole and "trigger" in given:
                result.twin = find_twin(shared, cell, result.model, start, parts[i:])
            if result.twin is not None:
                break
            _apply(shared, cell, part, located, result, losses, kept)
            given |= set(part.entry.gives)
    # what the clock and the memory show of no defense is noise
    result.cost |= clock if result.model is not start else {"seconds": 0.0}
    result.cost["seconds"] += kept.seconds
    if result.twin is not None:
        _add_cost(result.cost, losses, result.twin[1]["cost"])
    result.cost |= {
        f"{k}_attack": attack_cost[k]
        for k in ("seconds", "steps", "parameters", "images")
        if k in attack_cost
    }
    curves = {"losses": losses, "losses_attack": attack_cost.get("losses", [])}  # for the report
    result.cost |= {k: v for k, v in curves.items() if v}
    return result


def _apply(
    shared: Shared,
    cell: Cell,
    part: Method,
    located: Trigger | None,
    result: Defended,
    losses: dict[str, Any],
    kept: Checkpoints,
) -> None:
    """Apply one part of a defense to `result`, and add what it reports to cost and `losses`. Its
    trainings are `kept`."""
    before = result.model
    seen = view(shared, set(part.entry.needs), cell.attack, cell.seed, located)
    result.views.append(seen)
    torch.manual_seed(cell.seed)
    given = replace(before, checkpoints=kept)
    made = part.instance.apply(given, seen, cell.seed)
    made.checkpoints = before.checkpoints  # what trains it later is no part of the defense
    result.model = before if made is given else made
    if result.model.pipe is not before.pipe:
        check_weights(result.model.edited, f"the defense {part.name}")
    # a wrapper keeps the info of what it wraps
    info = {} if result.model.info is before.info else result.model.info
    cost = result.cost
    cost |= {k: cost[k] + info.get(k, 0) for k in ("steps", "images")}
    cost |= {k: max(cost.get(k, 0), info[k]) for k in LARGEST if k in info}
    if info.get("losses"):
        losses[part.name] = info["losses"]


def _add_cost(cost: dict[str, Any], losses: dict[str, Any], spent: dict[str, Any]) -> None:
    """Add what the twin's defense cost."""
    cost |= {k: cost[k] + spent.get(k, 0) for k in SUMMED}
    cost |= {k: max(cost.get(k, 0), spent[k]) for k in LARGEST if k in spent}
    losses |= spent.get("losses", {})


def find_twin(
    shared: Shared, cell: Cell, model: T2IModel, start: T2IModel, rest: Sequence[Method]
) -> Arrays | None:
    """The stored pictures of the rest of a composition alone, where it does the same: what stands
    before it has located the true trigger, and left the attacked model as it was."""
    changed = not draws_as(model, start) or model.screen or model.rewrite
    if changed or model.located != shared.backdoor(cell.attack).told:
        return None
    twin = shared.plan.sibling(cell, rest)
    return read_arrays(shared, twin, f"samples/{twin.key}")


def defended_model(shared: Shared, cell: Cell) -> T2IModel:
    """The whole defended model of a cell, made again where it is not the last one."""
    key, model = shared.models.defended
    return model if key == cell.key else defended(shared, cell).model
