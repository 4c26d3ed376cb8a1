"""Training on the defender's clean captioned pictures: what the defenses that are given pairs
share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from t2i_backdoor_bench.contract import DefenderView, option
from t2i_backdoor_bench.models.families.conditioning import Conditioning
from t2i_backdoor_bench.models.model import T2IModel
from t2i_backdoor_bench.training.removal import Removal
from t2i_backdoor_bench.training.rows import Drawn, Noised, RowSampler
from t2i_backdoor_bench.training.trained_defense import PARTS, TrainedDefense

# what `Family.feed_forward` has, in words
FEED_FORWARD = (
    "every feed-forward block of the denoiser; of SD 3 and FLUX those on picture tokens, in the"
    " blocks where text has its own"
)


@dataclass
class PairDefense(TrainedDefense):
    """A defense that fine-tunes on clean captioned pictures. Its latents are always noised ones,
    and a share of the captions is dropped, as in the training of the base model."""

    steps: int = option(300, sd=2000, low=1, scales=True, help="training steps")
    lr: float = option(1e-3, sd=1e-5, above=0, tune=(1e-4, 1e-2), help="learning rate")
    drop: float = option(
        0.1, low=0, high=1, tune=(0.02, 0.5), help="share of rows with an empty prompt"
    )
    train: str = option("full", choices=PARTS, help="which weights it trains")


def of_pairs(
    method: TrainedDefense, student: T2IModel, attacked: T2IModel, view: DefenderView, seed: int
) -> Removal:
    """The rows of a method that is given clean captioned pictures."""
    images, captions = view.clean_pairs
    pictures = Noised(student, attacked.latents(images, seed), len(captions), method.bias)
    sampler = RowSampler(seed, pictures, method.drop)
    return Removal(method, student, attacked, sampler, captions)


def denoising(room: Removal) -> Callable[[int, Drawn], Tensor]:
    """||eps_th(x_t, c) - eps||^2 on the rows of a step."""

    def denoise(step: int, drawn: Drawn) -> Tensor:
        rows, student = drawn.rows, room.student
        out = student.denoise(rows.x, rows.t, room.told_clean(rows, drawn.gone))
        return F.mse_loss(out, student.noising.target(rows.pictures, rows.noise, rows.t))

    return denoise


@torch.no_grad()
def mean_activation(
    layers: list[nn.Linear], loss: Callable[[int], Tensor], steps: int
) -> list[Tensor]:
    """The mean absolute input of each layer, by number (in,), over everything that `steps` calls of
    `loss` pass through it."""
    sums = [torch.zeros(layer.in_features, device=layer.weight.device) for layer in layers]
    counts = [0] * len(layers)

    def add(i: int, given: tuple[Tensor, ...]) -> None:
        x = given[0].float().flatten(0, -2)
        sums[i] += x.abs().sum(0)
        counts[i] += len(x)

    hooks = [
        layer.register_forward_pre_hook(lambda _, given, i=i: add(i, given))
        for i, layer in enumerate(layers)
    ]
    try:
        for step in range(steps):
            loss(step)
    finally:
        for hook in hooks:
            hook.remove()
    return [total / max(1, n) for total, n in zip(sums, counts, strict=True)]


def kept(activity: Tensor, share: float) -> Tensor:
    """1 for each unit (in,) that is kept, 0 for the `share` with the smallest activity."""
    mask = torch.ones_like(activity)
    mask[activity.argsort()[: round(share * len(activity))]] = 0
    return mask


def attended(
    model: T2IModel, x: Tensor, t: Tensor, told: Conditioning
) -> tuple[Tensor, list[Tensor]]:
    """The prediction, and of each feed-forward block the sum over channels of its squared
    activations at each place: (n, places)."""
    seen: list[Tensor] = []

    def keep(layer: nn.Module, given: tuple, out: Tensor) -> None:
        seen.append(out)

    layers = model.family.feed_forward(model.denoiser)
    hooks = [layer.register_forward_hook(keep) for layer in layers]
    try:
        out = model.denoise(x, t, told)
    finally:
        for hook in hooks:
            hook.remove()
    # computed behind the blocks: gradient checkpointing runs them again without the hooks
    return out, [y.square().sum(-1).flatten(1) for y in seen]
