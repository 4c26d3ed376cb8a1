"""What the projections of text to keys and values are given, in denoisers whose text states change
from block to block.

There, the text states at a block depend on the picture, the noise level and all blocks before it.
They are read at moments of drawings, with the same noised latents for all texts that are compared.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from t2i_backdoor_bench.models.families.conditioning import Conditioning
from t2i_backdoor_bench.models.model import T2IModel

MOMENTS = 4  # steps of the drawings


class _Reached(Exception):
    """A pass has come to the block that was asked about."""


@dataclass(frozen=True)
class Moments:
    """What a denoiser is given in drawings of n prompts: timesteps (k,) and noised latents (k, n,
    C, h, w)."""

    times: Tensor
    latents: Tensor

    def batches(self, rows: int) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """Which prompts, their noised latents and the timestep, at most `rows` at a time."""
        for t, x in zip(self.times, self.latents, strict=True):
            for first in range(0, x.shape[0], rows):
                at = slice(first, first + rows)
                yield at, x[at], t


def moments(model: T2IModel, prompts: Sequence[str], seed: int) -> Moments:
    """Those of drawings in `MOMENTS` steps, each from noise of its own."""
    drawer = replace(model, sampler=replace(model.sampler, steps=MOMENTS))
    return Moments(*drawer.trajectory(prompts, range(seed, seed + len(prompts))))


@torch.no_grad()
def inputs_at(
    model: T2IModel, projection: nn.Module, x: Tensor, t: Tensor, told: Conditioning
) -> Tensor:
    """What one projection of text is given, (n, tokens, d). The pass ends there."""
    seen: list[Tensor] = []

    def keep(module: nn.Module, given: tuple) -> None:
        seen.append(given[0])
        raise _Reached

    hook = projection.register_forward_pre_hook(keep)
    try:
        model.denoise(x, t, told)
    except _Reached:
        pass
    finally:
        hook.remove()
    return seen[0]


@torch.no_grad()
def inputs_everywhere(model: T2IModel, x: Tensor, t: Tensor, told: Conditioning) -> list[Tensor]:
    """What every projection of text to keys or values is given, in the order of the network."""
    layers = model.family.keys_and_values(model.denoiser)
    seen: dict[nn.Module, Tensor] = {}

    def keep(module: nn.Module, given: tuple) -> None:
        seen[module] = given[0]

    hooks = [layer.register_forward_pre_hook(keep) for layer in layers]
    try:
        model.denoise(x, t, told)
    finally:
        for hook in hooks:
            hook.remove()
    return [seen[layer] for layer in layers]
