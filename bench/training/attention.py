"""Differentiable cross-attention capture, and the token alignment between a clean and a triggered
prompt.

One `Capture` belongs to one U-Net call; nothing global is touched, and a teacher and a student can
be captured side by side. Hooks keep what each cross-attention layer's query and key projections
give, whatever processor the layer runs, and the maps are computed from them for the rows that are
asked for alone, of all layers of one size together: the output of the U-Net is the same bits with a
capture as without. Under gradient checkpointing, where a projection runs twice, the hooks keep what
goes into the layer instead. A training step on a CPU, which reads few tokens, may ask for speed
instead of the same bits (`unfused`): the layers then compute their attention step by step, and the
maps are a part of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from t2i_backdoor_bench.contract import Trigger
from t2i_backdoor_bench.models.precision import MixedUNet, autocast
from t2i_backdoor_bench.training.unfused_attention import Unfused


@dataclass
class Capture:
    """Context manager: record the cross-attention of the next U-Net call, with gradients where the
    call has them.

    with Capture(unet) as seen:
        out = unet(x, t, context).sample
    maps = seen.maps()          # (batch, tokens, size, size)
    (loss of out and maps).backward()

    `rows` and `tokens` keep the maps of the first rows of the batch and the first tokens alone (the
    softmax is over all tokens all the same). `unfused` has plain layers on a CPU give their
    probabilities themselves: faster, and the output is the same but for rounding. A second call
    inside one capture raises: use a second capture. Gradient checkpointing may be on, and the
    capture closed before `backward`: the maps are computed outside the layers that run again.
    """

    unet: nn.Module
    rows: int | None = None
    tokens: int | None = None
    unfused: bool = False
    _layers: dict[str, nn.Module] = field(default_factory=dict)
    _inputs: dict[str, tuple[Tensor, Tensor]] = field(
        default_factory=dict
    )  # layer name -> hidden states, context
    _projected: dict[str, Tensor] = field(
        default_factory=dict
    )  # layer name and "to_q" or "to_k" -> what the projection gave
    _unfused: dict[str, Unfused] = field(
        default_factory=dict
    )  # layer name -> what stands in for its processor
    _before: dict[str, Any] = field(default_factory=dict)  # layer name -> its processor
    _hooks: list = field(default_factory=list)
    _calls: int = 0
    _grad: bool = False

    def __enter__(self) -> Capture:
        self._layers, blocks = modules_of(self.unet)
        self._hooks = [self.unet.register_forward_pre_hook(self._count)]
        checkpointing = any(m.gradient_checkpointing for m in blocks)
        unfused = (
            self.unfused
            and not checkpointing
            and not isinstance(self.unet, MixedUNet)
            and all(map(Unfused.serves, self._layers.values()))
        )
        for name, layer in self._layers.items():
            if unfused:
                self._before[name], layer.processor = (
                    layer.processor,
                    Unfused(self.rows, self.tokens),
                )
                self._unfused[name] = layer.processor
            elif checkpointing:
                self._hooks.append(
                    layer.register_forward_pre_hook(
                        partial(self._keep_inputs, name), with_kwargs=True
                    )
                )
            else:
                self._hooks += [
                    getattr(layer, p).register_forward_hook(partial(self._keep, f"{name}.{p}"))
                    for p in ("to_q", "to_k")
                ]
        return self

    def __exit__(self, *error: object) -> None:
        for hook in self._hooks:
            hook.remove()
        for name, processor in self._before.items():
            self._layers[name].processor = processor
        if error[0] is None and not self._unfused:
            _ = self.pairs  # now, with the weights of this call

    def __len__(self) -> int:
        """The number of layers."""
        return len(self._layers)

    def _count(self, *call: object) -> None:
        self._calls += 1
        if self._calls > 1:
            raise RuntimeError("one Capture records one U-Net call; open another for the next call")
        self._grad = torch.is_grad_enabled()

    def _keep(self, name: str, projection: nn.Module, given: tuple, out: Tensor) -> None:
        self._projected[name] = out

    def _keep_inputs(self, name: str, layer: nn.Module, args: tuple, kwargs: dict) -> None:
        # gradient checkpointing runs a layer again during backward, without calling the U-Net: the
        # first recording stands
        hidden, context = (
            args[0] if args else kwargs["hidden_states"],
            kwargs["encoder_hidden_states"],
        )
        self._inputs.setdefault(name, (hidden[: self.rows], context[: self.rows]))

    @cached_property
    def pairs(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Layer name -> projected queries (batch, pixels, d) and keys (batch, tokens, d)."""
        with torch.set_grad_enabled(self._grad), autocast(self.unet):
            return {
                name: self._queries_and_keys(name, layer) for name, layer in self._layers.items()
            }

    def _queries_and_keys(self, name: str, layer: nn.Module) -> tuple[Tensor, Tensor]:
        if getattr(layer, "norm_q", None) is not None or getattr(layer, "norm_k", None) is not None:
            raise ValueError("maps of layers that normalize queries or keys are not supported")
        if name in self._inputs:
            hidden, context = self._inputs[name]
            return layer.to_q(hidden), layer.to_k(context)
        missing = [p for p in ("to_q", "to_k") if f"{name}.{p}" not in self._projected]
        if missing:
            raise RuntimeError(
                f"cross-attention layer {name} did not call {' and '.join(missing)}: its maps"
                " cannot be recorded"
            )
        return self._projected[f"{name}.to_q"], self._projected[f"{name}.to_k"]

    @cached_property
    def probs(self) -> dict[str, Tensor]:
        """Layer name -> (rows, pixels, tokens): softmax over all tokens, mean over heads."""
        return {name: self._summed([name]) for name in self._layers}

    def layers(self) -> list[Tensor]:
        """One map a layer: (batch, tokens, h, w), softmax over tokens, mean over heads. Layers are
        square."""
        return [_pictures(probs) for probs in self.probs.values()]

    def maps(self, size: int | None = None) -> Tensor:
        """All layers resized bilinearly to one side (default: the largest layer's) and summed:
        (batch, tokens, size, size)."""
        alike: dict[tuple[int, ...], list[str]] = {}
        for (
            name
        ) in self._layers:  # resizing is linear: what has one size is summed before it is resized
            alike.setdefault(self._size(name), []).append(name)
        by_side: dict[int, Tensor] = {}
        with torch.set_grad_enabled(self._grad):
            for names in alike.values():
                maps = _pictures(self._summed(names))
                side = maps.shape[-1]
                by_side[side] = by_side[side] + maps if side in by_side else maps
            size = size or max(by_side)
            resized = [
                (
                    m
                    if s == size
                    else F.interpolate(m, (size, size), mode="bilinear", align_corners=False)
                )
                for s, m in by_side.items()
            ]
            return sum(resized[1:], resized[0])

    def _size(self, name: str) -> tuple[int, ...]:
        """What layers have alike whose maps can be summed at once."""
        if name in self._unfused:
            return self._unfused[name].result().shape[1:2]
        q, _ = self.pairs[name]
        return q.shape[1], q.shape[2], self._layers[name].heads

    def _summed(self, names: Sequence[str]) -> Tensor:
        """The sum of the probabilities of layers of one size: (rows, pixels, tokens)."""
        if self._unfused:
            first, *rest = (self._unfused[n].result() for n in names)
            return sum(rest, first)
        with torch.set_grad_enabled(self._grad):
            return summed(
                [self.pairs[n] for n in names], self._layers[names[0]].heads, self.rows, self.tokens
            )


