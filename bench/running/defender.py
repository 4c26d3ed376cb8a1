"""What a defender of an attacked model is given, from data and models alone."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import numpy as np
from torch import nn

from t2i_backdoor_bench.contract import Backdoor, Data, DefenderView, Trigger
from t2i_backdoor_bench.data.splits import prompt_stream, required_word
from t2i_backdoor_bench.models.model import T2IModel

DEFENDER_PROMPTS, MORE_PROMPTS, DEFENDER_PAIRS = 100, 200, 256
Once = Callable[[Any, Callable[[], Any]], Any]  # what is made once for each key


def view_of(
    needs: Collection[str],
    backdoor: Backdoor,
    clean_of: Callable[[], T2IModel],
    data: Data,
    source: str,
    seed: int,
    located: Trigger | None = None,
    once: Once = lambda key, make: make(),
) -> DefenderView:
    """What a defense with these needs may see. The clean model and its text encoders are copies of
    those of `clean_of()`; a located trigger stands for the true one. `source` is the word that
    evaluation prompts contain, or "".

    Who is given a trigger gets clean prompts to which it can be added. Who is not gets prompts that
    are drawn without a look at it: their choice would give it away.
    """
    told = (located or backdoor.told) if "trigger" in needs else None
    replaced = told.replaces if told else ""
    named = backdoor.target.source
    word_of_target = named if named == replaced and not located else ""
    clean: list[T2IModel] = []

    def clean_prompts() -> list[str]:
        word = required_word(data, word_of_target, replaced)
        return once(
            ("defender", seed, word, replaced), lambda: defender_prompts(data, seed, word, replaced)
        )

    def clean_pairs() -> tuple[np.ndarray, list[str]]:
        many = up_to(data, "pairs", DEFENDER_PAIRS)
        return once(("pairs", seed), lambda: data.pairs("defender", many, seed))

    def clean_model() -> T2IModel:
        if not clean:
            clean.append(clean_of().clone(train="none"))
        return clean[0]

    def clean_text_encoder() -> tuple[nn.Module, ...]:
        return clean_of().clone(encoders=True, train="none").encoders

    def stream() -> list[str]:
        known = clean_prompts()
        return prompt_stream(data, backdoor.in_use, source, known, seed, backdoor.seen)

    return DefenderView(
        needs,
        clean_prompts,
        trigger=told,
        clean_model=clean_model,
        clean_text_encoder=clean_text_encoder,
        clean_pairs=clean_pairs,
        stream=stream,
    )


def defender_prompts(data: Data, seed: int, word: str = "", replaced: str = "") -> list[str]:
    """The clean prompts of a defender: those that methods use by default, and more for a defense
    that asks for more. With a letter or word that is `replaced` by a known trigger, only prompts
    that contain it: the trigger cannot be added to others. `word` is what the data is asked for."""
    most = DEFENDER_PROMPTS + MORE_PROMPTS
    few, many = (up_to(data, "prompts", n, word) for n in (DEFENDER_PROMPTS, most))
    first = [p.text for p in data.prompts("defender", few, seed, word) if replaced in p.text]
    others = [
        p.text for p in data.prompts("defender", many, seed + 10_007, word) if replaced in p.text
    ]
    return first + [p for p in others if p not in set(first)][:MORE_PROMPTS]


def up_to(data: Data, what: str, n: int, word: str = "") -> int:
    """`n`, or all that the defender's split has, if that is fewer."""
    return min(n, data.count(what, "defender", word) or n)
