"""A defense at work: what it may see, its parts one after the other, and what that cost."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from t2i_backdoor_bench.contract import Cell, DefenderView, Trigger
from t2i_backdoor_bench.data.splits import prompt_stream
from t2i_backdoor_bench.models.model import T2IModel
from t2i_backdoor_bench.running.cost import measured, untouched
from t2i_backdoor_bench.running.drawing import draws_as

if TYPE_CHECKING:
    from t2i_backdoor_bench.running.plan import Method
    from t2i_backdoor_bench.running.workshop import Workshop

DEFENDER_PROMPTS, MORE_PROMPTS, DEFENDER_PAIRS = 100, 200, 256
Defended = tuple[T2IModel, dict[str, Any], Cell | None]


def view(
    shop: Workshop, needs: Collection[str], attack: str, seed: int, located: Trigger | None = None
) -> DefenderView:
    """What a defense with these needs may see. The clean model is a copy of its own; a located
    trigger stands for the true one."""
    known = shop.backdoor(attack).trigger
    replaced = known.replaces if known else ""
    word = replaced if replaced == shop.source(attack) else ""
    texts = shop.once(
        ("defender", seed, replaced), lambda: defender_prompts(shop, seed, word, replaced)
    )
    clean: list[T2IModel] = []

    def clean_pairs() -> tuple[np.ndarray, list[str]]:
        return shop.once(
            ("pairs", seed),
            lambda: shop.data.pairs("defender", up_to(shop, "pairs", DEFENDER_PAIRS), seed),
        )

    def clean_model() -> T2IModel:
        if not clean:
            clean.append(shop.model.clone(train="none"))
        return clean[0]

    def stream() -> list[str]:
        return prompt_stream(shop.data, known, shop.source(attack), texts, seed)

    return DefenderView(
        needs,
        texts,
        trigger=located or known,
        clean_model=clean_model,
        clean_pairs=clean_pairs,
        stream=stream,
    )


def defender_prompts(shop: Workshop, seed: int, word: str = "", replaced: str = "") -> list[str]:
    """The prompts of a defender: those that methods use by default, and more for a defense that
    asks for more. Only such that hold the letter or `word` that the trigger takes the place of: to
    others it cannot be added."""
    few, many = (
        up_to(shop, "prompts", n, word) for n in (DEFENDER_PROMPTS, DEFENDER_PROMPTS + MORE_PROMPTS)
    )
    first = [p.text for p in shop.data.prompts("defender", few, seed, word) if replaced in p.text]
    others = [
        p.text
        for p in shop.data.prompts("defender", many, seed + 10_007, word)
        if replaced in p.text
    ]
    return first + [p for p in others if p not in set(first)][:MORE_PROMPTS]


def up_to(shop: Workshop, what: str, n: int, word: str = "") -> int:
    """`n`, or all that the defender's split holds, where that is fewer."""
    return min(n, shop.data.count(what, "defender", word) or n)


def defend(shop: Workshop, cell: Cell, whole: bool = True) -> Defended:
    """The defended model and what the defense cost. The parts of a composition run one after the
    other, each with its own view. Where a part locates the trigger, the later ones are given that
    and not the true one; they are left out where it locates none.

    Where it locates the true one, the rest is what a defense does that is told it. Unless the
    `whole` model is wanted, that is not done again: the model comes as it is before, with the cell
    that has the rest alone, whose pictures are stored, and its cost is added.
    """
    attacked, attack_cost = shop.attacked(cell.attack, cell.seed)
    run_has_it = (
        cell.defense != "none" or "none" in shop.plan.defenses
    )  # the undefended model is asked for by other cells, too
    parts = shop.plan.defenses[cell.defense] if run_has_it else ()
    shop.display.phase("defend")
    total: dict[str, Any] = {"steps": 0, "images": 0, "parameters": 0}
    curves = {"losses": {}, "losses_attack": attack_cost.get("losses", [])}  # for the report
    model, twin = attacked, None
    with (
        shop.aside(shop.model, attacked),
        untouched(attacked, f"defense {cell.defense}"),
        untouched(shop.model, f"defense {cell.defense}"),
        measured(model.device) as cost,
    ):
        given: set[str] = set()
        for i, part in enumerate(parts):
            needs = set(part.entry.needs)
            if "trigger" in needs & given and model.located is None:
                continue
            twin = (
                None
                if whole or "trigger" not in given
                else find_twin(shop, cell, model, attacked, parts[i:])
            )
            if twin is not None:
                break
            seen = view(
                shop, needs, cell.attack, cell.seed, model.located if "trigger" in given else None
            )
            given |= set(part.entry.gives)
            torch.manual_seed(cell.seed)
            before, model = model, part.instance.apply(model, seen, cell.seed)
            info = (
                {} if model.info is before.info else model.info
            )  # a wrapper keeps the info of what it wraps
            total["steps"] += info.get("steps", 0)
            total["images"] += info.get("images", 0)
            total["parameters"] = max(total["parameters"], info.get("parameters", 0))
            curves["losses"] |= {part.name: info["losses"]} if info.get("losses") else {}
    if (
        model is attacked
    ):  # no defense: what the clock and the memory of doing nothing show is noise
        cost = {"seconds": 0.0}
    cost |= total
    if twin is not None:
        spent = shop.drawn(twin)[1]["cost"]
        cost |= {k: cost[k] + spent.get(k, 0) for k in ("seconds", "steps", "images")}
        cost |= {
            k: max(cost.get(k, 0), spent[k]) for k in ("parameters", "peak_memory_mb") if k in spent
        }
        curves["losses"] |= spent.get("losses", {})
    attacking = {
        f"{k}_attack": attack_cost[k]
        for k in ("seconds", "steps", "parameters", "images")
        if k in attack_cost
    }
    return model, cost | attacking | {k: v for k, v in curves.items() if v}, twin


def find_twin(
    shop: Workshop, cell: Cell, model: T2IModel, attacked: T2IModel, rest: Sequence[Method]
) -> Cell | None:
    """The cell of the rest of a composition alone, where it does the same and its pictures are
    stored: what stands before has located the true trigger, and left the attacked model as it
    was."""
    if (
        not draws_as(model, attacked)
        or model.screen
        or model.rewrite
        or model.located != shop.backdoor(cell.attack).trigger
    ):
        return None
    twin = shop.plan.sibling(cell, rest)
    return twin if shop.stored_samples(twin) else None
