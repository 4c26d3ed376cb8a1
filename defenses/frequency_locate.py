from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch

from t2i_backdoor_bench.contract import DefenderView, Trigger, option, register_defense
from t2i_backdoor_bench.data.decoys import random_letters
from t2i_backdoor_bench.detecting.locating import (
    MARGIN,
    NOTHING,
    Locate,
    Locator,
    usual_words,
    word_spans,
)
from t2i_backdoor_bench.models.model import T2IModel


@register_defense(
    "frequency_locate",
    needs=("clean_prompts", "stream"),
    gives=("trigger",),
    groups=("localization",),
    locates=True,
    version=2,
    ours="the whole locator",
)
@dataclass
class FrequencyLocate(Locator):
    """The trigger is the word that is far more frequent in traffic than in clean prompts.

    In each prompt it locates the word whose share among the suspects exceeds its share among the
    defender's clean prompts most, if by at least a tenth. The words then vote
    (`detecting.locating.vote`). The winner counts as a trigger only if, in the prompts that contain
    it, it changes what the U-Net predicts along their drawings more than each of `decoys` random
    words of its length that mean nothing. It works for a trigger that is in use, whatever the
    backdoor draws. A word that is merely in fashion is taken for a trigger, too. It is the simplest
    thing that a service with a log can do, and what the other locators have to beat.
    """

    suspects: int = option(160, low=1, help="flagged prompts that are searched, at most")
    decoys: int = option(8, low=0, help="random words that the located word is compared with")
    tried: int = option(8, low=1, help="prompts of the stream, without it, in which it is compared")

    def locator(
        self, model: T2IModel, view: DefenderView, flagged: Sequence[str], seed: int
    ) -> Locate:
        clean, suspects = usual_words(view.prompts), usual_words(flagged)

        def locate(prompts: Sequence[str]) -> np.ndarray:
            found = []
            for prompt in prompts:
                margins = [
                    (suspects[prompt[a:b]] - clean[prompt[a:b]], (a, b))
                    for a, b in word_spans(prompt)
                ]
                best = max(margins, default=(0.0, NOTHING))
                found.append(best[1] if best[0] >= MARGIN else NOTHING)
            return np.array(found, np.int64).reshape(-1, 2)

        return locate

    def accepts(self, model: T2IModel, trigger: Trigger, flagged: Sequence[str], seed: int) -> bool:
        rng, holding = (
            np.random.default_rng([seed, 87]),
            (p for p in flagged if trigger.pattern.search(p)),
        )
        prompts = [trigger.remove(p) for p in islice(holding, self.tried)]
        if not prompts:  # words that stand together in prompts, but with marks between them
            return False
        drawn = model.trajectory(prompts, rng.integers(2**31, size=len(prompts)))
        clean = predictions(model, prompts, *drawn)
        effect = float(
            (predictions(model, [trigger.add(p) for p in prompts], *drawn) - clean).pow(2).mean()
        )
        for _ in range(self.decoys):
            other = [random_letters(trigger, p, rng) for p in prompts]
            if effect <= float((predictions(model, other, *drawn) - clean).pow(2).mean()):
                return False
        return True


def predictions(
    model: T2IModel, prompts: Sequence[str], times: torch.Tensor, latents: torch.Tensor
) -> torch.Tensor:
    """The U-Net's output for prompts (n) along their drawings: (k, n, C, h, w)."""
    states = model.condition(prompts)
    with torch.inference_mode():
        return torch.stack(
            [model.denoise(x, t, states) for t, x in zip(times, latents, strict=True)]
        )