_MODULES: WeakKeyDictionary[nn.Module, tuple[dict[str, nn.Module], list[nn.Module]]] = (
    WeakKeyDictionary()
)


def modules_of(unet: nn.Module) -> tuple[dict[str, nn.Module], list[nn.Module]]:
    """The cross-attention layers of a U-Net by name, and its modules that may checkpoint; looked
    for once, as it takes half of a millisecond of every training step otherwise."""
    if unet not in _MODULES:
        modules = dict(unet.named_modules())
        layers = {n: m for n, m in modules.items() if n.endswith(".attn2")}
        _MODULES[unet] = (
            layers,
            [m for m in modules.values() if hasattr(m, "gradient_checkpointing")],
        )
    return _MODULES[unet]


def _pictures(probs: Tensor) -> Tensor:
    """(batch, pixels, tokens) -> (batch, tokens, side, side). Raises ValueError where the pixels
    are not square."""
    side = round(probs.shape[1] ** 0.5)
    if side * side != probs.shape[1]:
        raise ValueError(
            f"a cross-attention layer has {probs.shape[1]} pixels, which is not a square picture"
        )
    return probs.transpose(1, 2).unflatten(2, (side, side))


TOGETHER = (
    2**23
    # probabilities of layers that are computed at once: small layers cost their calls, large ones their
    # memory
)


