"""Pictures of an attack that is an adapter, where the adapter is used in another way: at other
scales, beside a benign adapter, and on another base."""

from __future__ import annotations

import numpy as np

from t2i_backdoor_bench.contract import Cell
from t2i_backdoor_bench.contract.options import EMBEDDED
from t2i_backdoor_bench.models.adapters import Adapter
from t2i_backdoor_bench.models.catalog import find_base, load_base
from t2i_backdoor_bench.models.fingerprint import fingerprint
from t2i_backdoor_bench.models.model import T2IModel
from t2i_backdoor_bench.running import two_models
from t2i_backdoor_bench.running.defender import DEFENDER_PAIRS
from t2i_backdoor_bench.running.plan import Plan
from t2i_backdoor_bench.running.shared import Shared
from t2i_backdoor_bench.targets.style import TOLD, styled
from t2i_backdoor_bench.training import company

OFFSET = 40_011  # added to the seed: another draw of pictures than the attack's
METRIC, ELSEWHERE = "asr_adapter", "asr_other_base"


def adapter_prompts(plan: Plan, cell: Cell) -> dict[str, int]:
    """How many triggered prompts a cell draws with the adapter of its attack in other company, and
    on another base. Scales without changed triggers draw as many as of what is recovered."""
    size, measured = plan.config.size, plan.metrics_of(cell.attack, cell.defense)
    many = size.moved or size.recovered
    there = ELSEWHERE in measured and (plan.base.settings == EMBEDDED or other_base_name(plan))
    return {"adapter": many * (METRIC in measured), "other_base": many * bool(there)}


def other_base_name(plan: Plan) -> str:
    """The other base that the user named; "" for none."""
    return plan.metrics[ELSEWHERE].instance.base if ELSEWHERE in plan.metrics else ""


def other_base_weights(shared: Shared) -> str:
    """What identifies the weights of the other base that the user named; "" for none."""
    name = other_base_name(shared.plan)
    return shared.once("other base", lambda: fingerprint(find_base(name).source) if name else "")


def adapter_pictures(
    shared: Shared, cell: Cell, model: T2IModel, prompts: list[str], seeds: list[int]
) -> np.ndarray:
    """Pictures uint8 (n, H, W, 3) of the defended model; a repair stays added to its weights."""
    key = ("benign adapter", cell.seed)
    other = shared.once(key, lambda: benign_adapter(shared, cell.seed))
    return company.drawn(model, other, prompts, seeds)


def other_base_pictures(
    shared: Shared, cell: Cell, model: T2IModel, prompts: list[str], seeds: list[int]
) -> np.ndarray:
    """Pictures uint8 (n, H, W, 3) of the defended model on another base."""
    other = shared.once(("other base", cell.seed), lambda: _other_base(shared, cell.seed))
    return company.on_base(model, shared.model, other).generate(prompts, seeds, "another base")


def _other_base(shared: Shared, seed: int) -> T2IModel:
    name, own = other_base_name(shared.plan), shared.model
    if not name:
        return two_models.second_model(shared, seed)
    config, dtype = shared.plan.config, next(own.denoiser.parameters()).dtype
    return load_base(name, config.device, dtype, config.memory, own.sampler)


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
