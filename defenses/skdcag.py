import dataclasses
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from t2i_backdoor_bench.contract import (
    DefenderView,
    Defense,
    Trigger,
    UserError,
    option,
    register_defense,
)
from t2i_backdoor_bench.models.model import T2IModel
from t2i_backdoor_bench.training.attention import Alignment, Capture, align, substitute, token_span
from t2i_backdoor_bench.training.denoising import (
    Trajectories,
    add_noise,
    draw_timesteps,
    own_images,
)
from t2i_backdoor_bench.training.guidance import Guidance
from t2i_backdoor_bench.training.loop import (
    TRAIN,
    Optim,
    check_training,
    choose_parameters,
    fit,
    settle,
    step_generator,
    step_rng,
)
from t2i_backdoor_bench.training.text_encoder import train_encoder

TARGETS = ("gaussian", "black", "random_words")
LATENTS = ("own", "noise", "trajectory")
KNOWN = ("all", "first", "last")
WORDS = (
    "table",
    "river",
    "music",
    "paper",
    "winter",
    "garden",
    "window",
    "letter",
    "summer",
    "bottle",
    "market",
    "island",
)


@register_defense(
    "skd", needs=("trigger",), version=5, groups=("baseline", "removal"), preset={"alpha": 0.0}
)
@register_defense("skdcag", needs=("trigger",), version=5, groups=("removal",))
@register_defense(
    "skdcag_text",
    needs=("trigger",),
    version=5,
    groups=("removal",),
    preset={"train": "text_encoder"},
)
@register_defense(
    "skdcag_gaussian",
    needs=("trigger",),
    version=5,
    groups=("removal", "skdcag_variants"),
    preset={"target": "gaussian"},
)
# the paper's name for what `skdcag` does where its target is not set: not twice in "all"
@register_defense(
    "skdcag_black",
    needs=("trigger",),
    version=5,
    groups=("removal", "skdcag_variants"),
    preset={"target": "black"},
    apart=True,
)
@register_defense(
    "skdcag_random_words",
    needs=("trigger",),
    version=5,
    groups=("removal", "skdcag_variants"),
    preset={"target": "random_words"},
)
@dataclass
class SKDCAG(Guidance, Defense):
    """Self-Knowledge Distillation with Cross-Attention Guidance (arXiv 2508.18235).

    The teacher is a frozen copy of the *backdoored* U-Net and gets the clean prompt c. The student
    is the U-Net under repair and gets c+. L = a * L_attn + (1 - a) * L_pred. L_pred =
    MSE(student(x_t, c+), teacher(x_t, c)). L_attn is the mean over tokens of the MSE between the
    student's cross-attention map and its target. For trigger tokens the target is noise
    ("gaussian"), zeros ("black"), or the teacher's map of a random word in the trigger's place
    ("random_words"); for every other token it is the teacher's map of the same token. Maps are the
    mean over heads, summed over layers, and min-max normalized for each token. `alpha=0` is plain
    self-knowledge distillation ("skd").

    Published (SD 1.4): AdamW lr 1e-6, weight decay 0.01, 100 prompts, 75-100 epochs, pure-noise
    latents, uniform t, a 0.5.

    Beyond the paper, each an option: `latents` takes what the model gets while it draws the
    triggered prompts, or noised pictures of its own, instead of pure noise. `preserve` weights a
    term that preserves clean prompts; it shares the weight 1 - a with L_pred, so that a is about
    guidance alone. `bias` favours high noise. `raw_black` compares raw attention mass with zero, as
    a min-max normalized map cannot be zero. `train` selects the cross-attention, or its K and V
    alone. "skdcag_text" trains the text encoder instead of the U-Net: after an attack on the text
    encoder, the states of the triggered prompt may no longer say what it asked for, and no U-Net
    can draw that.
    """

    alpha: float = option(0.3, sd=0.5, low=0, high=1, source="paper", help="a, the share of L_attn")
    target: str = option(
        "black", choices=TARGETS, help="what the attention to trigger tokens should become"
    )
    steps: int = option(220, sd=7500, low=1, scales=True, help="training steps")
    lr: float = option(1e-3, sd=1e-6, above=0, source="paper", help="learning rate")
    batch: int = option(16, sd=1, low=1, help="student rows a step, preserving rows included")
    prompts: int = option(100, low=1, scales=True, least=16, source="paper", help="clean prompts")
    known: str = option(
        "all", choices=KNOWN, late=True, help="the words of the trigger that the defender knows"
    )
    latents: str = option(
        "trajectory",
        sd="noise",
        choices=LATENTS,
        source="paper",
        help="noise is as published; trajectory is what the student sees while it draws",
    )
    refresh: int = option(
        250, low=1, late=True, help="steps after which the trajectories are drawn again"
    )
    preserve: float = option(64.0, sd=0.0, low=0, help="weight of the clean term")
    drop: float = option(0.25, sd=0.0, low=0, high=1, help="share of empty preserving prompts")
    bias: float = option(
        1.0, above=0, help="above 1: more of the high noise levels; not with trajectories"
    )
    time_weight: bool = option(False, help="weight L_attn by t/T")
    reverse_time: bool = option(False, late=True, help="with time_weight: weight L_attn by 1 - t/T")
    raw_black: bool = option(
        True, sd=False, help="compare raw attention mass, not normalized maps, with zero"
    )
    train: str = option(
        "cross",
        sd="full",
        choices=(*TRAIN, "text_encoder"),
        help="which weights it trains; text_encoder is for attacks on that",
    )
    ema: float = option(0.99, sd=0.0, low=0, high=1, help="decay of the weight average; 0: none")
    decay: float = option(0.5, sd=0.0, low=0, high=1, help="last share of the steps: lr falls to 0")
    adam8bit: bool = option(False, late=True, help="Adam with 8-bit moments (bitsandbytes, CUDA)")
    accumulate: int = option(1, low=1, late=True, help="batches whose mean gradient is one step")

    @property
    def needs_prompts(self) -> int:
        return self.prompts

    def check(self) -> None:
        if self.latents == "trajectory" and self.bias != 1:
            raise UserError(
                f"skdcag bias {self.bias:g} says how timesteps are drawn, and trajectories have"
                " their own: set latents to own or noise"
            )

    def check_machine(self, device: str) -> None:
        check_training(device, self.train, self.adam8bit)

    def apply(self, model: T2IModel, view: DefenderView, seed: int) -> T2IModel:
        optim = Optim(
            self.steps,
            self.lr,
            self.batch,
            ema=self.ema,
            decay=self.decay,
            adam8bit=self.adam8bit,
            accumulate=self.accumulate,
        )
        name = "skd" if self.alpha == 0 else "skdcag"
        if self.train == "text_encoder":
            return train_encoder(
                model, lambda student: self.loss(student, model, view, seed), optim, name
            )
        student = model.clone(train=self.train)
        loss_fn = self.loss(student, model, view, seed)
        fitted = fit(choose_parameters(student.unet, self.train), loss_fn, optim, name)
        settle(student.unet)
        student.info = fitted.info
        return student

    def loss(self, student: T2IModel, teacher: T2IModel, view: DefenderView, seed: int):
        """The loss of one step as a function of its number."""
        trigger, prompts = part_of(view.trigger, self.known), view.first(self.prompts)
        triggered = [trigger.add(p) for p in prompts]
        latents = own_images(teacher, prompts, seed) if self.latents == "own" else None
        words = [
            WORDS[i]
            for i in np.random.default_rng([seed, 5]).integers(len(WORDS), size=len(prompts))
        ]
        stand_ins = words if self.target == "random_words" and self.alpha else None
        taught = (
            prompts
            if stand_ins is None
            else [substitute(trigger, p, w) for p, w in zip(prompts, words, strict=True)]
        )
        bank_teacher, bank_clean, empty = (
            teacher.encode(taught),
            teacher.encode(prompts),
            teacher.encode([""]),
        )
        read = self.reader(
            student, triggered, prompts, [""]
        )  # the student's states of what it is asked, by number
        aligned = align(student.tokenizer, trigger, prompts, stand_ins)
        spans = None if stand_ins is None else word_spans(student, trigger, prompts, words)
        # the maps of no later token are read: neither a real one of the student's prompts nor what
        # it is compared with
        real = (aligned.trigger | aligned.other).any(0) | (
            torch.zeros(1, dtype=torch.bool) if spans is None else spans.any(0)
        )
        length = 1 + max(int(real.nonzero().max()), int(aligned.source.max()))
        noising, device = student.noising, student.device
        total = noising.config.num_train_timesteps
        rows = max(1, self.batch // 2) if self.preserve else self.batch
        paths, kept_paths = (
            self.paths(student, triggered, prompts, seed)
            if self.latents == "trajectory"
            else (None, None)
        )
        shared = (
            stand_ins is None and kept_paths is None
        )  # whether the teacher's prediction for a clean prompt serves both terms

        def watch(model: T2IModel) -> AbstractContextManager:
            return Capture(model.unet, rows, length, unfused=True) if self.alpha else nullcontext()

        def loss_fn(step: int) -> Tensor:
            generator = step_generator(seed, step)
            rng = step_rng(seed, step)
            pick = torch.from_numpy(rng.integers(len(prompts), size=rows)).to(device)
            t = draw_timesteps(rows, total, generator, self.bias).to(device)
            noise = torch.randn((rows, *student.latent_shape), generator=generator).to(device)
            x = add_noise(noising, None if latents is None else latents[pick], noise, t)
            if paths is not None:
                pick, t, x = paths(step, rng, rows)
            asked, x_all, t_all = pick, x, t
            x_goal, t_goal, taught_goal = x, t, bank_teacher[pick]
            if self.preserve:
                gone = rng.random(rows) < self.drop
                dropped = torch.from_numpy(gone).to(device)
                pick_kept, t_kept, x_kept = (
                    (pick, t, x) if kept_paths is None else kept_paths(step, rng, rows)
                )
                kept = bank_clean[pick_kept].where(~dropped[:, None, None], empty)
                clean = (len(prompts) + pick_kept).where(~dropped, 2 * len(prompts))
                asked, x_all, t_all = (
                    torch.cat([pick, clean]),
                    torch.cat([x, x_kept]),
                    torch.cat([t, t_kept]),
                )
                new = (
                    np.flatnonzero(gone) if shared else np.arange(rows)
                )  # what the teacher is not asked already
                x_goal, t_goal = torch.cat([x, x_kept[new]]), torch.cat([t, t_kept[new]])
                taught_goal = torch.cat([taught_goal, kept[new]])
            with torch.no_grad(), watch(teacher) as seen:
                predicted = teacher.unet(x_goal, t_goal, taught_goal).sample
            with watch(student) as own:
                out = student.unet(x_all, t_all, read(asked)).sample
            attention, goal = torch.zeros((), device=device), predicted[:rows]
            if self.alpha:
                row = Alignment(
                    *(
                        v[pick.cpu(), :length].to(device)
                        for v in (aligned.trigger, aligned.other, aligned.source)
                    )
                )
                span = None if spans is None else spans[pick.cpu(), :length].to(device)
                maps = own.maps(), seen.maps(), len(own)
                attention = self.attention_loss(*maps, row, t / total, generator, span)
            loss = F.mse_loss(out[:rows], goal)
            if self.preserve:
                keep = goal.clone()
                keep[new] = predicted[rows:]
                loss = loss + self.preserve * F.mse_loss(out[rows:], keep)
            return self.alpha * attention + (1 - self.alpha) * loss

        return loss_fn

    def reader(self, student: T2IModel, *prompts: list[str]) -> Callable[[Tensor], Tensor]:
        """The student's states (k, tokens, dim) of k prompts, by number: read once, or with
        gradients where its text encoder trains."""
        if self.train == "text_encoder":
            ids = torch.cat([student.tokenize(part) for part in prompts])
            return lambda which: student.text_encoder(ids[which])[0].to(student.unet.dtype)
        bank = torch.cat([student.encode(part) for part in prompts])
        return lambda which: bank[which]

    def paths(
        self, student: T2IModel, triggered: list[str], prompts: list[str], seed: int
    ) -> tuple[Trajectories, Trajectories | None]:
        """The trajectories of triggered prompts, and those of clean ones where clean prompts are
        preserved: of all that there are, as what no prompt asked for is not preserved, and then of
        half of the triggered ones, which have one thing to unlearn.
        """
        if not self.preserve:
            return Trajectories(student, triggered, seed, self.refresh), None
        some = max(1, len(triggered) // 2)
        return Trajectories(student, triggered, seed, self.refresh, some), Trajectories(
            student, prompts, seed + 10_007, self.refresh
        )


def part_of(trigger: Trigger, known: str) -> Trigger:
    """The words of a trigger that a defender knows. Raises UserError where there is one word
    only."""
    words = trigger.text.split()
    if known == "all":
        return trigger
    if len(words) < 2:
        raise UserError(
            f"the trigger {trigger.text!r} is one word; a part of it cannot be known: set the"
            " attack's trigger to a phrase"
        )
    return dataclasses.replace(trigger, text=words[0] if known == "first" else words[-1])


def word_spans(model: T2IModel, trigger: Trigger, prompts: list[str], words: list[str]) -> Tensor:
    """Where the stand-in word's tokens are in the teacher's prompt: bool (n, tokens). Any number of
    tokens a word."""
    out = torch.zeros(len(prompts), model.tokenizer.model_max_length, dtype=torch.bool)
    for i, (prompt, word) in enumerate(zip(prompts, words, strict=True)):
        text, start = substitute(trigger, prompt, word), trigger.locate(prompt)[1]
        out[i, token_span(model.tokenizer, text, start, start + len(word))[1]] = True
    return out
