"""Differentiable cross-attention capture, and the token alignment between a clean and a triggered prompt.

One `Capture` belongs to one U-Net call. It swaps the cross-attention processors while it is open and puts the old ones back when it
closes; nothing global is touched, so a teacher and a student can be captured side by side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.types import Trigger


class _Recorder:
    """An attention processor that computes softmax(q k^T) explicitly, records it, and returns the usual output.

    It stands in for diffusers' `AttnProcessor2_0` on the `attn2` layers of a U-Net. With gradient checkpointing the layer runs again
    during backward: the same operations are done, and nothing is recorded twice.
    """

    def __init__(self, owner: Capture, name: str) -> None:
        self.owner, self.name = owner, name

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, temb=None, *args, **kwargs):  # noqa: ANN001, ANN002, ANN003, ANN204
        residual = hidden_states
        if attn.spatial_norm is not None:
            hidden_states = attn.spatial_norm(hidden_states, temb)
        shape = hidden_states.shape
        if len(shape) == 4:
            hidden_states = hidden_states.flatten(2).transpose(1, 2)
        if attn.group_norm is not None:
            hidden_states = attn.group_norm(hidden_states.transpose(1, 2)).transpose(1, 2)
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        if encoder_hidden_states is not None and attn.norm_cross:
            context = attn.norm_encoder_hidden_states(context)
        batch, heads = hidden_states.shape[0], attn.heads

        def split(x: Tensor) -> Tensor:
            return x.view(batch, -1, heads, x.shape[-1] // heads).transpose(1, 2)

        q, k, v = split(attn.to_q(hidden_states)), split(attn.to_k(context)), split(attn.to_v(context))
        scores = q @ k.transpose(-1, -2) * attn.scale
        if attention_mask is not None:
            scores = scores + attention_mask.view(batch, -1, *attention_mask.shape[-2:])
        probs = scores.softmax(-1)
        self.owner.record(self.name, probs)
        out = (probs @ v).transpose(1, 2).reshape(batch, -1, heads * v.shape[-1])
        out = attn.to_out[1](attn.to_out[0](out))
        if len(shape) == 4:
            out = out.transpose(1, 2).reshape(shape)
        if attn.residual_connection:
            out = out + residual
        return out / attn.rescale_output_factor


@dataclass
class Capture:
    """Context manager: record the cross-attention of the next U-Net call, with gradients where the call has them.

    with Capture(unet) as seen:
        out = unet(x, t, context).sample
        maps = seen.maps()          # (batch, tokens, size, size)
        (loss of out and maps).backward()

    Keep it open until `backward` if gradient checkpointing is on. A second call inside one capture raises: use a second capture.
    """

    unet: nn.Module
    probs: dict[str, Tensor] = field(default_factory=dict)  # layer name -> (batch, pixels, tokens), mean over heads
    _old: dict = field(default_factory=dict)
    _calls: int = 0

    def __enter__(self) -> Capture:
        self._hook = self.unet.register_forward_pre_hook(self._count)
        self._old = dict(self.unet.attn_processors)
        self.unet.set_attn_processor({n: _Recorder(self, n) if ".attn2." in n else p for n, p in self._old.items()})
        return self

    def __exit__(self, *error: object) -> None:
        self._hook.remove()
        self.unet.set_attn_processor(self._old)

    def _count(self, *call: object) -> None:
        self._calls += 1
        if self._calls > 1:
            raise RuntimeError("one Capture records one U-Net call; open another for the next call")

    def record(self, name: str, probs: Tensor) -> None:
        # gradient checkpointing runs a layer again during backward, without calling the U-Net: the first recording stands
        if name not in self.probs:
            self.probs[name] = probs.mean(1)

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


def token_span(tokenizer, text: str, start: int, end: int) -> tuple[list[int], list[int]]:  # noqa: ANN001
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


def align(tokenizer, trigger: Trigger, prompts: Sequence[str], stand_ins: Sequence[str] | None = None) -> Alignment:  # noqa: ANN001
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
