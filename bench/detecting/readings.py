"""Texts that mean nothing in a trigger's place, and what text encoders make of prompts with
either."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from t2i_backdoor_bench.contract import Trigger, UserError
from t2i_backdoor_bench.detecting.inversion import unused
from t2i_backdoor_bench.models.families.conditioning import Conditioning
from t2i_backdoor_bench.models.model import T2IModel
from t2i_backdoor_bench.training.alignment import Alignment, align_states, tokens_of

LETTERS = "abcdefghijklmnopqrstuvwxyz\u00e6\u00f0\u00f8\u0111\u03b4\u03bb\u03c8\u0434\u0436\u0448"


def stand_ins(
    model: T2IModel, trigger: Trigger, prompts: Sequence[str], many: int, seed: int
) -> list[Trigger]:
    """At most `many` texts that mean nothing, of as many tokens as the trigger has in the first
    prompt, each as a trigger of the same place. A trigger that replaces a letter has other letters;
    one that contains the word that it replaces keeps it."""
    part, rng = model.text_part, np.random.default_rng([seed, 96])
    text, spans = trigger.spans(prompts[0])
    count, kept = len(tokens_of(part, text).within(spans)), ""
    allowed = unused(model, [*prompts, *(trigger.add(p) for p in prompts)], False)
    if trigger.replaces and trigger.replaces in trigger.text.split():
        kept = f" {trigger.replaces}"
        count -= len(tokens_of(part, trigger.replaces).real)
    found: dict[str, Trigger] = {}
    for _ in range(20 * many):
        if len(found) == many:
            break
        if len(trigger.replaces) == 1:
            word = LETTERS[rng.integers(len(LETTERS))]
        else:
            ids = rng.choice(allowed, size=max(1, count))
            word = part.tokenizer.decode([int(i) for i in ids]).strip() + kept
        try:
            other = replace(trigger, text=word)
            align_states(model.text_parts, other, prompts)
        except (UserError, ValueError):
            continue
        if word not in (trigger.text, trigger.replaces):
            found[word] = other
    return list(found.values())


class Reading:
    """What the text encoders make of prompts (n) with a text in them: the conditioning, and by kind
    what can be compared between texts of any length. `words`: the states of the prompt's own words,
    (n, tokens, d), at their places in the clean prompt; `trigger` and `rest`: the means over the
    text's own tokens and over all that are neither, (n, d); `pooled`, where there is one; and
    `embedding`, what stands for the text's tokens in the encoders' tables, mean, (n, d)."""

    def __init__(self, model: T2IModel, trigger: Trigger, prompts: Sequence[str]) -> None:
        self.told = model.condition([trigger.add(p) for p in prompts])
        states = self.told.filled().states.float()
        at = align_states(model.text_parts, trigger, prompts)
        more = states.shape[1] - at.trigger.shape[1]  # states of an encoder that is missing
        self.at = Alignment(*(F.pad(x, (0, more)).to(states.device) for x in vars(at).values()))
        own, word = self.at.trigger, self.at.other
        rows, places = word.nonzero(as_tuple=True)
        words = torch.zeros_like(states)
        words[rows, self.at.source[rows, places]] = states[rows, places]
        self.kinds = {
            "embedding": embeddings(model, trigger, prompts),
            "words": words,
            "trigger": mean_of(states, own),
            "rest": mean_of(states, ~(own | word)),
        }
        if "pooled" in self.told.more:
            self.kinds["pooled"] = self.told.more["pooled"].float()

    def moved(self, by: Mapping[str, Tensor]) -> Conditioning:
        """The conditioning with what is given of each kind added."""
        at, states = self.at, self.told.states.float()
        rows = torch.arange(len(states), device=states.device)[:, None]
        states = states + by["words"][rows, at.source] * at.other[..., None]
        rest = ~(at.trigger | at.other)
        for kind, where in (("trigger", at.trigger), ("rest", rest)):
            states = states + by[kind][:, None] * where[..., None]
        more = dict(self.told.more)
        if "pooled" in by:
            more["pooled"] = (more["pooled"].float() + by["pooled"]).to(more["pooled"].dtype)
        return Conditioning(states.to(self.told.states.dtype), more)


def mean_of(states: Tensor, where: Tensor) -> Tensor:
    """Mean of states (n, tokens, d) over the places where bool (n, tokens)."""
    weight = where.to(states.dtype)[..., None]
    return (states * weight).sum(1) / weight.sum(1).clamp(min=1)


@torch.no_grad()
def embeddings(model: T2IModel, trigger: Trigger, prompts: Sequence[str]) -> Tensor:
    """The mean row of the trigger's tokens, of all encoders side by side: float32 (n, d)."""
    found = []
    for part, encoder in zip(model.text_parts, model.encoders, strict=True):
        table = encoder.get_input_embeddings().weight
        rows = []
        for text, spans in map(trigger.spans, prompts):
            own = tokens_of(part, text)
            ids = [own.ids[i] for i in own.within(spans)]
            rows.append(table[ids].float().mean(0) if ids else torch.zeros_like(table[0].float()))
        found.append(torch.stack(rows).to(model.device))
    return torch.cat(found, 1)
