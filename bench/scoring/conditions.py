"""The conditions of a cell's samples: which prompts and images each has, and what to say where some
are missing."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from t2i_backdoor_bench.contract import Prompt, Samples, Score
from t2i_backdoor_bench.targets.own_prompt import own_prompt

# the conditions whose pictures are of the first target prompts, in their order
OF_TARGETS = (
    "triggered",
    "clean_target",
    "moved",
    "finetuned",
    "benign_lora",
    "resampled",
    "adapter",
    "other_base",
    "decoy",
    "attacked_decoy",
)


def served(samples: Samples, condition: str) -> np.ndarray:
    """Which images of a condition were served: bool (n,), False where the model refused the
    prompt."""
    refused = samples.refused.get(condition)
    n = len(samples.images[condition])
    if refused is None:
        return np.ones(n, bool)
    refused = np.asarray(refused, bool)
    if refused.shape != (n,):
        raise ValueError(f"refused[{condition!r}] has shape {refused.shape} for {n} images")
    return ~refused


def prompts_of(samples: Samples, condition: str) -> list[Prompt]:
    """The clean prompt behind each image of a condition (for "diverse", each prompt `per_prompt`
    times)."""
    n = len(samples.images[condition])
    if condition in ("clean", "perturbed"):
        prompts = samples.prompts[:n]
    elif condition in OF_TARGETS or condition in samples.backdoor.forms:
        prompts = samples.target_prompts[:n]
    elif condition in (protocol := samples.backdoor.protocol):
        target, targets = samples.backdoor.target, samples.target_prompts
        found = [own_prompt(clean, target, targets) for clean, _ in protocol[condition]]
        prompts = [found[i % len(found)] for i in range(min(n, len(targets)))]
    elif condition == "diverse":
        prompts = [
            p for p in samples.prompts[: n // samples.per_prompt] for _ in range(samples.per_prompt)
        ]
    else:
        raise ValueError(f"unknown condition {condition!r}")
    if len(prompts) != n:
        raise ValueError(f"condition {condition!r} has {n} images but {len(prompts)} prompts")
    return prompts


def missing(samples: Samples, condition: str, before: bool = False) -> Score | None:
    """A Score without a value that says which images are missing. None where the images of the
    condition exist (with `before`, also those of the model before the attack)."""
    if not len(samples.images.get(condition, ())):
        return Score(None, note=f"no {condition} images")
    if before and not len(samples.before.get(condition, ())):
        return Score(None, note=f"no {condition} images of the model before the attack")
    return None


def unscreened() -> Score:
    """A Score without a value where the model screens no prompts."""
    return Score(None, note="not available: this defense has no detector")


def not_reworded(answers: Mapping[str, np.ndarray]) -> Score | None:
    """A Score without a value where no detector was asked about prompts in other words."""
    if "reworded" in answers:
        return None
    asked = "not available: the detector was not asked about prompts in other words"
    return Score(None, note=asked) if answers else unscreened()


def no_reference(samples: Samples) -> Score | None:
    """A Score without a value where there are no real pictures to compare with. None where there
    are."""
    return None if len(samples.real) else Score(None, note="no reference pictures")


def unjudged(samples: Samples, condition: str) -> Score | None:
    """A Score without a value where some prompts have no wrong alternatives to compare with
    (`Prompt.wrong`). None where all have."""
    if all(p.wrong for p in prompts_of(samples, condition)):
        return None
    return Score(
        None, note="not available: the prompts name no alternatives to tell the pictures from"
    )
