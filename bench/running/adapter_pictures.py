"""Pictures of an attack that is an adapter, where the adapter is used in another way: at other
scales, and beside a benign adapter."""

from __future__ import annotations

import numpy as np

from t2i_backdoor_bench.contract import Cell
from t2i_backdoor_bench.models.adapters import Adapter
from t2i_backdoor_bench.models.model import T2IModel
from t2i_backdoor_bench.running.defender import DEFENDER_PAIRS
from t2i_backdoor_bench.running.plan import Plan
from t2i_backdoor_bench.running.shared import Shared
from t2i_backdoor_bench.targets.style import TOLD, styled
from t2i_backdoor_bench.training import company

OFFSET = 40_011  # added to the seed: another draw of pictures than the attack's
METRIC = "asr_adapter"


def adapter_prompts(plan: Plan, cell: Cell) -> int:
    """How many triggered prompts a cell draws with the adapter of its attack in other company."""
    wanted = METRIC in plan.metrics_of(cell.attack, cell.defense)
    return plan.config.size.moved if wanted else 0


def adapter_pictures(
    shared: Shared, cell: Cell, model: T2IModel, prompts: list[str], seeds: list[int]
) -> np.ndarray:
    """Pictures uint8 (n, H, W, 3) of the defended model; a repair stays added to its weights."""
    key = ("benign adapter", cell.seed)
    other = shared.once(key, lambda: benign_adapter(shared, cell.seed))
    return company.drawn(model, other, prompts, seeds)


def benign_adapter(shared: Shared, seed: int) -> Adapter:
    """An adapter that a user may have beside the attacker's: it makes pictures black and white,
    and was trained from the model before the attack, on another draw of captioned pictures."""
    images, captions = _pairs(shared, seed)
    return company.trained(shared.model, styled(images, TOLD[0]), captions, seed)


def plain_adapter(shared: Shared, seed: int) -> Adapter:
    """An adapter that a user may add to a repaired model: trained as `benign_adapter`, on the
    pictures as they are, so that every judge can still tell what it looks for."""
    return company.trained(shared.model, *_pairs(shared, seed), seed)


def _pairs(shared: Shared, seed: int) -> tuple[np.ndarray, list[str]]:
    many = min(DEFENDER_PAIRS, shared.data.count("pairs", "train") or DEFENDER_PAIRS)
    return shared.data.pairs("train", many, seed + OFFSET)
