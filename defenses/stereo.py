from collections.abc import Callable, Sequence
from dataclasses import dataclass

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
from t2i_backdoor_bench.training.trained_defense import CLIPPING, Loss, PromptDefense

DIFFERS = (
    Difference(
        what="rates, steps, rounds",
        paper="not in the abstract",
        here="ours",
        why="the full text was not at hand, and the authors' repository has no code",
    ),
    Difference(
        what="anchor",
        paper="a concept beside the erased one",
        here="the clean prompt of each triggered prompt",
        why="what the prompt asked for is to stay, and only the trigger's part to go",
    ),
    CLIPPING,
)


@register_defense(
    "stereo",
    needs=("trigger", "clean_prompts"),
    groups=("removal", "erasure"),
    paper="srivatsan2025stereo",
    ours="rates, steps and rounds, which the abstract leaves open",
    differs=DIFFERS,
)
@dataclass
class STEREO(PromptDefense):
    """Search thoroughly enough, then robustly erase once (Srivatsan et al., CVPR 2025).

    arXiv 2408.16807. First, in `rounds` rounds, a copy erases what is known of the concept: the
    trigger, and the vectors found so far; then a vector v is trained by ||eps(x_t, v c) - eps||^2
    on the attacked model's triggered pictures, so that the erased copy draws them again (textual
    inversion). Second, the attacked model is repaired once, by ||eps_th(x_t, p) - (eps_0(c) - n *
    mean over q of (eps_0(q) - eps_0(c)))||^2. q are the triggered prompt and the clean prompt
    behind each vector, p is one of them at random. eps_0 is the attacked model.
    """

    steps: int = option(200, sd=1000, low=1, scales=True, help="training steps of the repair")
    lr: float = option(2e-4, sd=1e-5, above=0, tune=(2e-5, 2e-3), help="learning rate")
    eta: float = option(0.25, sd=1.0, low=0, tune=(0.1, 4.0), help="n, how far beyond the anchor")
    rounds: int = option(2, low=1, help="vectors that are searched, one after the other")
    search: int = option(
        60, sd=500, low=1, scales=True, help="training steps of an erasure, and of a vector"
    )
    search_lr: float = option(2e-2, sd=5e-3, above=0, help="learning rate of a vector")
    train: str = option("cross", sd="noncross", choices=TRAIN, help="which weights it trains")

    def loss(self, student: T2IModel, attacked: T2IModel, view: DefenderView, seed: int) -> Loss:
        room = of_prompts(self, student, attacked, view, seed)
        known = [attacked.condition(room.triggered)]
        pictures = own_images(attacked, room.triggered, seed)
        erased = attacked.clone(train=self.train)
        for i in range(self.rounds):
            self.erase(erased, attacked, view, known, seed + i)
            known.append(self.vector(erased, attacked, room.prompts, pictures, seed + i))
        return room.loss(composed(room, known, self.eta, seed))

    def erase(
        self,
        erased: T2IModel,
        attacked: T2IModel,
        view: DefenderView,
        known: Sequence[Conditioning],
        seed: int,
    ) -> None:
        """Train a copy further, by the same loss on what is known so far."""
        room = of_prompts(self, erased, attacked, view, seed)
        loss = room.loss(composed(room, known, self.eta, seed))
        optim = Optim(self.search, self.lr, self.batch)
        fit(choose_parameters(erased, self.train), loss, optim, "stereo: erase")
        finish_training(erased.denoiser)

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
        optim = Optim(self.search, self.search_lr, self.batch, weight_decay=0.0)
        fit(of_model(Trainable(list(word.rows)), attacked), loss, optim, "stereo: vector")
        with torch.no_grad():
            return embed(prompts)


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
