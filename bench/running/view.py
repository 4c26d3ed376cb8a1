"""What a defender sees."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from t2i_backdoor_bench.contract import DefenderView, Trigger
from t2i_backdoor_bench.data.splits import prompt_stream
from t2i_backdoor_bench.models.model import T2IModel
from t2i_backdoor_bench.running.shared import Shared

DEFENDER_PROMPTS, MORE_PROMPTS, DEFENDER_PAIRS = 100, 200, 256


def view(
    shared: Shared, needs: Collection[str], attack: str, seed: int, located: Trigger | None = None
) -> DefenderView:
    """What a defense with these needs may see. The clean model is a copy of its own; a located
    trigger stands for the true one."""
    known = shared.backdoor(attack).trigger
    replaced = known.replaces if known else ""
    word = replaced if replaced == shared.source(attack) else ""
    texts = shared.once(
        ("defender", seed, replaced), lambda: defender_prompts(shared, seed, word, replaced)
    )
    clean: list[T2IModel] = []

    def clean_pairs() -> tuple[np.ndarray, list[str]]:
        return shared.once(
            ("pairs", seed),
            lambda: shared.data.pairs("defender", up_to(shared, "pairs", DEFENDER_PAIRS), seed),
        )

    def clean_model() -> T2IModel:
        if not clean:
            clean.append(shared.model.clone(train="none"))
        return clean[0]

    def stream() -> list[str]:
        return prompt_stream(shared.data, known, shared.source(attack), texts, seed)

    return DefenderView(
        needs,
        texts,
        trigger=located or known,
        clean_model=clean_model,
        clean_pairs=clean_pairs,
        stream=stream,
    )


def defender_prompts(shared: Shared, seed: int, word: str = "", replaced: str = "") -> list[str]:
    """The prompts of a defender: those that methods use by default, and more for a defense that
    asks for more. Only prompts that contain the letter or `word` that the trigger replaces: it
    cannot be added to others."""
    data, most = shared.data, DEFENDER_PROMPTS + MORE_PROMPTS
    few, many = (up_to(shared, "prompts", n, word) for n in (DEFENDER_PROMPTS, most))
    first = [p.text for p in data.prompts("defender", few, seed, word) if replaced in p.text]
    others = [
        p.text for p in data.prompts("defender", many, seed + 10_007, word) if replaced in p.text
    ]
    return first + [p for p in others if p not in set(first)][:MORE_PROMPTS]


def up_to(shared: Shared, what: str, n: int, word: str = "") -> int:
    """`n`, or all that the defender's split has, if that is fewer."""
    return min(n, shared.data.count(what, "defender", word) or n)
