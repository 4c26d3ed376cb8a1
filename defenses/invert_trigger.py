from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from t2i_backdoor_bench.contract import DefenderView, Defense, Trigger, option, register_defense
from t2i_backdoor_bench.detecting.inversion import Shift, search
from t2i_backdoor_bench.detecting.locating import NOTHING, words
from t2i_backdoor_bench.models.model import T2IModel
from t2i_backdoor_bench.training.text_inputs import moments


@register_defense(
    "invert_trigger",
    needs=("clean_prompts",),
    gives=("trigger",),
    groups=("localization",),
    locates=True,
    ours="the whole, after trigger inversion in classifiers and greedy coordinate gradients",
)
@dataclass
class InvertTrigger(Defense):
    """The trigger is searched in the model itself: no traffic is needed.

    Tokens that no clean prompt has are put together to the text that, before clean prompts, moves
    the denoiser's predictions most and in every prompt (`detecting.inversion`). It counts as a
    trigger if its effect is above that of each of `decoys` words of the clean prompts and of as
    many random words, by `margin` in the logarithm. The defenses behind it in a composition are
    given the text found: it need not be the attacker's, only one that does the same. A trigger of
    ordinary words, a look-alike and a syntax are not searched. The text found is the best of many
    and the words it is compared with are not: on a clean model it may be accepted, too. How often
    is not measured yet.
    """

    length: int = option(4, low=1, help="tokens of the text")
    rounds: int = option(24, sd=100, low=1, help="rounds of the search")
    tried: int = option(12, sd=64, low=1, help="changes that are measured in a round")
    top: int = option(64, sd=256, low=1, help="tokens that the gradient favours at a place")
    asked: int = option(6, sd=8, low=1, help="clean prompts that the effect is measured on")
    decoys: int = option(12, low=1, help="words of each kind that the text is compared with")
    margin: float = option(0.3, low=0, help="by how much the logarithm of its effect is above them")
    prompts: int = option(100, low=1, scales=True, least=16, help="clean prompts")

    @property
    def needs_prompts(self) -> int:
        return self.prompts

    def apply(self, model: T2IModel, view: DefenderView, seed: int) -> T2IModel:
        prompts, bare = view.first(self.prompts), replace(model, screen=None)
        asked = prompts[: self.asked]
        shift = Shift(bare, asked, moments(bare, asked, seed))
        text, effect = search(
            shift, unused(bare, prompts), self.length, self.rounds, self.tried, self.top, seed
        )
        located = None
        if effect > self.usual(shift, text, prompts, seed) + self.margin:
            located = Trigger(text, "prefix")

        def locate(texts: Sequence[str]) -> np.ndarray:
            hits = [located.pattern.search(t) if located else None for t in texts]
            return np.array([h.span() if h else NOTHING for h in hits], np.int64).reshape(-1, 2)

        return replace(bare, locate=locate, located=located)

    def usual(self, shift: Shift, text: str, prompts: Sequence[str], seed: int) -> float:
        """The largest effect of words that are no trigger: those of clean prompts, and random ones
        of the text's length."""
        rng = np.random.default_rng([seed, 92])
        known = sorted({w for p in prompts for w in words(p)})
        own = [known[i] for i in rng.permutation(len(known))[: self.decoys]]
        letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))
        size = max(3, min(10, len(text)))
        own += ["".join(rng.choice(letters, size=size)) for _ in range(self.decoys)]
        return max(shift(w) for w in own)


def unused(model: T2IModel, prompts: Sequence[str]) -> list[int]:
    """The tokens of the first tokenizer that no clean prompt has and that can be written."""
    part = model.text_part
    taken = {i for p in prompts for i in part.ids(p)} | set(part.tokenizer.all_special_ids)
    found = []
    for i in range(len(part.tokenizer)):
        text = part.tokenizer.decode([i])
        if i not in taken and text.strip() and text.isprintable() and "\ufffd" not in text:
            found.append(i)
    return found
