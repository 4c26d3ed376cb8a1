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
from t2i_backdoor_bench.models.families.conditioning import Conditioning, cat
from t2i_backdoor_bench.models.families.family import ENCODER, TRAIN
from t2i_backdoor_bench.models.model import T2IModel
from t2i_backdoor_bench.training.alignment import align_states, state_span, substitute
from t2i_backdoor_bench.training.capture import Capture
from t2i_backdoor_bench.training.denoising import Trajectories, draw_timesteps, own_images
from t2i_backdoor_bench.training.encoders import train_encoder
from t2i_backdoor_bench.training.guidance import Guidance
from t2i_backdoor_bench.training.loop import Optim, fit, step_generator, step_rng
from t2i_backdoor_bench.training.parameters import (
    check_training,
    choose_parameters,
    finish_training,
)

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
        choices=(*TRAIN, ENCODER),
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
        if self.train == ENCODER:
            return train_encoder(
                model, lambda student: self.loss(student, model, view, seed), optim, name
            )
        student = model.clone(train=self.train)
        loss_fn = self.loss(student, model, view, seed)
        fitted = fit(choose_parameters(student, self.train), loss_fn, optim, name)
        finish_training(student.denoiser)
        student.info = fitted.info
        return student

    def loss(
        self, student: T2IModel, teacher: T2IModel, view: DefenderView, seed: int
    ) -> Callable[[int], Tensor]:
        """The loss of one step as a function of its number."""
        return GuidedDistillation(self, student, teacher, view, seed)


@dataclass(frozen=True)
class Questions:
    """What one step asks. The first rows of both models are triggered prompts and their clean ones;
    with `preserve` clean prompts follow, of the teacher only those that it is not asked already.

    pick      which prompts the first rows are of, and `time` their t/T: (rows,)
    student   noised latents, timesteps and which prompts, by number
    teacher   noised latents, timesteps and what it is told
    new       which preserving rows the teacher is asked in addition
    """

    pick: Tensor
    time: Tensor
    student: tuple[Tensor, Tensor, Tensor]
    teacher: tuple[Tensor, Tensor, Conditioning]
    new: np.ndarray


