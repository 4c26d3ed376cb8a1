"""What is idle while a method trains waits in the memory of the CPU (`--memory offload`): text
encoders, autoencoder, and the networks that measure. It comes back for the length of its use."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import nn


def device_of(part: nn.Module) -> torch.device:
    return next(part.parameters()).device


@contextmanager
def placed(device: torch.device | str, parts: Iterable[nn.Module]) -> Iterator[None]:
    """`parts` on `device` for the length of the block, and afterwards each where it was."""
    before = [(part, device_of(part)) for part in {id(p): p for p in parts}.values()]
    _move([(part, torch.device(device)) for part, _ in before])
    try:
        yield
    finally:
        _move(before)


def _move(places: Iterable[tuple[nn.Module, torch.device]]) -> None:
    with torch.inference_mode(False):  # what is moved in that mode could not train any more
        for part, device in places:
            if device_of(part) != device:
                part.to(device)
