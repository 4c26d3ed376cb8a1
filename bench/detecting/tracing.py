"""Which part of a model holds the backdoor of a known trigger: the text encoders, the keys and
values of text, or the rest of the denoiser."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from t2i_backdoor_bench.contract import Trigger, UserError
from t2i_backdoor_bench.detecting.readings import Reading, mean_of, stand_ins
from t2i_backdoor_bench.models.families.conditioning import Conditioning
from t2i_backdoor_bench.models.families.family import ENCODER
from t2i_backdoor_bench.models.model import T2IModel
from t2i_backdoor_bench.training.text_inputs import moments

LEAST = 1e-12  # of an energy, before its logarithm
LEAST_SPREAD = 0.1  # of a logarithm over the null: a few texts may lie close together by chance
LEAST_LOST = 0.02  # of what varies over prompts: less is no loss
MOMENTS = (
    2  # of drawings of the clean prompts, the last ones: at the first, all a model sees is noise
)
FIRES = 0.25  # of the trigger's effect: what has this share of it carries the backdoor


@dataclass(frozen=True)
class Standing:
    """How unusual a text is among `null` texts: absolute deviations of statistics from the null's
    median, in MADs, of the text, (s,), and of each null text, (null, s)."""

    own: Tensor
    null: Tensor

    @property
    def largest(self) -> float:
        return float(self.own.max())

    def out(self, above: float) -> bool:
        """Whether it is beyond `above` MADs, and beyond all null texts."""
        return self.largest > max(above, float(self.null.max()))


def standing(own: Tensor, null: Tensor) -> Standing:
    """Of statistics (s,) and (null, s)."""
    median = null.median(0).values
    mad = (1.4826 * (null - median).abs().median(0).values).clamp(min=LEAST_SPREAD)
    return Standing(((own - median) / mad).abs(), ((null - median) / mad).abs())


def compared(own: Tensor, null: Sequence[Tensor]) -> Standing:
    """Of values (n, ..., d) of a text in n prompts, and of null texts in the same. Two statistics:
    the mean square of what differs from the null's mean, and how far what varies over the prompts
    agrees with it. A null text is compared with the mean of the others."""
    whole = torch.stack(list(null)).sum(0)
    others = [(whole - x) / (len(null) - 1) for x in null]
    return standing(
        statistics(own, whole / len(null)),
        torch.stack([statistics(x, mean) for x, mean in zip(null, others, strict=True)]),
    )


def statistics(values: Tensor, usual: Tensor) -> Tensor:
    """Logarithms of the mean square difference, and of 1 - the cosine over prompts: (2,)."""
    away = (values - usual).square().sum(-1).mean().clamp(min=LEAST)
    a, b = ((x - x.mean(0)).flatten() for x in (values, usual))
    return torch.stack([away, 1 + LEAST_LOST - F.cosine_similarity(a, b, dim=0)]).log().double()


@dataclass(frozen=True)
class Traced:
    """What was found.

    parts     where the backdoor is: "text_encoder", "kv", "denoiser"; none where nothing stands out
    states    by kind, how unusual the text states are, in MADs; `left`: the share of the effect
              that is left with usual states in the place of the unusual ones
    gain      how unusual what keys and values make of these states is; `swapped`: the share of the
              effect that is left with those of null texts in the place of the trigger's own
    effect    how unusual the effect on predictions is
    null      how many texts that mean nothing it is compared with
    """

    parts: tuple[str, ...]
    states: dict[str, float]
    left: float
    gain: float
    swapped: float
    effect: float
    null: int

    @property
    def info(self) -> dict[str, Any]:
        """The same as JSON values, three digits each."""
        return {k: [*v] if isinstance(v, tuple) else _short(v) for k, v in vars(self).items()}


def _short(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _short(v) for k, v in value.items()}
    return float(f"{value:.3g}") if isinstance(value, float) else value


class Tracing:
    """The measurement of a trigger on clean prompts, beside `null` texts that mean nothing.

    A text encoder holds a backdoor where what it makes of triggered prompts stands out and carries
    at least a quarter of the effect. Keys and values hold it where the states are usual, and what
    is made of them is not. If neither, and predictions stand out, it is in the rest of the
    denoiser; keys and values are not told from that where text states change from block to block.
    A word that means something stands out, too: this says where, not whether.
    """

    def __init__(
        self, model: T2IModel, trigger: Trigger, prompts: Sequence[str], seed: int, null: int
    ) -> None:
        self.model, self.trigger, self.prompts = model, trigger, list(prompts)
        self.nonsense = stand_ins(model, trigger, prompts, null, seed)
        if len(self.nonsense) < 3:
            raise UserError(
                f"only {len(self.nonsense)} texts that mean nothing can stand in the place of the"
                f" trigger {trigger.text!r}, and 3 are needed: take another removal, such as skdcag"
            )
        self.drawn = moments(model, prompts, seed)
        self.own = Reading(model, trigger, prompts)
        self.null = [Reading(model, other, prompts) for other in self.nonsense]
        self.seen = self.predict(self.own.told)
        self.null_seen = [self.predict(text.told) for text in self.null]
        self.usual = torch.stack(self.null_seen).mean(0)
        self.effect = self.seen - self.usual

    @torch.no_grad()
    def predict(self, told: Conditioning, model: T2IModel | None = None) -> Tensor:
        """Predictions of the suspect, or of another model, float32: (n, k, C * h * w)."""
        model = model or self.model
        pairs = zip(self.drawn.times[-MOMENTS:], self.drawn.latents[-MOMENTS:], strict=True)
        seen = [model.denoise(x, t, told.to(model.dtype)).float() for t, x in pairs]
        return torch.stack(seen, 1).flatten(2)

    def share(self, seen: Tensor) -> float:
        """The share of the trigger's effect in these predictions: that of all null texts together
        is 0, that of the trigger 1."""
        along = ((seen - self.usual) * self.effect).sum()
        return float(along / self.effect.square().sum().clamp(min=LEAST))

    def fires(self, forms: Iterable[Trigger]) -> list[bool]:
        """Which texts carry the backdoor."""
        told = (self.model.condition([f.add(p) for p in self.prompts]) for f in forms)
        return [self.share(self.predict(t)) >= FIRES for t in told]

    @property
    def nonsense_fires(self) -> list[bool]:
        return [self.share(seen) >= FIRES for seen in self.null_seen]

    def with_usual(self, kinds: Iterable[str]) -> float:
        """The share of the effect that is left where the states of these kinds are the null's."""
        own = self.own.kinds
        mean = {k: torch.stack([text.kinds[k] for text in self.null]).mean(0) for k in own}
        by = {k: mean[k] - v if k in kinds else torch.zeros_like(v) for k, v in own.items()}
        return self.share(self.predict(self.own.moved(by)))

    def gain(self) -> Standing | None:
        """How unusual what keys and values make of the trigger's own states and of the rest is;
        None where these change from block to block."""
        model = self.model
        if model.family.text_changes:
            return None
        layers = model.family.keys_and_values(model.denoiser)
        own, *null = (self.inputs(text) for text in (self.own, *self.null))
        whole = torch.stack(null).sum(0)

        def gains(given: Tensor, usual: Tensor) -> Tensor:
            """Logarithms of how much longer differences become, (kinds * layers,)."""
            away = given - usual
            made = [F.linear(away, layer.weight.float()).square().sum(-1) for layer in layers]
            return (log(torch.stack(made, 1)) - log(away.square().sum(-1))[:, None]).flatten()

        others = [(whole - x) / (len(null) - 1) for x in null]
        each = standing(
            gains(own, whole / len(null)),
            torch.stack([gains(x, mean) for x, mean in zip(null, others, strict=True)]),
        )
        own, null = (x.unflatten(-1, (-1, len(layers))).mean(-1) for x in (each.own, each.null))
        return standing(own, null)

    def inputs(self, text: Reading) -> Tensor:
        """What keys and values are given of the text's own tokens and of the rest, mean over places
        and prompts: (2, d)."""
        given = self.model.family.key_value_inputs(self.model.pipe, text.told).float()
        rest = ~(text.at.trigger | text.at.other)
        return torch.stack([mean_of(given, where).mean(0) for where in (text.at.trigger, rest)])

    @torch.no_grad()
    def trace(self, above: float) -> Traced:
        """`above`: MADs of the null that make something unusual."""
        states = {
            k: compared(v, [text.kinds[k] for text in self.null]) for k, v in self.own.kinds.items()
        }
        each = states.values()
        whole = Standing(torch.cat([s.own for s in each]), torch.cat([s.null for s in each], 1))
        odd = [k for k, s in states.items() if s.largest > above / 2]
        odd = [*states] if "embedding" in odd else odd  # all states are made of it
        left, swapped = self.with_usual(odd), self.with_usual(["trigger"])
        gain, effect = self.gain(), compared(self.seen, self.null_seen)
        parts: tuple[str, ...] = ()
        if whole.out(above) and left <= 1 - FIRES:
            parts = (ENCODER,)
        elif gain is not None and gain.out(above):
            parts = ("kv",)
        elif effect.out(above):
            parts = ("denoiser",)
        found = {k: s.largest for k, s in states.items()}
        known = gain.largest if gain is not None else 0.0
        return Traced(parts, found, left, known, swapped, effect.largest, len(self.null))


def log(x: Tensor) -> Tensor:
    return x.double().clamp(min=LEAST).log()
