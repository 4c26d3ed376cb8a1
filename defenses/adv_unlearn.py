from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from t2i_backdoor_bench.contract import DefenderView, Difference, option, register_defense
from t2i_backdoor_bench.models.families.conditioning import cat
from t2i_backdoor_bench.models.families.family import ENCODER
from t2i_backdoor_bench.models.model import T2IModel
from t2i_backdoor_bench.training.removal import of_prompts
from t2i_backdoor_bench.training.rows import Drawn
from t2i_backdoor_bench.training.soft_words import soft_word
from t2i_backdoor_bench.training.trained_defense import CLIPPING, PARTS, Loss, WalkedDefense

DIFFERS = (
    Difference(
        what="anchor",
        paper="the empty prompt, for the concept by itself",
        here="the clean prompt of each triggered prompt",
        why="what the prompt asked for is to stay, and only the trigger's part to go",
    ),
    Difference(
        what="steps of the attack on the embedded base",
        released="30",
        here="1, the variant that the paper calls fast",
        why="30 passes a step are half an hour on a CPU; it is an option",
    ),
    Difference(
        what="x_t and timestep of the steps of the attack",
        released="new ones for each, from a new walk",
        here="those of the training step",
        why="30 walks a step would cost more than all the rest",
    ),
    Difference(
        what="clean prompts a step",
        released="5 beside one of the concept",
        here="as many as of the concept",
        why="rows that preserve are half of a batch in every method",
    ),
    CLIPPING,
)


@register_defense(
    "adv_unlearn",
    needs=("trigger", "clean_prompts"),
    groups=("removal", "erasure"),
    paper="zhang2024defensive",
    version=1,
    differs=DIFFERS,
)
@dataclass
class AdvUnlearn(WalkedDefense):
    """Unlearning under attack, in the text encoder (Zhang et al., NeurIPS 2024, arXiv 2405.15234).

    Inner: a vector v before the triggered prompt is moved by `attack` steps of the gradient's sign
    to minimize ||eps_th(x_t, v c+) - eps_0(x_t, c+)||^2, so that the backdoor comes back. Outer:
    ||eps_th(x_t, v c+) - (eps_0(c) - n (eps_0(c+) - eps_0(c)))||^2, and `preserve` times the loss
    that keeps clean prompts. eps_0 is the attacked model. The first steps have no v. Only the text
    encoder trains, without its embeddings of tokens and positions.
    """

    embeddings: ClassVar[bool] = False

    steps: int = option(200, sd=1000, low=1, scales=True, source="released", help="training steps")
    lr: float = option(
        1e-4, sd=1e-5, above=0, source="released", tune=(1e-5, 1e-3), help="learning rate"
    )
    eta: float = option(
        0.25, sd=1.0, low=0, source="released", tune=(0.1, 4.0), help="n, how far beyond the anchor"
    )
    batch: int = option(
        16, sd=2, low=1, source="released", help="student rows a step, preserving rows included"
    )
    attack: int = option(1, sd=30, low=1, source="released", help="steps of the inner attack")
    attack_lr: float = option(
        1e-2, sd=1e-3, above=0, source="released", tune=(1e-3, 1e-1), help="size of its steps"
    )
    warm: float = option(
        0.2, low=0, high=1, source="released", help="share of the steps, the first, without attack"
    )
    preserve: float = option(
        1.0, low=0, source="released", tune=(0.1, 30.0), help="weight of the preserving term"
    )
    train: str = option(
        "text_encoder", choices=PARTS, source="released", help="which weights it trains"
    )

    def loss(self, student: T2IModel, attacked: T2IModel, view: DefenderView, seed: int) -> Loss:
        # as released: what walks is the U-Net, told what the attacked encoder makes of the concept
        walker = self.walker(attacked if self.train == ENCODER else student)
        room = of_prompts(self, student, attacked, view, seed, walker=walker, many=self.draws)
        concept = attacked.condition(room.triggered)
        word = soft_word(attacked, [*room.prompts, *room.triggered], seed)
        ids, first = word.insert(student.tokenize(room.triggered)), int(self.warm * self.steps)

        def attacking(drawn: Drawn, wanted: Tensor) -> list[Tensor]:
            """The vectors that bring the backdoor back, from random ones."""
            rows, found = drawn.rows, []
            for row in word.rows:
                noise = torch.randn(row.shape, generator=drawn.generator).to(row)
                found.append((noise * row.detach().std()).requires_grad_(True))
            for _ in range(self.attack):
                told = word.read(student, ids[rows.pick], found).to(student.dtype)
                error = F.mse_loss(student.denoise(rows.x, rows.t, told), wanted)
                grads = torch.autograd.grad(error, found, allow_unused=True)
                found = [
                    (v if g is None else v - self.attack_lr * g.sign())
                    .detach()
                    .requires_grad_(True)
                    for v, g in zip(found, grads, strict=True)
                ]
            return [v.detach() for v in found]

        def unlearn(step: int, drawn: Drawn) -> Tensor:
            rows = drawn.rows
            with torch.no_grad():
                told = cat([concept[rows.pick], room.clean[rows.pick]])
                both = torch.cat([rows.x, rows.x]), torch.cat([rows.t, rows.t])
                triggered, clean = attacked.denoise(*both, told).chunk(2)
            goal = clean - self.eta * (triggered - clean)
            if step < first:
                told = room.told(rows)
            else:
                vectors = attacking(drawn, triggered)
                told = word.read(student, ids[rows.pick], vectors).to(student.dtype)
            return F.mse_loss(student.denoise(rows.x, rows.t, told), goal)

        return room.loss(unlearn)
