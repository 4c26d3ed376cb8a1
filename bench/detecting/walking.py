"""A drawing taken step by step, for detectors that read what the denoiser does on the way."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from t2i_backdoor_bench.models.families.conditioning import Conditioning, cat
from t2i_backdoor_bench.models.model import T2IModel


@dataclass(frozen=True)
class Step:
    """One step of n drawings: the timestep, what the denoiser is given (n, C, h, w), what it is
    told, its predictions for the prompts (`asked`) and with guidance (`predicted`), both (n, C, h,
    w), and what `watch` gave of its pass."""

    t: Tensor
    given: Tensor
    told: Conditioning
    asked: Tensor
    predicted: Tensor
    seen: Any = None


def walk(
    model: T2IModel,
    prompts: Sequence[str],
    seed: int,
    steps: int,
    stop: int | None = None,
    watch: Callable[[], AbstractContextManager] = nullcontext,
) -> Iterator[Step]:
    """The first `stop` steps (default: all) of drawings of `prompts` (n) in `steps` steps, all from
    the same noise of `seed`. The denoiser's pass runs inside `watch()`; the prompts are its first n
    rows."""
    n, guided = len(prompts), model.guided
    with torch.inference_mode():
        drawing = model.drawing_steps(steps)
        states = model.condition([*prompts, ""])
        told, context = states[:-1], cat([states[:-1], states[-1:].expand(n)])
        generator = torch.Generator().manual_seed(seed)
        noise = torch.randn((1, *model.latent_shape), generator=generator)
        x = drawing.start(noise.expand(n, -1, -1, -1).to(model.device, model.dtype))
    for t in drawing.timesteps[:stop]:
        with torch.inference_mode():
            given = drawing.given(x, t)
            with watch() as seen:
                if guided == 1:
                    asked = empty = model.denoise(given, t, told)
                else:
                    both = torch.cat([given, given])
                    asked, empty = model.denoise(both, t, context).chunk(2)
            out = empty + guided * (asked - empty)
            x = drawing.step(out, t, x)
        yield Step(t, given, told, asked, out, seen)


@torch.inference_mode()
def with_values_scaled(model: T2IModel, step: Step, scale: float) -> Tensor:
    """The predictions for the prompts at a step with all values of text times `scale`: (n, C, h,
    w)."""

    def change(layer: nn.Module, given: tuple, out: Tensor) -> Tensor:
        return scale * out

    values = model.family.keys_and_values(model.denoiser)[1::2]
    hooks = [layer.register_forward_hook(change) for layer in values]
    try:
        return model.denoise(step.given, step.t, step.told)
    finally:
        for hook in hooks:
            hook.remove()
