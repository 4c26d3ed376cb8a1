from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from t2i_backdoor_bench.contract import DefenderView, Difference, option, register_defense
from t2i_backdoor_bench.detecting.attention_over_time import (
    SIDES,
    attention_over_time,
    batches,
    max_scaled,
)
from t2i_backdoor_bench.detecting.screening import Detector, calibrated, screened
from t2i_backdoor_bench.models.model import T2IModel

DIFFERS = (
    calibrated(paper="F < 2.5", released="F < 2.5"),
    SIDES,
    Difference(
        what="the mean map",
        released="the maps of the prompt's tokens and of the first padding token, as 8-bit"
        " pictures; distances to it of the prompt's tokens alone",
        here="mean and distances over the same tokens: those behind the begin token, up to the end"
        " token",
        why="the paper's formula has one set of tokens; the padding token looks like an error of"
        " one in an index",
    ),
)


@register_defense(
    "t2ishield_ftt",
    needs=("clean_prompts",),
    groups=("detection",),
    screens=True,
    version=1,
    differs=DIFFERS,
)
@dataclass
class T2IShieldFTT(Detector):
    """T2IShield, Frobenius norm threshold truncation: a detector (Wang et al., ECCV 2024).

    arXiv 2407.04215. F = (1/L) sum_i ||M_i - mean_j M_j||_F over the L tokens of the prompt behind
    the begin token, the end token included. M_i is the token's cross-attention map, mean over
    heads, layers of one side and all steps of a drawing, divided by its maximum. A trigger that
    takes over the picture makes the maps of the other tokens alike (assimilation): a small F means
    backdoor, and the score is -F. Prompts that score above the 95th percentile of the defender's
    clean prompts are refused.
    """

    walk: int = option(
        10, sd=50, low=1, source="released", help="steps of the drawing whose maps are read"
    )
    size: int = option(8, sd=16, low=1, source="paper", help="side of the maps")

    def apply(self, model: T2IModel, view: DefenderView, seed: int) -> T2IModel:
        return screened(
            model,
            partial(score, model, walk=self.walk, size=self.size, seed=seed),
            view.first(self.prompts),
            self.rate,
        )


def score(model: T2IModel, prompts: list[str], walk: int, size: int, seed: int) -> np.ndarray:
    """-F of each prompt: float (n,)."""
    found = []
    for part in batches(prompts, model.batch):
        maps, lengths = attention_over_time(model, part, seed, walk, size)
        found += [-float(spread(m[1:n])) for m, n in zip(maps.mean(0), lengths, strict=True)]
    return np.array(found)


def spread(maps: Tensor) -> Tensor:
    """F of one prompt's maps (L, size, size): the mean Frobenius distance of the maps, each divided
    by its maximum, from their mean."""
    scaled = max_scaled(maps.float())
    return torch.linalg.matrix_norm(scaled - scaled.mean(0)).mean()
