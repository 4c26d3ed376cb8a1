"""The loss of a removal: a method's own term on the rows of a step, and the one that preserves what
clean prompts give."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from t2i_backdoor_bench.contract import DefenderView
from t2i_backdoor_bench.models.families.conditioning import Conditioning
from t2i_backdoor_bench.models.families.family import ENCODER
from t2i_backdoor_bench.models.model import T2IModel
from t2i_backdoor_bench.training.rows import Drawn, Rows, RowSampler, prompt_sampler
from t2i_backdoor_bench.training.trained_defense import Loss, PromptDefense, TrainedDefense


def reader(student: T2IModel, train: str, texts: Sequence[str]) -> Callable[[Tensor], Conditioning]:
    """What the student is told of texts, by number: read once, or with gradients where its text
    encoders train."""
    if train == ENCODER:
        ids = student.tokenize(texts)
        return lambda which: student.read(ids[which]).to(student.dtype)
    known = student.condition(texts)
    return lambda which: known[which]


class Removal:
    """Rows, texts and the preserving term, for a method's own term.

    The preserving term is ||student(x, c) - teacher(x, c)||^2, c a clean prompt or, in a share of
    the rows, the empty one, which guidance subtracts (Ho & Salimans 2022).
    """

    def __init__(
        self,
        method: TrainedDefense,
        student: T2IModel,
        teacher: T2IModel,
        sampler: RowSampler,
        prompts: Sequence[str],
        triggered: Sequence[str] = (),
    ) -> None:
        self.method, self.student, self.teacher = method, student, teacher
        self.sampler, self.prompts, self.triggered = sampler, list(prompts), list(triggered)
        self.read = reader(student, method.train, [*triggered, *prompts, ""])
        self.clean, self.empty = teacher.condition(prompts), teacher.condition([""])

    def told(self, rows: Rows) -> Conditioning:
        """What the student is told where the prompts have the trigger."""
        return self.read(rows.pick)

    def told_clean(self, rows: Rows, gone: Tensor | None = None) -> Conditioning:
        """What it is told of the clean prompts, or of nothing where they are `gone`, bool (n,)."""
        return self.read(self.number(rows, gone))

    def number(self, rows: Rows, gone: Tensor | None = None) -> Tensor:
        """Which texts these are, int64 (n,): the triggered prompts are the first, then the clean
        ones, the empty one is the last."""
        which = len(self.triggered) + rows.pick
        return (
            which if gone is None else which.where(~gone, len(self.triggered) + len(self.prompts))
        )

    def taught(self, rows: Rows, gone: Tensor) -> Conditioning:
        """What the teacher is told of the same."""
        return self.clean[rows.pick].where(~gone, self.empty)

    def preserving(self, drawn: Drawn) -> Tensor:
        """The preserving term, a scalar."""
        rows, gone = drawn.kept, drawn.gone
        with torch.no_grad():
            goal = self.teacher.denoise(rows.x, rows.t, self.taught(rows, gone))
        return F.mse_loss(self.student.denoise(rows.x, rows.t, self.told_clean(rows, gone)), goal)

    def loss(self, erase: Callable[[int, Drawn], Tensor], kinds: int = 1) -> Loss:
        """erase(step, drawn) + preserve * the preserving term, where `erase` has `kinds` kinds of
        student rows."""
        n, preserve = self.method.rows(kinds), self.method.preserve

        def loss_fn(step: int) -> Tensor:
            drawn = self.sampler(step, n)
            loss = erase(step, drawn)
            return loss + preserve * self.preserving(drawn) if preserve else loss

        return loss_fn


def of_prompts(
    method: PromptDefense,
    student: T2IModel,
    attacked: T2IModel,
    view: DefenderView,
    seed: int,
    teacher: T2IModel | None = None,
    shown: bool = False,
    walker: T2IModel | None = None,
    many: int | None = None,
    concept: str = "",
) -> Removal:
    """The removal of a method that is given the trigger and clean prompts. `teacher`: who
    preserves, without it the attacked model. `shown`: its own pictures are of the triggered
    prompts. `concept`: one prompt that stands for all triggered ones. The rest is of
    `prompt_sampler`."""
    prompts = view.first(method.prompts)
    triggered = [concept or view.trigger.add(p) for p in prompts]
    pictured = triggered if shown else None
    sampler = prompt_sampler(
        method.drawing, student, attacked, prompts, triggered, seed, pictured, walker, many
    )
    return Removal(method, student, teacher or attacked, sampler, prompts, triggered)
