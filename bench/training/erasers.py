"""Low-rank maps behind the output of the layers that read text, which are merged into the weights
(Receler), and what erasers read of attention to marked tokens."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from t2i_backdoor_bench.models.model import T2IModel


class Erasers:
    """Every output o of an attention layer that reads text becomes o + U D o, from now on until
    they are merged. U is zero at first, so that nothing changes. `outputs`: by layer, U D o of the
    last pass, (n, places, d)."""

    def __init__(self, model: T2IModel, rank: int, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.parameters: list[nn.Parameter] = []
        self.outputs: dict[nn.Module, Tensor] = {}
        self.pairs: dict[nn.Linear, tuple[nn.Parameter, nn.Parameter]] = {}
        for layer in model.text_layers.layers.values():
            # a block whose attention shares its projection with the rest has none of its own
            projection = dict(layer.named_modules()).get("to_out.0")
            if isinstance(projection, nn.Linear):
                d = projection.out_features
                down = torch.randn((rank, d), generator=generator) / d**0.5
                pair = tuple(nn.Parameter(x.to(model.device)) for x in (torch.zeros(d, rank), down))
                self.pairs[projection] = pair
                self.parameters += pair
        self.hooks = [p.register_forward_hook(self.added) for p in self.pairs]

    def added(self, projection: nn.Linear, given: tuple, out: Tensor) -> Tensor:
        up, down = self.pairs[projection]
        more = (out.to(down.dtype) @ down.T) @ up.T
        self.outputs[projection] = more
        return out + more.to(out.dtype)

    def size(self, apart: Tensor) -> Tensor:
        """The mean over layers of the mean square of U D o at the places where `apart` (n, side,
        side) is 1."""
        parts = []
        for more in self.outputs.values():
            side = round(more.shape[1] ** 0.5)
            here = F.interpolate(apart[:, None], (side, side)).flatten(1)
            parts.append((more.square().mean(-1) * here).sum() / here.sum().clamp(min=1e-9))
        return torch.stack(parts).mean()

    @torch.no_grad()
    def merge(self) -> int:
        """Put I + U D into the projections. Gives how many numbers were set."""
        numbers = 0
        for projection, (up, down) in self.pairs.items():
            change = up.double() @ down.double()
            tensors = [projection.weight] + ([] if projection.bias is None else [projection.bias])
            for p in tensors:
                p.copy_(p.double() + change @ p.double())
                numbers += p.numel()
        for hook in self.hooks:
            hook.remove()
        self.outputs.clear()
        return numbers


def outside(maps: Tensor, marked: Tensor, least: float) -> Tensor:
    """1 where the mean map of the marked tokens, from 0 at its minimum to 1 at its maximum, is
    below `least`, and 0 elsewhere: (n, side, side), for maps (n, tokens, side, side) and marked
    bool (n, tokens)."""
    many = min(maps.shape[1], marked.shape[1])
    weight = marked[:, :many, None, None].to(maps.dtype)
    mean = (maps[:, :many] * weight).sum(1) / weight.sum(1).clamp(min=1)
    low, high = mean.amin((1, 2), keepdim=True), mean.amax((1, 2), keepdim=True)
    return ((mean - low) / (high - low).clamp(min=1e-12) < least).to(maps.dtype)


def marked_attention(maps: Tensor, marked: Tensor) -> Tensor:
    """The mean square of the maps (n, tokens, h, w) of marked tokens, bool (n, tokens)."""
    many = min(maps.shape[1], marked.shape[1])  # a missing encoder's states have maps and no marks
    squares = maps[:, :many].square().mean((-2, -1))
    return (squares * marked[:, :many]).sum() / marked.sum()


def focal_times(total: int, n: int, generator: torch.Generator) -> Tensor:
    """`n` timesteps below `total`, int64 (n,), where pictures take their concept: t of 1000 is
    drawn as often as s((t - 200) / 20) - s((t - 400) / 20), with s the logistic function."""
    t = torch.arange(total) * 1000 / total
    weight = torch.sigmoid((t - 200) / 20) - torch.sigmoid((t - 400) / 20)
    return torch.multinomial(weight, n, replacement=True, generator=generator)
