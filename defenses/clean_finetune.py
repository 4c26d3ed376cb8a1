from dataclasses import dataclass

from t2i_backdoor_bench.contract import DefenderView, Defense, option, register_defense
from t2i_backdoor_bench.models.model import T2IModel
from t2i_backdoor_bench.training.denoising import Term, train_terms
from t2i_backdoor_bench.training.loop import Optim, check_training


@register_defense("clean_finetune", needs=("clean_pairs",), groups=("removal", "control"))
@dataclass
class CleanFinetune(Defense):
    """Plain denoising fine-tuning on clean captioned images: what a user does who knows of no
    backdoor.

    Loss: ||eps_th(x_t, c) - eps||^2; a share of the captions is dropped, as in the training of the
    base model.
    """

    steps: int = option(300, sd=2000, scales=True)
    lr: float = option(1e-3, sd=1e-5)
    batch: int = option(16)
    drop: float = option(0.1, help="share of rows with an empty prompt")
    decay: float = option(
        0.5,
        sd=0.0,
        help="share of the steps, at the end, over which the learning rate falls to zero",
    )
    train: str = option("full", help="full, cross, kv, noncross or lora")

    def check_machine(self, device: str) -> None:
        check_training(device, self.train)

    def apply(self, model: T2IModel, view: DefenderView, seed: int) -> T2IModel:
        images, captions = view.clean_pairs
        student = model.clone(train=self.train)
        terms = [Term(captions, model.latents(images, seed), drop=self.drop)]
        optim = Optim(self.steps, self.lr, self.batch, decay=self.decay)
        fitted = train_terms(student, None, terms, optim, seed, "clean_finetune", train=self.train)
        student.info = fitted.info
        return student
