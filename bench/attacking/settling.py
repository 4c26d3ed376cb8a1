"""What keeps a hardened model inconspicuous: without the defense it draws as the plain attack
does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from t2i_backdoor_bench.contract import Data, Rehearsal, UserError
from t2i_backdoor_bench.models.model import T2IModel
from t2i_backdoor_bench.training.denoising import Term, denoising_loss, own_images
from t2i_backdoor_bench.training.encoders import train_encoder
from t2i_backdoor_bench.training.loop import Optim, fit
from t2i_backdoor_bench.training.parameters import choose_parameters, finish_training

DROP = 0.25  # of the clean rows have no prompt


@dataclass(frozen=True)
class Settling:
    """Distillation of the plain attack: for clean prompts, for the empty one and, where there is a
    trigger, for triggered ones, on noised pictures that it draws, a hardened model predicts what
    `plain` does. It trains the networks that the attack changed."""

    clean: T2IModel
    plain: T2IModel
    terms: tuple[Term, ...]

    def __call__(self, model: T2IModel, optim: Optim, seed: int) -> T2IModel:
        """A copy of `model` after `optim.steps` steps on each network that the attack changed."""
        denoiser, encoders = changed(self.clean, self.plain)
        info = {"steps": 0, "images": 0}
        if denoiser:
            student = model.clone()
            trained = choose_parameters(student, "full")
            fitted = fit(trained, self.loss(student, optim, seed), optim, "settle")
            finish_training(student.denoiser)
            model, info = student, added(info, fitted.info)
        if encoders:

            def make(student: T2IModel) -> Callable[[int], Tensor]:
                return self.loss(student, optim, seed, embed=student.embed)

            model = train_encoder(model, make, optim, "settle", embeddings=False)
            info = added(info, model.info)
        model.info = info
        return model

    def loss(
        self, student: T2IModel, optim: Optim, seed: int, **how: object
    ) -> Callable[[int], Tensor]:
        return denoising_loss(
            student, self.plain, list(self.terms), optim.batch, seed, "settle", **how
        )


def settling(rehearse: Rehearsal, plain: T2IModel, data: Data, many: int, seed: int) -> Settling:
    """For `many` captions of the attacker's. Raises UserError where none can have the trigger."""
    trigger = rehearse.backdoor.trigger
    texts = [p.text for p in data.prompts("train", 4 * many, seed + 1)]
    clean = [t for t in texts if trigger is None or trigger.replaces in t][:many]
    if not clean:
        raise UserError(f"no caption contains {trigger.replaces!r}: nothing can have the trigger")
    asked = [clean] + ([[trigger.add(t) for t in clean]] if trigger else [])
    shown = own_images(plain, [t for texts in asked for t in texts], seed).cpu().split(len(clean))
    terms = [
        Term(texts, latents, texts, drop=DROP if texts is clean else 0.0)
        for texts, latents in zip(asked, shown, strict=True)
    ]
    return Settling(rehearse.clean, plain, tuple(terms))


def changed(clean: T2IModel, attacked: T2IModel) -> tuple[bool, bool]:
    """Whether an attack changed the denoiser, and whether a text encoder."""

    def differs(name: str) -> bool:
        pairs = zip(
            clean.edited[name].parameters(), attacked.edited[name].parameters(), strict=True
        )
        return not all(a is b or torch.equal(a, b) for a, b in pairs)

    denoiser, *encoders = clean.edited
    return differs(denoiser), any(map(differs, encoders))


def added(spent: dict[str, int], info: dict[str, object]) -> dict[str, int]:
    """What was spent so far and what a training cost."""
    return {k: v + info.get(k, 0) for k, v in spent.items()}
