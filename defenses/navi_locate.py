from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from t2i_backdoor_bench.contract import DefenderView, register_defense
from t2i_backdoor_bench.detecting.locating import NOTHING, Locate, Locator
from t2i_backdoor_bench.detecting.token_variation import token_variation
from t2i_backdoor_bench.models.model import T2IModel


@register_defense(
    "navi_locate",
    needs=("clean_prompts", "stream"),
    gives=("trigger",),
    groups=("localization",),
    locates=True,
    version=1,
    ours="a locator from the score of a detector",
)
@dataclass
class NaviLocate(Locator):
    """The trigger is the word with the largest neuron activation variation in a flagged prompt.

    Built from NaviT2I (Zhai et al., ICCV 2025), which masks one token at a time and compares the
    U-Net's activations at the first step. The paper takes the largest variation as a score; this
    takes the word that holds its token. The words of the flagged prompts then vote
    (`detecting.locating.vote`). It divides by the change of the suspect's own text states: what it
    is for, blind removal (`navit2i_untrusted+navi_locate+skdcag`), is given no clean text encoder.
    """

    def locator(
        self, model: T2IModel, view: DefenderView, flagged: Sequence[str], seed: int
    ) -> Locate:
        def locate(prompts: Sequence[str]) -> np.ndarray:
            found = token_variation(model, prompts, seed)
            return np.array(
                [w.spans[int(w.values.argmax())] if w.spans else NOTHING for w in found], np.int64
            ).reshape(-1, 2)

        return locate
