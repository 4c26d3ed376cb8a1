"""Training of text encoders: the batches of prompts, what they should become, and the loop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from t2i_backdoor_bench.contract import UserError
from t2i_backdoor_bench.models.families.conditioning import Conditioning
from t2i_backdoor_bench.models.model import T2IModel
from t2i_backdoor_bench.training.loop import Optim, fit
from t2i_backdoor_bench.training.lora import add_lora
from t2i_backdoor_bench.training.merged import named
from t2i_backdoor_bench.training.parameters import Trainable, finish_training, of_model


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
    wanted = teacher.condition(goals).to(torch.float32)
    return Bank(teacher.tokenize(prompts), wanted.filled())


def cosine_loss(student: T2IModel, bank: Bank, rng: np.random.Generator, rows: int) -> Tensor:
    """Minus the mean cosine of states and wanted states, each flattened over tokens; where the
    model has pooled states, the mean of that of the states and that of the pooled ones."""
    _, told, wanted = bank.draw(student, rng, rows)
    cosines = [
        F.cosine_similarity(a.flatten(1), b.flatten(1)).mean() for a, b in compared(told, wanted)
    ]
    return -sum(cosines[1:], cosines[0]) / len(cosines)


def squared_error(told: Conditioning, wanted: Conditioning) -> Tensor:
    """The mean squared error of states, and of pooled states where the model has them: the mean of
    both."""
    errors = [F.mse_loss(a, b) for a, b in compared(told, wanted)]
    return sum(errors[1:], errors[0]) / len(errors)


def compared(told: Conditioning, wanted: Conditioning) -> list[tuple[Tensor, Tensor]]:
    """What the denoiser reads of the first, with its counterparts of the second."""
    if "mask" in told.more:
        wanted = Conditioning(wanted.states, {**wanted.more, "mask": told.more["mask"]})
    return list(zip(told.read, wanted.read, strict=True))


def chosen_encoders(model: T2IModel, which: str) -> tuple[int, ...]:
    """The text encoders that `which` means: all, or numbers such as 1+2. Raises UserError."""
    many = len(model.encoders)
    if which == "all":
        return tuple(range(many))
    known, numbers = [str(n + 1) for n in range(many)], which.split("+")
    if not set(numbers) <= set(known):
        raise UserError(
            f"encoders is {which!r}, and this base has {many}: give all, or numbers from 1 to"
            f" {many} such as {'+'.join(known[:2])}"
        )
    return tuple(i for i, number in enumerate(known) if number in numbers)


def train_encoder(
    clean: T2IModel,
    make: Callable[[T2IModel], Callable[[int], Tensor]],
    optim: Optim,
    label: str,
    which: str = "all",
    embeddings: bool = True,
    rank: int = 0,
) -> T2IModel:
    """A copy of `clean` whose text encoders (those of `chosen_encoders`), and nothing else,
    minimize `make(copy)(step)`; without `embeddings`, those of tokens and positions stay. With a
    `rank`, adapters on their attention train instead, which are merged and are the adapter of the
    copy. They train in float32 and come back in their own precision; the tensors of the denoiser
    and of the autoencoder are those of `clean`."""
    model = clean.clone(encoders=True, train="none")
    before = [{n: p.dtype for n, p in e.named_parameters()} for e in model.encoders]
    parameters: list[nn.Parameter] = []
    for encoder in (model.encoders[i] for i in chosen_encoders(model, which)):
        encoder.float().requires_grad_(True)
        if rank:
            add_lora(encoder, model.family.encoder_lora_targets, rank)
        for table in (m for m in encoder.modules() if isinstance(m, nn.Embedding)):
            table.requires_grad_(embeddings and not rank)
        parameters += [p for p in encoder.parameters() if p.requires_grad]
    fitted = fit(of_model(Trainable(parameters), model), make(model), optim, label)
    factors = finish_training(*model.encoders)
    for encoder, dtypes in zip(model.encoders, before, strict=True):
        for name, p in encoder.named_parameters():
            p.data = p.data.to(dtypes[name])
    model.info = fitted.info
    return named(model, [{}, *factors]) if rank else model
