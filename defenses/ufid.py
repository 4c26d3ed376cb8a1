from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from t2i_backdoor_bench.contract import DefenderView, Defense, option, register_defense
from t2i_backdoor_bench.detecting.attention_over_time import prompt_lengths
from t2i_backdoor_bench.detecting.screening import screened
from t2i_backdoor_bench.models.model import T2IModel
from t2i_backdoor_bench.models.sampler import Sampler
from t2i_backdoor_bench.scoring.scorer import Scorer, load_encoder
from t2i_backdoor_bench.targets.cosines import unit


@register_defense("ufid", needs=("clean_prompts",), groups=("detection",), screens=True)
@dataclass
class UFID(Defense):
    """UFID: a black-box detector of triggered prompts (Guan et al., AAAI 2025, arXiv 2404.01101).

    The prompt is drawn several times, each time behind another random prompt as a prefix and from
    other noise. Score: the density of the graph of these pictures, which is their mean pairwise
    cosine in a public CLIP. A backdoor that draws one picture whatever else is asked for gives a
    high density; one that changes a corner or the style of a picture need not. Prompts that score
    above the 95th percentile of the defender's clean prompts are refused. It costs `variants`
    drawings a prompt.
    """

    variants: int = option(4, sd=5, low=2, help="pictures a prompt")
    draw: int = option(8, sd=25, low=1, help="sampler steps of these pictures")
    encoder: str = option(
        "shapes",
        sd="ViT-B-32:openai",
        help="the CLIP: shapes, a local folder, or model:checkpoint of open_clip",
    )
    prompts: int = option(
        50,
        sd=100,
        low=1,
        scales=True,
        least=16,
        help="clean prompts that set the threshold and are the prefixes",
    )
    rate: float = option(0.05, low=0, high=1, help="share of clean prompts that may be refused")

    @property
    def needs_prompts(self) -> int:
        return self.prompts

    def apply(self, model: T2IModel, view: DefenderView, seed: int) -> T2IModel:
        prompts, encoder = view.first(self.prompts), load_encoder(self.encoder, str(model.device))
        bare = replace(
            model, screen=None, rewrite=None, sampler=Sampler(self.draw, model.sampler.guidance)
        )
        return screened(
            model,
            partial(score, bare, encoder, prompts, many=self.variants, seed=seed),
            prompts,
            self.rate,
        )


def score(
    model: T2IModel, encoder: Scorer, prefixes: list[str], prompts: list[str], many: int, seed: int
) -> np.ndarray:
    """Density of each prompt's pictures: float (n,)."""
    rng = np.random.default_rng([seed, 83])
    chosen, seeds = (
        [prefixes[i] for i in rng.integers(len(prefixes), size=many)],
        rng.integers(2**31, size=many),
    )
    texts = [behind(model, prefix, prompt) for prompt in prompts for prefix in chosen]
    images = model.generate(texts, np.tile(seeds, len(prompts)), "ufid")
    return np.array(
        [density(group) for group in encoder.encode_images(images).reshape(len(prompts), many, -1)]
    )


def behind(model: T2IModel, prefix: str, prompt: str) -> str:
    """The prompt behind as much of the prefix as leaves the prompt whole."""
    words = prefix.split(" ")
    while words:
        text = f"{' '.join(words)}, {prompt}"
        if prompt_lengths(model, [text], truncation=False)[0] <= model.tokenizer.model_max_length:
            return text
        words = words[:-1]
    return prompt


def density(features: np.ndarray) -> float:
    """Mean cosine of all pairs of rows (k, d)."""
    x = unit(features)
    k = len(x)
    return float(((x.sum(0) ** 2).sum() - k) / (k * (k - 1)))
