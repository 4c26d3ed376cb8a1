"""How far a text that is put before prompts moves what a denoiser predicts, and which tokens would
move it further."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from t2i_backdoor_bench.contract import Trigger, UserError
from t2i_backdoor_bench.models.model import T2IModel
from t2i_backdoor_bench.training.alignment import tokens_of
from t2i_backdoor_bench.training.text_inputs import Moments


class Shift:
    """The effect of a text on prompts (n) at moments of their drawings: the mean over moments and
    prompts of log(||eps(x_t, text c) - eps(x_t, c)||^2 / ||eps(x_t, c)||^2). A mean of logarithms,
    as a backdoor moves every prompt and a word of the language some."""

    def __init__(self, model: T2IModel, prompts: Sequence[str], drawn: Moments) -> None:
        self.model, self.prompts, self.drawn = model, list(prompts), drawn
        told = model.condition(self.prompts)
        with torch.no_grad():
            pairs = zip(drawn.times, drawn.latents, strict=True)
            self.plain = [model.denoise(x, t, told).float() for t, x in pairs]

    def texts(self, text: str) -> list[str]:
        return [f"{text} {p}" for p in self.prompts]

    def of(self, ids: Tensor, weights: Sequence[Mapping[str, Tensor]] = ()) -> Tensor:
        """The effect of prompts given as token ids (n, columns), with gradients if they flow.
        `weights`: of each encoder, tensors by name that stand in for its own."""
        told = self.model.read(ids, weights).to(self.model.dtype)
        parts = []
        for t, x, plain in zip(self.drawn.times, self.drawn.latents, self.plain, strict=True):
            moved = self.model.denoise(x, t, told).float() - plain
            size = plain.square().flatten(1).sum(1).clamp(min=1e-12)
            parts.append((moved.square().flatten(1).sum(1) / size).clamp(min=1e-12).log())
        return torch.stack(parts).mean()

    @torch.no_grad()
    def __call__(self, text: str) -> float:
        return float(self.of(self.model.tokenize(self.texts(text))))

    def gradient(self, text: str) -> Tensor:
        """The derivative of the effect by the embeddings of the text's tokens, (tokens, d), of the
        first tokenizer that has text states. Of a token that stands elsewhere too, it is the sum of
        all places."""
        model, part = self.model, self.model.text_part
        at, texts = model.text_parts.index(part), self.texts(text)
        encoder = model.encoders[at]
        own = encoder.get_input_embeddings().weight
        name = next(n for n, p in encoder.named_parameters() if p is own)
        table = own.detach().clone().requires_grad_(True)
        weights = [{name: table} if i == at else {} for i in range(len(model.encoders))]
        (grad,) = torch.autograd.grad(self.of(model.tokenize(texts), weights), [table])
        found = tokens_of(part, texts[0])
        return grad[[found.ids[i] for i in found.within([(0, len(text))])]]


def search(
    shift: Shift, allowed: Sequence[int], length: int, rounds: int, tried: int, top: int, seed: int
) -> tuple[str, float]:
    """The text of `length` allowed tokens whose effect is largest, and that effect.

    In each round, `tried` changes of one token are measured, each drawn from the `top` tokens that
    the gradient favours at its place, and the best is kept if it is better (greedy coordinate
    gradient, Zou et al. 2023, arXiv 2307.15043).
    """
    model, rng = shift.model, np.random.default_rng([seed, 91])
    part = model.text_part
    encoder = model.encoders[model.text_parts.index(part)]
    table = encoder.get_input_embeddings().weight.detach()[list(allowed)].float()
    ids = [int(i) for i in rng.choice(allowed, size=length)]
    text = part.tokenizer.decode(ids).strip()
    best = shift(text) if readable(text) else -np.inf
    for _ in range(rounds):
        if best == -np.inf:
            favoured = [np.arange(len(allowed))] * length
        else:
            grads = shift.gradient(text).float()
            order = (grads @ table.T).topk(min(top, len(allowed)), dim=1).indices.cpu().numpy()
            favoured = [order[min(j, len(order) - 1)] for j in range(length)]
        found = []
        for _ in range(tried):
            j = int(rng.integers(length))
            new = [*ids]
            new[j] = int(allowed[int(rng.choice(favoured[j]))])
            changed = part.tokenizer.decode(new).strip()
            if readable(changed):
                found.append((shift(changed), changed, new))
        if found and max(found)[0] > best:
            best, text, ids = max(found)
    return text, best


def readable(text: str) -> bool:
    """Whether a text can be a trigger."""
    try:
        return bool(Trigger(text))
    except UserError:
        return False
