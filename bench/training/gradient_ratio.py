"""How much one term of a loss pulls at the trained weights, compared with another."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from t2i_backdoor_bench.models.model import T2IModel

MOST = 8  # steps of a training at which gradients are compared: each costs two more backward passes


@dataclass
class GradientRatio:
    """The mean over at most MOST evenly spaced steps of ||gradient of a term|| / ||gradient of
    another||, each over all weights of `model` that train."""

    model: T2IModel
    steps: int
    found: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        many = min(MOST, self.steps)
        self.at = {i * self.steps // many for i in range(many)}
        self.model.checkpoints.carry(self)

    def state(self) -> dict[str, Tensor]:
        return {"found": torch.tensor(self.found, dtype=torch.float64)}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        self.found = state["found"].tolist()

    def measure(self, step: int, first: Tensor, second: Tensor) -> None:
        """Compare two scalars of a step that is one of those; the graph stays as it is. A step at
        which the second has no gradient has no ratio."""
        if step not in self.at:
            return
        norms = [self.norm(first), self.norm(second)]
        if norms[1]:
            self.found.append(norms[0] / norms[1])

    def norm(self, term: Tensor) -> float:
        """The Euclidean norm of a term's gradient."""
        parts = (self.model.denoiser, *self.model.encoders)
        trained = [p for part in parts for p in part.parameters() if p.requires_grad]
        if not (term.requires_grad and trained):
            return 0.0
        grads = torch.autograd.grad(term, trained, retain_graph=True, allow_unused=True)
        return math.sqrt(sum(float(g.double().square().sum()) for g in grads if g is not None))

    @property
    def mean(self) -> float | None:
        """None where no step had a ratio."""
        return sum(self.found) / len(self.found) if self.found else None
