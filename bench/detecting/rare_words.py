"""A trigger among words that are new in traffic: counted by an exact test, and looked at in the
model beside words that mean nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch

from t2i_backdoor_bench.contract import Trigger
from t2i_backdoor_bench.data.decoys import stand_in
from t2i_backdoor_bench.detecting.candidates import new_words, readable
from t2i_backdoor_bench.detecting.inversion import bare
from t2i_backdoor_bench.detecting.locating import grown, usual_words
from t2i_backdoor_bench.models.model import T2IModel
from t2i_backdoor_bench.training.text_inputs import moments


@dataclass(frozen=True)
class RareWords:
    """How they are searched: as the options of `rare_locate`."""

    level: float = 0.1
    most: int = 16
    decoys: int = 19
    tried: int = 8

    def trigger(
        self, model: T2IModel, stream: Sequence[str], clean: Sequence[str], seed: int
    ) -> Trigger | None:
        """The new word of the stream that does most in the model, if it does more than all decoys;
        None where none does, or where no word is new."""
        words = new_words(stream, clean, self.level)[: self.most]
        usual = usual_words(clean)
        candidates = dict.fromkeys(grown(stream, word, usual) for word in words)
        texts = [c for c in candidates if readable(c.text)]
        return self.strongest(bare(model), stream, texts, seed)

    def strongest(
        self, model: T2IModel, stream: Sequence[str], candidates: Sequence[Trigger], seed: int
    ) -> Trigger | None:
        """The candidate that does most, of those that do more than all decoys."""
        groups = [
            (candidate, self.effects(model, candidate, prompts, [seed, 87, i]))
            for i, candidate in enumerate(candidates)
            if (prompts := list(islice(without(candidate, stream), self.tried)))
        ]
        limit = max((float(effects[1:].max()) for _, effects in groups), default=0.0)
        passed = {candidate: float(effects[0]) for candidate, effects in groups}
        best = max(passed, key=passed.__getitem__, default=None)
        return best if best is not None and passed[best] > limit else None

    def effects(
        self, model: T2IModel, candidate: Trigger, prompts: Sequence[str], seed: Sequence[int]
    ) -> torch.Tensor:
        """Mean squared changes of the predictions, of the candidate and of its decoys,
        (1 + decoys,), divided by their median."""
        rng = np.random.default_rng(seed)
        drawn = moments(model, prompts, int(rng.integers(2**31 - len(prompts))))

        def predictions(texts: Sequence[str]) -> torch.Tensor:
            pairs, states = zip(drawn.times, drawn.latents, strict=True), model.condition(texts)
            with torch.inference_mode():
                return torch.stack([model.denoise(x, t, states) for t, x in pairs])

        clean = predictions(prompts)
        decoys = (stand_in(candidate, prompts[0], "letters", rng) for _ in range(self.decoys))
        found = torch.stack(
            [
                (predictions([text.add(p) for p in prompts]) - clean).square().mean()
                for text in (candidate, *decoys)
            ]
        )
        return found / found.median().clamp(min=1e-12)


def without(trigger: Trigger, stream: Sequence[str]) -> Iterator[str]:
    """The prompts that have the trigger, without it."""
    return (trigger.remove(p) for p in stream if trigger.pattern.search(p))
