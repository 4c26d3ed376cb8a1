from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from t2i_backdoor_bench.contract import DefenderView, Difference, option, register_defense
from t2i_backdoor_bench.models.model import T2IModel
from t2i_backdoor_bench.training.clean_pairs import FEED_FORWARD, PairDefense, attended, of_pairs
from t2i_backdoor_bench.training.denoising import Term, train_terms
from t2i_backdoor_bench.training.loop import Optim
from t2i_backdoor_bench.training.rows import Drawn
from t2i_backdoor_bench.training.trained_defense import CLIPPING, Loss

DIFFERS = (
    Difference(
        what="layers whose attention is distilled",
        paper="the last three groups of a residual network",
        here=FEED_FORWARD,
        why="they are what all denoisers here have",
    ),
    Difference(
        what="weight of the distillation",
        released="500 for the first of three layers, 1000 for the others",
        here="1000 for all",
        why="there are more layers than three, and one weight to search",
    ),
    CLIPPING,
)


@register_defense(
    "nad",
    needs=("clean_pairs",),
    groups=("removal",),
    paper="li2021neural",
    ours="the form for denoisers of a defense of classifiers",
    version=1,
    differs=DIFFERS,
)
@dataclass
class NAD(PairDefense):
    """Neural attention distillation (Li et al., ICLR 2021, arXiv 2101.05930).

    The teacher is the attacked model after fine-tuning on clean captioned pictures. Loss:
    ||eps_th(x_t, c) - eps||^2 + b * sum over layers of ||A_T / ||A_T|| - A_S / ||A_S||||^2, mean
    over places. A is the sum over channels of the squared activations of a feed-forward block at
    each place: the attention of the paper, not that of text.
    """

    beta: float = option(
        1000.0,
        low=0,
        source="released",
        tune=(100.0, 10000.0),
        help="b, weight of the distillation",
    )
    teacher: int = option(100, sd=500, low=1, scales=True, help="training steps of the teacher")

    def loss(self, student: T2IModel, attacked: T2IModel, view: DefenderView, seed: int) -> Loss:
        room = of_pairs(self, student, attacked, view, seed)
        taught, pictures = attacked.clone(), room.sampler.noised.pictures
        terms = [Term(room.prompts, pictures, drop=self.drop)]
        optim = Optim(self.teacher, self.lr, self.rows())
        train_terms(taught, None, terms, optim, seed + 1, "nad: teacher")
        clean = taught.condition([*room.prompts, ""])

        def distil(step: int, drawn: Drawn) -> Tensor:
            rows = drawn.rows
            out, own = attended(student, rows.x, rows.t, room.told_clean(rows, drawn.gone))
            with torch.no_grad():
                told = clean[room.number(rows, drawn.gone)]
                _, wanted = attended(taught, rows.x, rows.t, told)
            goal = student.noising.target(rows.pictures, rows.noise, rows.t)
            return F.mse_loss(out, goal) + self.beta * distance(own, wanted)

        return room.loss(distil)

    def report(self, loss: Loss) -> dict[str, Any]:
        """The steps and pictures of both trainings."""
        rows = self.rows()
        return {
            "steps": self.steps + self.teacher,
            "images": self.steps * self.batch * self.accumulate + self.teacher * rows,
        }


def distance(own: Sequence[Tensor], wanted: Sequence[Tensor]) -> Tensor:
    """The sum over layers of the mean squared distance of attentions (n, places), each divided by
    its length."""
    pairs = zip(own, wanted, strict=True)
    parts = [F.mse_loss(F.normalize(a, dim=1), F.normalize(b, dim=1)) for a, b in pairs]
    return sum(parts[1:], parts[0])
