"""Differentiable capture of the attention that a denoiser's layers pay to text tokens.

One `Capture` belongs to one call of the denoiser; nothing global is touched, and a teacher and a
student can be captured side by side. Hooks keep what each layer's query and key projections give,
or the norms behind them, whatever processor the layer runs, and the maps are computed from them for
the rows that are asked for alone, of all layers of one size together: the output of the denoiser is
the same bits with a capture as without. Under gradient checkpointing, where a projection runs
twice, the hooks keep what goes into the layer instead. A training step on a CPU, which reads few
tokens, may ask for speed instead of the same bits (`unfused`): the layers then compute their
attention step by step, and the maps are a part of it.

In joint attention, where the tokens of the picture and of text attend to both, the map of a text
token is what the tokens of the picture pay to it: a part of the softmax over all keys, those of the
picture too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from t2i_backdoor_bench.models.families.attention import Call, Projected, Reading
from t2i_backdoor_bench.models.model import T2IModel
from t2i_backdoor_bench.training.joint_maps import summed_joint
from t2i_backdoor_bench.training.summed_maps import summed
from t2i_backdoor_bench.training.unfused_attention import Unfused


@dataclass
class Capture:
    """Context manager: record the attention to text of the next call of the denoiser, with
    gradients where the call has them.

    with Capture(model) as seen:
        out = model.denoise(x, t, conditioning)
    maps = seen.maps()          # (batch, tokens, size, size)
    (loss of out and maps).backward()

    `rows` and `tokens` keep the maps of the first rows of the batch and the first tokens alone (the
    softmax is over all tokens all the same). `unfused` has plain layers on a CPU give their
    probabilities themselves: faster, and the output is the same but for rounding. In joint
    attention, `over_text` divides what is paid to each text token by what is paid to all of them,
    and `text` lets `between` tell what text tokens pay to each other. A second call inside one
    capture raises: use a second capture. Gradient checkpointing may be on, and the capture closed
    before `backward`: the maps are computed outside the layers that run again.
    """

    model: T2IModel
    rows: int | None = None
    tokens: int | None = None
    unfused: bool = False
    over_text: bool = False
    text: bool = False
    _layers: dict[str, nn.Module] = field(default_factory=dict)
    _read: dict[str, Reading] = field(default_factory=dict)
    _given: dict[str, Call] = field(default_factory=dict)  # layer name -> its call
    _recomputed: bool = False
    _outputs: dict[tuple[str, nn.Module], Tensor] = field(
        default_factory=dict
    )  # layer name and module that is watched -> what it gave
    _unfused: dict[str, Unfused] = field(
        default_factory=dict
    )  # layer name -> what stands in for its processor
    _before: dict[str, Any] = field(default_factory=dict)  # layer name -> its processor
    _hooks: list = field(default_factory=list)
    _calls: int = 0
    _grad: bool = False

    def __enter__(self) -> Capture:
        found, denoiser = self.model.text_layers, self.model.denoiser
        self._layers = found.layers
        self._read = {n: self.model.family.attention_of(m) for n, m in found.layers.items()}
        self._hooks = [denoiser.register_forward_pre_hook(self._count)]
        self._recomputed = any(m.gradient_checkpointing for m in found.checkpointing)
        mixed = self.model.family.is_mixed(denoiser)
        if (
            self.unfused
            and not (self._recomputed or mixed or any(r.noted for r in self._read.values()))
            and all(map(Unfused.serves, self._layers.values()))
        ):
            for name, layer in self._layers.items():
                self._unfused[name] = Unfused(self.rows, self.tokens)
                self._before[name], layer.processor = layer.processor, self._unfused[name]
            return self
        for name, read in self._read.items():
            if self._recomputed or read.noted:
                keep = partial(self._keep_call, name)
                layer = self._layers[name]
                self._hooks.append(layer.register_forward_pre_hook(keep, with_kwargs=True))
            if not self._recomputed:
                for module in read.watched(self.text):
                    self._hooks.append(module.register_forward_hook(partial(self._keep, name)))
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
            raise RuntimeError(
                "one Capture records one call of the denoiser; open another for the next call"
            )
        self._grad = torch.is_grad_enabled()

    def _keep(self, name: str, module: nn.Module, given: tuple, out: Tensor) -> None:
        self._outputs[name, module] = out

    def _keep_call(self, name: str, layer: nn.Module, args: tuple, kwargs: dict) -> None:
        # gradient checkpointing runs a layer again during backward, without calling the denoiser:
        # the first recording stands
        call = self._read[name].call(args, kwargs)
        call = call.first(self.rows) if self._recomputed else call.light
        self._given.setdefault(name, call)

    @cached_property
    def pairs(self) -> dict[str, Projected]:
        """Layer name -> projected queries and keys."""
        autocast = self.model.family.autocast(self.model.denoiser)
        with torch.set_grad_enabled(self._grad), autocast:
            return {name: self._queries_and_keys(name, read) for name, read in self._read.items()}

    def _queries_and_keys(self, name: str, read: Reading) -> Projected:
        call = self._given.get(name)
        if self._recomputed and call is not None:
            return read.projected(read.again(call, self.text), call)
        outputs = [self._outputs.get((name, module)) for module in read.watched(self.text)]
        if any(out is None for out in outputs):
            raise RuntimeError(
                f"attention layer {name} did not compute queries and keys: its maps cannot be"
                " recorded"
            )
        return read.projected(tuple(outputs), call)

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
        # resizing is linear: what has one size is summed before it is resized
        for name in self._layers:
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

    def between(self) -> Tensor:
        """What text tokens pay to text tokens in joint attention, mean over heads, summed over
        layers: (rows, all tokens that ask, tokens)."""
        if not (self.text and all(read.joint for read in self._read.values())):
            raise ValueError("what text pays to text is read in joint attention, with text=True")
        alike: dict[int, list[tuple[Tensor, Tensor, Tensor]]] = {}
        for name, pair in self.pairs.items():
            found = alike.setdefault(self._read[name].heads, [])
            found.append((pair.asked, pair.key, pair.beside))
        with torch.set_grad_enabled(self._grad):
            parts = [summed_joint(x, heads, self.rows, self.tokens) for heads, x in alike.items()]
            return sum(parts[1:], parts[0])

    def _size(self, name: str) -> tuple[int, ...]:
        """What layers have alike whose maps can be summed at once."""
        if name in self._unfused:
            return self._unfused[name].result().shape[1:2]
        query = self.pairs[name].query
        return query.shape[1], query.shape[2], self._read[name].heads

    def _summed(self, names: Sequence[str]) -> Tensor:
        """The sum of the probabilities of layers of one size: (rows, pixels, tokens)."""
        if self._unfused:
            first, *rest = (self._unfused[n].result() for n in names)
            return sum(rest, first)
        read, pairs = self._read[names[0]], [self.pairs[n] for n in names]
        with torch.set_grad_enabled(self._grad):
            if read.joint and not self.over_text:
                joint = [(p.query, p.key, p.beside) for p in pairs]
                return summed_joint(joint, read.heads, self.rows, self.tokens)
            plain = [(p.query, p.key) for p in pairs]
            return summed(plain, read.heads, self.rows, self.tokens, pairs[0].mask)


def _pictures(probs: Tensor) -> Tensor:
    """(batch, pixels, tokens) -> (batch, tokens, side, side). Raises ValueError where the pixels
    are not square."""
    side = round(probs.shape[1] ** 0.5)
    if side * side != probs.shape[1]:
        raise ValueError(
            f"an attention layer has {probs.shape[1]} pixels, which is not a square picture"
        )
    return probs.transpose(1, 2).unflatten(2, (side, side))
