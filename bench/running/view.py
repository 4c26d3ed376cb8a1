"""What a defender sees."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
from torch import nn

from t2i_backdoor_bench.contract import DefenderView, Trigger
from t2i_backdoor_bench.data.splits import prompt_stream, required_word
from t2i_backdoor_bench.models.model import T2IModel
from t2i_backdoor_bench.running.shared import Shared

DEFENDER_PROMPTS, MORE_PROMPTS, DEFENDER_PAIRS = 100, 200, 256


def view(
    shared: Shared, needs: Collection[str], attack: str, seed: int, located: Trigger | None = None
) -> DefenderView:
    """What a defense with these needs may see. The clean model and its text encoders are copies; a
    located trigger stands for the true one.

    Who is given a trigger gets clean prompts to which it can be added. Who is not gets prompts that
    are drawn without a look at it: their choice would give it away.
    """
    backdoor = shared.backdoor(attack)
    told = (located or backdoor.trigger) if "trigger" in needs else None
    replaced = told.replaces if told else ""
    source = backdoor.target.source if backdoor.target.source == replaced and not located else ""
    clean: list[T2IModel] = []

    def clean_prompts() -> list[str]:
        word = required_word(shared.data, source, replaced)
        return shared.once(
            ("defender", seed, word, replaced),
            lambda: defender_prompts(shared, seed, word, replaced),
        )

    def clean_pairs() -> tuple[np.ndarray, list[str]]:
        return shared.once(
            ("pairs", seed),
            lambda: shared.data.pairs("defender", up_to(shared, "pairs", DEFENDER_PAIRS), seed),
        )

    def clean_model() -> T2IModel:
        if not clean:
            clean.append(shared.model.clone(train="none"))
        return clean[0]

    def clean_text_encoder() -> tuple[nn.Module, ...]:
        return shared.model.clone(encoders=True, train="none").encoders

    def stream() -> list[str]:
        return prompt_stream(
            shared.data, backdoor.trigger, shared.source(attack), clean_prompts(), seed
        )

    return DefenderView(
        needs,
        clean_prompts,
        trigger=told,
        clean_model=clean_model,
        clean_text_encoder=clean_text_encoder,
        clean_pairs=clean_pairs,
        stream=stream,
    )


def defender_prompts(shared: Shared, seed: int, word: str = "", replaced: str = "") -> list[str]:
    """The clean prompts of a defender: those that methods use by default, and more for a defense
    that asks for more. With a letter or word that is `replaced` by a known trigger, only prompts
    that contain it: the trigger cannot be added to others. `word` is what the data is asked for."""
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
