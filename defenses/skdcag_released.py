from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from t2i_backdoor_bench.contract import DefenderView, Defense, Difference, option, register_defense
from t2i_backdoor_bench.models.checkpoints import CarriedList
from t2i_backdoor_bench.models.model import T2IModel
from t2i_backdoor_bench.training.alignment import Alignment, align_states
from t2i_backdoor_bench.training.capture import Capture
from t2i_backdoor_bench.training.denoising import own_images
from t2i_backdoor_bench.training.guidance import Guidance
from t2i_backdoor_bench.training.loop import Optim, fit, step_generator
from t2i_backdoor_bench.training.parameters import choose_parameters
from t2i_backdoor_bench.training.trained_defense import CLIPPING

DIFFERS = (
    Difference(
        what="maps that a step reads",
        paper="its own",
        released="those of the step before, through gradient checkpointing",
        here="its own; with `stale_maps` those of the step before",
        why="that comes of gradient checkpointing, which not every machine needs",
    ),
    CLIPPING,
)


@dataclass
class Rules(Guidance):
    """The options of the guidance, and whether its noise is uniform."""

    target: str
    raw_black: bool
    time_weight: bool
    uniform: bool

    @property
    def needs_prompts(self) -> int:
        return self.prompts

    def scatter(self, maps: Tensor, generator: torch.Generator) -> Tensor:
        return (
            torch.rand(maps.shape, generator=generator).to(maps)
            if self.uniform
            else super().scatter(maps, generator)
        )


