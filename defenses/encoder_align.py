from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from t2i_backdoor_bench.contract import DefenderView, Defense, Difference, option, register_defense
from t2i_backdoor_bench.models.model import T2IModel
from t2i_backdoor_bench.training.encoders import prompt_bank, squared_error, train_encoder
from t2i_backdoor_bench.training.loop import Optim, step_rng

DIFFERS = (
    Difference(
        what="distance of embeddings, rate, steps",
        paper="not in the abstract",
        here="mean squared error; ours",
        why="neither the full text nor the repository that the abstract names could be had: what"
        " the abstract leaves open is ours",
    ),
    Difference(
        what="defense without a trigger",
        paper="a second one, from the history of a service's prompts",
        here="not there",
        why="give it a located trigger in a composition, as frequency_locate+encoder_align",
    ),
)


@register_defense(
    "encoder_align",
    needs=("trigger", "clean_prompts"),
    groups=("removal",),
    paper="wu2025defense",
    ours="distance, rate and steps, which the abstract leaves open",
    differs=DIFFERS,
)
@dataclass
class EncoderAlign(Defense):
    """Few-shot alignment of triggered with clean prompts in the text encoder (Wu et al. 2025).

    IEEE TDSC, 10.1109/tdsc.2025.3595864: "few-shot fine-tuning". Loss over the text encoder E:
    ||E(c+) - E_0(c)||^2 + p ||E(c) - E_0(c)||^2, E_0 being the attacked encoder. No picture is
    drawn, and the denoiser stays as it is: a backdoor in the denoiser loses its trigger only as far
    as the encoder hides it.
    """

    steps: int = option(200, sd=400, low=1, scales=True, help="training steps")
    lr: float = option(1e-4, sd=1e-5, above=0, tune=(1e-5, 1e-3), help="learning rate")
    batch: int = option(32, low=1, help="prompts a step, half with the trigger")
    preserve: float = option(
        1.0, low=0, tune=(0.1, 30.0), help="p, weight of the loss on clean prompts"
    )
    prompts: int = option(24, low=1, scales=True, least=16, help="clean prompts: a few shots")

    @property
    def needs_prompts(self) -> int:
        return self.prompts

    def apply(self, model: T2IModel, view: DefenderView, seed: int) -> T2IModel:
        prompts = view.first(self.prompts)
        moved = prompt_bank(model, [view.trigger.add(p) for p in prompts], prompts)
        kept, rows = prompt_bank(model, prompts, prompts), max(1, self.batch // 2)

        def make(student: T2IModel) -> Callable[[int], Tensor]:
            def loss(step: int) -> Tensor:
                rng = step_rng(seed, step)
                aligned, clean = (
                    squared_error(*bank.draw(student, rng, rows)[1:]) for bank in (moved, kept)
                )
                return aligned + self.preserve * clean

            return loss

        optim = Optim(self.steps, self.lr, self.batch, decay=0.5)
        return train_encoder(model, make, optim, "encoder_align")
