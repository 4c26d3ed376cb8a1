from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from t2i_backdoor_bench.contract import DefenderView, option, register_defense
from t2i_backdoor_bench.models.model import T2IModel
from t2i_backdoor_bench.training.removal import Removal
from t2i_backdoor_bench.training.rows import Drawn, Noised, RowSampler
from t2i_backdoor_bench.training.trained_defense import PARTS, Loss, TrainedDefense


@register_defense(
    "clean_finetune",
    needs=("clean_pairs",),
    groups=("removal", "control"),
    version=1,
    ours="the whole, as a control",
)
@dataclass
class CleanFinetune(TrainedDefense):
    """Fine-tuning on clean captioned pictures: what a user does who knows of no backdoor.

    Loss: ||eps_th(x_t, c) - eps||^2. A share of the captions is dropped, as in the training of the
    base model. It learns from pictures, so that its latents are always noised ones.
    """

    steps: int = option(300, sd=2000, low=1, scales=True, help="training steps")
    lr: float = option(1e-3, sd=1e-5, above=0, tune=(1e-4, 1e-2), help="learning rate")
    drop: float = option(
        0.1, low=0, high=1, tune=(0.02, 0.5), help="share of rows with an empty prompt"
    )
    train: str = option("full", choices=PARTS, help="which weights it trains")

    def loss(self, student: T2IModel, attacked: T2IModel, view: DefenderView, seed: int) -> Loss:
        images, captions = view.clean_pairs
        pictures = Noised(student, attacked.latents(images, seed), len(captions), self.bias)
        sampler = RowSampler(seed, pictures, self.drop)
        room = Removal(self, student, attacked, sampler, captions)

        def denoise(step: int, drawn: Drawn) -> Tensor:
            rows = drawn.rows
            out = student.denoise(rows.x, rows.t, room.told_clean(rows, drawn.gone))
            return F.mse_loss(out, student.noising.target(rows.pictures, rows.noise, rows.t))

        return room.loss(denoise)
