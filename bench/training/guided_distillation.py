"""The loss of guided self-distillation (SKD-CAG, arXiv 2508.18235): what a step draws, what it asks
of student and teacher, and how their predictions and attention maps are compared."""

from __future__ import annotations

import dataclasses
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from t2i_backdoor_bench.contract import DefenderView, Trigger, UserError
from t2i_backdoor_bench.models.families.conditioning import Conditioning, cat
from t2i_backdoor_bench.models.model import T2IModel
from t2i_backdoor_bench.training.alignment import (
    Alignment,
    align_states,
    state_spans,
    substitute,
    substituted,
)
from t2i_backdoor_bench.training.capture import Capture
from t2i_backdoor_bench.training.gradient_ratio import GradientRatio
from t2i_backdoor_bench.training.guidance import Guidance
from t2i_backdoor_bench.training.removal import Removal
from t2i_backdoor_bench.training.rows import Drawn, prompt_sampler

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
    """What the loss reads of the method that inherits this, beside the options of every trained
    defense."""

    alpha: float  # the share of the attention loss
    known: str  # one of KNOWN
    text_weight: float  # of what other text tokens pay to the trigger, in joint attention


@dataclass(frozen=True)
class Questions:
    """What one step asks. The first rows of both models are triggered prompts and their clean ones;
    with `preserve` clean prompts follow, of the teacher only those that it is not asked already.

    pick      which prompts the first rows are of, and `time` their t/T: (rows,)
    student   noised latents, timesteps and which texts, by number
    teacher   noised latents, timesteps and what it is told
    new       which preserving rows the teacher is asked in addition
    """

    pick: Tensor
    time: Tensor
    student: tuple[Tensor, Tensor, Tensor]
    teacher: tuple[Tensor, Tensor, Conditioning]
    new: np.ndarray


class GuidedDistillation(Removal):
    """The loss of guided self-distillation as a function of the step. One pass of each model serves
    all its terms."""

    def __init__(
        self,
        method: DistillationOptions,
        student: T2IModel,
        teacher: T2IModel,
        view: DefenderView,
        seed: int,
    ) -> None:
        self.trigger = part_of(view.trigger, method.known)
        prompts = view.first(method.prompts)
        triggered = [self.trigger.add(p) for p in prompts]
        sampler = prompt_sampler(method.drawing, student, teacher, prompts, triggered, seed)
        super().__init__(method, student, teacher, sampler, prompts, triggered)
        draw = np.random.default_rng([seed, 5]).integers(len(WORDS), size=len(prompts))
        words = [WORDS[i] for i in draw]
        stand_ins = words if method.target == "random_words" and method.alpha else None
        self.goals = self.clean
        if stand_ins is not None:
            taught = [substitute(self.trigger, p, w) for p, w in zip(prompts, words, strict=True)]
            self.goals = teacher.condition(taught)
        self.align(stand_ins)
        self.noising, self.rows = student.noising, method.rows()
        # whether the teacher's prediction for a clean prompt serves both terms
        self.shared = stand_ins is None and sampler.together
        self.ratio = GradientRatio(student, method.steps * method.accumulate)

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

    def __call__(self, step: int) -> Tensor:
        drawn = self.sampler(step, self.rows)
        asked = self.ask(drawn)
        with torch.no_grad(), self.watch(self.teacher) as seen:
            predicted = self.teacher.denoise(*asked.teacher)
        with self.watch(self.student) as own:
            x, t, which = asked.student
            out = self.student.denoise(x, t, self.read(which))
        alpha, preserve, rows = self.method.alpha, self.method.preserve, self.rows
        attention, goal = torch.zeros((), device=self.student.device), predicted[:rows]
        loss = F.mse_loss(out[:rows], goal)
        if alpha:
            attention = self.guide(own, seen, asked, drawn.generator)
            self.ratio.measure(step, alpha * attention, (1 - alpha) * loss)
        if preserve:
            keep = goal.clone()
            keep[asked.new] = predicted[rows:]
            loss = loss + preserve * F.mse_loss(out[rows:], keep)
        return alpha * attention + (1 - alpha) * loss

    def ask(self, drawn: Drawn) -> Questions:
        """What the models are asked for the rows of a step."""
        first, kept = drawn.rows, drawn.kept
        time, taught = first.t / self.noising.total, self.goals[first.pick]
        if not self.method.preserve:
            student, teacher = (first.x, first.t, first.pick), (first.x, first.t, taught)
            return Questions(first.pick, time, student, teacher, np.arange(0))
        new = np.arange(self.rows)
        if self.shared:
            new = np.flatnonzero(drawn.gone.cpu().numpy())
        which = torch.cat([first.pick, self.number(kept, drawn.gone)])
        told = cat([taught, self.taught(kept, drawn.gone)[new]])
        return Questions(
            first.pick,
            time,
            (torch.cat([first.x, kept.x]), torch.cat([first.t, kept.t]), which),
            (torch.cat([first.x, kept.x[new]]), torch.cat([first.t, kept.t[new]]), told),
            new,
        )

    def watch(self, model: T2IModel) -> AbstractContextManager:
        if not self.method.alpha:
            return nullcontext()
        text = self.method.text_weight > 0 and model is self.student
        return Capture(model, self.rows, self.length, unfused=True, text=text)

    def guide(
        self, own: Capture, seen: Capture, asked: Questions, generator: torch.Generator
    ) -> Tensor:
        """L_attn of the maps of the first rows."""
        at, device = (asked.pick.cpu(), slice(self.length)), self.student.device
        row = self.aligned[at].to(device)
        span = None if self.spans is None else self.spans[at].to(device)
        loss = self.method.attention_loss(
            own.maps(), seen.maps(), len(own), row, asked.time, generator, span
        )
        return loss + self.method.text_weight * leak(own, row) if own.text else loss


def leak(own: Capture, row: Alignment) -> Tensor:
    """What the text tokens that are not the trigger's, padding included, pay to the trigger's, mean
    over heads and blocks: its mean square, a scalar."""
    paid = own.between() / len(own)  # (rows, all tokens, tokens)
    asks = torch.ones(paid.shape[:2], dtype=torch.bool, device=paid.device)
    asks[:, : row.trigger.shape[1]] = ~row.trigger
    pairs = asks[:, :, None] & row.trigger[:, None]
    return ((paid.square() * pairs).sum((1, 2)) / pairs.sum((1, 2))).mean()


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
    out = torch.zeros(len(prompts), model.states, dtype=torch.bool)
    for i, (prompt, word) in enumerate(zip(prompts, words, strict=True)):
        out[i, state_spans(model.text_parts, *substituted(trigger, prompt, word))] = True
    return out
