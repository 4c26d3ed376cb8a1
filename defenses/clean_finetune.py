from dataclasses import dataclass

from t2i_backdoor_bench.contract import DefenderView, register_defense
from t2i_backdoor_bench.models.model import T2IModel
from t2i_backdoor_bench.training.clean_pairs import PairDefense, denoising, of_pairs
from t2i_backdoor_bench.training.trained_defense import Loss


@register_defense(
    "clean_finetune",
    needs=("clean_pairs",),
    groups=("removal", "control"),
    version=1,
    ours="the whole, as a control",
)
@dataclass
class CleanFinetune(PairDefense):
    """Fine-tuning on clean captioned pictures: what a user does who knows of no backdoor.

    Loss: ||eps_th(x_t, c) - eps||^2. A share of the captions is dropped, as in the training of the
    base model. It learns from pictures, so that its latents are always noised ones.
    """

    def loss(self, student: T2IModel, attacked: T2IModel, view: DefenderView, seed: int) -> Loss:
        room = of_pairs(self, student, attacked, view, seed)
        return room.loss(denoising(room))
