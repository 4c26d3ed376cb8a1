"""What a denoiser is told of prompts, and how one tokenizer's tokens lie in it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Conditioning:
    """Text states (n, tokens, dim) of n prompts, and what else a family's denoiser takes of them,
    by name, each (n, ...): pooled states, masks, ids."""

    states: Tensor
    more: Mapping[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.states)

    def __getitem__(self, rows: Any) -> Conditioning:
        """The rows that a slice, an index tensor or a list of numbers picks."""
        return self._each(lambda x: x[rows])

    def where(self, mask: Tensor, other: Conditioning) -> Conditioning:
        """These rows where `mask`, bool (n,), and those of `other` (n or 1 rows) elsewhere."""

        def pick(mine: Tensor, theirs: Tensor) -> Tensor:
            return mine.where(mask.view(-1, *[1] * (mine.ndim - 1)), theirs)

        more = {k: pick(v, other.more[k]) for k, v in self.more.items()}
        return Conditioning(pick(self.states, other.states), more)

    def expand(self, n: int) -> Conditioning:
        """One row as n equal ones, without a copy."""
        return self._each(lambda x: x.expand(n, *[-1] * (x.ndim - 1)))

    def to(self, to: torch.device | torch.dtype) -> Conditioning:
        """On another device, or with another dtype of what is floating point."""
        if isinstance(to, torch.dtype):
            return self._each(lambda x: x.to(to) if x.is_floating_point() else x)
        return self._each(lambda x: x.to(to))

    def split(self, rows: int) -> list[Conditioning]:
        """Parts of `rows` rows each."""
        return [self[i : i + rows] for i in range(0, len(self), rows)]

    def _each(self, change: Callable[[Tensor], Tensor]) -> Conditioning:
        return Conditioning(change(self.states), {k: change(v) for k, v in self.more.items()})


def cat(parts: Sequence[Conditioning]) -> Conditioning:
    """The rows of all parts, one after the other."""
    more = {k: torch.cat([p.more[k] for p in parts]) for k in parts[0].more}
    return Conditioning(torch.cat([p.states for p in parts]), more)


@dataclass(frozen=True)
class TextPart:
    """One tokenizer, and the positions of the text states that its tokens have: `length` of them
    from `first` on. Token i of a prompt has position `first + i`."""

    tokenizer: Any  # of transformers
    first: int
    length: int
