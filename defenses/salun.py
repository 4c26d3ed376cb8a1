from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from t2i_backdoor_bench.contract import DefenderView, Difference, option, register_defense
from t2i_backdoor_bench.models.families.conditioning import cat
from t2i_backdoor_bench.models.model import T2IModel
from t2i_backdoor_bench.training.denoising import own_images
from t2i_backdoor_bench.training.loop import step_generator, step_rng
from t2i_backdoor_bench.training.parameters import Trainable
from t2i_backdoor_bench.training.removal import of_prompts
from t2i_backdoor_bench.training.rows import Drawn, Noised, Rows
from t2i_backdoor_bench.training.trained_defense import CLIPPING, Loss, PromptDefense

DIFFERS = (
    Difference(
        what="new label of the concept",
        paper="another class, chosen at random",
        released="the next class",
        here="the clean prompt",
        why="what a triggered prompt asked for is known",
    ),
    Difference(
        what="loss of the saliency",
        paper="the denoising loss",
        released="that of a prediction with guidance 7.5",
        here="the denoising loss",
    ),
    Difference(
        what="pictures",
        paper="real ones of both kinds",
        here="drawn by the attacked model",
        why="a defender who knows a trigger has no pictures",
    ),
    CLIPPING,
)


@register_defense(
    "salun",
    needs=("trigger", "clean_prompts"),
    groups=("removal", "erasure"),
    version=1,
    differs=DIFFERS,
)
@dataclass
class SalUn(PromptDefense):
    """Saliency unlearning of the triggered prompts (Fan et al., ICLR 2024).

    A mask selects the `share` of all weights with the largest gradient of the denoising loss on
    what the model draws for triggered prompts. Only these weights train. Loss: ||eps_th(x_t, c+) -
    sg(eps_th(x_t, c))||^2 on those pictures (the trigger is relabelled as the clean prompt) + a *
    ||eps_th(x_t, c) - eps||^2 on pictures of clean prompts.
    """

    share: float = option(
        0.5,
        low=0,
        high=1,
        source="paper",
        tune=(0.1, 1.0),
        help="share of the weights that are trained",
    )
    alpha: float = option(
        0.5, low=0, source="paper", tune=(0.05, 5.0), help="a, the weight of the loss on clean rows"
    )
    steps: int = option(200, sd=1000, low=1, scales=True, help="training steps")
    lr: float = option(
        2e-4, sd=1e-5, above=0, source="paper", tune=(2e-5, 2e-3), help="learning rate"
    )
    batch: int = option(
        16, low=1, source="released", help="student rows a step: half triggered, half clean"
    )
    mask_steps: int = option(10, sd=50, low=1, help="batches that give the saliency")
    train: str = option(
        "full",
        choices=("full", "cross", "kv", "noncross"),
        source="paper",
        help="which weights the mask is of",
    )
    # none: it would move what the mask holds still
    weight_decay: float = option(
        0.0, low=0, high=0, source="released", help="none: it would move what the mask holds"
    )

    def fit(self, trained: Trainable, loss: "Relabelling") -> dict[str, Any]:
        masks = saliency(list(trained), loss.forget, self.mask_steps, self.share)
        hooks = [p.register_hook(lambda g, m=m: g * m) for p, m in zip(trained, masks, strict=True)]
        info = super().fit(trained, loss)
        for hook in hooks:
            hook.remove()
        return info | {"parameters": int(sum(m.sum() for m in masks))}

    def loss(self, student: T2IModel, attacked: T2IModel, view: DefenderView, seed: int) -> Loss:
        return Relabelling(self, student, attacked, view, seed)


class Relabelling:
    """The training loss as a function of the step, and the loss whose gradient is the saliency."""

    def __init__(
        self, method: SalUn, student: T2IModel, attacked: T2IModel, view: DefenderView, seed: int
    ) -> None:
        self.method, self.student, self.seed = method, student, seed
        self.room = of_prompts(method, student, attacked, view, seed, shown=True)
        prompts, triggered = self.room.prompts, self.room.triggered
        forgotten = self.room.sampler.noised.pictures
        if forgotten is None:  # the saliency is of pictures, whatever the rows are
            forgotten = own_images(attacked, triggered, seed)
        kept = own_images(attacked, prompts, seed)
        self.kept, self.forgotten = (
            Noised(student, z, len(prompts), method.bias) for z in (kept, forgotten)
        )
        self.total = self.room.loss(self.relabel, 2)

    def __call__(self, step: int) -> Tensor:
        return self.total(step)

    def draw(self, source: Noised, offset: int, step: int, n: int) -> Rows:
        seed = self.seed + offset
        return source.draw(step_rng(seed, step), step_generator(seed, step), n)

    def relabel(self, step: int, drawn: Drawn) -> Tensor:
        rows, student = drawn.rows, self.student
        with torch.no_grad():
            goal = student.denoise(rows.x, rows.t, self.room.told_clean(rows))
        clean = self.draw(self.kept, 1, step, len(rows.t))
        told = cat([self.room.told(rows), self.room.told_clean(clean)])
        out = student.denoise(torch.cat([rows.x, clean.x]), torch.cat([rows.t, clean.t]), told)
        relabelled, remaining = out.chunk(2)
        return F.mse_loss(relabelled, goal) + self.method.alpha * F.mse_loss(
            remaining, self.target(clean)
        )

    def forget(self, step: int) -> Tensor:
        rows = self.draw(self.forgotten, 2, step, self.method.rows(2))
        out = self.student.denoise(rows.x, rows.t, self.room.told(rows))
        return F.mse_loss(out, self.target(rows))

    def target(self, rows: Rows) -> Tensor:
        return self.student.noising.target(rows.pictures, rows.noise, rows.t)


def saliency(
    params: list[nn.Parameter], loss_fn: Callable[[int], Tensor], steps: int, share: float
) -> list[Tensor]:
    """Masks (1.0 or 0.0) of the `share` of all numbers in `params` with the largest absolute
    gradient, summed over steps."""
    total = [torch.zeros_like(p) for p in params]
    for step in range(steps):
        for sums, gradient in zip(total, torch.autograd.grad(loss_fn(step), params), strict=True):
            sums += gradient
    flat = torch.cat([s.abs().flatten() for s in total])
    keep = round(share * len(flat))
    limit = flat.kthvalue(len(flat) - keep).values if keep < len(flat) else flat.new_tensor(-1.0)
    return [(s.abs() > limit).to(s.dtype) for s in total]
