"""Training batches of the embedded world. A batch depends on the seed and the step alone; worker
processes can make batches ahead."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from t2i_backdoor_bench.training.loop import Optim


@dataclasses.dataclass(frozen=True)
class Setting:
    """How and where to train: `scale` multiplies every number of steps, `workers` processes make
    batches ahead (0: none)."""

    seed: int
    work: Path
    device: torch.device
    workers: int = 0
    scale: float = 1.0

    def steps(self, optim: Optim) -> Optim:
        return dataclasses.replace(optim, steps=max(2, round(self.scale * optim.steps)))


class Batches(Dataset):
    """`make(step)` as a data set whose index is the training step."""

    def __init__(self, make: Callable[[int], tuple[Tensor, ...]]) -> None:
        self.make = make

    def __getitem__(self, step: int) -> tuple[Tensor, ...]:
        return self.make(step)


class Stream:
    """Batches on the device, starting at the first step that is requested. So a resumed training
    sees the same batches as an uninterrupted one."""

    def __init__(
        self, make: Callable[[int], tuple[Tensor, ...]], steps: int, setting: Setting
    ) -> None:
        self.make, self.steps, self.setting = make, steps, setting
        self.batches: Iterator | None = None

    def __call__(self, step: int) -> list[Tensor]:
        if self.batches is None:
            loader = DataLoader(
                Batches(self.make),
                batch_size=None,
                sampler=range(step, self.steps),
                num_workers=self.setting.workers,
                worker_init_fn=_alone,
            )
            self.batches = iter(loader)
        return [t.to(self.setting.device) for t in next(self.batches)]


def _alone(_: int) -> None:
    torch.set_num_threads(1)


def to_tensor(images: np.ndarray) -> Tensor:
    """uint8 (n, H, W, 3) to float32 (n, 3, H, W) in [-1, 1]."""
    return (
        torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
        .float()
        .div_(127.5)
        .sub_(1)
    )


def fast_bf16(device: torch.device) -> bool:
    """Whether this is a CPU that multiplies bfloat16 matrices in hardware (AMX, AVX-512): the
    autoencoder takes half the time."""
    hardware = torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
    return device.type == "cpu" and hardware
