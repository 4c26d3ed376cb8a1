"""Stored pictures of a cell, and where they come from. They are of attacked weights, and of no
others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from t2i_backdoor_bench.contract import Cell
from t2i_backdoor_bench.running.cost import machine
from t2i_backdoor_bench.running.made_by import defense_sources, keep, picture_sources
from t2i_backdoor_bench.running.shared import Shared
from t2i_backdoor_bench.store import provenance
from t2i_backdoor_bench.store.record_format import MADE

Arrays = tuple[dict[str, np.ndarray], dict[str, Any]]  # stored arrays, and what is said of them


def weights_of(shared: Shared, cell: Cell) -> str:
    """The checksum of the attacked weights of a cell, "" before they are stored."""
    key = shared.plan.attack_key(cell.attack, cell.seed)
    return shared.store.checksum(f"models/{key}.safetensors")


def read_arrays(shared: Shared, cell: Cell, name: str) -> Arrays | None:
    """Stored arrays of a cell. None where there are none, or where they were made from other
    attacked weights than those that are stored now: an attack whose weights were lost and that was
    trained again on another machine is another model."""
    found = shared.store.read_arrays(name)
    if found is None:
        return None
    before = (found[1].get("made") or {}).get("attack_weights", "")
    return None if provenance.other_weights(before, weights_of(shared, cell)) else found


def origin(shared: Shared, cell: Cell, codes: Sequence[provenance.Code] = ()) -> dict[str, Any]:
    """Where images that are drawn now come from: the attacked weights, this machine, and the code
    that made the weights, `codes`, and this code."""
    name = f"models/{shared.plan.attack_key(cell.attack, cell.seed)}"
    trained = shared.store.read_record(name, MADE) or {}
    made = {
        "attack": trained.get("sources", ""),
        "defense": keep(shared.store, defense_sources(shared.plan, cell.defense)),
        "pictures": keep(shared.store, picture_sources()),
    }
    return {
        "attack_weights": weights_of(shared, cell),
        "machine": machine(shared.plan.config.device),
        "codes": provenance.distinct([trained.get("made", {}), *codes, provenance.current_code()]),
        "sources": made,
    }
