"""Pictures with harmless words in the trigger's place: what the effect of the trigger is compared
with. Drawn only where a metric of the run asks for them (`Entry.draws`)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from t2i_backdoor_bench.contract import Cell
from t2i_backdoor_bench.contract.hashing import digest
from t2i_backdoor_bench.data.decoys import harmless_words
from t2i_backdoor_bench.models.model import T2IModel
from t2i_backdoor_bench.running.conditions import noise_seeds
from t2i_backdoor_bench.running.defended import defended_model
from t2i_backdoor_bench.running.known_pictures import draw
from t2i_backdoor_bench.running.shared import Shared
from t2i_backdoor_bench.running.stored_pictures import origin, read_arrays

CONDITION = "harmless"
PROMPTS = 8  # that each word is put into


@dataclass(frozen=True)
class Harmless:
    """The words, one picture of each on each prompt (words * prompts, H, W, 3), word by word, and
    which of these prompts the model refuses (None where it screens nothing). `before` has the
    pictures of the model before the attack, of "harmless" and of "triggered"."""

    words: list[str]
    images: dict[str, np.ndarray]
    refused: dict[str, np.ndarray]
    before: dict[str, np.ndarray]


NONE = Harmless([], {}, {}, {})


def wants_harmless(shared: Shared) -> bool:
    """Whether a metric of the run needs the pictures."""
    return any(CONDITION in m.entry.draws for m in shared.plan.metrics.values())


def harmless_pictures(shared: Shared, cell: Cell) -> Harmless:
    """The pictures of a cell, stored or else drawn; none where the trigger is not known, or no
    metric needs them."""
    backdoor, many = shared.backdoor(cell.attack), shared.size.harmless
    if backdoor.trigger is None or not many or not wants_harmless(shared):
        return NONE
    source = shared.source(cell.attack)
    clean = [p.text for p in shared.prompts(cell.seed, source)[:PROMPTS]]
    words = harmless_words(backdoor, clean[0], shared.model.tokens, many, cell.seed)
    prompts = [word.add(text) for word in words for text in clean]
    triggered = [backdoor.trigger.add(text) for text in clean]
    seeds = noise_seeds(cell.seed, len(clean))

    def draw_harmless(model: T2IModel) -> np.ndarray:
        return draw(shared.store.root, model, CONDITION, prompts, seeds * len(words))

    arrays = _of_cell(shared, cell, prompts, draw_harmless)
    before: dict[str, np.ndarray] = {}
    if "clean_model" not in shared.plan.attacks[cell.attack].instance.withheld:
        about = {"before": shared.plan.before_key(cell.seed, source), "prompts": prompts}
        before = shared.stored_arrays(
            f"harmless/{digest(about | {'triggered': triggered})}",
            lambda: {
                CONDITION: draw_harmless(shared.model),
                "triggered": draw(shared.store.root, shared.model, CONDITION, triggered, seeds),
            },
            {"what": "harmless words before the attack", "attack": cell.attack, "seed": cell.seed},
        )
    refused = {CONDITION: arrays["refused"].astype(bool)} if "refused" in arrays else {}
    names = [word.text for word in words]
    return Harmless(names, {CONDITION: arrays[CONDITION]}, refused, dict(before))


def _of_cell(
    shared: Shared, cell: Cell, prompts: list[str], draw_harmless: Callable[[T2IModel], np.ndarray]
) -> dict[str, np.ndarray]:
    name = f"harmless/{digest({'cell': cell.key, 'prompts': prompts})}"
    found = read_arrays(shared, cell, name)
    if found is not None:
        return found[0]
    model = defended_model(shared, cell)
    shared.display.phase("harmless words")
    arrays = {CONDITION: draw_harmless(model)}
    if model.screen is not None:
        arrays["refused"] = model.refuses(prompts)
    shared.store.write_arrays(name, arrays, {"cell": cell.config, "made": origin(shared, cell)})
    return arrays
