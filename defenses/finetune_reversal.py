from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from t2i_backdoor_bench.contract import DefenderView, Difference, option, register_defense
from t2i_backdoor_bench.models.model import T2IModel
from t2i_backdoor_bench.training.removal import of_prompts
from t2i_backdoor_bench.training.rows import LATENTS, Drawn
from t2i_backdoor_bench.training.trained_defense import CLIPPING, PARTS, Loss, PromptDefense

DIFFERS = (
    Difference(
        what="preserving term",
        paper="none",
        here="on the embedded base the same loss on clean prompts",
        why="without it the model forgets them; set preserve to 0 to leave it out",
    ),
    CLIPPING,
)


@register_defense(
    "finetune_reversal",
    needs=("trigger", "clean_model", "clean_prompts"),
    groups=("baseline", "removal"),
    version=1,
    differs=DIFFERS,
)
@dataclass
class FinetuneReversal(PromptDefense):
    """Fine-tuning reversal: distil the clean model back (a baseline of arXiv 2508.18235).

    Loss: ||student(x_t, c+) - clean(x_t, c+)||^2, and with `preserve` the same for clean prompts.
    This is the oracle of the SKD-CAG paper: it needs the model from before the attack, so it bounds
    what repair of the U-Net alone can reach.
    """

    steps: int = option(220, sd=2500, low=1, scales=True, source="released", help="training steps")
    lr: float = option(
        1e-3, sd=1e-6, above=0, source="paper", tune=(1e-4, 1e-2), help="learning rate"
    )
    batch: int = option(
        16, sd=4, low=1, source="released", help="student rows a step, preserving rows included"
    )
    prompts: int = option(100, low=1, scales=True, least=16, source="paper", help="clean prompts")
    latents: str = option(
        "own", sd="noise", choices=LATENTS, source="paper", tune=LATENTS, help="what x_t is"
    )
    preserve: float = option(
        1.0,
        sd=0.0,
        low=0,
        source="paper",
        tune=(0.1, 300.0),
        help="weight of the same loss on clean prompts",
    )
    drop: float = option(
        0.25,
        sd=0.0,
        low=0,
        high=1,
        source="paper",
        help="share of empty prompts among those preserved",
    )
    train: str = option(
        "cross", sd="full", choices=PARTS, source="paper", help="which weights it trains"
    )

    def loss(self, student: T2IModel, attacked: T2IModel, view: DefenderView, seed: int) -> Loss:
        clean = view.clean_model
        room = of_prompts(self, student, attacked, view, seed, teacher=clean)
        wanted = clean.condition(room.triggered)

        def erase(step: int, drawn: Drawn) -> Tensor:
            rows = drawn.rows
            with torch.no_grad():
                goal = clean.denoise(rows.x, rows.t, wanted[rows.pick])
            return F.mse_loss(student.denoise(rows.x, rows.t, room.told(rows)), goal)

        return room.loss(erase)
