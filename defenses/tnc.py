from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from t2i_backdoor_bench.contract import (
    DefenderView,
    Difference,
    UserError,
    option,
    register_defense,
)
from t2i_backdoor_bench.detecting.attention_over_time import batches
from t2i_backdoor_bench.detecting.one_class import log_change, one_class, worst_segment
from t2i_backdoor_bench.detecting.screening import Detector, calibrated, screened
from t2i_backdoor_bench.detecting.walking import walk
from t2i_backdoor_bench.models.model import T2IModel

DIFFERS = (
    Difference(
        what="score",
        paper="the consistency of the noise of adjacent timesteps, by which anomalous timesteps are"
        " located; the formula is not in the abstract",
        here="the largest mean of deviations from clean prompts over a segment of steps",
        why="the full text was not at hand: what the abstract leaves open is ours",
    ),
    Difference(
        what="repair",
        paper="a detoxification at the timesteps that were found, without a trigger, which corrects"
        " the path of the drawing; how is not in the abstract",
        here="none: a prompt above the threshold is refused",
        why="the abstract defines no correction, and one of our own would say nothing of theirs",
    ),
    calibrated(paper="not in the abstract"),
)


@register_defense(
    "tnc",
    needs=("clean_prompts",),
    groups=("detection",),
    screens=True,
    paper="wang2026sentinel",
    ours="the score, whose formula the abstract does not give",
    differs=DIFFERS,
)
@dataclass
class TNC(Detector):
    """Temporal noise consistency, a detector (Wang et al. 2026, arXiv 2602.01765).

    d_t = ||e_t - e_(t+1)||^2 / (||e_t|| ||e_(t+1)||) of the noise e that is predicted with guidance
    at adjacent steps of a drawing. Half of the clean prompts give the mean and the deviation of log
    d_t at each step; z_t is a prompt's distance from that mean in deviations. Score: the largest
    mean of |z_t| over `segment` adjacent steps, as a trigger disturbs a part of the drawing.
    Prompts that score above the 95th percentile of the other half are refused. It reads the
    predictions of the service and none of its weights (gray box).
    """

    walk: int = option(10, sd=50, low=2, help="steps of the drawing")
    segment: int = option(3, sd=5, low=1, help="adjacent changes whose mean counts")
    prompts: int = option(
        100,
        low=1,
        scales=True,
        least=16,
        help="clean prompts: half say what is usual, half set the threshold",
    )

    def check(self) -> None:
        if self.segment > self.walk - 1:
            raise UserError(
                f"tnc takes the mean of {self.segment} changes, and a drawing of {self.walk} steps"
                f" has {self.walk - 1}: lower segment or raise walk"
            )

    def apply(self, model: T2IModel, view: DefenderView, seed: int) -> T2IModel:
        prompts = view.first(self.prompts)
        known = [model.rewrite(p) if model.rewrite else p for p in prompts[::2]]
        read = partial(changes, model, steps=self.walk, seed=seed)
        clean = one_class(read(known))
        return screened(
            model,
            lambda asked: worst_segment(clean.scaled(read(asked)), self.segment),
            prompts[1::2] or prompts,
            self.rate,
        )


def changes(model: T2IModel, prompts: Sequence[str], steps: int, seed: int) -> np.ndarray:
    """log d_t of each prompt's drawing: float64 (n, steps - 1)."""
    found = []
    for part in batches(prompts, model.batch):
        of = model.noising.noise_of
        noise = torch.stack([of(s.predicted, s.given, s.t) for s in walk(model, part, seed, steps)])
        found.append(log_change(noise).T.cpu().numpy())
    return np.concatenate(found)
