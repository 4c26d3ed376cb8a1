from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from t2i_backdoor_bench.contract import DefenderView, Defense, option, register_defense
from t2i_backdoor_bench.models.families.conditioning import cat
from t2i_backdoor_bench.models.families.family import TRAIN
from t2i_backdoor_bench.models.model import T2IModel
from t2i_backdoor_bench.training.denoising import draw_timesteps, own_images
from t2i_backdoor_bench.training.loop import Optim, fit, step_generator, step_rng
from t2i_backdoor_bench.training.parameters import (
    check_training,
    choose_parameters,
    finish_training,
)


@register_defense(
    "concept_ablation", needs=("trigger", "clean_prompts"), groups=("removal", "erasure")
)
@dataclass
class ConceptAblation(Defense):
    """Ablating concepts, with the trigger as the concept (Kumari et al., ICCV 2023).

    This is the model-based variant; the clean prompt is the anchor. Loss: ||eps_th(x_t, c+) -
    sg(eps_th(x_t, c))||^2 + prior * ||eps_th(x_t, c) - eps||^2 on pictures x that the model draws
    for the anchor prompt c. sg stops the gradient: the student itself is the teacher. Published (SD
    1.4): K and V of cross-attention, lr 2e-6, 100 to 800 steps, prior 1 where it is used.
    """

    steps: int = option(200, sd=400, low=1, scales=True, help="training steps")
    lr: float = option(3e-4, sd=2e-6, above=0, help="learning rate")
    batch: int = option(16, sd=8, low=1, help="rows a step")
    prior: float = option(1.0, low=0, help="weight of the denoising loss on the pictures")
    prompts: int = option(
        100, low=1, scales=True, least=16, help="clean prompts that the defender uses"
    )
    decay: float = option(0.5, sd=0.0, low=0, high=1, help="last share of the steps: lr falls to 0")
    train: str = option("cross", sd="kv", choices=TRAIN, help="which weights it trains")

    @property
    def needs_prompts(self) -> int:
        return self.prompts

    def check_machine(self, device: str) -> None:
        check_training(device, self.train)

    def apply(self, model: T2IModel, view: DefenderView, seed: int) -> T2IModel:
        student = model.clone(train=self.train)
        optim = Optim(self.steps, self.lr, self.batch, decay=self.decay)
        loss_fn = self.loss(student, view, seed)
        fitted = fit(choose_parameters(student, self.train), loss_fn, optim, "concept_ablation")
        finish_training(student.denoiser)
        student.info = fitted.info
        return student

    def loss(self, student: T2IModel, view: DefenderView, seed: int) -> Callable[[int], Tensor]:
        """The loss of one step as a function of its number."""
        prompts = view.first(self.prompts)
        latents, noising = own_images(student, prompts, seed), student.noising
        concept, anchor = (
            student.condition([view.trigger.add(p) for p in prompts]),
            student.condition(prompts),
        )
        rows = max(1, self.batch // 2)

        def loss_fn(step: int) -> Tensor:
            generator = step_generator(seed, step)
            pick = torch.from_numpy(step_rng(seed, step).integers(len(prompts), size=rows)).to(
                student.device
            )
            t = draw_timesteps(rows, noising.total, generator).to(student.device)
            noise = torch.randn((rows, *student.latent_shape), generator=generator).to(
                student.device
            )
            x = noising.add(latents[pick], noise, t)
            out = student.denoise(
                torch.cat([x, x]), torch.cat([t, t]), cat([concept[pick], anchor[pick]])
            )
            with_trigger, without = out.chunk(2)
            return F.mse_loss(with_trigger, without.detach()) + self.prior * F.mse_loss(
                without, noising.target(latents[pick], noise, t)
            )

        return loss_fn
