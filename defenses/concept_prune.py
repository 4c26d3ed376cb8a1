import time
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from t2i_backdoor_bench.contract import DefenderView, Defense, option, register_defense
from t2i_backdoor_bench.models.model import T2IModel


@register_defense(
    "concept_prune", needs=("trigger", "clean_prompts"), groups=("removal", "control")
)
@dataclass
class ConceptPrune(Defense):
    """ConceptPrune: weights that the trigger alone uses are set to zero (Chavhan et al. 2024).

    The trigger is the concept. In the second linear layer of every feed-forward block the
    importance of a weight is Wanda's |W| * ||X||_2; X is its input over tokens, noise levels and
    prompts. A weight is pruned if it is among the `share` most important of its row for triggered
    prompts, and more important there than for the same prompts without the trigger. No training.
    Published (SD 1.5): share 0.01 to 0.02.
    """

    share: float = option(0.02, low=0, high=1, help="share of a row's weights that are candidates")
    prompts: int = option(
        24, sd=50, low=1, scales=True, least=16, help="clean prompts that the defender uses"
    )

    @property
    def needs_prompts(self) -> int:
        return self.prompts

    def apply(self, model: T2IModel, view: DefenderView, seed: int) -> T2IModel:
        begun, student = time.perf_counter(), model.clone()
        prompts = view.first(self.prompts)
        seeds = np.random.default_rng([seed, 79]).integers(2**31, size=len(prompts))
        layers = student.family.feed_forward(student.denoiser)
        clean = input_norms(student, layers, prompts, seeds)
        concept = input_norms(student, layers, [view.trigger.add(p) for p in prompts], seeds)
        pruned = 0
        with torch.no_grad():
            for layer, without, with_trigger in zip(layers, clean, concept, strict=True):
                mask = chosen(layer.weight, with_trigger, without, self.share)
                layer.weight[mask] = 0
                pruned += int(mask.sum())
        student.info = {
            "steps": 0,
            "seconds": time.perf_counter() - begun,
            "parameters": pruned,
            "images": 2 * len(prompts),
        }
        return student


def chosen(weight: Tensor, concept: Tensor, clean: Tensor, share: float) -> Tensor:
    """Which weights (out, in) are pruned, bool, for the norms of their inputs (in,) with and
    without the trigger."""
    with_trigger, without = weight.abs() * concept, weight.abs() * clean
    many = max(1, round(share * weight.shape[1]))
    top = torch.zeros_like(weight, dtype=torch.bool).scatter_(
        1, with_trigger.topk(many, dim=1).indices, True
    )
    return top & (with_trigger > without)


def input_norms(
    model: T2IModel, layers: list[nn.Module], prompts: list[str], seeds: np.ndarray
) -> list[Tensor]:
    """For each layer, the Euclidean norm of every input number over all tokens, while `model` draws
    the prompts: (in,)."""
    squares = [torch.zeros(layer.in_features, device=model.device) for layer in layers]

    def add(i: int, inputs: tuple[Tensor, ...]) -> None:
        squares[i] += inputs[0].float().pow(2).flatten(0, -2).sum(0)

    hooks = [
        layer.register_forward_pre_hook(lambda _, inputs, i=i: add(i, inputs))
        for i, layer in enumerate(layers)
    ]
    try:
        times, latents = model.trajectory(prompts, seeds)
        for total in squares:
            # drawing asks for both halves of guidance; what counts is the prompt's half alone
            total.zero_()
        context = model.condition(prompts)
        with torch.no_grad():
            for t, x in zip(times, latents, strict=True):
                model.denoise(x, t, context)
    finally:
        for hook in hooks:
            hook.remove()
    return [total.sqrt() for total in squares]
