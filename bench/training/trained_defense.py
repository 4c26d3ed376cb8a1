"""What defenses that train have in common: the options that belong to the training and not to the
idea, and the training itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from torch import Tensor

from t2i_backdoor_bench.contract import DefenderView, Defense, Difference, UserError, option
from t2i_backdoor_bench.models.families.family import ENCODER, TRAIN
from t2i_backdoor_bench.models.model import T2IModel
from t2i_backdoor_bench.training.encoders import train_encoder
from t2i_backdoor_bench.training.loop import Optim, fit
from t2i_backdoor_bench.training.parameters import (
    Trainable,
    check_training,
    choose_parameters,
    finish_training,
)
from t2i_backdoor_bench.training.rows import LATENTS, Draws

PARTS = (*TRAIN, ENCODER)  # what an option `train` can say
Loss = Callable[[int], Tensor]

CLIPPING = Difference(
    what="size of a gradient",
    released="not limited",
    here="its norm is at most 1",
    why="one training loop serves all methods, and a training that runs away is no result",
)


@dataclass
class TrainedDefense(Defense):
    """A defense that trains the attacked model. Write `loss`. An option is declared again where a
    method's default differs. `embeddings`: whether those of tokens and positions train with a text
    encoder."""

    embeddings: ClassVar[bool] = True

    steps: int = option(200, low=1, scales=True, help="training steps")
    lr: float = option(3e-4, above=0, tune=(3e-5, 3e-3), help="learning rate")
    batch: int = option(16, low=1, help="student rows a step, preserving rows included")
    preserve: float = option(
        0.0, low=0, late=True, tune=(0.1, 300.0), help="weight of the preserving term"
    )
    drop: float = option(
        0.25, low=0, high=1, late=True, help="share of empty prompts among those preserved"
    )
    bias: float = option(
        1.0, above=0, late=True, help="above 1: more of the high noise levels; not on trajectories"
    )
    train: str = option(
        "cross", sd="full", choices=PARTS, help="which weights it trains; text_encoder: that alone"
    )
    ema: float = option(0.0, low=0, high=1, late=True, help="decay of the weight average; 0: none")
    decay: float = option(0.5, sd=0.0, low=0, high=1, help="last share of the steps: lr falls to 0")
    weight_decay: float = option(0.01, low=0, late=True, help="weight decay of AdamW")
    adam8bit: bool = option(False, late=True, help="Adam with 8-bit moments (bitsandbytes, CUDA)")
    accumulate: int = option(1, low=1, late=True, help="batches whose mean gradient is one step")

    @property
    def label(self) -> str:
        """What stands over the bar of progress, and in an error of the training."""
        return type(self).__name__.lower()

    @property
    def drawing(self) -> Draws:
        """How the rows of a step are drawn."""
        return Draws(bias=self.bias, drop=self.drop, preserve=self.preserve > 0)

    @property
    def optim(self) -> Optim:
        return Optim(
            self.steps,
            self.lr,
            self.batch,
            weight_decay=self.weight_decay,
            decay=self.decay,
            ema=self.ema,
            adam8bit=self.adam8bit,
            accumulate=self.accumulate,
        )

    def rows(self, kinds: int = 1) -> int:
        """Rows of each kind, where a step has `kinds` of them beside the preserving ones."""
        return max(1, self.batch // (kinds + (self.preserve > 0)))

    def check(self) -> None:
        if self.preserve and self.batch < 2:
            raise UserError(
                f"preserve={self.preserve:g} shares the batch with clean prompts: give batch=2 or"
                " more"
            )

    def check_machine(self, device: str) -> None:
        check_training(device, self.train, self.adam8bit)

    def loss(self, student: T2IModel, attacked: T2IModel, view: DefenderView, seed: int) -> Loss:
        """The loss of one step as a function of its number."""
        raise NotImplementedError

    def report(self, loss: Loss) -> dict[str, Any]:
        """What is told of the training beside its cost, by name."""
        return {}

    def fit(self, trained: Trainable, loss: Loss) -> dict[str, Any]:
        """Minimize the loss over parameters of the denoiser; what it cost."""
        return fit(trained, loss, self.optim, self.label).info

    def begin(self, model: T2IModel, view: DefenderView, seed: int) -> T2IModel:
        """What the training begins with: the attacked model, unless something is edited first."""
        return model

    def apply(self, model: T2IModel, view: DefenderView, seed: int) -> T2IModel:
        begin, made = self.begin(model, view, seed), list[Loss]()

        def make(student: T2IModel) -> Loss:
            made.append(self.loss(student, model, view, seed))
            return made[0]

        if self.train == ENCODER:
            repaired = train_encoder(
                begin, make, self.optim, self.label, embeddings=self.embeddings
            )
        else:
            repaired = begin.clone(train=self.train)
            make(repaired)
            repaired.info = self.fit(choose_parameters(repaired, self.train), made[0])
            finish_training(repaired.denoiser)
        repaired.info = repaired.info | self.report(made[0])
        return repaired


@dataclass
class PromptDefense(TrainedDefense):
    """A defense that trains on the defender's clean prompts, which it draws itself."""

    prompts: int = option(
        100, low=1, scales=True, least=16, help="clean prompts that the defender uses"
    )
    latents: str = option(
        "own",
        choices=LATENTS,
        late=True,
        tune=LATENTS,
        help=(
            "own: noised pictures that the attacked model draws; noise: pure noise; trajectory:"
            " what the student is given while it draws"
        ),
    )
    refresh: int = option(
        250, low=1, late=True, help="steps after which trajectories are drawn again"
    )

    @property
    def needs_prompts(self) -> int:
        return self.prompts

    @property
    def drawing(self) -> Draws:
        return Draws(self.latents, self.refresh, self.bias, self.drop, self.preserve > 0)

    def check(self) -> None:
        super().check()
        if self.latents == "trajectory" and self.bias != 1:
            raise UserError(
                f"bias {self.bias:g} says how timesteps are drawn, and trajectories have their own:"
                " set latents to own or noise"
            )


@dataclass
class WalkedDefense(PromptDefense):
    """A defense of prompts whose released code takes x_t from a walk on the concept, anew at each
    step. The embedded base, where a walk costs more than a step, takes noised pictures."""

    latents: str = option(
        "own",
        sd="trajectory",
        choices=LATENTS,
        late=True,
        source="released",
        tune=LATENTS,
        help="what x_t is",
    )
    refresh: int = option(
        250, sd=1, low=1, late=True, source="released", help="steps after which walks are done anew"
    )
    draws: int = option(
        24, sd=1, low=1, late=True, source="released", help="prompts that are then walked"
    )
    walk: float = option(
        0.0,
        sd=3.0,
        low=0,
        late=True,
        source="released",
        help="guidance of the walks; 0: the model's own",
    )

    def walker(self, model: T2IModel) -> T2IModel:
        """The same model, which walks with this guidance."""
        if not self.walk:
            return model
        return replace(model, sampler=replace(model.sampler, guidance=self.walk))
