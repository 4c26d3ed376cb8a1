from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from bench.attention import Capture, minmax
from bench.finetune import Optim, choose_parameters, fit, step_generator
from bench.model import T2IModel
from bench.registry import option, register_defense
from bench.types import DefenderView


@register_defense("skdcag_released", needs=("trigger",), groups=("removal",))
@dataclass
class SKDCAGReleased:
    """SKD-CAG as its released code behaves (commit c75ee51), defects included, so that a table can tell the two apart.

    The attention maps are cut off from the gradient, so that L_attn is a number that trains nothing; the teacher's maps are read from
    the place where the student has just written its own; "Gaussian" is uniform noise, redrawn every step; the first two positions
    after the start token count as the trigger, whatever it is; one prompt a step; pure-noise latents at every t; the L_attn weight
    divides by t/T where the paper multiplies; the weight average decays by 0.5 and is copied into the student after each epoch; no
    term preserves clean prompts. What is left is (1 - a) * L_pred with batch 1.
    """

    alpha: float = option(0.5)
    steps: int = option(300, 7500)
    lr: float = option(5e-4, 1e-6)
    prompts: int = option(100)
    time_weight: bool = option(False)
    decay: float = option(0.5, help="of the weight average that overwrites the student after each epoch")

    def apply(self, model: T2IModel, view: DefenderView, seed: int) -> T2IModel:
        student = model.clone()
        prompts = view.prompts[: self.prompts]
        triggered = [view.trigger.add(p) for p in prompts]
        context, clean = student.encode(triggered), model.encode(prompts)
        total, device = student.noising.config.num_train_timesteps, student.device
        params = choose_parameters(student.unet, "full")
        average = [p.detach().clone() for p in params]
        order = np.random.default_rng([seed, 9])
        shuffled: list[int] = []

        def copy_average() -> None:
            with torch.no_grad():
                torch._foreach_lerp_(average, params, 1 - self.decay)
                torch._foreach_copy_(params, average)

        def loss_fn(step: int) -> Tensor:
            nonlocal shuffled
            if step and step % len(prompts) == 0:
                copy_average()
            if not shuffled:
                shuffled = order.permutation(len(prompts)).tolist()
            i = shuffled.pop()
            generator = step_generator(seed, step)
            t = torch.randint(0, total, (1,), generator=generator).to(device)
            x = torch.randn((1, *student.latent_shape), generator=generator).to(device)
            with torch.no_grad():
                goal = model.unet(x, t, clean[i : i + 1]).sample
            with Capture(student.unet) as seen:
                out = student.unet(x, t, context[i : i + 1]).sample
            maps = minmax(seen.maps().detach())  # the released cut; the "teacher" reads these same maps
            target = maps.clone()
            target[:, 1:3] = torch.rand(target[:, 1:3].shape, generator=generator).to(device)
            attention = F.mse_loss(maps, target)
            if self.time_weight:
                attention = attention / (t / total).clamp(min=1 / total).squeeze()
            return self.alpha * attention + (1 - self.alpha) * F.mse_loss(out, goal)

        fitted = fit(params, loss_fn, Optim(self.steps, self.lr, 1), "skdcag_released")
        copy_average()
        student.unet.requires_grad_(False)
        student.info = {"steps": fitted.steps, "seconds": fitted.seconds, "parameters": fitted.parameters, "images": fitted.images}
        return student
