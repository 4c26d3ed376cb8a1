from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from t2i_backdoor_bench.contract import DefenderView, Difference, option, register_defense
from t2i_backdoor_bench.models.model import T2IModel
from t2i_backdoor_bench.training.clean_pairs import (
    FEED_FORWARD,
    PairDefense,
    denoising,
    kept,
    mean_activation,
    of_pairs,
)
from t2i_backdoor_bench.training.parameters import Trainable
from t2i_backdoor_bench.training.trained_defense import CLIPPING, Loss

DIFFERS = (
    Difference(
        what="what is pruned",
        paper="channels of the last convolution of a classifier",
        here=f"hidden units of {FEED_FORWARD}",
        why="a denoiser has no last layer of features",
    ),
    Difference(
        what="how much is pruned",
        paper="until the accuracy on clean pictures falls",
        here="a fixed `share`",
        why="there is no accuracy: the share is an option to search",
    ),
    CLIPPING,
)


@register_defense(
    "fine_prune",
    needs=("clean_pairs",),
    groups=("removal",),
    paper="liu2018fine",
    ours="the form for denoisers of a defense of classifiers",
    differs=DIFFERS,
)
@dataclass
class FinePrune(PairDefense):
    """Fine-pruning: dormant units are pruned, then the model is fine-tuned (Liu et al., RAID 2018).

    A backdoor may sit in units that clean inputs do not use. In each feed-forward block the `share`
    of hidden units with the smallest mean absolute activation on clean captioned pictures is set to
    zero and stays zero. The rest trains by ||eps_th(x_t, c) - eps||^2 on these pictures.
    """

    share: float = option(
        0.1, low=0, high=1, tune=(0.02, 0.5), help="share of a block's hidden units that is pruned"
    )
    mask_steps: int = option(10, sd=50, low=1, help="batches that give the mean activation")
    train: str = option(
        "full", choices=("full", "noncross"), help="which weights it trains, the pruned among them"
    )

    def fit(self, trained: Trainable, loss: "Pruned") -> dict[str, Any]:
        hooks = [
            layer.weight.register_hook(lambda g, m=mask: g * m)
            for layer, mask in zip(loss.layers, loss.masks, strict=True)
        ]
        info = super().fit(trained, loss)
        for hook in hooks:
            hook.remove()
        return info

    def loss(self, student: T2IModel, attacked: T2IModel, view: DefenderView, seed: int) -> Loss:
        return Pruned(self, student, attacked, view, seed)


class Pruned:
    """Prunes the student, and is its training loss as a function of the step."""

    def __init__(
        self,
        method: FinePrune,
        student: T2IModel,
        attacked: T2IModel,
        view: DefenderView,
        seed: int,
    ) -> None:
        room = of_pairs(method, student, attacked, view, seed)
        self.train = room.loss(denoising(room))
        self.layers = student.family.feed_forward(student.denoiser)
        used = mean_activation(self.layers, self.train, method.mask_steps)
        self.masks = [kept(activity, method.share) for activity in used]
        with torch.no_grad():
            for layer, mask in zip(self.layers, self.masks, strict=True):
                layer.weight.mul_(mask.to(layer.weight.dtype))

    def __call__(self, step: int) -> Tensor:
        return self.train(step)
