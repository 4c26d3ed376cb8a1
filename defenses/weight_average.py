from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from t2i_backdoor_bench.contract import DefenderView, Difference, option, register_defense
from t2i_backdoor_bench.models.model import T2IModel
from t2i_backdoor_bench.training.clean_pairs import PairDefense, denoising, of_pairs
from t2i_backdoor_bench.training.trained_defense import CLIPPING, Loss

DIFFERS = (
    Difference(
        what="models that are averaged",
        paper="several of one architecture from different sources",
        here="copies of the attacked model, each fine-tuned on clean pictures from another seed",
        why="who downloads one model has one",
    ),
    CLIPPING,
)


@register_defense(
    "weight_average",
    needs=("clean_pairs",),
    groups=("removal",),
    paper="arora2024free",
    ours="copies fine-tuned by the defender in place of models of others",
    differs=DIFFERS,
)
@dataclass
class WeightAverage(PairDefense):
    """The average of several fine-tuned copies' weights (Arora et al., Findings of ACL 2024).

    arXiv 2402.19334. What clean pictures demand is common to all copies, and what they leave open
    is averaged out. Each copy trains by ||eps_th(x_t, c) - eps||^2 for an equal part of the steps,
    so that the cost is that of `clean_finetune`.
    """

    copies: int = option(3, low=2, tune=(2, 6), help="copies that are averaged")

    def loss(self, student: T2IModel, attacked: T2IModel, view: DefenderView, seed: int) -> Loss:
        room = of_pairs(self, student, attacked, view, seed)
        return room.loss(denoising(room))

    def apply(self, model: T2IModel, view: DefenderView, seed: int) -> T2IModel:
        one = replace(self, steps=max(1, self.steps // self.copies))
        made = [
            super(WeightAverage, one).apply(model, view, seed * self.copies + i)
            for i in range(self.copies)
        ]
        average(made)
        first = made[0]
        for cost in ("steps", "seconds", "images"):
            first.info[cost] = sum(m.info[cost] for m in made)
        return first


@torch.no_grad()
def average(models: Sequence[T2IModel]) -> None:
    """Give the first model the mean of all models' weights. What they share stays as it is."""
    parts = [list(m.edited.values()) for m in models]
    for networks in zip(*parts, strict=True):
        for own in zip(*(n.parameters() for n in networks), strict=True):
            if any(p is not own[0] for p in own):
                own[0].copy_(torch.stack([p.float() for p in own]).mean(0).to(own[0].dtype))
