"""Pictures that show whether a backdoor comes back: after a little clean fine-tuning, and under
other samplers (`--probe`)."""

from __future__ import annotations

import numpy as np

from t2i_backdoor_bench.contract import Cell
from t2i_backdoor_bench.running.attacked import origin, read_arrays
from t2i_backdoor_bench.running.conditions import noise_seeds
from t2i_backdoor_bench.running.defended import defended_model
from t2i_backdoor_bench.running.known_pictures import draw
from t2i_backdoor_bench.running.shared import Shared
from t2i_backdoor_bench.running.view import DEFENDER_PAIRS
from t2i_backdoor_bench.training import probes

OFFSET = 40_011  # added to the seed: the pictures of the fine-tuning are not those of the attack


def probe_pictures(shared: Shared, cell: Cell) -> dict[str, np.ndarray]:
    """Pictures of the first triggered prompts under the probes, stored or else drawn; none where
    the trigger is not known."""
    trigger = shared.backdoor(cell.attack).trigger
    if trigger is None:
        return {}
    name = f"probes/{cell.key}"
    found = read_arrays(shared, cell, name)
    if found is not None:
        return found[0]
    model = defended_model(shared, cell)
    shared.display.phase("probe")
    targets = shared.prompts(cell.seed, shared.source(cell.attack))
    prompts = [trigger.add(p.text) for p in targets[: shared.size.moved]]
    seeds = noise_seeds(cell.seed, len(prompts))
    many = min(DEFENDER_PAIRS, shared.data.count("pairs", "train") or DEFENDER_PAIRS)
    pairs = shared.data.pairs("train", many, cell.seed + OFFSET)
    later = probes.finetuned(model, *pairs, cell.seed)
    arrays = {
        "finetuned": draw(shared.store.root, later, "finetuned", prompts, seeds),
        "resampled": probes.resampled(model, prompts, seeds),
    }
    shared.store.write_arrays(name, arrays, {"cell": cell.config, "made": origin(shared, cell)})
    return arrays
