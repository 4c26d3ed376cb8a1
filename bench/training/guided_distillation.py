"""The loss of guided self-distillation (SKD-CAG, arXiv 2508.18235): what a step draws, what it asks
of student and teacher, and how their predictions and attention maps are compared."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from t2i_backdoor_bench.contract import DefenderView, Trigger, UserError
from t2i_backdoor_bench.models.families.conditioning import Conditioning, cat
from t2i_backdoor_bench.models.families.family import ENCODER
from t2i_backdoor_bench.models.model import T2IModel
from t2i_backdoor_bench.training.alignment import align_states, state_spans, substitute, substituted
from t2i_backdoor_bench.training.capture import Capture
from t2i_backdoor_bench.training.denoising import Trajectories, draw_timesteps, own_images
from t2i_backdoor_bench.training.guidance import Guidance
from t2i_backdoor_bench.training.loop import step_generator, step_rng

KNOWN = ("all", "first", "last")  # which words of the trigger the defender knows
# words that may stand in the trigger's place
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


class DistillationOptions(Guidance):
    """What the loss reads of the method that inherits this: options of the method."""

    alpha: float  # the share of the attention loss
    preserve: float  # the weight of the clean term
    prompts: int  # clean prompts
    batch: int  # student rows of a step
    known: str  # one of KNOWN
    latents: str  # own, noise or trajectory
    refresh: int  # steps after which the trajectories are drawn again
    drop: float  # share of empty preserving prompts
    bias: float  # above 1: more of the high noise levels
    train: str  # which weights train


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
    """The loss of guided self-distillation as a function of the step."""

    def __init__(
        self,
        method: DistillationOptions,
        student: T2IModel,
        teacher: T2IModel,
        view: DefenderView,
        seed: int,
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
        out[i, state_spans(model.text_parts, *substituted(trigger, prompt, word))] = True
    return out
