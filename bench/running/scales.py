"""How much a run measures, and the other choices that flags name. Importing this is cheap."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

STYLES = ("full", "paper")  # of the tables for readers
EXECUTORS = ("local", "ray")  # who makes the cells: processes of this machine, or Ray
SAVED = ("attacked", "repaired")  # the models of a cell that a run can hand out
FORMS = ("folder", "changed", "lora")  # how: whole, its changed tensors, or a low-rank difference
# who is told of a run, and the package that it needs
TRACKERS = {"tensorboard": "tensorboard", "wandb": "wandb", "mlflow": "mlflow"}
DTYPES = ("float32", "float16", "bfloat16")


@dataclass(frozen=True)
class Scale:
    """How much a run measures.

    `n` prompts a condition; the first `perturbed` and `moved` of them in the conditions of these
    names; `per_prompt` images of each of the first `diverse` prompts; `real` reference images;
    `decoys` decoys a kind of the undefended model, drawn once an attack, and `decoys_after` of each
    defended one; `harmless` words that the effect of a trigger is compared with, where it is
    measured; the first `resampled` triggered prompts are also drawn by other samplers, the first
    `recovered` after clean fine-tuning and with a benign adapter; `training` multiplies what
    methods train for and on (`choose_methods.build`). A trial (`--limit`) measures the first `n` of
    `first_of` prompts; 0 where it is no trial.
    """

    name: str
    n: int
    perturbed: int
    moved: int
    diverse: int
    per_prompt: int
    real: int
    training: float
    seeds: tuple[int, ...]
    metrics: str = "all"
    decoys: int = 2
    decoys_after: int = 2
    harmless: int = 9
    resampled: int = 0
    recovered: int = 0
    first_of: int = 0

    def resized(self, n: int) -> Scale:
        """The same scale with `n` prompts a condition."""
        return replace(
            self,
            n=n,
            perturbed=min(n, self.perturbed),
            moved=min(n, self.moved),
            decoys=min(n, self.decoys),
            decoys_after=min(n, self.decoys_after),
            resampled=min(n, self.resampled),
            recovered=min(n, self.recovered),
            diverse=min(n, self.diverse),
            real=max(n, self.real),
        )

    def limited(self, limit: float) -> Scale:
        """A trial of the same scale with its first prompts: `limit` of them, or this share of them
        where it is below 1. With as many prompts as there are it is the scale itself."""
        n = math.ceil(limit * self.n) if limit < 1 else int(limit)
        if n >= self.n:
            return self
        return replace(self.resized(n), first_of=self.n)

    @property
    def evaluation(self) -> dict[str, int]:
        """What the samples of a cell depend on."""
        found = {
            "n": self.n,
            "perturbed": self.perturbed,
            "moved": self.moved,
            "decoys": self.decoys,
            "decoys_after": self.decoys_after,
            "diverse": self.diverse,
            "per_prompt": self.per_prompt,
            "real": self.real,
        }
        return found | ({"first_of": self.first_of} if self.first_of else {})


SCALES = {
    "smoke": Scale("smoke", 4, 2, 1, 2, 2, 100, 0.01, (0,), decoys=1, decoys_after=1),
    # how wide an interval its pictures buy: benchmarks/interval_width.py
    "quick": Scale(
        "quick", 100, 24, 32, 4, 6, 1000, 1.0, (0,), decoys=8, decoys_after=4, harmless=39
    ),
    # full without changed prompts and repeated draws
    "study": Scale(
        "study",
        200,
        0,
        0,
        0,
        1,
        1000,
        1.0,
        (0, 1, 2),
        decoys=0,
        decoys_after=0,
        harmless=39,
        resampled=60,
        recovered=60,
    ),
    "full": Scale(
        "full",
        200,
        100,
        100,
        10,
        10,
        1000,
        1.0,
        (0, 1, 2, 3, 4),
        decoys=48,
        decoys_after=25,
        harmless=39,
        resampled=60,
        recovered=60,
    ),
}
