"""Training of text encoders: the batches of prompts, what they should become, and the loop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from t2i_backdoor_bench.models.families.conditioning import Conditioning
from t2i_backdoor_bench.models.model import T2IModel
from t2i_backdoor_bench.training.loop import Optim, fit
from t2i_backdoor_bench.training.parameters import Trainable


@dataclass(frozen=True)
class Bank:
    """Token ids (n, tokens) of n prompts, and what text encoders should make of them, float32."""

    ids: Tensor
    wanted: Conditioning

    def draw(
        self, student: T2IModel, rng: np.random.Generator, rows: int
    ) -> tuple[Tensor, Conditioning, Conditioning]:
        """`rows` random prompts: which they are, what the student makes of them, with gradients,
        and what is wanted."""
        pick = torch.from_numpy(rng.integers(len(self.ids), size=rows)).to(self.ids.device)
        return pick, student.read(self.ids[pick]), self.wanted[pick]


def prompt_bank(teacher: T2IModel, prompts: Sequence[str], goals: Sequence[str]) -> Bank:
    """Prompts with what the teacher makes of `goals`, one a prompt, as what they should become."""
    return Bank(teacher.tokenize(prompts), teacher.condition(goals).to(torch.float32))


def cosine_loss(student: T2IModel, bank: Bank, rng: np.random.Generator, rows: int) -> Tensor:
    """Minus the mean cosine of states and wanted states, each flattened over tokens."""
    _, told, wanted = bank.draw(student, rng, rows)
    return -F.cosine_similarity(told.states.flatten(1), wanted.states.flatten(1)).mean()


def train_encoder(
    clean: T2IModel, make: Callable[[T2IModel], Callable[[int], Tensor]], optim: Optim, label: str
) -> T2IModel:
    """A copy of `clean` whose text encoders, and nothing else, minimize `make(copy)(step)`. They
    train in float32 and come back in their own precision; the tensors of the denoiser and of the
    autoencoder are those of `clean`."""
    model = clean.clone(encoders=True, train="none")
    before = [next(encoder.parameters()).dtype for encoder in model.encoders]
    for encoder in model.encoders:
        encoder.float().requires_grad_(True)
    parameters = [p for encoder in model.encoders for p in encoder.parameters()]
    trained = Trainable(parameters, checkpoints=model.checkpoints)
    fitted = fit(trained, make(model), optim, label)
    for encoder, dtype in zip(model.encoders, before, strict=True):
        encoder.requires_grad_(False).to(dtype)
    model.info = fitted.info
    return model
