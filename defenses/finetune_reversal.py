from dataclasses import dataclass

from t2i_backdoor_bench.contract import DefenderView, Defense, UserError, option, register_defense
from t2i_backdoor_bench.models.families.family import TRAIN
from t2i_backdoor_bench.models.model import T2IModel
from t2i_backdoor_bench.training.denoising import Term, own_images, train_terms
from t2i_backdoor_bench.training.loop import Optim
from t2i_backdoor_bench.training.parameters import check_training


@register_defense(
    "finetune_reversal",
    needs=("trigger", "clean_model", "clean_prompts"),
    groups=("baseline", "removal"),
)
@dataclass
class FinetuneReversal(Defense):
    """Fine-tuning reversal: distil the clean model back (a baseline of arXiv 2508.18235).

    Loss: ||student(x_t, c+) - clean(x_t, c+)||^2, and with `preserve` the same for clean prompts.
    This is the oracle of the SKD-CAG paper: it needs the model from before the attack, so it bounds
    what repair of the U-Net alone can reach. The empty prompt of the preserving rows is read by the
    attacked model's encoder, for both models.
    """

    steps: int = option(220, sd=7500, low=1, scales=True, help="training steps")
    lr: float = option(1e-3, sd=1e-6, above=0, help="learning rate")
    batch: int = option(16, sd=1, low=1, help="rows a step")
    prompts: int = option(
        100, low=1, scales=True, least=16, help="clean prompts that the defender uses"
    )
    latents: str = option(
        "own",
        sd="noise",
        choices=("own", "noise"),
        help="noise is as published; own: pictures that the model draws",
    )
    preserve: float = option(1.0, sd=0.0, low=0, help="weight of the same loss on clean prompts")
    drop: float = option(0.25, sd=0.0, low=0, high=1, help="share of empty preserving prompts")
    decay: float = option(0.5, sd=0.0, low=0, high=1, help="last share of the steps: lr falls to 0")
    train: str = option("cross", sd="full", choices=TRAIN, help="which weights it trains")
    adam8bit: bool = option(False, late=True, help="Adam with 8-bit moments (bitsandbytes, CUDA)")
    accumulate: int = option(1, low=1, late=True, help="batches whose mean gradient is one step")

    @property
    def needs_prompts(self) -> int:
        return self.prompts

    def check(self) -> None:
        if self.preserve and self.batch < 2:
            raise UserError(
                f"finetune_reversal with preserve={self.preserve:g} shares its batch with clean"
                " prompts: give batch=2 or more"
            )

    def check_machine(self, device: str) -> None:
        check_training(device, self.train, self.adam8bit)

    def apply(self, model: T2IModel, view: DefenderView, seed: int) -> T2IModel:
        clean = view.clean_model
        prompts = view.first(self.prompts)
        triggered = [view.trigger.add(p) for p in prompts]
        latents = own_images(model, prompts, seed) if self.latents == "own" else None
        terms = [Term(triggered, latents, triggered)]
        if self.preserve:
            terms.append(Term(prompts, latents, prompts, self.preserve, self.drop))
        student = model.clone(train=self.train)
        optim = Optim(
            self.steps,
            self.lr,
            self.batch,
            decay=self.decay,
            adam8bit=self.adam8bit,
            accumulate=self.accumulate,
        )
        fitted = train_terms(
            student, clean, terms, optim, seed, "finetune_reversal", train=self.train
        )
        student.info = fitted.info
        return student
