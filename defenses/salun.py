from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from t2i_backdoor_bench.contract import DefenderView, Defense, option, register_defense
from t2i_backdoor_bench.models.families.conditioning import cat
from t2i_backdoor_bench.models.model import T2IModel
from t2i_backdoor_bench.training.denoising import draw_timesteps, own_images
from t2i_backdoor_bench.training.loop import Optim, fit, step_generator, step_rng
from t2i_backdoor_bench.training.parameters import choose_parameters


@register_defense("salun", needs=("trigger", "clean_prompts"), groups=("removal", "erasure"))
@dataclass
class SalUn(Defense):
    """Saliency unlearning of the triggered prompts (Fan et al., ICLR 2024).

    A mask selects the `share` of all weights with the largest gradient of the denoising loss on
    what the model draws for triggered prompts. Only these weights train. Loss: ||eps_th(x_t, c+) -
    sg(eps_th(x_t, c))||^2 on those pictures (the trigger is relabelled as the clean prompt) + a *
    ||eps_th(x_t, c) - eps||^2 on pictures of clean prompts. Published (SD 1.4): share 0.5, a 0.1 to
    0.5, lr 1e-5.
    """

    share: float = option(
        0.5, low=0, high=1, source="paper", help="share of the weights that are trained"
    )
    alpha: float = option(
        0.5, low=0, source="paper", help="a, the weight of the loss on clean prompts"
    )
    steps: int = option(200, sd=1000, low=1, scales=True, help="training steps")
    lr: float = option(2e-4, sd=1e-5, above=0, source="paper", help="learning rate")
    batch: int = option(16, sd=8, low=1, help="rows a step")
    mask_steps: int = option(10, sd=50, low=1, help="batches that give the saliency")
    prompts: int = option(
        100, low=1, scales=True, least=16, help="clean prompts that the defender uses"
    )
    decay: float = option(0.5, sd=0.0, low=0, high=1, help="last share of the steps: lr falls to 0")

    @property
    def needs_prompts(self) -> int:
        return self.prompts

    def apply(self, model: T2IModel, view: DefenderView, seed: int) -> T2IModel:
        student = model.clone()
        loss_fn, forget = self.losses(student, view, seed)
        params = choose_parameters(student, "full")
        masks = saliency(params, forget, self.mask_steps, self.share)
        hooks = [p.register_hook(lambda g, m=m: g * m) for p, m in zip(params, masks, strict=True)]
        # without weight decay: it would move what the mask holds still
        optim = Optim(self.steps, self.lr, self.batch, weight_decay=0.0, decay=self.decay)
        fitted = fit(params, loss_fn, optim, "salun")
        for hook in hooks:
            hook.remove()
        student.denoiser.requires_grad_(False)
        touched = int(sum(m.sum() for m in masks))
        student.info = fitted.info | {"parameters": touched}
        return student

    def losses(
        self, student: T2IModel, view: DefenderView, seed: int
    ) -> tuple[Callable[[int], Tensor], Callable[[int], Tensor]]:
        """The training loss and the loss whose gradient is the saliency, each a function of a step
        number."""
        prompts, noising = view.first(self.prompts), student.noising
        triggered = [view.trigger.add(p) for p in prompts]
        kept, forgotten = own_images(student, prompts, seed), own_images(student, triggered, seed)
        concept, clean = student.condition(triggered), student.condition(prompts)
        rows = max(1, self.batch // 2)

        def draw(step: int, offset: int, latents: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
            generator = step_generator(seed + offset, step)
            pick = torch.from_numpy(
                step_rng(seed + offset, step).integers(len(prompts), size=rows)
            ).to(student.device)
            t = draw_timesteps(rows, noising.total, generator).to(student.device)
            noise = torch.randn((rows, *student.latent_shape), generator=generator).to(
                student.device
            )
            x, goal = (
                noising.add(latents[pick], noise, t),
                noising.target(latents[pick], noise, t),
            )
            return pick, t, goal, x

        def loss_fn(step: int) -> Tensor:
            pick, t, _, x = draw(step, 0, forgotten)
            with torch.no_grad():
                goal = student.denoise(x, t, clean[pick])
            other, s, added, y = draw(step, 1, kept)
            out = student.denoise(
                torch.cat([x, y]), torch.cat([t, s]), cat([concept[pick], clean[other]])
            )
            relabelled, remaining = out.chunk(2)
            return F.mse_loss(relabelled, goal) + self.alpha * F.mse_loss(remaining, added)

        def forget(step: int) -> Tensor:
            pick, t, added, x = draw(step, 2, forgotten)
            return F.mse_loss(student.denoise(x, t, concept[pick]), added)

        return loss_fn, forget


def saliency(params: list[nn.Parameter], loss_fn, steps: int, share: float) -> list[Tensor]:
    """Masks (1.0 or 0.0) of the `share` of all numbers in `params` with the largest absolute
    gradient, summed over steps."""
    total = [torch.zeros_like(p) for p in params]
    for step in range(steps):
        for sums, gradient in zip(total, torch.autograd.grad(loss_fn(step), params), strict=True):
            sums += gradient
    flat = torch.cat([s.abs().flatten() for s in total])
    keep = round(share * len(flat))
    limit = flat.kthvalue(len(flat) - keep).values if keep < len(flat) else flat.new_tensor(-1.0)
    return [(s.abs() > limit).to(s.dtype) for s in total]
