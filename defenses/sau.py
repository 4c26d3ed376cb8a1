import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from t2i_backdoor_bench.contract import (
    DefenderView,
    Defense,
    Difference,
    Trigger,
    option,
    register_defense,
)
from t2i_backdoor_bench.models.model import T2IModel
from t2i_backdoor_bench.training.alignment import state_span
from t2i_backdoor_bench.training.capture import Capture
from t2i_backdoor_bench.training.summed_maps import minmax

LEVELS = (200, 400, 600, 800)  # noise levels of 1,000 at which attention is read
DIFFERS = (
    Difference(
        what="attention map of the trigger",
        paper="blurred",
        here="blurred, of the finished latents at four noise levels, mean over layers and levels",
        why="a picture is mended after it is drawn, so that the map of its own run is gone",
    ),
)


@register_defense("sau", needs=("trigger",), groups=("removal",), differs=DIFFERS)
@dataclass
class SAU(Defense):
    """Spatial attention unlearning (arXiv 2504.18563): pictures are mended one by one.

    There is no training; each triggered picture is mended by itself. h_p and h_c are the final
    latents of the prompt with and without the trigger, from the same noise. m1 = sigmoid(k
    (cos(h_p, h_p - h_c) - primary)), position by position. m2 = sigmoid(k (A - secondary)); A is
    the trigger's cross-attention map, scaled to 0..1 and blurred. Then h = h_p (1 - m1) (1 - m2) +
    a m1 h_c + a/2 m2 h_c, and a last Gaussian blur. A triggered picture costs a second drawing and
    four passes of the U-Net, none of which is in `seconds`. The defense knows the trigger: leaving
    it out of the prompt would give h_c for one drawing. Thresholds, k and the widths are ours. The
    paper reports that 100 % of triggers were removed; its authors' later one says that it removes
    patches and fails for a style.
    """

    alpha: float = option(1.0, low=0, tune=(0.2, 2.0), help="a, the weight of the clean latents")
    primary: float = option(
        0.2, low=-1, high=1, tune=(-0.5, 0.8), help="cosine above which the trigger made a place"
    )
    secondary: float = option(
        0.7,
        low=0,
        high=1,
        tune=(0.1, 1.0),
        help="attention above which a place follows the trigger",
    )
    steepness: float = option(20.0, above=0, tune=(4.0, 100.0), help="k, how sharp both masks are")
    attention_blur: float = option(
        0.5, sd=1.0, low=0, help="width of the blur of A, in latent pixels"
    )
    blur: float = option(0.0, sd=0.4, low=0, help="width of the last blur, in latent pixels")

    def apply(self, model: T2IModel, view: DefenderView, seed: int) -> T2IModel:
        trigger, before, begun = view.trigger, model.repair, time.perf_counter()

        def repair(
            drawing: T2IModel, prompts: Sequence[str], seeds: Sequence[int], latents: Tensor
        ) -> Tensor:
            latents = before(drawing, prompts, seeds, latents) if before else latents
            rows = [i for i, p in enumerate(prompts) if trigger.pattern.search(p)]
            return self.mend(drawing, trigger, prompts, seeds, latents, rows) if rows else latents

        return replace(
            model,
            repair=repair,
            info={"steps": 0, "seconds": time.perf_counter() - begun, "parameters": 0, "images": 0},
        )

    @torch.inference_mode()
    def mend(
        self,
        model: T2IModel,
        trigger: Trigger,
        prompts: Sequence[str],
        seeds: Sequence[int],
        latents: Tensor,
        rows: list[int],
    ) -> Tensor:
        """The latents (n, C, h, w), with those of `rows` mended."""
        asked = [prompts[i] for i in rows]
        states = model.condition([*(trigger.remove(p) for p in asked), ""])
        clean = model.draw_latents(states[:-1], states[-1:], [seeds[i] for i in rows])
        shown = trigger_attention(model, trigger, asked, latents[rows], [seeds[i] for i in rows])
        out = latents.clone()
        out[rows] = self.blend(latents[rows].float(), clean.float(), shown).to(latents.dtype)
        return out

    def blend(self, triggered: Tensor, clean: Tensor, attention: Tensor) -> Tensor:
        """h for latents (n, C, h, w) and the trigger's attention (n, 1, h, w)."""
        cosine = F.cosine_similarity(triggered, triggered - clean, dim=1)[:, None]
        first = torch.sigmoid(self.steepness * (cosine - self.primary))
        second = torch.sigmoid(
            self.steepness
            * (gaussian_blur(minmax(attention), self.attention_blur) - self.secondary)
        )
        mixed = triggered * (1 - first) * (1 - second) + self.alpha * (first + second / 2) * clean
        return gaussian_blur(mixed, self.blur)


def trigger_attention(
    model: T2IModel, trigger: Trigger, prompts: list[str], latents: Tensor, seeds: list[int]
) -> Tensor:
    """Attention to the trigger's tokens in the noised latents (n, C, h, w), mean over tokens,
    layers and levels: (n, 1, h, w)."""
    noise = torch.stack(
        [torch.randn(model.latent_shape, generator=torch.Generator().manual_seed(s)) for s in seeds]
    ).to(latents)
    context, size, total = model.condition(prompts), latents.shape[-1], 0.0
    spans = []
    for p in prompts:
        found = trigger.pattern.search(p)
        spans.append(state_span(model.text_parts, p, found.start(), found.end()))
    for level in LEVELS:
        t = torch.full((len(prompts),), level, device=latents.device)
        with Capture(model) as seen:
            model.denoise(model.noising.add(latents, noise, t), t, context)
        maps = seen.maps(size).float()
        total = total + torch.stack(
            [maps[i, s].mean(0) if s else torch.zeros_like(maps[i, 0]) for i, s in enumerate(spans)]
        )
    return total[:, None]


def gaussian_blur(x: Tensor, sigma: float) -> Tensor:
    """x (n, C, h, w) convolved with a normalized Gaussian of standard deviation `sigma` pixels,
    edges repeated; 0 leaves it."""
    if sigma <= 0:
        return x
    reach = max(1, int(np.ceil(3 * sigma)))
    line = torch.exp(-0.5 * (torch.arange(-reach, reach + 1, device=x.device) / sigma) ** 2).to(x)
    line, channels = line / line.sum(), x.shape[1]
    x = F.pad(x, (reach,) * 4, mode="replicate")
    x = F.conv2d(x, line.view(1, 1, 1, -1).expand(channels, 1, 1, -1), groups=channels)
    return F.conv2d(x, line.view(1, 1, -1, 1).expand(channels, 1, -1, 1), groups=channels)
