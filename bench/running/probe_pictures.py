"""Pictures that show whether a backdoor comes back: after a little clean fine-tuning (`--probe`),
under other samplers (`--probe`, and the scales that have them), and, where the attack is an
adapter, with the adapter in other company."""

from __future__ import annotations

import numpy as np

from t2i_backdoor_bench.contract import Cell
from t2i_backdoor_bench.models.model import T2IModel
from t2i_backdoor_bench.running.adapter_pictures import OFFSET, adapter_pictures, adapter_prompts
from t2i_backdoor_bench.running.conditions import noise_seeds
from t2i_backdoor_bench.running.defended import defended_model
from t2i_backdoor_bench.running.defender import DEFENDER_PAIRS
from t2i_backdoor_bench.running.known_pictures import draw
from t2i_backdoor_bench.running.settings import Config
from t2i_backdoor_bench.running.shared import Shared
from t2i_backdoor_bench.running.stored_pictures import origin, read_arrays
from t2i_backdoor_bench.training import probes


def resampled_prompts(config: Config) -> int:
    """How many triggered prompts a run draws by other samplers."""
    return config.size.resampled or (config.size.moved if config.probe else 0)


def probe_pictures(shared: Shared, cell: Cell) -> dict[str, np.ndarray]:
    """Pictures of the first triggered prompts under the probes of the run, stored or else drawn;
    none where the trigger is not known."""
    config, trigger = shared.plan.config, shared.backdoor(cell.attack).trigger
    wanted = {
        "finetuned": (config.size.moved if config.probe else 0, _finetuned),
        "resampled": (resampled_prompts(config), _resampled),
        "adapter": (adapter_prompts(shared.plan, cell), adapter_pictures),
    }
    arrays: dict[str, np.ndarray] = {}
    model: T2IModel | None = None  # made once, if at all
    if trigger is None:
        return arrays
    targets = shared.prompts(cell.seed, shared.source(cell.attack))
    for kind, (many, made) in wanted.items():
        name = f"{kind}/{cell.key}"
        found = read_arrays(shared, cell, name) if many else ({}, {})
        if found is None:
            model = model or defended_model(shared, cell)
            shared.display.phase("probe")
            prompts = [trigger.add(p.text) for p in targets[:many]]
            drawn = {kind: made(shared, cell, model, prompts, noise_seeds(cell.seed, len(prompts)))}
            found = drawn, {"cell": cell.config, "made": origin(shared, cell)}
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


def _resampled(
    shared: Shared, cell: Cell, model: T2IModel, prompts: list[str], seeds: list[int]
) -> np.ndarray:
    return probes.resampled(model, prompts, seeds)
