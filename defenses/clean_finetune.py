from dataclasses import dataclass

from t2i_backdoor_bench.contract import DefenderView, Defense, option, register_defense
from t2i_backdoor_bench.models.families.family import TRAIN
from t2i_backdoor_bench.models.model import T2IModel
from t2i_backdoor_bench.training.denoising import Term, train_terms
from t2i_backdoor_bench.training.loop import Optim
from t2i_backdoor_bench.training.parameters import check_training


@register_defense("clean_finetune", needs=("clean_pairs",), groups=("removal", "control"))
@dataclass
class CleanFinetune(Defense):
    """Fine-tuning on clean captioned pictures: what a user does who knows of no backdoor.

    Loss: ||eps_th(x_t, c) - eps||^2. A share of the captions is dropped, as in the training of the
    base model.
    """

    steps: int = option(300, sd=2000, low=1, scales=True, help="training steps")
    lr: float = option(1e-3, sd=1e-5, above=0, help="learning rate")
    batch: int = option(16, low=1, help="rows a step")
    drop: float = option(0.1, low=0, high=1, help="share of rows with an empty prompt")
    decay: float = option(0.5, sd=0.0, low=0, high=1, help="last share of the steps: lr falls to 0")
    train: str = option("full", choices=TRAIN, help="which weights it trains")

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
