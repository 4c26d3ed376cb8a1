"""Cross-attention maps of a whole drawing, with their gradient to the text states."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from t2i_backdoor_bench.models.families.conditioning import Conditioning
from t2i_backdoor_bench.models.model import T2IModel
from t2i_backdoor_bench.training.capture import Capture


def maps_while_sampling(
    model: T2IModel, told: Conditioning, noise: Tensor, steps: int, size: int
) -> Tensor:
    """Cross-attention maps (n, tokens, size, size), mean over heads, layers and the `steps` steps
    of a drawing from noise (n, C, h, w), with their exact gradient to the text states `told`.

    The gradient passes through the latents from step to step. What the denoiser computes is not
    kept for it but computed again, one step at a time: the graph of 50 steps does not fit a GPU.
    """
    drawing = model.drawing_steps(steps)
    x, guided, total = drawing.start(noise), model.guided, 0.0
    empty = model.condition([""]).expand(len(told))

    def asked(given: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        with Capture(model) as seen:
            out = model.denoise(given, t, told)
        return out, seen.maps(size).float() / len(seen)

    for i, t in enumerate(drawing.timesteps):
        given = drawing.given(x, t)
        again = torch.is_grad_enabled() and steps > 1
        out, maps = checkpoint(asked, given, t, use_reentrant=False) if again else asked(given, t)
        total = total + maps
        if i + 1 < len(drawing.timesteps):
            if guided != 1:
                plain = (
                    checkpoint(model.denoise, given, t, empty, use_reentrant=False)
                    if again
                    else model.denoise(given, t, empty)
                )
                out = plain + guided * (out - plain)
            x = drawing.step(out, t, x)
    return total / len(drawing.timesteps)
