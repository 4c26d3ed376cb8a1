"""How much each token of a prompt changes the denoiser's activations at the first step (NaviT2I).
Used by detectors and a locator."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from t2i_backdoor_bench.data.stop_words import STOP_WORDS
from t2i_backdoor_bench.detecting.locating import word_spans
from t2i_backdoor_bench.models.families.conditioning import Conditioning
from t2i_backdoor_bench.models.model import T2IModel
from t2i_backdoor_bench.training.alignment import tokens_of


@dataclass(frozen=True)
class Variations:
    """The tokens of one prompt, without those of stop words: the character span [start, end) of the
    word that each belongs to, and its variation, float (tokens,)."""

    spans: list[tuple[int, int]]
    values: np.ndarray


def content_words(prompt: str) -> list[tuple[int, int]]:
    """Character spans of the words of a prompt (`word_spans`) except stop words."""
    return [(a, b) for a, b in word_spans(prompt) if prompt[a:b].lower() not in STOP_WORDS]


@torch.inference_mode()
def token_variation(
    model: T2IModel, prompts: Sequence[str], seed: int, trusted: T2IModel | None = None
) -> list[Variations]:
    """For each token of each content word of each prompt: how much the activations of the whole
    denoiser change at the first step when the token is masked.

    A padding token takes the place of the masked token. v = sum over linear and convolution layers
    of the mean |activation with - without| (convolutions averaged over pixels first), divided by
    the Euclidean distance between the text states of the two prompts, as the text encoders of
    `trusted` make them (default: of `model`). States that the denoiser does not read are zeros.
    """
    layers = [m for m in model.denoiser.modules() if isinstance(m, (nn.Linear, nn.Conv2d))]
    drawing = model.drawing_steps(50)
    t = drawing.timesteps[0]
    noise = torch.randn((1, *model.latent_shape), generator=torch.Generator().manual_seed(seed)).to(
        model.device, model.dtype
    )
    x = drawing.given(drawing.start(noise), t)
    spans: list[list[tuple[int, int]]] = [[] for _ in prompts]
    ids, owner = [], []
    whole, parts = model.tokenize(prompts), model.text_parts
    for i, prompt in enumerate(prompts):
        cut = [tokens_of(part, prompt) for part in parts]
        own = cut[parts.index(model.text_part)]
        for start, end in content_words(prompt):
            for at in own.within([(start, end)]):
                without = whole[i].clone()
                for part, found in zip(parts, cut, strict=True):
                    for place in found.within([own.places[at]]):
                        without[part.column + place] = part.tokenizer.pad_token_id
                spans[i].append((start, end))
                ids.append(without)
                owner.append(i)
    values = np.zeros(len(ids))
    most = max(1, model.batch)
    for first in range(0, len(ids), most):
        rows = range(first, min(first + most, len(ids)))
        those = sorted({owner[r] for r in rows})
        batch = torch.cat([whole[those], torch.stack([ids[r] for r in rows])])
        place = torch.tensor([those.index(owner[r]) for r in rows], device=model.device)
        told = model.read(batch)
        states = (trusted.read(batch) if trusted else told).read[0]
        distance = (states[len(those) :] - states[place]).float().flatten(1).norm(dim=1)
        masked = _variation(
            model, layers, x.expand(len(batch), -1, -1, -1), t, told, place, len(those)
        )
        values[first : first + len(rows)] = (masked / distance.clamp(min=1e-12)).cpu().numpy()
    bounds = np.cumsum([0] + [len(s) for s in spans])
    return [Variations(spans[i], values[bounds[i] : bounds[i + 1]]) for i in range(len(prompts))]


def _variation(
    model: T2IModel,
    layers: list[nn.Module],
    x: Tensor,
    t: Tensor,
    told: Conditioning,
    place: Tensor,
    whole: int,
) -> Tensor:
    """Summed mean absolute difference of every layer's output between row `whole + r` and row
    `place[r]`: (r,)."""
    total = torch.zeros(len(place), dtype=torch.float64, device=x.device)

    def add(layer: nn.Module, inputs: tuple, output: Tensor) -> None:
        # the timestep's embedding has one row a batch, or the same row for all
        if len(output) != len(x):
            return
        output = output.float().mean((2, 3)) if output.ndim == 4 else output.float()
        total.add_((output[whole:] - output[place]).abs().flatten(1).mean(1))

    hooks = [layer.register_forward_hook(add) for layer in layers]
    try:
        model.denoise(x, t, told)
    finally:
        for hook in hooks:
            hook.remove()
    return total
