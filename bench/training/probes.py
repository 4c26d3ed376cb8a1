"""Does a removed backdoor come back? The repaired model after a little ordinary fine-tuning, and
under other samplers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from t2i_backdoor_bench.models.model import T2IModel
from t2i_backdoor_bench.training.denoising import Term, train_terms
from t2i_backdoor_bench.training.loop import Optim

STEPS, BATCH, DROP = 20, 16, 0.1
RATE = {"shapes": 2e-4, "sd": 1e-5}  # those of the defense clean_finetune
NUMBERS = ("half the steps", "twice the steps", "half the guidance", "twice the guidance")


def finetuned(model: T2IModel, images: np.ndarray, captions: Sequence[str], seed: int) -> T2IModel:
    """A copy of the model after 20 steps of plain denoising on clean captioned images uint8 (n, H,
    W, 3): what its next owner does."""
    student = model.clone()
    terms = [Term(captions, model.latents(images, seed), drop=DROP)]
    train_terms(
        student, None, terms, Optim(STEPS, RATE[model.settings], BATCH), seed, "probe: fine-tuning"
    )
    return student


def with_sampler(model: T2IModel, kind: str) -> T2IModel:
    """The same weights drawn in another way: by another scheduler of its family
    (`Family.probed`), or with other numbers (NUMBERS)."""
    if name := model.family.probed(model.pipe).get(kind):
        return replace(model, pipe=model.family.drawn_by(model.pipe, name))
    own = model.sampler
    changed = {
        "half the steps": replace(own, steps=max(1, own.steps // 2)),
        "twice the steps": replace(own, steps=2 * own.steps),
        "half the guidance": replace(own, guidance=own.guidance / 2),
        "twice the guidance": replace(own, guidance=2 * own.guidance),
    }
    return replace(model, sampler=changed[kind])


def other_samplers(model: T2IModel) -> list[str]:
    """The ways that differ from the model's own: a model without guidance has no half of it, and
    one that is drawn by Euler's method is not drawn otherwise by it."""
    return [
        kind
        for kind in (*model.family.probed(model.pipe), *NUMBERS)
        if _differs(with_sampler(model, kind), model)
    ]


def _differs(other: T2IModel, model: T2IModel) -> bool:
    a, b = other.pipe.scheduler, model.pipe.scheduler
    if type(a) is not type(b) or _public(a.config) != _public(b.config):
        return True
    x, y = other.sampler, model.sampler
    return x.steps != y.steps or (x.guidance != y.guidance and max(x.guidance, y.guidance) > 1)


def _public(config: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in config.items() if not k.startswith("_")}


def resampled_kinds(model: T2IModel, n: int) -> list[str]:
    """The sampler of each of n pictures: in turn."""
    kinds = other_samplers(model)
    return [kinds[i % len(kinds)] for i in range(n)]


def resampled(model: T2IModel, prompts: Sequence[str], seeds: Sequence[int]) -> np.ndarray:
    """Pictures uint8 (n, H, W, 3) of the prompts, each from its own noise by the sampler that
    `resampled_kinds` names."""
    out = np.zeros((len(prompts), model.resolution, model.resolution, 3), np.uint8)
    kinds = np.array(resampled_kinds(model, len(prompts)))
    for kind in dict.fromkeys(kinds.tolist()):
        rows = np.flatnonzero(kinds == kind)
        out[rows] = with_sampler(model, kind).generate(
            [prompts[i] for i in rows], [seeds[i] for i in rows], f"probe: {kind}"
        )
    return out
