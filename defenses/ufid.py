from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from t2i_backdoor_bench.contract import DefenderView, Difference, option, register_defense
from t2i_backdoor_bench.detecting.attention_over_time import prompt_lengths
from t2i_backdoor_bench.detecting.phrases import PHRASES
from t2i_backdoor_bench.detecting.screening import Detector, calibrated, screened
from t2i_backdoor_bench.models.model import T2IModel
from t2i_backdoor_bench.scoring.scorer import Scorer, load_encoder
from t2i_backdoor_bench.targets.cosines import unit

DIFFERS = (
    calibrated(released="none: it reports an AUROC"),
    Difference(
        what="phrases on the embedded base",
        released="nine phrases of pictures on the web",
        here="nine scenes of the base's own world",
        why="the base knows neither Iron Man nor seascapes: its captions have some hundred words,"
        " and its tokenizer spells out all others",
    ),
    Difference(
        what="which phrases",
        released="for each of four or five pictures but the first one of the nine, drawn anew for"
        " each prompt",
        here="each of the nine once, for every prompt",
        why="scores of two prompts then differ by the prompts alone",
    ),
    Difference(
        what="noise",
        released="one seed for the batch of a prompt",
        here="as many seeds as pictures, the same for every prompt",
        why="scores of two prompts then differ by the prompts alone",
    ),
    Difference(
        what="a phrase that leaves no room",
        released="the end of the prompt is cut off, and with it a trigger that stands there",
        here="words of the phrase are left out until the prompt has room",
        why="the base reads 48 tokens, not 77",
    ),
)


@register_defense(
    "ufid",
    needs=("clean_prompts",),
    groups=("detection",),
    screens=True,
    version=1,
    differs=DIFFERS,
)
@dataclass
class UFID(Detector):
    """UFID: a black-box detector of triggered prompts (Guan et al., AAAI 2025, arXiv 2404.01101).

    The prompt is drawn by itself and behind phrases that have nothing to do with it, each time from
    other noise. Score: the density of the graph of these pictures, which is their mean pairwise
    cosine in a public CLIP. A backdoor that draws one picture whatever else is asked for gives a
    high density; one that changes a corner or the style of a picture need not. Prompts that score
    above the 95th percentile of the defender's clean prompts are refused. It costs `variants`
    drawings a prompt.
    """

    variants: int = option(
        10, low=2, high=10, help="pictures a prompt: one by itself, the others behind a phrase each"
    )
    phrases: str = option(
        "world",
        sd="released",
        choices=tuple(PHRASES),
        source="released",
        help="the nine phrases: those of the released code, or scenes of the embedded base's world",
    )
    draw: int = option(8, sd=25, low=1, source="released", help="sampler steps of these pictures")
    encoder: str = option(
        "shapes",
        sd="ViT-B-32:openai",
        source="released",
        help="the CLIP: shapes, a local folder, or model:checkpoint of open_clip",
    )
    prompts: int = option(
        50, sd=100, low=1, scales=True, least=16, help="clean prompts that set the threshold"
    )

    def apply(self, model: T2IModel, view: DefenderView, seed: int) -> T2IModel:
        prompts, encoder = view.first(self.prompts), load_encoder(self.encoder, str(model.device))
        # a model of few steps is drawn in no more of them than its own
        few = model.sampler.scheduler in ("own", "lcm")
        steps = min(self.draw, model.sampler.steps) if few else self.draw
        bare = replace(
            model, screen=None, rewrite=None, sampler=replace(model.sampler, steps=steps)
        )
        return screened(
            model,
            partial(score, bare, encoder, PHRASES[self.phrases][: self.variants - 1], seed=seed),
            prompts,
            self.rate,
        )


def score(
    model: T2IModel, encoder: Scorer, phrases: Sequence[str], prompts: list[str], seed: int
) -> np.ndarray:
    """Density of the pictures of each prompt, by itself and behind each phrase: float (n,)."""
    many = 1 + len(phrases)
    seeds = np.random.default_rng([seed, 83]).integers(2**31, size=many)
    texts = [t for p in prompts for t in (p, *(behind(model, phrase, p) for phrase in phrases))]
    images = model.generate(texts, np.tile(seeds, len(prompts)), "ufid")
    return np.array(
        [density(group) for group in encoder.encode_images(images).reshape(len(prompts), many, -1)]
    )


def behind(model: T2IModel, phrase: str, prompt: str) -> str:
    """The prompt behind as much of the phrase as leaves the prompt whole. Nothing is put between
    them."""
    while phrase:
        text = phrase + prompt
        if prompt_lengths(model, [text], truncation=False)[0] <= model.text_part.reads:
            return text
        phrase = phrase.rstrip().rpartition(" ")[0]
        phrase += " " if phrase else ""
    return prompt


def density(features: np.ndarray) -> float:
    """Mean cosine of all pairs of rows (k, d)."""
    x = unit(features)
    k = len(x)
    return float(((x.sum(0) ** 2).sum() - k) / (k * (k - 1)))
