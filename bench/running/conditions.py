"""The conditions of an evaluation: which prompts a model draws, and from which noise."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from t2i_backdoor_bench.contract import Backdoor, Prompt
from t2i_backdoor_bench.data.changed_triggers import changed
from t2i_backdoor_bench.data.decoys import Tokens, decoys
from t2i_backdoor_bench.data.perturbations import KINDS, perturb

if TYPE_CHECKING:
    from t2i_backdoor_bench.running.scales import Scale


def noise_seed(seed: int, prompt: int, draw: int = 0) -> int:
    """The seed of the noise of one image. It depends only on the run's seed, the prompt's number
    and the number of the draw: every condition and every model draws a prompt from the same
    noise."""
    state = np.random.SeedSequence([seed, prompt, draw]).generate_state(1, np.uint64)
    return int(state[0] >> np.uint64(1))


def noise_seeds(seed: int, n: int) -> list[int]:
    """The noise seeds of the first n prompts."""
    return [noise_seed(seed, i) for i in range(n)]


def conditions(
    size: Scale,
    prompts: Sequence[Prompt],
    targets: Sequence[Prompt],
    backdoor: Backdoor | None,
    source: str,
    seed: int,
) -> dict[str, tuple[list[str], list[int]]]:
    """The prompts and noise seeds of each condition.

    `backdoor` is None for the model before the attack. `targets` are the prompts that get the
    trigger. They are `prompts`, unless a `source` is given: then they are prompts that contain this
    word.
    """
    seeds = noise_seeds(seed, size.n)
    texts, target = [p.text for p in prompts], [p.text for p in targets]
    altered = [
        perturb(t, np.random.default_rng([seed, i]), KINDS[i % len(KINDS)])
        for i, t in enumerate(texts[: size.perturbed])
    ]
    draws = [
        (t, noise_seed(seed, i, k))
        for i, t in enumerate(texts[: size.diverse])
        for k in range(size.per_prompt)
    ]
    found = {"clean": (texts, seeds), "perturbed": (altered, seeds[: size.perturbed])}
    found["diverse"] = ([t for t, _ in draws], [s for _, s in draws])
    if source:
        found["clean_target"] = (target, seeds)
    if backdoor is not None and backdoor.trigger is not None:
        found["triggered"] = ([backdoor.trigger.add(t) for t in target], seeds)
    elif backdoor is not None and backdoor.always:
        found["triggered"] = target, seeds
    for name, pairs in (backdoor.protocol if backdoor else {}).items():
        found[name] = ([pairs[i % len(pairs)][1] for i in range(size.n)], seeds)
    for name, forms in (backdoor.forms if backdoor else {}).items():
        found[name] = ([forms[i % len(forms)].add(t) for i, t in enumerate(target)], seeds)
    return {name: pair for name, pair in found.items() if pair[0]}


def beside_trigger(
    size: Scale, targets: Sequence[Prompt], backdoor: Backdoor, seed: int, tokens: Tokens
) -> dict[str, list[tuple[str, str]]]:
    """What is in the trigger's place in the first target prompts, (kind, prompt) pairs: "moved"
    has changed forms of the trigger, "decoy" what is no form of it, as many as the undefended model
    draws. `tokens`: a text as the model reads it."""
    if backdoor.trigger is None:
        return {"moved": [], "decoy": []}
    texts = [p.text for p in targets]
    return {
        "moved": changed(backdoor.trigger, texts[: size.moved], tokens, seed),
        "decoy": decoys(backdoor, texts, tokens, seed, size.decoys),
    }


def first_decoys(size: Scale, pairs: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """The decoys that a defended model draws, of those that the undefended one draws."""
    kinds = len({kind for kind, _ in pairs})
    return list(pairs[: size.decoys_after * kinds])
