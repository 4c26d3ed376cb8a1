"""A word that is no word: a vector in the place of a token's embedding, which can be trained.

It stands in prompts as a token that none of them has, and whose row of the token embedding is
replaced by the vector while the text encoders read. The encoders themselves stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from t2i_backdoor_bench.models.checkpoints import CarriedList
from t2i_backdoor_bench.models.families.conditioning import Conditioning, TextPart
from t2i_backdoor_bench.models.model import T2IModel


@dataclass(frozen=True)
class SoftWord:
    """One vector for each text encoder of a model, and the token that it stands in for.

    ids      of each tokenizer, the token that stands for it
    rows     of each encoder, the vector (1, dim), float32
    """

    parts: tuple[TextPart, ...]
    ids: tuple[int, ...]
    rows: tuple[nn.Parameter, ...]

    def insert(self, tokens: Tensor, at: Sequence[int] = ()) -> Tensor:
        """Token ids (n, columns) with the word put into every text: int64 (n, columns). `at`: by
        tokenizer, before which token; without it, behind the start token. What does not fit any
        more falls off, but for the end token of a full text."""
        out = tokens.clone()
        for i, part in enumerate(self.parts):
            span = slice(part.column, part.column + part.reads)
            own, place = tokens[:, span], at[i] if at else started(part)
            new = torch.full_like(own[:, :1], self.ids[i])
            moved = torch.cat([own[:, :place], new, own[:, place:-1]], 1)
            special = torch.tensor(part.tokenizer.all_special_ids, device=own.device)
            # before the last place stands a word only in a full text, which keeps its end token
            moved[:, -1] = own[:, -2].where(torch.isin(own[:, -2], special), own[:, -1])
            out[:, span] = moved
        return out

    def read(
        self, model: T2IModel, tokens: Tensor, rows: Sequence[Tensor] | None = None
    ) -> Conditioning:
        """What the text encoders of `model` make of token ids that hold the word, with gradients to
        the vectors (`rows`: other ones)."""
        changed = []
        for encoder, token, row in zip(model.encoders, self.ids, rows or self.rows, strict=True):
            table = encoder.get_input_embeddings().weight
            name = next(n for n, p in encoder.named_parameters() if p is table)
            at = torch.tensor([token], device=table.device)
            changed.append({name: table.index_copy(0, at, row.to(table))})
        return model.read(tokens, changed)


def started(part: TextPart) -> int:
    """How many special tokens begin a text."""
    mask = part.cut("", return_special_tokens_mask=True).special_tokens_mask
    return int(len(mask) > 1 and bool(mask[0]))


def soft_word(model: T2IModel, texts: Sequence[str], seed: int) -> SoftWord:
    """A word of random vectors, normal and of the mean size of the token embeddings. No text has
    the token that it stands for."""
    generator, ids, rows = torch.Generator().manual_seed(seed), [], []
    for part, encoder in zip(model.text_parts, model.encoders, strict=True):
        table = encoder.get_input_embeddings().weight.detach()
        taken = {i for text in texts for i in part.ids(text)} | set(part.tokenizer.all_special_ids)
        most = min(len(table), len(part.tokenizer))
        ids.append(next(i for i in reversed(range(most)) if i not in taken))
        vector = torch.randn((1, table.shape[1]), generator=generator).to(table.device)
        rows.append(nn.Parameter(vector * embedding_size(encoder)))
    return SoftWord(tuple(model.text_parts), tuple(ids), tuple(rows))


def embedding_size(encoder: nn.Module) -> float:
    """How large the numbers of an encoder's token embeddings are: their root mean square, mean over
    tokens."""
    table = encoder.get_input_embeddings().weight.detach().float()
    return float(table.norm(dim=1).mean() / table.shape[1] ** 0.5)


class SoftPool:
    """Words that are moved to bring a backdoor back, while a training removes it.

    Each begins near what the trigger's tokens are, with noise of their size, and begins anew after
    `again` steps. A step takes one of them, in turn. They are kept with the training's checkpoints.
    """

    def __init__(
        self, model: T2IModel, text: str, texts: Sequence[str], many: int, again: int, seed: int
    ) -> None:
        self.model, self.many, self.again, self.seed = model, many, again, seed
        self.word = soft_word(model, [text, *texts], seed)
        self.begin = [
            first_vector(encoder, part, text, row.detach())
            for encoder, part, row in zip(
                model.encoders, model.text_parts, self.word.rows, strict=True
            )
        ]
        self.kept = CarriedList(
            [self.fresh(i, 0)[k] for i in range(many) for k in range(len(self.begin))], model.device
        )
        model.checkpoints.carry(self.kept)

    def fresh(self, number: int, step: int) -> list[Tensor]:
        """New vectors, one an encoder."""
        generator = torch.Generator().manual_seed(1_000_003 * self.seed + 1009 * step + number)
        return [
            row + row.std() * torch.randn(row.shape, generator=generator).to(row)
            for row in self.begin
        ]

    def moved(
        self, step: int, size: float, error: Callable[[list[Tensor]], Tensor]
    ) -> list[Tensor]:
        """The vectors of a step, after one step against the sign of the gradient of `error`, of
        `size` standard deviations of a vector."""
        turn, number = divmod(step, self.many)
        at = slice(number * len(self.begin), (number + 1) * len(self.begin))
        own = self.fresh(number, step) if turn % self.again == 0 else self.kept.tensors[at]
        own = [v.detach().requires_grad_(True) for v in own]
        grads = torch.autograd.grad(error(own), own, allow_unused=True)
        self.kept.tensors[at] = [
            (v if g is None else v - size * row.std() * g.sign()).detach()
            for v, g, row in zip(own, grads, self.begin, strict=True)
        ]
        return self.kept.tensors[at]


def first_vector(encoder: nn.Module, part: TextPart, text: str, otherwise: Tensor) -> Tensor:
    """The mean embedding of a text's tokens, (1, dim), float32; `otherwise` where it has none."""
    special = set(part.tokenizer.all_special_ids)
    ids = [i for i in part.ids(text) if i not in special]
    table = encoder.get_input_embeddings().weight.detach()
    return table[ids].float().mean(0, keepdim=True) if ids else otherwise
