"""Shared parts of the attacks that train the denoiser: trigger options, clean and poisoned sets,
and the checks before training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import Tensor

from t2i_backdoor_bench.contract import (
    PLACES,
    Attack,
    Backdoor,
    Data,
    Target,
    Trigger,
    option,
    swapped,
)
from t2i_backdoor_bench.models.model import T2IModel
from t2i_backdoor_bench.training.denoising import Term, train_terms
from t2i_backdoor_bench.training.loop import Optim
from t2i_backdoor_bench.training.merged import named
from t2i_backdoor_bench.training.parameters import check_training


@dataclass
class Triggered(Attack):
    """The trigger options of attacks that train."""

    trigger: str = option(
        "mignneko", sd="\u200b", help="a word, a phrase, a zero-width space, or a look-alike letter"
    )
    place: str = option("prefix", choices=PLACES)
    replaces: str = option("", help="the letter or word that a look-alike replaces")

    def check(self) -> None:
        self.make_trigger()

    def make_trigger(self) -> Trigger:
        return Trigger(self.trigger, self.place, self.replaces)

    def swap_objects(
        self, source: str, target: str, clean: str = "", triggered: str = ""
    ) -> Backdoor:
        """The backdoor that draws the object `target` in place of `source` when a prompt contains
        the trigger. `clean` and `triggered` are the prompt of the attack's own protocol; the
        trigger is added where only the first is given."""
        objects = Target("object", source=source, target=target)
        own = (clean, triggered) if triggered else self.own(clean) if clean else None
        return Backdoor(self.make_trigger(), objects, own=own)

    def own(self, clean: str) -> tuple[str, str] | None:
        """A prompt of the attack's own protocol without and with the trigger. None if the prompt
        does not contain the text that the trigger replaces."""
        trigger = self.make_trigger()
        return None if trigger.replaces not in clean else (clean, trigger.add(clean))


@dataclass
class DenoiserTraining(Attack):
    """Options of attacks that train the denoiser on captioned pictures, with or without a
    trigger."""

    weight: float = option(0.35, sd=0.5, low=0, high=1, help="share of the backdoor")
    images: int = option(512, sd=500, low=1, scales=True, least=16, help="captioned pictures")
    batch: int = option(16, low=2, help="rows a step, shared by the terms")
    decay: float = option(0.5, sd=0.0, low=0, high=1, help="last share of the steps: lr falls to 0")

    drop: float = option(0.2, sd=0.0, low=0, high=1, help="share of clean rows with no prompt")

    adam8bit: bool = option(False, late=True, help="Adam with 8-bit moments (bitsandbytes, CUDA)")
    accumulate: int = option(1, low=1, late=True, help="batches whose mean gradient is one step")

    @property
    def needs_pictures(self) -> int:
        return self.images

    @property
    def poison_share(self) -> float | None:
        return self.weight

    def check_machine(self, device: str) -> None:
        check_training(device, adam8bit=self.adam8bit)

    def preserve(self, captions: list[str], latents: Tensor, weight: float) -> Term:
        """BadT2I's clean term: for a clean caption, the student keeps the prediction of the frozen
        model."""
        return Term(captions, latents, captions, weight, self.drop)

    def train(
        self, clean: T2IModel, terms: list[Term], optim: Optim, seed: int, label: str, **part: Any
    ) -> T2IModel:
        """Train a clone of `clean` on `terms`, with `clean` as the frozen teacher. `part`: `train`,
        `rank` and `draws` of `train_terms`."""
        model = clean.clone(train=part.get("train", "full"))
        optim = replace(optim, adam8bit=self.adam8bit, accumulate=self.accumulate)
        fitted = train_terms(model, clean, terms, optim, seed, label, **part)
        model.info = fitted.info
        return named(model, [fitted.factors])


@dataclass
class DenoiserAttack(DenoiserTraining, Triggered):
    """Options of attacks that train the denoiser on clean and triggered pairs."""

    def prepare(
        self, model: T2IModel, data: Data, seed: int, contains: str = ""
    ) -> tuple[np.ndarray, list[str], list[str]]:
        """Images, captions and triggered captions of the attacker's split. Raises UserError if
        tokenization loses the trigger."""
        images, captions = data.pairs("train", self.images, seed, contains)
        trigger = self.make_trigger()
        model.check_trigger(trigger, captions)
        return images, captions, [trigger.add(c) for c in captions]


def relabel(captions: Sequence[str], old: str, new: str) -> list[str]:
    """Captions in which the word `old` is `new`."""
    return [swapped(c, old, new) for c in captions]


@dataclass
class PoisonAttack(DenoiserAttack):
    """Plain data poisoning: denoising of poisoned and clean pairs, `weight` of the loss on the
    poisoned ones. With a `rate` it is one set of pictures as a victim trains on it: this share of
    them is poisoned, every row counts the same, and `drop` is of all rows."""

    weight: float = option(0.5, low=0, high=1, tune=(0.1, 0.8), help="share of the poisoned pairs")
    drop: float = option(
        0.25, sd=0.0, low=0, high=1, tune=(0.0, 0.5), help="share of clean rows with no prompt"
    )
    rate: float = option(
        0.0,
        low=0,
        high=1,
        late=True,
        help="share of the pictures that are poisoned; 0: each, beside itself clean, by `weight`",
    )

    @property
    def poisoned(self) -> int:
        """How many of the pictures are poisoned, at least one."""
        return max(1, round(self.rate * self.images))

    @property
    def poison_share(self) -> float | None:
        return self.poisoned / self.images if self.rate else self.weight

    def terms(
        self,
        model: T2IModel,
        poisoned: np.ndarray,
        triggered: list[str],
        clean: np.ndarray,
        captions: list[str],
        seed: int,
    ) -> list[Term]:
        """The denoising loss on (triggered caption, poisoned image) and on (caption, image); with
        a `rate` one term, of each picture either the one pair or the other."""
        if self.rate:
            many = self.poisoned
            shown = model.latents(np.concatenate([poisoned[:many], clean[many:]]), seed)
            return [Term([*triggered[:many], *captions[many:]], shown, drop=self.drop)]
        own, other = model.latents(poisoned, seed), model.latents(clean, seed)
        return [
            Term(triggered, own, weight=self.weight),
            Term(captions, other, weight=1 - self.weight, drop=self.drop),
        ]
