"""What is shared by methods that edit the cross-attention keys and values: the closed form, and
which token should become which."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import SequenceMatcher

import torch
from torch import Tensor

from t2i_backdoor_bench.models.families.conditioning import TextPart


def edit(
    weight: Tensor,
    old: Tensor,
    new: Tensor,
    kept: Tensor,
    erase: float,
    preserve: float,
    ridge: float,
) -> Tensor:
    """The edited weight (out, d), for `old` (n, d) to be mapped as `new` is and `kept` (m, d) as
    before."""
    one = torch.eye(weight.shape[1], dtype=weight.dtype, device=weight.device)
    left = weight @ (ridge * one + erase * new.T @ old + preserve * kept.T @ kept)
    right = ridge * one + erase * old.T @ old + preserve * kept.T @ kept
    return torch.linalg.solve(right, left.T).T  # right is symmetric


def solve(weight: Tensor, left: Tensor, right: Tensor, ridge: float) -> Tensor:
    """The same from sums over states, (d, d): `left` of new old^T, `right` of old old^T, weighted;
    what is kept is among them, with its own value as the new one."""
    one = ridge * torch.eye(weight.shape[1], dtype=weight.dtype, device=weight.device)
    return torch.linalg.solve(one + right, (weight @ (one + left)).T).T


def distinct(parts: Sequence[TextPart]) -> list[TextPart]:
    """Of tokenizers that lie side by side, the first; and those that lie behind it."""
    return list({part.first: part for part in reversed(parts) if part.length}.values())[::-1]


def counterparts(parts: Sequence[TextPart], given: Sequence[str], wanted: Sequence[str]) -> Tensor:
    """For each text state of `given`, the position of the state of `wanted` that it should become:
    int64 (n, tokens).

    The same token where the texts agree; place by place where one word stands for another; the
    token before it for a word that `wanted` has not, as a trigger; padding for padding.
    """
    return torch.cat([_counterparts(p, given, wanted) + p.first for p in distinct(parts)], 1)


def _counterparts(part: TextPart, given: Sequence[str], wanted: Sequence[str]) -> Tensor:
    length = part.length
    rows = torch.empty((len(given), length), dtype=torch.long)
    for row, pair in zip(rows, zip(given, wanted, strict=True), strict=True):
        x, y = (part.cut(text).input_ids[:length] for text in pair)
        places: list[int] = []
        for _, i, j, k, end in SequenceMatcher(None, x, y, autojunk=False).get_opcodes():
            # where there is no token before, the end token: it says nothing
            before = k - 1 if k else len(y) - 1
            places += [min(k + d, end - 1) if end > k else before for d in range(j - i)]
        places += [min(len(y) + d, length - 1) for d in range(length - len(x))]
        row.copy_(torch.tensor(places))
    return rows


def neutral_places(parts: Sequence[TextPart], prompts: Sequence[str]) -> Tensor:
    """For each text state of each prompt, the position of one that says nothing: of its start
    token, or of its end token where the tokenizer has no start token. int64 (n, tokens)."""
    rows = []
    for part in distinct(parts):
        cuts = [part.cut(p, return_special_tokens_mask=True) for p in prompts]
        places = [0 if c.special_tokens_mask[0] else len(c.input_ids) - 1 for c in cuts]
        rows.append(torch.tensor(places)[:, None].expand(-1, part.length) + part.first)
    return torch.cat(rows, 1)


def last_tokens(parts: Sequence[TextPart], first: str, second: str) -> tuple[Tensor, Tensor]:
    """The positions of two texts from the last token of each on, padding included, as many of one
    as of the other: int64 (n,) each."""
    found: tuple[list[Tensor], list[Tensor]] = ([], [])
    for part in distinct(parts):
        starts = [max(0, len(part.cut(text).input_ids) - 2) for text in (first, second)]
        many = part.length - max(starts)
        for places, start in zip(found, starts, strict=True):
            places.append(torch.arange(start, start + many) + part.first)
    return torch.cat(found[0]), torch.cat(found[1])
