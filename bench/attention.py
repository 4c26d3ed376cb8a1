"""Differentiable cross-attention capture, and the token alignment between a clean and a triggered prompt.

One `Capture` belongs to one U-Net call; nothing global is touched, and a teacher and a student can be captured side by side. Hooks keep
what each cross-attention layer's query and key projections give, whatever processor the layer runs, and the maps are computed from them
for the rows that are asked for alone: the output of the U-Net is the same bits with a capture as without. Under gradient checkpointing,
where a projection runs twice, the hooks keep what goes into the layer instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.precision import autocast
from bench.types import Trigger


@dataclass
class Capture:
    """Context manager: record the cross-attention of the next U-Net call, with gradients where the call has them.

    with Capture(unet) as seen:
        out = unet(x, t, context).sample
    maps = seen.maps()          # (batch, tokens, size, size)
    (loss of out and maps).backward()

    `rows` and `tokens` keep the maps of the first rows of the batch and the first tokens alone (the softmax is over all tokens all the
    same). A second call inside one capture raises: use a second capture. Gradient checkpointing may be on, and the capture closed before
    `backward`: the maps are computed outside the layers that run again.
    """

    unet: nn.Module
    rows: int | None = None
    tokens: int | None = None
    _layers: dict[str, nn.Module] = field(default_factory=dict)
    _inputs: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)  # layer name -> hidden states, context
    _projected: dict[str, Tensor] = field(default_factory=dict)  # layer name and "to_q" or "to_k" -> what the projection gave
    _hooks: list = field(default_factory=list)
    _calls: int = 0
    _grad: bool = False

    def __enter__(self) -> Capture:
        self._layers = {n: m for n, m in self.unet.named_modules() if n.endswith(".attn2")}
        self._hooks = [self.unet.register_forward_pre_hook(self._count)]
        checkpointing = getattr(self.unet, "is_gradient_checkpointing", False)
        for name, layer in self._layers.items():
            if checkpointing:
                self._hooks.append(layer.register_forward_pre_hook(partial(self._keep_inputs, name), with_kwargs=True))
            else:
                self._hooks += [getattr(layer, p).register_forward_hook(partial(self._keep, f"{name}.{p}")) for p in ("to_q", "to_k")]
        return self

    def __exit__(self, *error: object) -> None:
        for hook in self._hooks:
            hook.remove()
        if error[0] is None:
            _ = self.probs  # now, with the weights of this call

    def _count(self, *call: object) -> None:
        self._calls += 1
        if self._calls > 1:
            raise RuntimeError("one Capture records one U-Net call; open another for the next call")
        self._grad = torch.is_grad_enabled()

    def _keep(self, name: str, projection: nn.Module, given: tuple, out: Tensor) -> None:
        self._projected[name] = out[: self.rows]

    def _keep_inputs(self, name: str, layer: nn.Module, args: tuple, kwargs: dict) -> None:
        # gradient checkpointing runs a layer again during backward, without calling the U-Net: the first recording stands
        hidden, context = args[0] if args else kwargs["hidden_states"], kwargs["encoder_hidden_states"]
        self._inputs.setdefault(name, (hidden[: self.rows], context[: self.rows]))

    @cached_property
    def probs(self) -> dict[str, Tensor]:
        """Layer name -> (rows, pixels, tokens): softmax over all tokens, mean over heads."""
        with torch.set_grad_enabled(self._grad), autocast(self.unet):
            return {n: _probabilities(m, *self._queries_and_keys(n))[..., : self.tokens].mean(1) for n, m in self._layers.items()}

    def _queries_and_keys(self, name: str) -> tuple[Tensor, Tensor]:
        if name in self._inputs:
            hidden, context = self._inputs[name]
            return self._layers[name].to_q(hidden), self._layers[name].to_k(context)
        missing = [p for p in ("to_q", "to_k") if f"{name}.{p}" not in self._projected]
        if missing:
            raise RuntimeError(f"cross-attention layer {name} did not call {' and '.join(missing)}: its maps cannot be recorded")
        return self._projected[f"{name}.to_q"], self._projected[f"{name}.to_k"]

    def layers(self) -> list[Tensor]:
        """One map a layer: (batch, tokens, h, w), softmax over tokens, mean over heads. Layers are square."""
        out = []
        for probs in self.probs.values():
            side = round(probs.shape[1] ** 0.5)
            if side * side != probs.shape[1]:
                raise ValueError(f"a cross-attention layer has {probs.shape[1]} pixels, which is not a square picture")
            out.append(probs.transpose(1, 2).unflatten(2, (side, side)))
        return out

    def maps(self, size: int | None = None) -> Tensor:
        """All layers resized bilinearly to one side (default: the largest layer's) and summed: (batch, tokens, size, size)."""
        by_side: dict[int, Tensor] = {}
        for layer in self.layers():  # resizing is linear: what has one side is summed before it is resized
            side = layer.shape[-1]
            by_side[side] = by_side[side] + layer if side in by_side else layer
        size = size or max(by_side)
        resized = [m if s == size else F.interpolate(m, (size, size), mode="bilinear", align_corners=False) for s, m in by_side.items()]
        return sum(resized[1:], resized[0])


def _probabilities(layer: nn.Module, q: Tensor, k: Tensor) -> Tensor:
    """softmax(scale q k^T) of projected queries (n, pixels, d) and keys (n, tokens, d): (n, heads, pixels, tokens)."""
    if getattr(layer, "norm_q", None) is not None or getattr(layer, "norm_k", None) is not None:
        raise ValueError("maps of layers that normalize queries or keys are not supported")
    q, k = (x.unflatten(-1, (layer.heads, -1)).transpose(1, 2).flatten(0, 1) for x in (q, k))
    scores = torch.baddbmm(q.new_empty(1), q, k.transpose(-1, -2), beta=0, alpha=layer.scale)
    return scores.softmax(-1).unflatten(0, (-1, layer.heads))


def minmax(maps: Tensor, eps: float = 1e-6) -> Tensor:
    """Scale each map to [0, 1] over its last two dimensions. A constant map becomes zeros, not 0/0."""
    low = maps.amin((-2, -1), keepdim=True)
    span = maps.amax((-2, -1), keepdim=True) - low
    return (maps - low) / (span + eps)


@dataclass(frozen=True)
class Alignment:
    """Which tokens of a batch of triggered prompts belong to the trigger, and which clean token each other one corresponds to.

    trigger  bool (batch, tokens): positions of the trigger in the triggered prompt
    other    bool (batch, tokens): positions of every other real token (no start, end or padding)
    source   int64 (batch, tokens): for `other`, the position of the same token in the clean prompt (0 elsewhere)
    """

    trigger: Tensor
    other: Tensor
    source: Tensor

    def to(self, device: torch.device) -> Alignment:
        return Alignment(self.trigger.to(device), self.other.to(device), self.source.to(device))


def token_span(tokenizer, text: str, start: int, end: int) -> tuple[list[int], list[int]]:
    """Token ids of `text` (with start and end token) and the positions whose characters overlap [start, end).

    Read off the tokenizer's own offsets, so that a trigger of any number of tokens at any place is found, zero-width ones too.
    """
    out = tokenizer(text, return_offsets_mapping=True, truncation=True, max_length=tokenizer.model_max_length)
    special = set(tokenizer.all_special_ids)
    hits = []
    for i, (token, (a, b)) in enumerate(zip(out.input_ids, out.offset_mapping, strict=True)):
        if token not in special and a < end and b > start:
            hits.append(i)
    return out.input_ids, hits


def align(tokenizer, trigger: Trigger, prompts: Sequence[str], stand_ins: Sequence[str] | None = None) -> Alignment:
    """Align the tokens of each triggered prompt with those of the teacher's prompt: the clean prompt or, with `stand_ins`, the prompt
    with that word in the trigger's place. Positions count from the start token, as in the hidden states. Raises ValueError if a
    non-trigger token has no counterpart."""
    length = tokenizer.model_max_length
    shape = (len(prompts), length)
    mask, other, source = torch.zeros(shape, dtype=torch.bool), torch.zeros(shape, dtype=torch.bool), torch.zeros(shape, dtype=torch.long)
    for row, prompt in enumerate(prompts):
        text, start, end = trigger.locate(prompt)
        ids, hits = token_span(tokenizer, text, start, end)
        if not hits:
            raise ValueError(f"the trigger {trigger.text!r} leaves no token in {text!r}")
        teacher = prompt if stand_ins is None else substitute(trigger, prompt, stand_ins[row])
        clean = tokenizer(teacher, truncation=True, max_length=length).input_ids
        first, last = hits[0], hits[-1]
        after = len(ids) - 1 - last  # tokens behind the trigger, the end token included
        mask[row, hits] = True
        for i in range(1, len(ids) - 1):
            if first <= i <= last:
                continue
            j = i if i < first else len(clean) - (len(ids) - i)
            if not 0 < j < len(clean) or clean[j] != ids[i]:
                raise ValueError(f"cannot align token {i} of {text!r} with {teacher!r} ({after} tokens behind the trigger)")
            other[row, i], source[row, i] = True, j
    return Alignment(mask, other, source)


def substitute(trigger: Trigger, prompt: str, word: str) -> str:
    """The triggered prompt with `word` in the trigger's place."""
    text, start, end = trigger.locate(prompt)
    return text[:start] + word + text[end:]
