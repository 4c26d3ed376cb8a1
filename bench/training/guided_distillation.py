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
class Goals:
    """What the first rows of a step are compared with.

    taught    what the teacher is told
    row       which of its tokens goes with which of the student's
    span      for random words, where these are in the teacher's prompt: bool (rows, tokens)
    """

    taught: Conditioning
    row: Alignment
    span: Tensor | None = None


@dataclass(frozen=True)
class Questions:
    """What one step asks. The first rows of both models are triggered prompts and their clean ones;
    with `preserve` clean prompts follow, of the teacher only those that it is not asked already.

    time      t/T of the first rows: (rows,)
    student   noised latents, timesteps and which texts, by number
    teacher   noised latents, timesteps and what it is told
    new       which preserving rows the teacher is asked in addition
    """

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
        self.seed, self.random = seed, method.target == "random_words" and method.alpha > 0
        aligned = align_states(student.text_parts, self.trigger, prompts)
        self.aligned = aligned[:, : length_of(aligned)]
        self.noising, self.rows = student.noising, method.rows()
        # whether the teacher's prediction for a clean prompt serves both terms
        self.shared = not self.random and sampler.together
        self.ratio = GradientRatio(student, method.steps * method.accumulate)

    def goals(self, step: int, pick: Tensor) -> Goals:
        """What the rows of these prompts (rows,) are compared with: the clean prompts, or as many
        random words in the trigger's place as the trigger has, drawn anew."""
        if not self.random:
            return Goals(self.clean[pick], self.aligned[pick.cpu()])
        rng, many = np.random.default_rng([self.seed, 5, step]), len(self.trigger.text.split())
        prompts = [self.prompts[i] for i in pick.tolist()]
        words = [" ".join(rng.choice(WORDS, size=max(1, many))) for _ in prompts]
        aligned = align_states(self.student.text_parts, self.trigger, prompts, words)
        span = word_spans(self.student, self.trigger, prompts, words)
        length = length_of(aligned, span)
        taught = [substitute(self.trigger, p, w) for p, w in zip(prompts, words, strict=True)]
        return Goals(self.teacher.condition(taught), aligned[:, :length], span[:, :length])

    def __call__(self, step: int) -> Tensor:
        drawn = self.sampler(step, self.rows)
        goals = self.goals(step, drawn.rows.pick)
        asked, length = self.ask(drawn, goals.taught), goals.row.source.shape[1]
        with torch.no_grad(), self.watch(self.teacher, length) as seen:
            predicted = self.teacher.denoise(*asked.teacher)
        with self.watch(self.student, length) as own:
            x, t, which = asked.student
            out = self.student.denoise(x, t, self.read(which))
        alpha, preserve, rows = self.method.alpha, self.method.preserve, self.rows
        attention, goal = torch.zeros((), device=self.student.device), predicted[:rows]
        loss = F.mse_loss(out[:rows], goal)
        if alpha:
            attention = self.guide(own, seen, asked.time, goals, drawn.generator)
            self.ratio.measure(step, alpha * attention, (1 - alpha) * loss)
        if preserve:
            keep = goal.clone()
            keep[asked.new] = predicted[rows:]
            loss = loss + preserve * F.mse_loss(out[rows:], keep)
        return alpha * attention + (1 - alpha) * loss

    def ask(self, drawn: Drawn, taught: Conditioning) -> Questions:
        """What the models are asked for the rows of a step, `taught` being what the teacher is told
        for the first ones."""
        first, kept = drawn.rows, drawn.kept
        time = first.t / self.noising.total
        if not self.method.preserve:
            student, teacher = (first.x, first.t, first.pick), (first.x, first.t, taught)
            return Questions(time, student, teacher, np.arange(0))
        new = np.arange(self.rows)
        if self.shared:
            new = np.flatnonzero(drawn.gone.cpu().numpy())
        which = torch.cat([first.pick, self.number(kept, drawn.gone)])
        told = cat([taught, self.taught(kept, drawn.gone)[new]])
        return Questions(
            time,
            (torch.cat([first.x, kept.x]), torch.cat([first.t, kept.t]), which),
            (torch.cat([first.x, kept.x[new]]), torch.cat([first.t, kept.t[new]]), told),
            new,
        )

    def watch(self, model: T2IModel, length: int) -> AbstractContextManager:
        """A capture of the maps of the first rows and of this many tokens, if they are asked."""
        if not self.method.alpha:
            return nullcontext()
        text = self.method.text_weight > 0 and model is self.student
        return Capture(model, self.rows, length, unfused=True, text=text)

    def guide(
        self, own: Capture, seen: Capture, time: Tensor, goals: Goals, generator: torch.Generator
    ) -> Tensor:
        """L_attn of the maps of the first rows."""
        device, span = self.student.device, goals.span
        row, span = goals.row.to(device), None if span is None else span.to(device)
        loss = self.method.attention_loss(
            own.maps(), seen.maps(), len(own), row, time, generator, span
        )
        return loss + self.method.text_weight * leak(own, row) if own.text else loss


def length_of(aligned: Alignment, span: Tensor | None = None) -> int:
    """How many tokens are read: up to the last real one of the student's prompts, and of what it is
    compared with."""
    real = (aligned.trigger | aligned.other).any(0)
    real = real if span is None else real | span.any(0)
    return 1 + max(int(real.nonzero().max()), int(aligned.source.max()))


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
    """Where the tokens of what stands in for the trigger are in the teacher's prompt: bool (n,
    tokens)."""
    out = torch.zeros(len(prompts), model.states, dtype=torch.bool)
    for i, (prompt, word) in enumerate(zip(prompts, words, strict=True)):
        out[i, state_spans(model.text_parts, *substituted(trigger, prompt, word))] = True
    return out