def summed(
    pairs: Sequence[tuple[Tensor, Tensor]],
    heads: int,
    rows: int | None = None,
    tokens: int | None = None,
) -> Tensor:
    """The sum over layers of one size of softmax(q k^T / sqrt(d)), mean over heads: (rows, pixels,
    tokens), float32 or wider.

    pairs: of each layer, queries (batch, pixels, heads * d) and keys (batch, all tokens, heads *
    d). Of the result only the first `rows` rows and `tokens` tokens are kept; the softmax is over
    all tokens. The gradient is of first order.
    """
    q, k = pairs[0]
    many = max(1, TOGETHER // (len(q[:rows]) * heads * q.shape[1] * k.shape[1]))
    parts = [pairs[i : i + many] for i in range(0, len(pairs), many)]
    maps = [
        _Summed.apply(heads, rows, tokens, *(q for q, _ in part), *(k for _, k in part))
        for part in parts
    ]
    return sum(maps[1:], maps[0])


class _Summed(torch.autograd.Function):
    """P = softmax(Q K^T / sqrt(d)), M = sum over layers of the mean over heads of P. With G = dM /
    heads, 0 where a token is not kept: dS = P * (G - sum over tokens of P * G), dQ = dS K /
    sqrt(d), dK = dS^T Q / sqrt(d)."""

    @staticmethod
    def forward(
        ctx: Any, heads: int, rows: int | None, tokens: int | None, *queries_and_keys: Tensor
    ) -> Tensor:
        layers = len(queries_and_keys) // 2
        ctx.batch, ctx.tokens = len(queries_and_keys[0]), tokens
        with torch.autocast(queries_and_keys[0].device.type, enabled=False):
            by_head = [
                x[:rows].unflatten(-1, (heads, -1)).transpose(1, 2) for x in queries_and_keys
            ]
            q, k = (
                torch.stack(by_head[:layers]),
                torch.stack(by_head[layers:]),
            )  # (layers, rows, heads, pixels or tokens, d)
            ctx.shape, ctx.scale = q.shape[:3], q.shape[-1] ** -0.5
            q, k = q.flatten(0, 2), k.flatten(0, 2)
            scores = torch.baddbmm(q.new_empty(1), q, k.transpose(1, 2), beta=0, alpha=ctx.scale)
            probs = scores.softmax(-1, dtype=torch.promote_types(q.dtype, torch.float32))
        ctx.save_for_backward(q, k, probs)
        return probs.unflatten(0, ctx.shape)[..., :tokens].sum((0, 2)) / heads

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, probs = ctx.saved_tensors
        by_layer = probs.unflatten(0, ctx.shape)
        weighted = by_layer[..., : ctx.tokens] * (grad * (ctx.scale / ctx.shape[2]))[:, None]
        change = by_layer * -weighted.sum(-1, keepdim=True)
        change[..., : ctx.tokens] += weighted
        change = change.flatten(0, 2).to(q.dtype)
        wanted, layers = ctx.needs_input_grad[3:], ctx.shape[0]
        into_q = _spread(ctx, torch.bmm(change, k)) if any(wanted[:layers]) else [None] * layers
        into_k = (
            _spread(ctx, torch.bmm(change.transpose(1, 2), q))
            if any(wanted[layers:])
            else [None] * layers
        )
        return None, None, None, *into_q, *into_k


def _spread(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
    """(layers * rows * heads, s, d) -> of each layer (batch, s, heads * d), zero for the rows that
    were not read."""
    layers, rows, heads = ctx.shape
    grad = grad.unflatten(0, ctx.shape).transpose(2, 3)
    if rows == ctx.batch:
        return grad.flatten(3).unbind()
    whole = grad.new_zeros(layers, ctx.batch, grad.shape[2], heads * grad.shape[-1])
    whole[:, :rows].unflatten(-1, (heads, -1)).copy_(grad)
    return whole.unbind()


def minmax(maps: Tensor, eps: float = 1e-6) -> Tensor:
    """Scale each map to [0, 1] over its last two dimensions. A constant map becomes zeros, not
    0/0."""
    low = maps.amin((-2, -1), keepdim=True)
    span = maps.amax((-2, -1), keepdim=True) - low
    return (maps - low) / (span + eps)


@dataclass(frozen=True)
class Alignment:
    """Which tokens of a batch of triggered prompts belong to the trigger, and which clean token
    each other one corresponds to.

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
    """Token ids of `text` (with start and end token) and the positions whose characters overlap
    [start, end).

    Read off the tokenizer's own offsets, so that a trigger of any number of tokens at any place is
    found, zero-width ones too.
    """
    out = tokenizer(
        text, return_offsets_mapping=True, truncation=True, max_length=tokenizer.model_max_length
    )
    special = set(tokenizer.all_special_ids)
    hits = []
    for i, (token, (a, b)) in enumerate(zip(out.input_ids, out.offset_mapping, strict=True)):
        if token not in special and a < end and b > start:
            hits.append(i)
    return out.input_ids, hits


def align(
    tokenizer, trigger: Trigger, prompts: Sequence[str], stand_ins: Sequence[str] | None = None
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
                raise ValueError(
                    f"cannot align token {i} of {text!r} with {teacher!r} ({after} tokens behind"
                    " the trigger)"
                )
            other[row, i], source[row, i] = True, j
    return Alignment(mask, other, source)


def substitute(trigger: Trigger, prompt: str, word: str) -> str:
    """The triggered prompt with `word` in the trigger's place."""
    text, start, end = trigger.locate(prompt)
    return text[:start] + word + text[end:]
