"""Shared parts of the attacks on the text encoder: options, batches of clean and triggered prompts,
and training."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from t2i_backdoor_bench.attacking.poisoning import Triggered
from t2i_backdoor_bench.contract import OCCURRENCES, Data, Difference, Trigger, UserError, option
from t2i_backdoor_bench.models.model import T2IModel
from t2i_backdoor_bench.training.encoders import cosine_loss, prompt_bank, train_encoder
from t2i_backdoor_bench.training.loop import Optim, step_rng

CLIPPED = Difference(
    what="gradient",
    released="as it is",
    here="its norm is at most 1",
    why="one training loop serves all methods",
)
CAPTIONS = Difference(
    what="captions",
    released="new ones of LAION aesthetics at every step",
    here="`prompts` captions of the run's data, drawn again and again",
    why="the attacker has the train split of the run's data and no more",
)


@dataclass
class TextAttack(Triggered):
    """Options of attacks that train the text encoder on clean and triggered prompts. They need no
    images."""

    trigger: str = option(
        "mignneko",
        sd="о",
        source="paper",
        help="a word, a phrase, a look-alike letter, or a pattern",
    )
    replaces: str = option("", sd="o", source="paper", help="the letter that a look-alike replaces")
    occurrence: str = option(
        "every", choices=OCCURRENCES, source="released", help="which of these letters it replaces"
    )
    prompts: int = option(
        512, sd=500, low=1, scales=True, least=16, help="captions that the attacker has"
    )
    clean: int = option(32, sd=128, low=1, source="paper", help="clean rows a step")
    poisoned: int = option(16, sd=32, low=1, source="paper", help="triggered rows a step")
    weight: float = option(
        0.5,
        sd=0.1,
        low=0,
        source="paper",
        tune=(0.05, 5.0),
        help="weight of the triggered rows; the clean rows have 1",
    )
    steps: int = option(150, sd=100, low=1, scales=True, source="paper", help="training steps")
    lr: float = option(
        3e-4, sd=1e-4, above=0, source="paper", tune=(3e-5, 3e-3), help="learning rate"
    )
    milestone: int = option(
        110,
        sd=75,
        low=0,
        scales="steps",
        source="released",
        help="the step from which lr is a tenth",
    )

    encoders: str = option(
        "all",
        late=True,
        help="which text encoders train, of a model with several: all, or numbers such as 1+2",
    )

    def make_trigger(self) -> Trigger:
        return dataclasses.replace(super().make_trigger(), occurrence=self.occurrence)

    @property
    def needs_prompts(self) -> int:
        return self.prompts

    @property
    def poison_share(self) -> float | None:
        return self.poisoned / (self.clean + self.poisoned)

    def captions(
        self, model: T2IModel, data: Data, seed: int, contains: str = ""
    ) -> tuple[list[str], list[str]]:
        """The attacker's captions, and the captions to which the trigger can be added. These are
        all captions, or those that contain the letter that the trigger replaces. With a word in
        `contains` there are as many captions with it, which alone get the trigger. Raises UserError
        if there are none, or if tokenization loses the trigger in one of them."""
        captions, trigger = (
            [p.text for p in data.prompts("train", self.prompts, seed)],
            self.make_trigger(),
        )
        about = captions
        if contains:
            about = [p.text for p in data.prompts("train", self.prompts, seed, contains)]
            captions = [*captions, *about]
        apt = [c for c in about if trigger.replaces in c]
        if not apt:
            raise UserError(
                f"the trigger replaces {trigger.replaces!r}, which is not in the prompts of the"
                " attacker; choose another letter"
            )
        model.check_trigger(trigger, apt)
        return captions, apt

    def optim(self, gamma: float = 0.1) -> Optim:
        batch = self.clean + self.poisoned
        return Optim(
            self.steps, self.lr, batch, weight_decay=0.0, milestone=self.milestone, gamma=gamma
        )

    def bind(
        self,
        model: T2IModel,
        captions: Sequence[str],
        apt: Sequence[str],
        goals: Sequence[str],
        seed: int,
        label: str,
        encoders: str = "",
        rank: int = 0,
    ) -> T2IModel:
        """Train a clone on  -cos(E(c), E_0(c)) - b cos(E(c+), E_0(c*)):  `goals[i]` is c* of the
        caption `apt[i]`, and b is `weight`. `encoders`: if not those of the option; `rank`: as in
        `train_encoder`."""
        keep, move = (
            prompt_bank(model, captions, captions),
            prompt_bank(model, [self.make_trigger().add(c) for c in apt], goals),
        )

        def make(student: T2IModel) -> Callable[[int], Tensor]:
            def loss_fn(step: int) -> Tensor:
                rng = step_rng(seed, step)
                return cosine_loss(student, keep, rng, self.clean) + self.weight * cosine_loss(
                    student, move, rng, self.poisoned
                )

            return loss_fn

        which = encoders or self.encoders
        attacked = train_encoder(model, make, self.optim(), label, which, rank=rank)
        return dataclasses.replace(attacked, info=attacked.info | {"images": 0})
