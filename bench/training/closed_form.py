"""What is shared by methods that edit the cross-attention keys and values: the closed form, and
which token should become which."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import SequenceMatcher
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


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


def counterparts(
    tokenizer: PreTrainedTokenizerBase, given: Sequence[str], wanted: Sequence[str]
) -> Tensor:
    """For each position of the token rows of `given`, the position in those of `wanted` whose state
    it should take: int64 (n, tokens).

    The same token where the texts agree; place by place where one word stands for another; the
    token before it for a word that `wanted` has not, as a trigger; padding for padding.
    """
    length = tokenizer.model_max_length
    rows = torch.empty((len(given), length), dtype=torch.long)
    for row, pair in zip(rows, zip(given, wanted, strict=True), strict=True):
        x, y = (tokenizer(text, truncation=True, max_length=length).input_ids for text in pair)
        places: list[int] = []
        for _, i, j, k, end in SequenceMatcher(None, x, y, autojunk=False).get_opcodes():
            places += [min(k + d, max(end - 1, k - 1)) for d in range(j - i)]
        places += [min(len(y) + d, length - 1) for d in range(length - len(x))]
        row.copy_(torch.tensor(places))
    return rows
