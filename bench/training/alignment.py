"""Which tokens of a triggered prompt are the trigger, and which token of the clean prompt each
other one is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from t2i_backdoor_bench.contract import Trigger
from t2i_backdoor_bench.models.families.conditioning import TextPart


@dataclass(frozen=True)
class Alignment:
    """Which tokens of a batch of triggered prompts belong to the trigger, and which clean token
    each other one corresponds to.

    trigger  bool (batch, tokens): positions of the trigger in the triggered prompt
    other    bool (batch, tokens): positions of every other real token (no start, end or padding)
    source   int64 (batch, tokens): for `other`, the position of the same token in the clean prompt
             (0 elsewhere)
    """

    trigger: Tensor
    other: Tensor
    source: Tensor

    def to(self, device: torch.device) -> Alignment:
        return Alignment(self.trigger.to(device), self.other.to(device), self.source.to(device))

    def __getitem__(self, at: Any) -> Alignment:
        """The rows, or rows and tokens, that an index picks."""
        return Alignment(self.trigger[at], self.other[at], self.source[at])


def token_span(tokenizer: Any, text: str, start: int, end: int) -> tuple[list[int], list[int]]:
    """Token ids of `text` (with start and end token) and the positions whose characters overlap
    [start, end).

    Read off the tokenizer's own offsets, so that a trigger of any number of tokens at any place is
    found, zero-width ones too.
    """
    return token_spans(tokenizer, text, [(start, end)])


def token_spans(
    tokenizer: Any, text: str, spans: Sequence[tuple[int, int]]
) -> tuple[list[int], list[int]]:
    """As `token_span`, for the tokens of any of several spans."""
    out = tokenizer(
        text, return_offsets_mapping=True, truncation=True, max_length=tokenizer.model_max_length
    )
    special = set(tokenizer.all_special_ids)
    hits = []
    for i, (token, (a, b)) in enumerate(zip(out.input_ids, out.offset_mapping, strict=True)):
        if token not in special and any(a < end and b > start for start, end in spans):
            hits.append(i)
    return out.input_ids, hits


def state_span(parts: Sequence[TextPart], text: str, start: int, end: int) -> list[int]:
    """The positions of the text states whose characters overlap [start, end), of all
    tokenizers."""
    return state_spans(parts, text, [(start, end)])


def state_spans(
    parts: Sequence[TextPart], text: str, spans: Sequence[tuple[int, int]]
) -> list[int]:
    """As `state_span`, for the states of any of several spans."""
    return [
        part.first + i
        for part in parts
        for i in token_spans(part.tokenizer, text, spans)[1]
        if i < part.length
    ]


def align_states(
    parts: Sequence[TextPart],
    trigger: Trigger,
    prompts: Sequence[str],
    stand_ins: Sequence[str] | None = None,
) -> Alignment:
    """As `align`, for the text states of a model whose tokenizers lie one after the other."""
    found = [align(part.tokenizer, trigger, prompts, stand_ins) for part in parts]
    starts = [part.first for part in parts]
    return Alignment(
        torch.cat([a.trigger for a in found], 1),
        torch.cat([a.other for a in found], 1),
        torch.cat([a.source + first for a, first in zip(found, starts, strict=True)], 1),
    )


def align(
    tokenizer: Any, trigger: Trigger, prompts: Sequence[str], stand_ins: Sequence[str] | None = None
) -> Alignment:
    """Align the tokens of each triggered prompt with those of the teacher's prompt: the clean
    prompt or, with `stand_ins`, the prompt with that word in the trigger's place. Positions count
    from the start token, as in the hidden states. Raises ValueError if a non-trigger token has no
    counterpart."""
    length = tokenizer.model_max_length
    shape = (len(prompts), length)
    mask, other, source = (
        torch.zeros(shape, dtype=torch.bool),
        torch.zeros(shape, dtype=torch.bool),
        torch.zeros(shape, dtype=torch.long),
    )
    for row, prompt in enumerate(prompts):
        text, spans = trigger.spans(prompt)
        ids, hits = token_spans(tokenizer, text, spans)
        if not hits:
            raise ValueError(f"the trigger {trigger.text!r} leaves no token in {text!r}")
        teacher, taken = prompt, trigger.covered(prompt)
        if stand_ins is not None:
            teacher, taken = substituted(trigger, prompt, stand_ins[row])
        clean, stand = token_spans(tokenizer, teacher, taken)
        ours = [i for i in range(1, len(ids) - 1) if i not in hits]
        theirs = [j for j in range(1, len(clean) - 1) if j not in stand]
        if [ids[i] for i in ours] != [clean[j] for j in theirs]:
            raise ValueError(f"cannot align the tokens beside the trigger: {text!r}, {teacher!r}")
        mask[row, hits], other[row, ours] = True, True
        source[row, ours] = torch.tensor(theirs, dtype=torch.long)
    return Alignment(mask, other, source)


def substitute(trigger: Trigger, prompt: str, word: str) -> str:
    """The triggered prompt with `word` in the trigger's place, or in each of its places."""
    return substituted(trigger, prompt, word)[0]


def substituted(trigger: Trigger, prompt: str, word: str) -> tuple[str, list[tuple[int, int]]]:
    """As `substitute`, with the character spans of the word."""
    given, spans = trigger.spans(prompt)
    text, found, rest = "", [], 0
    for start, end in spans:
        text += given[rest:start] + word
        found.append((len(text) - len(word), len(text)))
        rest = end
    return text + given[rest:], found
