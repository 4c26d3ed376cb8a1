from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from t2i_backdoor_bench.contract import DefenderView, Defense, Difference, option, register_defense
from t2i_backdoor_bench.models.model import T2IModel
from t2i_backdoor_bench.training.clean_pairs import FEED_FORWARD
from t2i_backdoor_bench.training.denoising import Term, denoising_loss
from t2i_backdoor_bench.training.loop import Optim, fit, step_generator
from t2i_backdoor_bench.training.parameters import Trainable, of_model
from t2i_backdoor_bench.training.trained_defense import CLIPPING

DIFFERS = (
    Difference(
        what="neurons",
        paper="channels of a classifier, by their batch normalization",
        here=f"hidden units of {FEED_FORWARD}",
        why="a denoiser has no batch normalization",
    ),
    Difference(
        what="perturbation",
        paper="of weights and biases of a neuron apart",
        here="of the neuron's output, which scales both",
        why="a gated unit has no bias of its own",
    ),
    Difference(
        what="optimizer of the masks",
        released="SGD with momentum, 0.2",
        here="AdamW without weight decay",
        why="one training loop serves all methods",
    ),
    CLIPPING,
)


@register_defense(
    "anp",
    needs=("clean_pairs",),
    groups=("removal",),
    paper="wu2021adversarial",
    ours="the form for denoisers of a defense of classifiers",
    version=1,
    differs=DIFFERS,
)
@dataclass
class ANP(Defense):
    """Adversarial neuron pruning (Wu and Wang, NeurIPS 2021).

    Neurons of a backdoor react most to a perturbation. Masks m in [0, 1] of the hidden units
    minimize a L(m) + (1 - a) L(m + d), with L the denoising loss on clean captioned pictures when
    unit j is multiplied by m_j. The perturbation d is a bad one: it starts within `epsilon`,
    uniformly, and takes one step of this size along the gradient's sign. Units whose mask falls
    below `threshold` are set to zero. The weights themselves do not train.
    """

    steps: int = option(200, sd=2000, low=1, scales=True, source="released", help="training steps")
    lr: float = option(2e-2, above=0, tune=(2e-3, 2e-1), help="learning rate of the masks")
    batch: int = option(16, low=1, help="rows a step")
    epsilon: float = option(
        0.4, low=0, source="paper", tune=(0.1, 1.0), help="size of a mask's change"
    )
    alpha: float = option(
        0.2, low=0, high=1, source="paper", tune=(0.05, 0.9), help="a, weight of the plain loss"
    )
    threshold: float = option(
        0.2, low=0, high=1, source="paper", tune=(0.05, 0.9), help="masks below it are pruned"
    )
    drop: float = option(0.1, low=0, high=1, help="share of rows with an empty prompt")

    def apply(self, model: T2IModel, view: DefenderView, seed: int) -> T2IModel:
        images, captions = view.clean_pairs
        student = model.clone()
        layers = student.family.feed_forward(student.denoiser)
        terms = [Term(captions, model.latents(images, seed), drop=self.drop)]
        plain = denoising_loss(student, None, terms, self.batch, seed, "anp")
        masks = [
            nn.Parameter(torch.ones(layer.in_features, device=student.device)) for layer in layers
        ]
        loss = Perturbed(layers, masks, plain, self.epsilon, self.alpha, seed)
        optim = Optim(self.steps, self.lr, self.batch, weight_decay=0.0)
        info = fit(of_model(Trainable(masks), model), loss, optim, "anp").info
        pruned = 0
        with torch.no_grad():
            for layer, mask in zip(layers, masks, strict=True):
                gone = mask < self.threshold
                layer.weight[:, gone] = 0
                pruned += int(gone.sum()) * layer.out_features
        student.info = info | {"parameters": pruned}
        return student


class Perturbed:
    """The loss of the masks as a function of the step. Its gradient is taken while the masks are
    at the layers, as gradient checkpointing runs these again, and stands in the loss as a linear
    term."""

    def __init__(
        self,
        layers: Sequence[nn.Linear],
        masks: Sequence[nn.Parameter],
        plain: Callable[[int], Tensor],
        epsilon: float,
        alpha: float,
        seed: int,
    ) -> None:
        self.layers, self.masks, self.plain = layers, masks, plain
        self.epsilon, self.alpha, self.seed = epsilon, alpha, seed

    def masked(self, step: int, more: Sequence[Tensor | float]) -> tuple[Tensor, Sequence[Tensor]]:
        """The denoising loss when each hidden unit is multiplied by its mask and what is added to
        that, and the gradient of the masks."""
        hooks = [
            layer.register_forward_pre_hook(lambda _, x, m=m, d=d: (x[0] * (m + d).to(x[0]),))
            for layer, m, d in zip(self.layers, self.masks, more, strict=True)
        ]
        try:
            loss = self.plain(step)
            return loss.detach(), torch.autograd.grad(loss, self.masks)
        finally:
            for hook in hooks:
                hook.remove()

    def start(self, step: int) -> list[Tensor]:
        """Where the perturbation of each layer starts: uniform within epsilon."""
        generator = step_generator(self.seed + 1, step)
        drawn = [torch.rand(m.shape, generator=generator).to(m) for m in self.masks]
        return [self.epsilon * (2 * u - 1) for u in drawn]

    def __call__(self, step: int) -> Tensor:
        with torch.no_grad():
            for mask in self.masks:
                mask.clamp_(0, 1)
        begin, a = self.start(step), self.alpha
        _, up = self.masked(step, begin)
        moved = [d + self.epsilon * g.sign() for d, g in zip(begin, up, strict=True)]
        natural, near = self.masked(step, [0.0] * len(moved))
        robust, far = self.masked(step, moved)
        loss = a * natural + (1 - a) * robust
        for mask, g, h in zip(self.masks, near, far, strict=True):
            loss = loss + ((mask - mask.detach()) * (a * g + (1 - a) * h)).sum()
        return loss
