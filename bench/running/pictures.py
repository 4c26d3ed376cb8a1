"""The third stage of a cell: its pictures, and what its model says of the prompts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from t2i_backdoor_bench.contract import Cell
from t2i_backdoor_bench.contract.hashing import plain
from t2i_backdoor_bench.detecting.screening import answers
from t2i_backdoor_bench.running.asked import ATTACKED_DECOY, cell_prompts
from t2i_backdoor_bench.running.attacked import attacked
from t2i_backdoor_bench.running.defended import Defended, defended
from t2i_backdoor_bench.running.drawing_time import drawing_time
from t2i_backdoor_bench.running.harmless_pictures import wants_harmless
from t2i_backdoor_bench.running.known_pictures import Asked, Known, draw_all, draws_as, known_from
from t2i_backdoor_bench.running.probe_pictures import probe_prompts
from t2i_backdoor_bench.running.shared import Shared
from t2i_backdoor_bench.running.stored_pictures import Arrays, origin, read_arrays
from t2i_backdoor_bench.store import provenance

SHOWN = 3  # prompts whose pictures the report shows


def pictures(shared: Shared, cell: Cell) -> Arrays:
    """The pictures of a cell by condition, with what its model says of prompts (`answers`), and
    where they come from: stored, or else drawn by the defended model and stored."""
    name = f"samples/{cell.key}"
    found = read_arrays(shared, cell, name)
    if found is None:
        with shared.store.claim(name, wait=True):
            found = read_arrays(shared, cell, name)  # another process may have drawn them meanwhile
            if found is None:
                found = _draw(shared, cell)
                shared.store.write_arrays(name, *found)
    return found


def _draw(shared: Shared, cell: Cell) -> Arrays:
    config = shared.plan.config
    keep = config.attention_maps or "repaired" in config.save_models or wants_harmless(shared)
    keep = keep or max(probe_prompts(shared.plan, cell).values()) > 0
    made = defended(shared, cell, whole=keep)
    model, prompts = made.model, cell_prompts(shared, cell)
    asked = prompts.drawn
    known, codes = _known(shared, cell, made, asked)
    if keep:  # otherwise the model can go
        shared.models.defended = (cell.key, model)
    shared.display.phase("screen" if model.screen or model.locate else "generate")
    arrays, milliseconds = answers(model, prompts.scored)
    arrays.pop(f"refused/{ATTACKED_DECOY}", None)  # the attacked model refuses nothing
    shared.display.phase("generate")
    seconds = drawing_time(shared, cell, made, asked, milliseconds)
    arrays |= draw_all(shared.store.root, model, asked, known)
    if f"score/{ATTACKED_DECOY}" in arrays:  # which of them fire says what the scores should be
        arrays[ATTACKED_DECOY] = pictures(shared, shared.plan.undefended(cell))[0]["decoy"]
    source = shared.source(cell.attack)
    return (
        arrays,
        {
            "cell": cell.config,
            "cost": made.cost | milliseconds | seconds,
            "kinds": prompts.kinds,
            "shown": {  # what the report needs beside the pictures
                "prompts": [p.text for p in shared.prompts(cell.seed, source)[:SHOWN]],
                "before": shared.plan.before_key(cell.seed, source),
                "condition": "clean_target" if source else "clean",
            },
            "knowledge": made.knowledge,
            "located": plain(model.located),
            "made": origin(shared, cell, codes),
        },
    )


def _known(
    shared: Shared, cell: Cell, made: Defended, asked: Asked
) -> tuple[Known, Sequence[Mapping[str, Any]]]:
    """The pictures that exist already, and the code that drew them: those of the twin, or, where
    the defended model is the attacked one with something around it, those of the attacked one."""
    found, undefended = made.twin, shared.plan.undefended(cell)
    if found is None:
        start, _ = attacked(shared, cell.attack, cell.seed)
        if cell.key == undefended.key or not draws_as(made.model, start):
            return {}, []
        found = pictures(shared, undefended)
    arrays, meta = found
    codes: Sequence[provenance.Code] = meta.get("made", {}).get("codes", [{}])
    return known_from(asked, arrays), codes
