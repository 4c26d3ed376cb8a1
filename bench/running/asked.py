"""All that is asked of a cell's model: the conditions that it draws, and the prompts that its
detector scores."""

from __future__ import annotations

from dataclasses import dataclass

from t2i_backdoor_bench.contract import Cell
from t2i_backdoor_bench.data.rewording import reworded
from t2i_backdoor_bench.running.conditions import (
    beside_trigger,
    conditions,
    first_decoys,
    noise_seeds,
)
from t2i_backdoor_bench.running.known_pictures import Asked
from t2i_backdoor_bench.running.shared import Shared

ATTACKED_DECOY = "attacked_decoy"
REWORDED = 48  # clean prompts that a detector is also asked about in other words


@dataclass(frozen=True)
class CellPrompts:
    """`drawn`: prompts and noise seeds by condition. `scored`: the prompts that a detector is asked
    about, by condition; "attacked_decoy" are all decoys that the attacked model draws, of which a
    defended one draws the first, and "reworded" are clean prompts in other words, which nobody
    draws. `kinds`: what stands in the trigger's place, by condition."""

    drawn: Asked
    scored: dict[str, list[str]]
    kinds: dict[str, list[str]]


def cell_prompts(shared: Shared, cell: Cell) -> CellPrompts:
    """What is asked of the model of a cell."""
    backdoor, source = shared.backdoor(cell.attack), shared.source(cell.attack)
    prompts, targets = shared.prompts(cell.seed), shared.prompts(cell.seed, source)
    drawn = conditions(shared.size, prompts, targets, backdoor, source, cell.seed)
    beside = shared.once(
        ("beside the trigger", cell.attack, cell.seed),
        lambda: beside_trigger(shared.size, targets, backdoor, cell.seed, shared.model.tokens),
    )
    undefended = cell.key == shared.plan.undefended(cell).key
    decoys = beside["decoy"] if undefended else first_decoys(shared.size, beside["decoy"])
    for condition, pairs in (("moved", beside["moved"]), ("decoy", decoys)):
        if pairs:
            drawn[condition] = [text for _, text in pairs], noise_seeds(cell.seed, len(pairs))
    scored = {condition: texts for condition, (texts, _) in drawn.items()}
    scored["reworded"] = [text for _, text in reworded([p.text for p in prompts[:REWORDED]])]
    if beside["decoy"]:
        scored[ATTACKED_DECOY] = [text for _, text in beside["decoy"]]
    return CellPrompts(drawn, scored, {c: [k for k, _ in pairs] for c, pairs in beside.items()})
