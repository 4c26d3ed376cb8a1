import time
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from t2i_backdoor_bench.contract import DefenderView, Defense, Difference, option, register_defense
from t2i_backdoor_bench.models.model import T2IModel

DIFFERS = (
    Difference(
        what="inputs of a layer",
        paper="as they are",
        released="scaled to length 1, token by token",
        here="as they are",
    ),
    Difference(
        what="halves of guidance whose inputs count",
        released="both",
        here="the prompt's",
        why="the empty prompt's half is the same with and without the trigger",
    ),
)


@register_defense(
    "concept_prune",
    needs=("trigger", "clean_prompts"),
    groups=("removal", "erasure"),
    version=1,
    differs=DIFFERS,
)
@dataclass
class ConceptPrune(Defense):
    """ConceptPrune: weights that the trigger alone uses are set to zero (Chavhan et al. 2024).

    The trigger is the concept. In the second linear layer of every feed-forward block (of SD 3
    and FLUX those on picture tokens, in the blocks where text has its own) the importance of a
    weight at one step of drawing is Wanda's |W| * ||X||_2; X is its input over tokens and prompts.
    A step's mask has the weights that are among the `share` most important of their row for
    triggered prompts, and more important there than for the same prompts without the trigger. Each
    of the first steps has a mask, and a weight is pruned if more than the share `votes` of them has
    it. No training.
    """

    share: float = option(
        0.02,
        sd=0.01,
        low=0,
        high=1,
        source="released",
        tune=(0.004, 0.1),
        help="share of a row's weights that are candidates",
    )
    first: float = option(
        0.2,
        above=0,
        high=1,
        tune=(0.05, 1.0),
        help="share of the steps of drawing, from the first on, that have a mask",
    )
    votes: float = option(
        0.0,
        low=0,
        high=1,
        source="paper",
        tune=(0.0, 0.6),
        help="share of the masks that must be exceeded; 0: any mask",
    )
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
        triggered = [view.trigger.add(p) for p in prompts]
        clean, concept = (
            input_norms(student, layers, texts, seeds, self.first) for texts in (prompts, triggered)
        )
        pruned = 0
        with torch.no_grad():
            for layer, without, with_trigger in zip(layers, clean, concept, strict=True):
                mask = voted(layer.weight, with_trigger, without, self.share, self.votes)
                layer.weight[mask] = 0
                pruned += int(mask.sum())
        student.info = {
            "steps": 0,
            "seconds": time.perf_counter() - begun,
            "parameters": pruned,
            "images": 2 * len(prompts),
        }
        return student


def voted(weight: Tensor, concept: Tensor, clean: Tensor, share: float, votes: float) -> Tensor:
    """Which weights (out, in) more than a share of the steps choose, bool, for the norms of their
    inputs (steps, in) with and without the trigger."""
    masks = [chosen(weight, a, b, share) for a, b in zip(concept, clean, strict=True)]
    return torch.stack(masks).sum(0) > votes * len(masks)


def chosen(weight: Tensor, concept: Tensor, clean: Tensor, share: float) -> Tensor:
    """Which weights (out, in) are in the mask of a step, bool, for the norms of their inputs (in,)
    with and without the trigger."""
    with_trigger, without = weight.abs() * concept, weight.abs() * clean
    many = max(1, round(share * weight.shape[1]))
    top = torch.zeros_like(weight, dtype=torch.bool).scatter_(
        1, with_trigger.topk(many, dim=1).indices, True
    )
    return top & (with_trigger > without)


def input_norms(
    model: T2IModel, layers: list[nn.Module], prompts: list[str], seeds: np.ndarray, first: float
) -> list[Tensor]:
    """For each layer, the Euclidean norm of every input number over all tokens and prompts, at each
    of the first steps in which `model` draws the prompts, a share of all: (steps, in)."""
    times, latents = model.trajectory(prompts, seeds)
    steps, context = max(1, round(first * len(times))), model.condition(prompts)
    squares = [torch.zeros(steps, layer.in_features, device=model.device) for layer in layers]
    at = 0

    def add(i: int, inputs: tuple[Tensor, ...]) -> None:
        squares[i][at] += inputs[0].float().pow(2).flatten(0, -2).sum(0)

    hooks = [
        layer.register_forward_pre_hook(lambda _, inputs, i=i: add(i, inputs))
        for i, layer in enumerate(layers)
    ]
    try:
        with torch.no_grad():
            for at in range(steps):
                model.denoise(latents[at], times[at], context)
    finally:
        for hook in hooks:
            hook.remove()
    return [total.sqrt() for total in squares]
