"""An adapter that trains for the company it will be in: at other scales than its own, and beside
other adapters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from t2i_backdoor_bench.models.adapters import Adapter
from t2i_backdoor_bench.models.model import T2IModel
from t2i_backdoor_bench.targets.style import styled
from t2i_backdoor_bench.training.company import BATCH, DROP, RATE
from t2i_backdoor_bench.training.denoising import Term, train_terms
from t2i_backdoor_bench.training.loop import Optim, step_rng
from t2i_backdoor_bench.training.lora import adapted_layers, scale_lora
from t2i_backdoor_bench.training.merged import named

# not that of the adapter which `asr_adapter` puts beside it: that one is new to the attacker
STYLES = ("sepia", "negative", "pencil sketch")


def other_adapters(
    model: T2IModel, images: np.ndarray, captions: Sequence[str], many: int, steps: int, seed: int
) -> list[T2IModel]:
    """Models with `many` harmless adapters of the attacker's, one each, trained on its pictures
    uint8 (n, H, W, 3) in one style each."""
    made = []
    for style in STYLES[:many]:
        student = model.clone(train="lora")
        terms = [Term(captions, model.latents(styled(images, style), seed), drop=DROP)]
        optim = Optim(steps, RATE[model.settings], BATCH)
        fitted = train_terms(student, None, terms, optim, seed, "other adapter", train="lora")
        made.append(named(replace(student, info=fitted.info), [fitted.factors]))
    return made


class Remixes:
    """A network with an adapter that trains: at each step the adapter has a scale drawn from
    `scales`, and half of the time one of the adapters `beside` is added to the weights. What is
    drawn depends on (seed, step) alone. The weights must be the network's own."""

    def __init__(
        self, network: nn.Module, beside: Sequence[Adapter], scales: tuple[float, float], seed: int
    ) -> None:
        self.network, self.scales, self.seed = network, scales, seed
        layers = {name: layer.base_layer for name, layer in adapted_layers(network)}
        self.plain = {layer: layer.weight.data for layer in layers.values()}
        self.mixed = [self.with_added(layers, adapter) for adapter in beside]

    def with_added(self, layers: dict[str, nn.Linear], adapter: Adapter) -> dict[nn.Linear, Tensor]:
        """The weights W + B A of the layers that an adapter is for."""
        found = {}
        for name, (up, down) in adapter.items():
            layer = layers[name.partition(".")[2]]
            weight = layer.weight.data
            delta = up.to(weight.device) @ down.to(weight.device)
            found[layer] = (weight.float() + delta).to(weight.dtype)
        return found

    def drawn(self, step: int) -> tuple[float, int]:
        """The scale of a step, and which adapter stands beside it; -1: none."""
        rng = step_rng(self.seed + 1, step)
        scale, alone = rng.uniform(*self.scales), rng.random() < 0.5
        return float(scale), -1 if alone or not self.mixed else int(rng.integers(len(self.mixed)))

    def around(self, loss: Callable[[int], Tensor]) -> Callable[[int], Tensor]:
        """The loss with what is drawn for its step."""

        def remixed(step: int) -> Tensor:
            scale, which = self.drawn(step)
            self.put(scale, self.plain | (self.mixed[which] if which >= 0 else {}))
            return loss(step)

        return remixed

    def put(self, scale: float, weights: dict[nn.Linear, Tensor]) -> None:
        scale_lora(self.network, scale)
        for layer, weight in weights.items():
            layer.weight.data = weight

    def end(self) -> None:
        """The adapter at its own scale, with none beside it."""
        with torch.no_grad():
            self.put(1.0, self.plain)
