from dataclasses import dataclass
from functools import partial

import numpy as np

from t2i_backdoor_bench.contract import DefenderView, Difference, register_defense
from t2i_backdoor_bench.detecting.screening import Detector, calibrated, screened
from t2i_backdoor_bench.detecting.token_variation import token_variation
from t2i_backdoor_bench.models.model import T2IModel

DIFFERS = (
    calibrated(paper="above 1.6"),
    Difference(
        what="tokens that are masked",
        released="all but stop words and the single marks . , ? ! : ;",
        here="those of words but stop words, without marks at a word's end; marks alone are a word,"
        " but for such a single one",
        why="what a locator finds is a word",
    ),
    Difference(
        what="prompts with one token that is no stop word",
        released="no number: the mean of nothing",
        here="a score of 1",
        why="a score has to be finite; 1 is that of a prompt whose tokens are alike",
    ),
)


@register_defense(
    "navit2i",
    needs=("clean_prompts", "clean_text_encoder"),
    groups=("detection",),
    screens=True,
    version=1,
    differs=DIFFERS,
)
@dataclass
class NaviT2I(Detector):
    """NaviT2I, neuron activation variation: a detector (Zhai et al., ICCV 2025).

    arXiv 2503.06453. Each token that belongs to no stop word is masked in turn. Its variation is
    the change of all of the U-Net's activations at the first step, divided by the change of the
    text states of a *trusted* text encoder (`detecting.token_variation`). Score: the largest
    variation over the mean of the lowest 75 %. Prompts that score above the 95th percentile of the
    defender's clean prompts are refused. The trusted encoder is that from before the attack: who
    defends a copy of Stable Diffusion has the stock CLIP. Against a backdoor in the text encoder it
    is most of the answer: the suspect's states move with the trigger and the trusted ones do not.
    """

    def trusted(self, model: T2IModel, view: DefenderView) -> T2IModel | None:
        """The model with text encoders that the defender trusts; None where these are its own."""
        return model.with_encoders(view.clean_text_encoder)

    def apply(self, model: T2IModel, view: DefenderView, seed: int) -> T2IModel:
        scoring = partial(score, model, trusted=self.trusted(model, view), seed=seed)
        return screened(model, scoring, view.first(self.prompts), self.rate)


@register_defense(
    "navit2i_untrusted",
    needs=("clean_prompts",),
    groups=("detection",),
    screens=True,
    version=1,
    ours="the suspect's own text encoder in place of a trusted one",
    differs=DIFFERS,
)
@dataclass
class UntrustedNaviT2I(NaviT2I):
    """NaviT2I for a defender who has no clean text encoder.

    As `navit2i`, but the variation is divided by the change of the suspect's own text states. A
    backdoor in the text encoder moves both sides of that ratio.
    """

    def trusted(self, model: T2IModel, view: DefenderView) -> None:
        return None


def score(model: T2IModel, prompts: list[str], trusted: T2IModel | None, seed: int) -> np.ndarray:
    """Peak over base of the tokens' variations, for each prompt: float (n,)."""
    return np.array([peak(v.values) for v in token_variation(model, prompts, seed, trusted)])


def peak(values: np.ndarray) -> float:
    """The largest of (n,) values over the mean of the lowest 75 % (at least one); 1 where there is
    nothing to compare."""
    if len(values) < 2:
        return 1.0
    base = np.sort(values)[: max(1, int(0.75 * len(values)))].mean()
    return float(values.max() / base) if base > 0 else 1.0
