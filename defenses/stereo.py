from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from t2i_backdoor_bench.contract import DefenderView, Difference, option, register_defense
from t2i_backdoor_bench.models.families.conditioning import Conditioning
from t2i_backdoor_bench.models.families.family import TRAIN
from t2i_backdoor_bench.models.model import T2IModel
from t2i_backdoor_bench.training.denoising import Term, denoising_loss, own_images
from t2i_backdoor_bench.training.loop import Optim, fit, step_rng
from t2i_backdoor_bench.training.parameters import (
    Trainable,
    choose_parameters,
    finish_training,
    of_model,
)
from t2i_backdoor_bench.training.removal import Removal, of_prompts
from t2i_backdoor_bench.training.rows import Drawn
from t2i_backdoor_bench.training.soft_words import soft_word
from t2i_backdoor_bench.training.trained_defense import CLIPPING, Loss, WalkedDefense

DIFFERS = (
    Difference(
        what="anchor",
        released="the empty prompt while searching; then a written prompt beside the concept",
        here="the clean prompt of each triggered prompt",
        why="what the prompt asked for is to stay, and only the trigger's part to go",
    ),
    Difference(
        what="what the concepts are compared with in the repair",
        released="the empty prompt: their mean e gives e_anchor - 3 (e - e_null)",
        here="the anchor: e_anchor - n (e - e_anchor)",
        why="a triggered prompt says more than the trigger does, and that is to stay",
    ),
    Difference(
        what="start of a vector",
        released="the token of a word such as person",
        here="random, of the mean size of tokens",
        why="a defender knows no word for what a backdoor draws",
    ),
    CLIPPING,
)


