from dataclasses import dataclass
from functools import partial

import numpy as np

from t2i_backdoor_bench.contract import DefenderView, Defense, option, register_defense
from t2i_backdoor_bench.detecting.screening import screened
from t2i_backdoor_bench.detecting.word_variation import word_variation
from t2i_backdoor_bench.models.model import T2IModel


@register_defense("navit2i", needs=("clean_prompts",), groups=("detection",), screens=True)
@dataclass
class NaviT2I(Defense):
    """NaviT2I, neuron activation variation: a detector (Zhai et al., ICCV 2025).

    arXiv 2503.06453. Each word that is no stop word is masked in turn. Its variation is the change
    of all of the U-Net's activations at the first step, divided by the change of the text states
    (`detecting.word_variation`). Score: the largest variation over the mean of the lowest 75 %; 1
    for a prompt with one such word. Prompts that score above the 95th percentile of the defender's
    clean prompts are refused. Published (SD 1.4): threshold 1.6, single tokens masked, and the text
    states of a *trusted* text encoder. This defender has the model's own encoder, so a backdoor in
    it moves both sides of the ratio.
    """

    prompts: int = option(
        100, low=1, scales=True, least=16, help="clean prompts that set the threshold"
    )
    rate: float = option(0.05, low=0, high=1, help="share of clean prompts that may be refused")

    @property
    def needs_prompts(self) -> int:
        return self.prompts

    def apply(self, model: T2IModel, view: DefenderView, seed: int) -> T2IModel:
        return screened(
            model, partial(score, model, seed=seed), view.first(self.prompts), self.rate
        )


def score(model: T2IModel, prompts: list[str], seed: int) -> np.ndarray:
    """Peak over base of the words' variations, for each prompt: float (n,)."""
    return np.array([peak(words.values) for words in word_variation(model, prompts, seed)])


def peak(values: np.ndarray) -> float:
    """The largest of (n,) values over the mean of the lowest 75 % (at least one); 1 where there is
    nothing to compare."""
    if len(values) < 2:
        return 1.0
    base = np.sort(values)[: max(1, int(0.75 * len(values)))].mean()
    return float(values.max() / base) if base > 0 else 1.0
