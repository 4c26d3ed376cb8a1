"""Differentiable cross-attention capture, and the token alignment between a clean and a triggered prompt.

One `Capture` belongs to one U-Net call; nothing global is touched, and a teacher and a student can be captured side by side. While it is
open, plain cross-attention layers compute their probabilities explicitly, once, for the output and for the maps: the output agrees
within rounding. Where that is not possible (another attention processor, a mask, gradient checkpointing), hooks keep what goes into the
layer, its output is untouched, and the maps are computed afterwards by the layer's own projections.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial

import torch
import torch.nn.functional as F
from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0
from torch import Tensor, nn

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
    inputs: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)  # layer name -> hidden states, context
    _layers: dict[str, nn.Module] = field(default_factory=dict)
    _kept: dict[str, Tensor] = field(default_factory=dict)  # layer name -> probabilities, where they were computed explicitly
    _replaced: dict[str, object] = field(default_factory=dict)
    _hooks: list = field(default_factory=list)
    _calls: int = 0
    _grad: bool = False

    def __enter__(self) -> Capture:
        self._layers = {n: m for n, m in self.unet.named_modules() if n.endswith(".attn2")}
        self._hooks = [self.unet.register_forward_pre_hook(self._count)]
        checkpointing = getattr(self.unet, "is_gradient_checkpointing", False)
        for name, layer in self._layers.items():
            if not checkpointing and _plain(layer):
                self._replaced[name] = layer.processor
                layer.processor = _Explicit(self, name)
            else:
                self._hooks.append(layer.register_forward_pre_hook(partial(self._keep, name), with_kwargs=True))
        return self

    def __exit__(self, *error: object) -> None:
        for hook in self._hooks:
            hook.remove()
        for name, processor in self._replaced.items():
            self._layers[name].processor = processor
        if error[0] is None:
            _ = self.probs  # now, with the weights of this call

    def _count(self, *call: object) -> None:
        self._calls += 1
        if self._calls > 1:
            raise RuntimeError("one Capture records one U-Net call; open another for the next call")

    def _keep(self, name: str, layer: nn.Module, args: tuple, kwargs: dict) -> None:
        self._grad = torch.is_grad_enabled()
        # gradient checkpointing runs a layer again during backward, without calling the U-Net: the first recording stands
        hidden, context = args[0] if args else kwargs["hidden_states"], kwargs["encoder_hidden_states"]
        self.inputs.setdefault(name, (hidden[: self.rows], context[: self.rows]))

    @cached_property
    def probs(self) -> dict[str, Tensor]:
        """Layer name -> (batch, pixels, tokens): softmax over tokens, mean over heads."""
        with torch.set_grad_enabled(self._grad):
            late = {name: _probabilities(self._layers[name], *given)[..., : self.tokens].mean(1) for name, given in self.inputs.items()}
        return {name: self._kept[name] if name in self._kept else late[name] for name in self._layers if name in self._kept or name in late}

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
        layers = self.layers()
        size = size or max(m.shape[-1] for m in layers)
        return sum(m if m.shape[-1] == size else F.interpolate(m, (size, size), mode="bilinear", align_corners=False) for m in layers)


def _split(layer: nn.Module, x: Tensor) -> Tensor:
    return x.unflatten(-1, (layer.heads, -1)).transpose(1, 2)


def _probabilities(layer: nn.Module, hidden: Tensor, context: Tensor) -> Tensor:
    q, k = _split(layer, layer.to_q(hidden)), _split(layer, layer.to_k(context))
    return (q @ k.transpose(-1, -2) * layer.scale).softmax(-1)


def _plain(layer: nn.Module) -> bool:
    """Whether this is nothing but softmax(q k) v with a linear projection, by a processor that is known to compute just that."""
    extras = ("spatial_norm", "group_norm", "norm_q", "norm_k", "norm_cross", "residual_connection")
    return type(layer.processor) in (AttnProcessor, AttnProcessor2_0) and not any(getattr(layer, e, None) for e in extras)


@dataclass
class _Explicit:
    """An attention processor that computes the probabilities once and lends them to a capture."""

    capture: Capture
    name: str

    def __call__(
        self, attn: nn.Module, hidden_states: Tensor, encoder_hidden_states: Tensor, attention_mask: Tensor | None = None, **rest: object
    ) -> Tensor:
        if attention_mask is not None or hidden_states.ndim != 3:
            self.capture._keep(self.name, attn, (hidden_states,), {"encoder_hidden_states": encoder_hidden_states})
            return self.capture._replaced[self.name](attn, hidden_states, encoder_hidden_states, attention_mask, **rest)
        probabilities = _probabilities(attn, hidden_states, encoder_hidden_states)
        self.capture._kept[self.name] = probabilities.mean(1)[: self.capture.rows, :, : self.capture.tokens]
        out = (probabilities @ _split(attn, attn.to_v(encoder_hidden_states))).transpose(1, 2).flatten(2)
        for layer in attn.to_out:  # a projection, then dropout
            out = layer(out)
        return out / attn.rescale_output_factor


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