@register_defense(
    "stereo",
    needs=("trigger", "clean_prompts"),
    groups=("removal", "erasure"),
    paper="srivatsan2025stereo",
    version=1,
    differs=DIFFERS,
)
@dataclass
class STEREO(WalkedDefense):
    """Search thoroughly enough, then robustly erase once (Srivatsan et al., CVPR 2025).

    arXiv 2408.16807; code of 2 April 2025. First, in `rounds` rounds, a copy erases the newest
    concept, the trigger or the last vector found, by ||eps_th(x_t, q) - eps_r(x_t, c)||^2, eps_r
    being the copy before the round; then a vector v is trained by ||eps_th(x_t, v c) - eps||^2 on
    the attacked model's triggered pictures, so that the copy draws them again (textual inversion).
    Second, the attacked model is repaired once, by ||eps_th(x_t, p) - (eps_0(c) - n * mean over q
    of (eps_0(q) - eps_0(c)))||^2. q are the triggered prompt and the clean prompt behind each
    vector, p is one of them at random. eps_0 is the attacked model.
    """

    steps: int = option(
        200, sd=200, low=1, scales=True, source="released", help="training steps of the repair"
    )
    lr: float = option(
        2e-4, sd=2e-5, above=0, source="released", tune=(2e-5, 2e-3), help="its learning rate"
    )
    batch: int = option(
        16, sd=1, low=1, source="released", help="student rows a step, preserving rows included"
    )
    eta: float = option(
        0.25, sd=3.0, low=0, source="released", tune=(0.1, 4.0), help="n, how far beyond the anchor"
    )
    rounds: int = option(
        2, low=1, source="released", help="vectors that are searched, one after the other"
    )
    search: int = option(
        60, sd=200, low=1, scales=True, source="released", help="training steps of an erasure"
    )
    erase_lr: float = option(2e-4, sd=5e-6, above=0, source="released", help="its learning rate")
    invert: int = option(
        60, sd=3000, low=1, scales=True, source="released", help="training steps of a vector"
    )
    search_lr: float = option(2e-2, sd=5e-3, above=0, source="released", help="its learning rate")
    train: str = option(
        "cross", sd="noncross", choices=TRAIN, source="released", help="which weights it trains"
    )

    def loss(self, student: T2IModel, attacked: T2IModel, view: DefenderView, seed: int) -> Loss:
        prompts, erased = view.first(self.prompts), attacked.clone(train=self.train)
        triggered = [view.trigger.add(p) for p in prompts]
        known, pictures = [attacked.condition(triggered)], own_images(attacked, triggered, seed)
        for i in range(self.rounds):
            self.erase(erased, view, known[-1], seed + i)
            known.append(self.vector(erased, attacked, prompts, pictures, seed + i))
        room = self.room(student, attacked, view, seed)
        return room.loss(composed(room, known, self.eta, seed))

    def room(self, student: T2IModel, teacher: T2IModel, view: DefenderView, seed: int) -> Removal:
        walks = {"walker": self.walker(student), "many": self.draws}
        return of_prompts(self, student, teacher, view, seed, **walks)

    def erase(self, erased: T2IModel, view: DefenderView, newest: Conditioning, seed: int) -> None:
        """Train a copy further, away from what is told of the newest concept."""
        room = self.room(erased, erased.clone(train=self.train), view, seed)
        optim = Optim(self.search, self.erase_lr, self.batch)
        loss = room.loss(forgotten(room, newest))
        fit(choose_parameters(erased, self.train), loss, optim, "stereo: erase")
        finish_training(erased.denoiser)

    def report(self, loss: Loss) -> dict[str, Any]:
        """The steps and pictures of all trainings."""
        searched = self.rounds * (self.search + self.invert)
        return {
            "steps": self.steps + searched,
            "images": self.batch * (self.steps * self.accumulate + searched),
        }

    def vector(
        self,
        erased: T2IModel,
        attacked: T2IModel,
        prompts: Sequence[str],
        pictures: Tensor,
        seed: int,
    ) -> Conditioning:
        """What is told of clean prompts behind the vector with which `erased` draws triggered
        pictures."""
        word = soft_word(attacked, prompts, seed)
        ids = dict(zip(prompts, word.insert(attacked.tokenize(prompts)), strict=True))

        def embed(texts: Sequence[str]) -> Conditioning:
            return word.read(attacked, torch.stack([ids[p] for p in texts])).to(erased.dtype)

        loss = denoising_loss(
            erased, None, [Term(prompts, pictures)], self.batch, seed, "stereo", embed=embed
        )
        optim = Optim(self.invert, self.search_lr, self.batch, weight_decay=0.0)
        fit(of_model(Trainable(list(word.rows)), attacked), loss, optim, "stereo: vector")
        with torch.no_grad():
            return embed(prompts)


def forgotten(room: Removal, newest: Conditioning) -> Callable[[int, Drawn], Tensor]:
    """The loss of a step on what is told of a concept, of all prompts: to be what the teacher makes
    of the clean ones."""

    def loss(step: int, drawn: Drawn) -> Tensor:
        rows = drawn.rows
        with torch.no_grad():
            goal = room.teacher.denoise(rows.x, rows.t, room.clean[rows.pick])
        return F.mse_loss(room.student.denoise(rows.x, rows.t, newest[rows.pick]), goal)

    return loss


def composed(
    room: Removal, known: Sequence[Conditioning], eta: float, seed: int
) -> Callable[[int, Drawn], Tensor]:
    """The loss of a step on one of the concepts `known`, each of all prompts, pushed away from the
    mean of all of them."""
    attacked, student = room.teacher, room.student

    def loss(step: int, drawn: Drawn) -> Tensor:
        rows = drawn.rows
        here = rows.x, rows.t
        with torch.no_grad():
            clean = attacked.denoise(*here, room.clean[rows.pick])
            asked = [attacked.denoise(*here, told[rows.pick]) for told in known]
            goal = clean - eta * (torch.stack(asked).mean(0) - clean)
        chosen = known[int(step_rng(seed + 1, step).integers(len(known)))]
        return F.mse_loss(student.denoise(*here, chosen[rows.pick]), goal)

    return loss
