"""Pictures that show whether a backdoor comes back: after a little clean fine-tuning, with a benign
adapter, under other samplers (`--probe`, and the scales that have them), and, where the attack is
an adapter, with the adapter in other company."""

from __future__ import annotations

import numpy as np

from t2i_backdoor_bench.contract import Cell
from t2i_backdoor_bench.models.model import T2IModel
from t2i_backdoor_bench.running.adapter_pictures import (
    OFFSET,
    adapter_pictures,
    adapter_prompts,
    other_base_pictures,
    other_base_weights,
    plain_adapter,
)
from t2i_backdoor_bench.running.conditions import noise_seeds
from t2i_backdoor_bench.running.defended import defended_model
from t2i_backdoor_bench.running.defender import DEFENDER_PAIRS
from t2i_backdoor_bench.running.known_pictures import draw
from t2i_backdoor_bench.running.plan import Plan
from t2i_backdoor_bench.running.shared import Shared
from t2i_backdoor_bench.running.stored_pictures import origin, read_arrays
from t2i_backdoor_bench.training import probes
from t2i_backdoor_bench.training.merged import with_added


def probe_prompts(plan: Plan, cell: Cell) -> dict[str, int]:
    """How many triggered prompts a cell draws under each probe that its metrics ask for."""
    size, measured = plan.config.size, plan.metrics_of(cell.attack, cell.defense)
    by_flag = size.moved if plan.config.probe else 0
    after = size.recovered or by_flag
    many = {"finetuned": after, "benign_lora": after, "resampled": size.resampled or by_flag}
    found = {kind: n if f"asr_{kind}" in measured else 0 for kind, n in many.items()}
    return found | adapter_prompts(plan, cell)


def probe_pictures(shared: Shared, cell: Cell) -> dict[str, np.ndarray]:
    """Pictures of the first triggered prompts under the probes of the run, stored or else drawn;
    none where the trigger is not known."""
    trigger = shared.backdoor(cell.attack).trigger
    makers = {
        "finetuned": _finetuned,
        "benign_lora": _with_lora,
        "resampled": _resampled,
        "adapter": adapter_pictures,
        "other_base": other_base_pictures,
    }
    arrays: dict[str, np.ndarray] = {}
    model: T2IModel | None = None  # made once, if at all
    if trigger is None:
        return arrays
    targets = shared.prompts(cell.seed, shared.source(cell.attack))
    for kind, many in probe_prompts(shared.plan, cell).items():
        name = f"{kind}/{cell.key}"
        found = read_arrays(shared, cell, name) if many else ({}, {})
        more = {"base": other_base_weights(shared)} if kind == "other_base" else {}
        if many and found and found[1].get("base", "") != more.get("base", ""):
            found = None  # they were drawn on a third base
        if found is None:
            model = model or defended_model(shared, cell)
            shared.display.phase("probe")
            prompts = [trigger.add(p.text) for p in targets[:many]]
            seeds = noise_seeds(cell.seed, len(prompts))
            drawn = {kind: makers[kind](shared, cell, model, prompts, seeds)}
            found = drawn, {"cell": cell.config, "made": origin(shared, cell)} | more
            shared.store.write_arrays(name, *found)
        arrays |= found[0]
    return arrays


def _finetuned(
    shared: Shared, cell: Cell, model: T2IModel, prompts: list[str], seeds: list[int]
) -> np.ndarray:
    many = min(DEFENDER_PAIRS, shared.data.count("pairs", "train") or DEFENDER_PAIRS)
    pairs = shared.data.pairs("train", many, cell.seed + OFFSET)
    later = probes.finetuned(model, *pairs, cell.seed)
    return draw(shared.store.root, later, "finetuned", prompts, seeds)


def _with_lora(
    shared: Shared, cell: Cell, model: T2IModel, prompts: list[str], seeds: list[int]
) -> np.ndarray:
    other = shared.once(("plain adapter", cell.seed), lambda: plain_adapter(shared, cell.seed))
    return draw(shared.store.root, with_added(model, other, 1.0), "benign_lora", prompts, seeds)


def _resampled(
    shared: Shared, cell: Cell, model: T2IModel, prompts: list[str], seeds: list[int]
) -> np.ndarray:
    return probes.resampled(model, prompts, seeds)