class GuidedDistillation:
    """The loss of SKD-CAG as a function of the step."""

    def __init__(
        self, method: SKDCAG, student: T2IModel, teacher: T2IModel, view: DefenderView, seed: int
    ) -> None:
        self.method, self.student, self.teacher, self.seed = method, student, teacher, seed
        self.trigger = part_of(view.trigger, method.known)
        self.prompts = view.first(method.prompts)
        self.triggered = [self.trigger.add(p) for p in self.prompts]
        self.latents = own_images(teacher, self.prompts, seed) if method.latents == "own" else None
        draw = np.random.default_rng([seed, 5]).integers(len(WORDS), size=len(self.prompts))
        words = [WORDS[i] for i in draw]
        stand_ins = words if method.target == "random_words" and method.alpha else None
        taught = self.prompts
        if stand_ins is not None:
            taught = [
                substitute(self.trigger, p, w) for p, w in zip(self.prompts, words, strict=True)
            ]
        self.taught, self.clean = teacher.condition(taught), teacher.condition(self.prompts)
        self.empty = teacher.condition([""])
        self.read = self.reader(self.triggered, self.prompts, [""])
        self.align(stand_ins)
        self.noising = student.noising
        self.rows = max(1, method.batch // 2) if method.preserve else method.batch
        self.paths, self.kept_paths = self.trajectories()
        # whether the teacher's prediction for a clean prompt serves both terms
        self.shared = stand_ins is None and self.kept_paths is None

    def align(self, stand_ins: list[str] | None) -> None:
        """Which tokens are compared with which, cut behind the last one: the maps of no later token
        are read, neither a real one of the student's prompts nor what it is compared with."""
        parts = self.student.text_parts
        aligned = align_states(parts, self.trigger, self.prompts, stand_ins)
        spans, real = None, (aligned.trigger | aligned.other).any(0)
        if stand_ins is not None:
            spans = word_spans(self.student, self.trigger, self.prompts, stand_ins)
            real = real | spans.any(0)
        self.length = 1 + max(int(real.nonzero().max()), int(aligned.source.max()))
        self.aligned, self.spans = aligned, spans

    def reader(self, *prompts: list[str]) -> Callable[[Tensor], Conditioning]:
        """What the student is told of k prompts, by number: read once, or with gradients where its
        text encoders train."""
        student = self.student
        if self.method.train == ENCODER:
            ids = torch.cat([student.tokenize(part) for part in prompts])
            return lambda which: student.read(ids[which]).to(student.dtype)
        known = cat([student.condition(part) for part in prompts])
        return lambda which: known[which]

    def trajectories(self) -> tuple[Trajectories | None, Trajectories | None]:
        """The trajectories of triggered prompts, and those of clean ones where clean prompts are
        preserved: of all clean prompts, as what no prompt asked for is not preserved, and then of
        half of the triggered ones, which have one thing to unlearn.
        """
        student, seed, refresh = self.student, self.seed, self.method.refresh
        if self.method.latents != "trajectory":
            return None, None
        if not self.method.preserve:
            return Trajectories(student, self.triggered, seed, refresh), None
        some = max(1, len(self.triggered) // 2)
        clean = Trajectories(student, self.prompts, seed + 10_007, refresh)
        return Trajectories(student, self.triggered, seed, refresh, some), clean

    def __call__(self, step: int) -> Tensor:
        generator = step_generator(self.seed, step)
        asked = self.ask(step, step_rng(self.seed, step), generator)
        with torch.no_grad(), self.watch(self.teacher) as seen:
            predicted = self.teacher.denoise(*asked.teacher)
        with self.watch(self.student) as own:
            x, t, which = asked.student
            out = self.student.denoise(x, t, self.read(which))
        alpha, preserve, rows = self.method.alpha, self.method.preserve, self.rows
        attention, goal = torch.zeros((), device=self.student.device), predicted[:rows]
        if alpha:
            attention = self.guide(own, seen, asked, generator)
        loss = F.mse_loss(out[:rows], goal)
        if preserve:
            keep = goal.clone()
            keep[asked.new] = predicted[rows:]
            loss = loss + preserve * F.mse_loss(out[rows:], keep)
        return alpha * attention + (1 - alpha) * loss

    def ask(self, step: int, rng: np.random.Generator, generator: torch.Generator) -> Questions:
        """Draw the rows of a step."""
        student, noising, rows, many = self.student, self.noising, self.rows, len(self.prompts)
        device = student.device
        pick = torch.from_numpy(rng.integers(many, size=rows)).to(device)
        t = draw_timesteps(rows, noising.total, generator, self.method.bias).to(device)
        noise = torch.randn((rows, *student.latent_shape), generator=generator).to(device)
        x = noising.add(None if self.latents is None else self.latents[pick], noise, t)
        if self.paths is not None:
            pick, t, x = self.paths(step, rng, rows)
        time, taught = t / noising.total, self.taught[pick]
        if not self.method.preserve:
            return Questions(pick, time, (x, t, pick), (x, t, taught), np.arange(0))
        gone = rng.random(rows) < self.method.drop
        dropped = torch.from_numpy(gone).to(device)
        pick_kept, t_kept, x_kept = (
            (pick, t, x) if self.kept_paths is None else self.kept_paths(step, rng, rows)
        )
        kept = self.clean[pick_kept].where(~dropped, self.empty)
        clean = (many + pick_kept).where(~dropped, 2 * many)
        new = np.flatnonzero(gone) if self.shared else np.arange(rows)
        return Questions(
            pick,
            time,
            (torch.cat([x, x_kept]), torch.cat([t, t_kept]), torch.cat([pick, clean])),
            (torch.cat([x, x_kept[new]]), torch.cat([t, t_kept[new]]), cat([taught, kept[new]])),
            new,
        )

    def watch(self, model: T2IModel) -> AbstractContextManager:
        if not self.method.alpha:
            return nullcontext()
        return Capture(model, self.rows, self.length, unfused=True)

    def guide(
        self, own: Capture, seen: Capture, asked: Questions, generator: torch.Generator
    ) -> Tensor:
        """L_attn of the maps of the first rows."""
        at, device = (asked.pick.cpu(), slice(self.length)), self.student.device
        row = self.aligned[at].to(device)
        span = None if self.spans is None else self.spans[at].to(device)
        return self.method.attention_loss(
            own.maps(), seen.maps(), len(own), row, asked.time, generator, span
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
    tokens = sum(part.length for part in model.text_parts)
    out = torch.zeros(len(prompts), tokens, dtype=torch.bool)
    for i, (prompt, word) in enumerate(zip(prompts, words, strict=True)):
        text, start = substitute(trigger, prompt, word), trigger.locate(prompt)[1]
        out[i, state_span(model.text_parts, text, start, start + len(word))] = True
    return out
