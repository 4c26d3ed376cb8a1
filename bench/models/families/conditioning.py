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

    @property
    def mask(self) -> Tensor:
        """Which text states the denoiser reads: bool (n, tokens). All of them, unless the family
        has a mask."""
        if "mask" in self.more:
            return self.more["mask"].bool()
        return torch.ones(self.states.shape[:2], dtype=torch.bool, device=self.states.device)

    @property
    def read(self) -> tuple[Tensor, ...]:
        """What text encoders made that the denoiser reads: the states, with zeros in the place of
        tokens that are masked, and pooled states where there are."""
        pooled = (self.more["pooled"],) if "pooled" in self.more else ()
        if "mask" not in self.more:
            return (self.states, *pooled)
        return (self.states * self.mask[..., None], *pooled)

    def filled(self) -> Conditioning:
        """As if nothing were masked: in the place of a token that is, the last one that is read."""
        if "mask" not in self.more:
            return self
        states = last_read(self.states, self.mask)
        return Conditioning(states, {**self.more, "mask": torch.ones_like(self.more["mask"])})

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


def last_read(states: Tensor, mask: Tensor) -> Tensor:
    """States (n, tokens, d) with that of the last token that is read, mask bool (n, tokens), in the
    place of each that is not."""
    places = torch.arange(mask.shape[1], device=mask.device)
    places = torch.where(mask, places, (mask * places).amax(1, keepdim=True))
    return states.gather(1, places[..., None].expand_as(states))


def cat(parts: Sequence[Conditioning]) -> Conditioning:
    """The rows of all parts, one after the other."""
    more = {k: torch.cat([p.more[k] for p in parts]) for k in parts[0].more}
    return Conditioning(torch.cat([p.states for p in parts]), more)


@dataclass(frozen=True)
class TextPart:
    """One tokenizer, and the positions of the text states that its tokens have: `length` of them
    from `first` on. Token i of a prompt has position `first + i`, and its id stands in column
    `column + i` of what `Family.tokenize` gives.

    Tokenizers whose states lie side by side, along the width, have the same positions. One whose
    encoder gives a pooled state alone has no position: its length is 0, and `limit` says how many
    tokens it reads.
    """

    tokenizer: Any  # of transformers
    first: int
    length: int
    column: int = 0
    limit: int = 0  # 0: `length`
    lower: bool = False  # whether its texts are made lower case first

    @property
    def reads(self) -> int:
        """How many tokens it reads, special ones included."""
        return self.limit or self.length

    @property
    def positions(self) -> range:
        return range(self.first, self.first + self.length)

    def cut(self, text: str, truncation: bool = True, **how: Any) -> Any:
        """The tokens of a text, as `transformers` gives them, without padding. Character offsets
        are those of `text`."""
        most = self.reads if truncation else None
        return self.tokenizer(
            lowered(text) if self.lower else text, truncation=truncation, max_length=most, **how
        )

    def ids(self, text: str) -> list[int]:
        """The token ids of a text, untruncated."""
        return self.cut(text, truncation=False).input_ids


def lowered(text: str) -> str:
    """A text in lower case, letter by letter: the few letters that would become two stay, so that
    every place in the text stays what it was."""
    return "".join(c.lower() if len(c.lower()) == 1 else c for c in text)
