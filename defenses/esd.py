from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from t2i_backdoor_bench.contract import DefenderView, Defense, option, register_defense
from t2i_backdoor_bench.models.families.conditioning import cat
from t2i_backdoor_bench.models.families.family import TRAIN
from t2i_backdoor_bench.models.model import T2IModel
from t2i_backdoor_bench.training.denoising import Trajectories
from t2i_backdoor_bench.training.loop import Optim, fit, step_rng
from t2i_backdoor_bench.training.parameters import (
    check_training,
    choose_parameters,
    finish_training,
)


@register_defense(
    "esd_x",
    needs=("trigger", "clean_prompts"),
    groups=("removal", "erasure"),
    preset={"train": "cross"},
)
@register_defense(
    "esd_u",
    needs=("trigger", "clean_prompts"),
    groups=("removal", "erasure"),
    preset={"train": "noncross"},
    tuned={"eta": 1.0, "lr": 3e-4},
)
@dataclass
class ESD(Defense):
    """Erased Stable Diffusion, with the trigger as the concept (Gandikota et al., ICCV 2023).

    Loss: ||eps_th(x_t, c+) - (eps_0(a) - n * (eps_0(c+) - eps_0(a)))||^2. eps_0 is the frozen
    backdoored model; x_t is what the student gets while it draws the triggered prompt c+. The
    anchor a is the clean prompt c (`anchor="prompt"`: only what the trigger adds is removed) or the
    empty prompt, as published for a concept (`anchor="null"`). esd_x trains the cross-attention,
    esd_u everything else. No term preserves clean prompts: on the embedded base, what undoes a
    style also breaks them, with esd_u more. Published (SD 1.4): n 1 to 2, 200 steps of one row, lr
    5e-5.
    """

    eta: float = option(0.25, sd=1.0, low=0, help="n, how far beyond the anchor")
    anchor: str = option(
        "prompt", choices=("prompt", "null"), help="null, the empty prompt, is as published"
    )
    steps: int = option(200, sd=200, low=1, scales=True, source="released", help="training steps")
    lr: float = option(2e-4, sd=5e-5, above=0, source="released", help="learning rate")
    batch: int = option(16, sd=1, low=1, help="rows a step")
    prompts: int = option(
        100, low=1, scales=True, least=16, help="clean prompts that the defender uses"
    )
    refresh: int = option(50, sd=1, low=1, help="steps after which the student draws anew")
    draws: int = option(24, sd=1, low=1, help="prompts that it then draws")
    decay: float = option(0.5, sd=0.0, low=0, high=1, help="last share of the steps: lr falls to 0")
    train: str = option("cross", choices=TRAIN, help="which weights it trains")

    @property
    def needs_prompts(self) -> int:
        return self.prompts

    def check_machine(self, device: str) -> None:
        check_training(device, self.train)

    def apply(self, model: T2IModel, view: DefenderView, seed: int) -> T2IModel:
        student = model.clone(train=self.train)
        optim = Optim(self.steps, self.lr, self.batch, decay=self.decay)
        loss_fn = self.loss(student, model, view, seed)
        fitted = fit(choose_parameters(student, self.train), loss_fn, optim, "esd")
        finish_training(student.denoiser)
        student.info = fitted.info
        return student

    def loss(
        self, student: T2IModel, teacher: T2IModel, view: DefenderView, seed: int
    ) -> Callable[[int], Tensor]:
        """The loss of one step as a function of its number."""
        prompts = view.first(self.prompts)
        triggered = [view.trigger.add(p) for p in prompts]
        concept, anchor = (
            teacher.condition(triggered),
            teacher.condition(prompts if self.anchor == "prompt" else [""] * len(prompts)),
        )
        paths = Trajectories(student, triggered, seed, self.refresh, self.draws)

        def loss_fn(step: int) -> Tensor:
            pick, t, x = paths(step, step_rng(seed, step), self.batch)
            with torch.no_grad():
                both = teacher.denoise(
                    torch.cat([x, x]), torch.cat([t, t]), cat([concept[pick], anchor[pick]])
                )
            with_trigger, without = both.chunk(2)
            goal = without - self.eta * (with_trigger - without)
            return F.mse_loss(student.denoise(x, t, concept[pick]), goal)

        return loss_fn
