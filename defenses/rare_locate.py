from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
import torch

from t2i_backdoor_bench.contract import DefenderView, Defense, Trigger, option, register_defense
from t2i_backdoor_bench.data.decoys import stand_in
from t2i_backdoor_bench.detecting.candidates import new_words, readable
from t2i_backdoor_bench.detecting.inversion import bare
from t2i_backdoor_bench.detecting.locating import finder, grown, usual_words
from t2i_backdoor_bench.models.model import T2IModel
from t2i_backdoor_bench.training.text_inputs import moments


@register_defense(
    "rare_locate",
    needs=("clean_prompts", "stream"),
    gives=("trigger",),
    groups=("localization",),
    locates=True,
    ours="the whole locator",
)
@dataclass
class RareLocate(Defense):
    """The trigger is a word that no clean prompt has, that traffic has more often than chance
    explains, and that moves the model more than words which mean nothing.

    It reads the whole stream. Words count by an exact test (`detecting.candidates.new_words`): in a
    stream of prompts like the clean ones, one of them gets through with a chance of at most
    `level`, whatever the model is. With m clean prompts no share of much less than 1 - level^(1/m)
    can be told from words that the clean prompts lack by chance: 0.8 % of 300.

    Each of the `most` frequent of these words, with the neighbours that always stand beside it, is
    then looked at in the model, beside `decoys` texts of random letters in its place: how much do
    they change the predictions, in prompts of the stream that had the word? Effects are divided by
    the median of the word's own group, and a word passes that does more than the decoys of all
    groups. Of words that mean nothing, however many, one passes with a chance of at most
    1/(decoys + 1). A word that is new in traffic and that the model knows passes, too: without a
    clean model, what it means cannot be told from a backdoor. Of several that pass, the one that
    does most is the trigger.
    """

    level: float = option(0.1, above=0, high=1, help="such words expected by chance, at most")
    most: int = option(16, low=1, help="words that are looked at in the model, at most")
    decoys: int = option(19, low=1, help="random texts that each is compared with")
    tried: int = option(8, low=1, help="prompts of the stream, without the word, for each")

    def apply(self, model: T2IModel, view: DefenderView, seed: int) -> T2IModel:
        stream, clean = view.stream, view.prompts
        words = new_words(stream, clean, self.level)[: self.most]
        usual = usual_words(clean)
        candidates = dict.fromkeys(grown(stream, word, usual) for word in words)
        texts = [c for c in candidates if readable(c.text)]
        located = self.strongest(bare(model), stream, texts, seed)
        return replace(model, screen=None, locate=finder(located), located=located)

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
