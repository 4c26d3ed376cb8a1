"""Methods of a run that do next to nothing, and write down when they are called."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass

import numpy as np
import torch

from t2i_backdoor_bench.contract import Attack, Backdoor, Defense, Target, Trigger
from t2i_backdoor_bench.running.scales import Scale

SCALE = Scale("test", 4, 2, 4, 1, 2, 20, 0.5, (0,))


def note(text: str) -> None:
    """Append a line to the file that T2I_TEST_LOG names: processes that are killed leave it
    whole."""
    if path := os.environ.get("T2I_TEST_LOG"):
        with open(path, "a") as file:
            file.write(text + "\n")


@dataclass
class Shift(Attack):
    """An attack: shifts the U-Net's output."""

    shift: float = 0.5
    diverge: bool = False

    def backdoor(self, model):
        return Backdoor(Trigger("mignneko"), Target("patch", patch=np.zeros((8, 8, 3), np.uint8)))

    def inject(self, model, data, seed):
        note(f"attack {self.shift} {seed}")
        attacked = model.clone()
        with torch.no_grad():
            attacked.denoiser.conv_out.bias += self.shift
        return dataclasses.replace(attacked, info={"steps": 2, "parameters": 4, "images": 8})


@dataclass
class Back(Defense):
    """A defense: shifts it back."""

    shift: float = 0.25
    loss: str = ""  # what its training comes to: "nan", "huge", "memory"

    def apply(self, model, view, seed):
        note(f"defense {self.shift} {seed}")
        repaired = model.clone()
        if self.loss:
            _train(repaired, self.loss)
        with torch.no_grad():
            repaired.denoiser.conv_out.bias -= self.shift
        return dataclasses.replace(repaired, info={"steps": 2, "parameters": 4, "images": 2})


def _train(model, kind: str) -> None:
    from t2i_backdoor_bench.training.loop import Optim, fit

    bias = model.denoiser.conv_out.bias
    bias.requires_grad_(True)

    def loss(step: int) -> torch.Tensor:
        if kind == "memory" and step == 3:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
        return (
            bias.square().sum() * (1 if step < 3 else float("nan") if kind == "nan" else 1e30) + 1
        )

    fit([bias], loss, Optim(steps=5, lr=0.125), "repair")
