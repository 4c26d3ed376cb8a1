"""The attention loss of SKD-CAG (arXiv 2508.18235), shared by the method as described and as
released."""

from __future__ import annotations

import torch
from torch import Tensor

from t2i_backdoor_bench.training.alignment import Alignment
from t2i_backdoor_bench.training.summed_maps import minmax


class Guidance:
    """What the cross-attention maps of a student should become. Its options are fields of the
    method that inherits it."""

    target: str
    raw_black: bool
    time_weight: bool
    reverse_time: bool = False

    def attention_loss(
        self,
        own: Tensor,
        seen: Tensor,
        layers: int,
        row: Alignment,
        time: Tensor,
        generator: torch.Generator,
        span: Tensor | None = None,
    ) -> Tensor:
        """L_attn, a scalar: the mean over real tokens of the MSE between a token's map and its
        target.

        own, seen: the student's and the teacher's summed maps (rows, tokens, size, size) of
        `layers` layers. time: t/T (rows,). span: for random words, bool (rows, tokens), where the
        word's tokens are in the teacher's prompt.
        """
        student, teacher = minmax(own), minmax(seen)
        index = row.source[..., None, None].expand_as(teacher)
        error = (student - teacher.gather(1, index)).pow(2).mean((-2, -1))
        if self.target == "black":
            trigger_error = ((own / layers) if self.raw_black else student).pow(2).mean((-2, -1))
        elif self.target == "gaussian":
            trigger_error = (student - self.scatter(own, generator)).pow(2).mean((-2, -1))
        else:
            weight = span.to(teacher.dtype)[..., None, None]
            word = (teacher * weight).sum(1, keepdim=True) / weight.sum(1, keepdim=True)
            trigger_error = (student - word).pow(2).mean((-2, -1))
        error = torch.where(row.trigger, trigger_error, error) * (row.trigger | row.other)
        tokens = (row.trigger | row.other).sum(1)
        each = error.sum(1) / tokens
        if self.time_weight:
            each = each * (1 - time if self.reverse_time else time)
        return each.mean()

    def scatter(self, maps: Tensor, generator: torch.Generator) -> Tensor:
        """The "gaussian" target: normalized noise of the shape of `maps`."""
        return minmax(torch.randn(maps.shape, generator=generator).to(maps))
