from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from t2i_backdoor_bench.contract import (
    DefenderView,
    Difference,
    UserError,
    option,
    register_defense,
)
from t2i_backdoor_bench.detecting.attention_over_time import SIDES, attention_over_time, batches
from t2i_backdoor_bench.detecting.screening import Detector, calibrated, screened
from t2i_backdoor_bench.models.model import T2IModel

DIFFERS = (
    Difference(
        what="mean change of the other tokens",
        released="over the tokens of the prompt and two zeros, for the start and the end token",
        here="over the tokens of the prompt",
        why="the zeros make the mean depend on the prompt's length",
    ),
    Difference(
        what="changes that are summed",
        released="3 and 4 in the script that detects; 2 to 4 in `Visualization_DAA.ipynb`",
        here="3 and 4",
        why="the released files do not agree; the script is what detects",
    ),
    SIDES,
    calibrated(released="D < 0.000489"),
)


@register_defense(
    "daa_i",
    needs=("clean_prompts",),
    groups=("detection",),
    screens=True,
    paper="wang2025dynamic",
    differs=DIFFERS,
)
@dataclass
class DAAI(Detector):
    """Dynamic attention analysis of single tokens: a detector (Wang et al., TPAMI 2025).

    arXiv 2504.20518. D = sum over early steps t of ||M_end(t+1) - M_end(t)||_F - mean_i ||M_i(t+1)
    - M_i(t)||_F. M are cross-attention maps, mean over heads and over the layers of one side, of
    the end token and of the other tokens i. With a trigger the attention of the end token
    dissipates more slowly: a small D means backdoor, and the score is -D. Prompts that score above
    the 95th percentile of the defender's clean prompts are refused.
    """

    walk: int = option(50, low=1, source="released", help="steps of a whole drawing")
    first: int = option(
        3,
        low=0,
        source="released",
        help="the first change that counts, from 0: from this step to the next",
    )
    last: int = option(4, low=0, source="released", help="the last change that counts")
    size: int = option(8, sd=16, low=1, source="released", help="side of the maps")

    def check(self) -> None:
        if not self.first <= self.last <= self.walk - 2:
            raise UserError(
                f"daa_i reads the changes {self.first} to {self.last} of a drawing of {self.walk}"
                " steps: give first at most last, and last at most walk - 2"
            )

    def apply(self, model: T2IModel, view: DefenderView, seed: int) -> T2IModel:
        scoring = partial(
            score,
            model,
            walk=self.walk,
            first=self.first,
            last=self.last,
            size=self.size,
            seed=seed,
        )
        return screened(model, scoring, view.first(self.prompts), self.rate)


def score(
    model: T2IModel, prompts: list[str], walk: int, first: int, last: int, size: int, seed: int
) -> np.ndarray:
    """-D of each prompt: float (n,)."""
    found = []
    for part in batches(prompts, model.batch):
        maps, lengths = attention_over_time(model, part, seed, walk, size, stop=last + 2)
        found += [-float(relative_change(maps[first:, i, :n])) for i, n in enumerate(lengths)]
    return np.array(found)


def relative_change(maps: Tensor) -> Tensor:
    """D of one prompt's maps (steps, L, size, size) of the steps that count: start token first, end
    token last. Without a token in between, the end token's change alone."""
    change = torch.linalg.matrix_norm(maps.float().diff(dim=0))  # (steps - 1, L)
    others = change[:, 1:-1]
    return (change[:, -1] - (others.mean(1) if others.shape[1] else 0)).sum()