@register_defense(
    "skdcag_released",
    paper="aravindan2025sealing",
    needs=("trigger", "clean_prompts"),
    groups=("removal",),
    version=4,
    differs=DIFFERS,
)
@dataclass
class SKDCAGReleased(Defense):
    """SKD-CAG as its released code behaves (commit c75ee51), defects included.

    It sees as many rows as the paper says, on the embedded base as many as `skdcag_paper`.
    With it a table can tell the two apart. Each defect is an option. All are on, except 3, which
    needs gradient checkpointing; 4 shows only where `time_weight` is on. Where one is off, that
    thing is done as the paper describes it. With all of them off this is `skdcag` with batch 1. As
    released, what trains is (1 - a) * L_pred with batch 1: the attention loss is a number without a
    gradient.
    """

    alpha: float = option(0.5, low=0, high=1, source="released", help="a, the share of L_attn")
    target: str = option(
        "gaussian",
        choices=("gaussian", "black"),
        source="released",
        help="what the attention to trigger tokens should become",
    )
    steps: int = option(3520, sd=7500, low=1, scales=True, source="paper", help="training steps")
    lr: float = option(
        1e-4, sd=1e-6, above=0, source="released", tune=(1e-5, 1e-3), help="learning rate"
    )
    prompts: int = option(
        100, low=1, scales=True, least=16, source="released", help="clean prompts"
    )
    time_weight: bool = option(
        True, source="released", help="weight L_attn by the timestep; off in the script for black"
    )
    detached: bool = option(
        True, source="released", help="1: maps carry no gradient: L_attn trains nothing"
    )
    shared_maps: bool = option(
        True,
        source="released",
        help="2: the teacher's maps are read where the student wrote its own",
    )
    stale_maps: bool = option(
        False, help="3: a step reads the maps of the step before (gradient checkpointing)"
    )
    inverse_time: bool = option(
        True, source="released", help="4: the timestep weight divides by t/T"
    )
    uniform_noise: bool = option(
        True, source="released", help="5: the Gaussian target is uniform noise"
    )
    minmax_black: bool = option(
        True,
        source="released",
        help="6: black is compared with maps whose largest value is always 1",
    )
    fixed_span: bool = option(
        True, source="released", help="7: positions 1 and 2 are the trigger, whatever it is"
    )
    copied_average: bool = option(
        True,
        source="released",
        help="8: an average over steps, with decay 0.5 at most, overwrites the student each epoch",
    )
    unpreserved: bool = option(
        True, source="released", help="9: no clean term, and latents are pure noise"
    )

    def apply(self, model: T2IModel, view: DefenderView, seed: int) -> T2IModel:
        student = model.clone()
        trained = choose_parameters(student, "full")
        params = trained.parameters
        average = [p.detach().clone() for p in params]
        student.checkpoints.carry(CarriedList(average, model.device))
        loss_fn, epoch = self.loss(student, model, view, seed), len(view.first(self.prompts))

        @torch.no_grad()
        def average_step(taken: int) -> None:
            """After `taken` optimizer steps, the first of them at 1."""
            torch._foreach_lerp_(average, params, max(0.5, 9 / (10 + taken)))
            if taken % epoch == 0 or taken == self.steps:
                torch._foreach_copy_(params, average)

        def step_fn(step: int) -> Tensor:
            if self.copied_average and step:
                average_step(step)
            return loss_fn(step)

        fitted = fit(trained, step_fn, Optim(self.steps, self.lr, 1), "skdcag_released")
        if self.copied_average:
            average_step(self.steps)
        student.denoiser.requires_grad_(False)
        student.info = fitted.info
        return student

    def loss(
        self, student: T2IModel, teacher: T2IModel, view: DefenderView, seed: int
    ) -> Callable[[int], Tensor]:
        """The loss of one step, on one prompt, as a function of its number."""
        prompts = view.first(self.prompts)
        triggered = [view.trigger.add(p) for p in prompts]
        context, clean = student.condition(triggered), teacher.condition(prompts)
        aligned = align_states(student.text_parts, view.trigger, prompts)
        guide = Rules(self.target, not self.minmax_black, self.time_weight, self.uniform_noise)
        total, device, tokens = student.noising.total, student.device, aligned.source.shape[1]
        latents = None if self.unpreserved else own_images(teacher, prompts, seed)
        last: list[Tensor] = []
        student.checkpoints.carry(CarriedList(last, device))

        def loss_fn(step: int) -> Tensor:
            epoch, place = divmod(step, len(prompts))
            i = int(np.random.default_rng([seed, 9, epoch]).permutation(len(prompts))[place])
            generator = step_generator(seed, step)
            t = student.noising.timesteps(1, generator).to(device)
            noise = torch.randn((1, *student.latent_shape), generator=generator).to(device)
            x = student.noising.add(None if latents is None else latents[i : i + 1], noise, t)
            with torch.no_grad(), Capture(teacher, tokens=tokens) as seen:
                goal = teacher.denoise(x, t, clean[i : i + 1])
            with Capture(student, tokens=tokens) as own:
                out = student.denoise(x, t, context[i : i + 1])
            maps = own.maps()
            if self.stale_maps:
                last.append(maps.detach())
                maps = last.pop(0) if len(last) > 1 else maps.detach()
            if self.detached:
                maps = maps.detach()
            theirs = maps.detach() if self.shared_maps else seen.maps()
            row = self.row(aligned, i).to(device)
            time = (total / t.clamp(min=1)) if self.inverse_time else t / total
            loss = F.mse_loss(out, goal)
            if not self.unpreserved:
                loss = loss + F.mse_loss(student.denoise(x, t, clean[i : i + 1]), goal)
            return (1 - self.alpha) * loss + self.alpha * guide.attention_loss(
                maps, theirs, len(own), row, time, generator
            )

        return loss_fn

    def row(self, aligned: Alignment, i: int) -> Alignment:
        """Which tokens of prompt i are the trigger, and which of the teacher's each other one is
        compared with."""
        row = aligned[i : i + 1]
        if not self.fixed_span:
            return row
        place = torch.arange(row.source.shape[1])[None]
        real, last = row.trigger | row.other, int(row.source.max())
        other = real & (place > 2) & (place - 2 <= last)  # no longer than the clean prompt
        return Alignment((place == 1) | (place == 2), other, (place - 2).clamp(min=0))
