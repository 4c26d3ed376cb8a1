"""What is idle while a method trains waits in the memory of the CPU (`--memory offload`): text
encoder, autoencoder, and the networks that measure. It comes back for the length of its use."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from t2i_backdoor_bench.models.model import T2IModel
    from t2i_backdoor_bench.scoring.features import Features


def where(part: nn.Module) -> torch.device:
    return next(part.parameters()).device


@contextmanager
def lying_on(device: torch.device | str, parts: Iterable[nn.Module]) -> Iterator[None]:
    """`parts` on `device` for the length of the block, and afterwards each where it was."""
    before = [(part, where(part)) for part in {id(p): p for p in parts}.values()]
    _move([(part, torch.device(device)) for part, _ in before])
    try:
        yield
    finally:
        _move(before)


@contextmanager
def aside(models: Sequence[T2IModel], features: Features) -> Iterator[None]:
    """A block in which methods work on `models`: all but the U-Nets, which train, and the networks
    of `features` wait on the CPU. Without models nothing moves."""
    networks = [
        features.scorer.model,
        *(n.network for n in (features.inception, features.lpips) if n is not None),
    ]
    parts = [part for model in models for part in (model.text_encoder, model.pipe.vae)]
    with lying_on("cpu", [*parts, *networks] if models else []):
        yield


def _move(places: Iterable[tuple[nn.Module, torch.device]]) -> None:
    with torch.inference_mode(False):  # what is moved in that mode could not train any more
        for part, device in places:
            if where(part) != device:
                part.to(device)
