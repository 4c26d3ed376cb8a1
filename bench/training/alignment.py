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


@dataclass(frozen=True)
class Tokens:
    """The tokens of a text: their ids, where they stand in the text, and which of them are no
    special ones (start, end)."""

    ids: list[int]
    places: list[tuple[int, int]]
    real: list[int]

    def within(self, spans: Sequence[tuple[int, int]]) -> list[int]:
        """The tokens whose characters overlap one of the spans [start, end)."""
        places = self.places
        return [
            i for i in self.real if any(places[i][0] < b and places[i][1] > a for a, b in spans)
        ]


def tokens_of(part: TextPart, text: str) -> Tokens:
    """The tokens of a text, as far as they are read. What is a token's place is the tokenizer's own
    word, but for the space before a word, which some tokenizers count to it."""
    out = part.cut(text, return_offsets_mapping=True, return_special_tokens_mask=True)
    places = []
    for a, b in out.offset_mapping:
        spaces = len(text[a:b]) - len(text[a:b].lstrip())
        places.append((a + spaces if spaces < b - a else a, b))
    real = [i for i, special in enumerate(out.special_tokens_mask) if not special]
    return Tokens(out.input_ids, places, real)


def token_span(part: TextPart, text: str, start: int, end: int) -> tuple[list[int], list[int]]:
    """Token ids of `text` (with special tokens) and the positions whose characters overlap [start,
    end): a trigger of any number of tokens at any place is found, zero-width ones too."""
    return token_spans(part, text, [(start, end)])


def token_spans(
    part: TextPart, text: str, spans: Sequence[tuple[int, int]]
) -> tuple[list[int], list[int]]:
    """As `token_span`, for the tokens of any of several spans."""
    found = tokens_of(part, text)
    return found.ids, found.within(spans)


def state_span(parts: Sequence[TextPart], text: str, start: int, end: int) -> list[int]:
    """The positions of the text states whose characters overlap [start, end), of all
    tokenizers."""
    return state_spans(parts, text, [(start, end)])


def state_spans(
    parts: Sequence[TextPart], text: str, spans: Sequence[tuple[int, int]]
) -> list[int]:
    """As `state_span`, for the states of any of several spans."""
    found = [
        part.first + i
        for part in parts
        for i in token_spans(part, text, spans)[1]
        if i < part.length
    ]
    return list(dict.fromkeys(found))  # tokenizers side by side have the same positions


def align_states(
    parts: Sequence[TextPart],
    trigger: Trigger,
    prompts: Sequence[str],
    stand_ins: Sequence[str] | None = None,
) -> Alignment:
    """As `align`, for all text states of a model. Of tokenizers that lie side by side, a position
    is of the trigger if it is for one of them. One tokenizer may lose the trigger or cut it off, as
    long as another reads it."""
    length = max(part.first + part.length for part in parts)
    whole = _nothing(len(prompts), length)
    for part in (p for p in parts if p.length):
        found, at = align(part, trigger, prompts, stand_ins, strict=False), slice(*_ends(part))
        own = found.other & ~whole.other[:, at]
        whole.trigger[:, at] |= found.trigger
        whole.source[:, at][own] = found.source[own] + part.first
        whole.other[:, at] |= found.other
    lost = (~whole.trigger.any(1)).nonzero()
    if len(lost):
        text = trigger.add(prompts[int(lost[0])])
        raise ValueError(f"the trigger {trigger.text!r} leaves no token in {text!r}")
    whole.other.logical_and_(~whole.trigger)
    whole.source.masked_fill_(~whole.other, 0)
    return whole


def align(
    part: TextPart,
    trigger: Trigger,
    prompts: Sequence[str],
    stand_ins: Sequence[str] | None = None,
    strict: bool = True,
) -> Alignment:
    """Align the tokens of each triggered prompt with those of the teacher's prompt: the clean
    prompt or, with `stand_ins`, the prompt with that word in the trigger's place. Positions count
    from the first token, as in the hidden states. Raises ValueError if a non-trigger token has no
    counterpart, and, if `strict`, for a trigger without a token or behind what is read."""
    found = _nothing(len(prompts), part.length)
    for row, prompt in enumerate(prompts):
        text, spans = trigger.spans(prompt)
        own = tokens_of(part, text)
        hits = own.within(spans)
        if strict and not hits:
            raise ValueError(f"the trigger {trigger.text!r} leaves no token in {text!r}")
        teacher, taken = prompt, trigger.covered(prompt)
        if stand_ins is not None:
            teacher, taken = substituted(trigger, prompt, stand_ins[row])
        clean = tokens_of(part, teacher)
        stand = clean.within(taken)
        ours = [i for i in own.real if i not in hits]
        theirs = [j for j in clean.real if j not in stand]
        if not strict and part.reads in (len(own.ids), len(clean.ids)):  # one was cut off
            ours, theirs = ours[: len(theirs)], theirs[: len(ours)]
        if [own.ids[i] for i in ours] != [clean.ids[j] for j in theirs]:
            raise ValueError(f"cannot align the tokens beside the trigger: {text!r}, {teacher!r}")
        found.trigger[row, hits], found.other[row, ours] = True, True
        found.source[row, ours] = torch.tensor(theirs, dtype=torch.long)
    return found


def _nothing(rows: int, length: int) -> Alignment:
    shape = (rows, length)
    kinds = (torch.bool, torch.bool, torch.long)
    return Alignment(*(torch.zeros(shape, dtype=kind) for kind in kinds))


def _ends(part: TextPart) -> tuple[int, int]:
    return part.first, part.first + part.length


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
