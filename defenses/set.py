from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from t2i_backdoor_bench.contract import DefenderView, Difference, option, register_defense
from t2i_backdoor_bench.detecting.attention_over_time import batches
from t2i_backdoor_bench.detecting.one_class import offset, one_class
from t2i_backdoor_bench.detecting.screening import Detector, calibrated, screened
from t2i_backdoor_bench.detecting.walking import walk, with_values_scaled
from t2i_backdoor_bench.models.model import T2IModel

DIFFERS = (
    Difference(
        what="what is known of it",
        paper="its abstract: scales, features and the one-class model are not in it",
        here="values times `scales`, offsets of the predictions, Mahalanobis distance",
        why="the full text was not at hand: what the abstract leaves open is ours",
    ),
    Difference(
        what="layers whose values are scaled",
        paper="cross-attention",
        here="every projection of text; on FLUX those of its double blocks alone",
        why="in its single blocks text has no keys and values of its own",
    ),
    calibrated(paper="not in the abstract"),
)


@register_defense(
    "set",
    needs=("clean_prompts",),
    groups=("detection",),
    screens=True,
    paper="li2026scaling",
    ours="scales, features and the one-class model, which the abstract leaves open",
    differs=DIFFERS,
)
@dataclass
class SET(Detector):
    """SET: responses to scaled cross-attention, a detector (Li et al. 2026).

    arXiv 2604.12446. What text adds to the picture is scaled: the values of every projection of
    text are multiplied by s. At each step of a drawing the offset is ||eps_s - eps|| / ||eps||,
    eps_s and eps being the predictions with and without the scaling for the same x_t. The features
    of a prompt are the logarithms of its offsets, of all scales and steps: how its response
    develops. Half of the clean prompts give mean and shrunk covariance of clean features; the score
    is the Mahalanobis distance from them. Prompts that score above the 95th percentile of the other
    half are refused.
    """

    scales: tuple[float, ...] = option((0.5, 1.5, 2.0), low=0, help="factors of the values")
    walk: int = option(10, sd=20, low=2, help="steps of the drawing")
    shrinkage: float = option(0.1, above=0, high=1, help="of the correlation towards the identity")
    prompts: int = option(
        100,
        low=1,
        scales=True,
        least=16,
        help="clean prompts: half give the clean features, half set the threshold",
    )

    def apply(self, model: T2IModel, view: DefenderView, seed: int) -> T2IModel:
        prompts = view.first(self.prompts)
        known = [model.rewrite(p) if model.rewrite else p for p in prompts[::2]]
        read = partial(responses, model, scales=self.scales, steps=self.walk, seed=seed)
        clean = one_class(read(known), self.shrinkage)
        return screened(
            model, lambda asked: clean.distance(read(asked)), prompts[1::2] or prompts, self.rate
        )


def responses(
    model: T2IModel, prompts: Sequence[str], scales: Sequence[float], steps: int, seed: int
) -> np.ndarray:
    """The logarithm of each prompt's offset, by step and scale: float64 (n, steps * scales)."""
    found = []
    for part in batches(prompts, model.batch):
        rows = [
            offset(step.asked, with_values_scaled(model, step, s))
            for step in walk(model, part, seed, steps)
            for s in scales
        ]
        found.append(torch.stack(rows, 1).clamp(min=1e-12).log().cpu().numpy())
    return np.concatenate(found)
