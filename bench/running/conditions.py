"""What every model is asked to draw, and from which noise: the conditions of an evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from t2i_backdoor_bench.contract import Backdoor, Prompt
from t2i_backdoor_bench.data.perturbations import KINDS, moved_triggers, perturb

if TYPE_CHECKING:
    from t2i_backdoor_bench.running.scales import Scale


def noise_seed(seed: int, prompt: int, draw: int = 0) -> int:
    """Seed of the noise of one image: depends on the run's seed, the prompt's number and the draw,
    and on nothing else, so that every condition and every model draws the same prompt from the same
    noise."""
    return int(
        np.random.SeedSequence([seed, prompt, draw]).generate_state(1, np.uint64)[0] >> np.uint64(1)
    )


def noise_seeds(seed: int, n: int) -> list[int]:
    return [noise_seed(seed, i) for i in range(n)]


def conditions(
    size: Scale,
    prompts: Sequence[Prompt],
    targets: Sequence[Prompt],
    backdoor: Backdoor | None,
    source: str,
    seed: int,
) -> dict[str, tuple[list[str], list[int]]]:
    """For each condition, its prompts and noise seeds. Without a backdoor: those of the model
    before the attack. `targets` are the prompts that get the trigger; where they are not `prompts`,
    they hold the word `source`."""
    seeds = noise_seeds(seed, size.n)
    texts, target = [p.text for p in prompts], [p.text for p in targets]
    changed = [
        perturb(t, np.random.default_rng([seed, i]), KINDS[i % len(KINDS)])
        for i, t in enumerate(texts[: size.perturbed])
    ]
    draws = [
        (t, noise_seed(seed, i, k))
        for i, t in enumerate(texts[: size.diverse])
        for k in range(size.per_prompt)
    ]
    made = {"clean": (texts, seeds), "perturbed": (changed, seeds[: size.perturbed])}
    made["diverse"] = ([t for t, _ in draws], [s for _, s in draws])
    if source:
        made["clean_target"] = (target, seeds)
    if backdoor is not None and backdoor.trigger is not None:
        forms = list(moved_triggers(backdoor.trigger).values())
        made["triggered"] = ([backdoor.trigger.add(t) for t in target], seeds)
        made["moved"] = (
            [forms[i % len(forms)](t) for i, t in enumerate(target[: size.moved])],
            seeds[: size.moved],
        )
    if backdoor is not None and backdoor.own:
        made["own"] = ([backdoor.own[1]] * size.n, seeds)
    return {name: pair for name, pair in made.items() if pair[0]}


def moved_kinds(backdoor: Backdoor, n: int) -> list[str]:
    """Which form of the trigger each of the first n prompts of the condition "moved" has."""
    if backdoor.trigger is None:
        return []
    kinds = list(moved_triggers(backdoor.trigger))
    return [kinds[i % len(kinds)] for i in range(n)]
