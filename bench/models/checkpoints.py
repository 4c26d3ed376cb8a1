"""What a training leaves behind from time to time, so that after a kill it goes on from there.

Numbers only, as safetensors: weights, moments of the optimizer, average, losses, random state, and
what the loss remembers between steps.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from torch import Tensor

from t2i_backdoor_bench.contract import UserError

EVERY = 60.0  # seconds between two checkpoints
RESTED = 20  # times as long as a checkpoint took: 5 % of the time at most goes into them

Arrays = Mapping[str, np.ndarray]


class Files(Protocol):
    """Where checkpoints lie."""

    def read(self, name: str) -> tuple[Arrays, Any] | None:
        """The last arrays that were written under a name, and the JSON value beside them."""

    def write(self, name: str, step: int, arrays: Arrays, meta: Any) -> None:
        """Put arrays, those of a step, in the place of the earlier ones of this name."""


class Carried(Protocol):
    """What a loss remembers between steps, beside the weights."""

    def state(self) -> dict[str, Tensor]: ...

    def restore(self, state: Mapping[str, Tensor]) -> None: ...


@dataclass
class CarriedList:
    """A list of tensors on one device that a loss changes."""

    tensors: list[Tensor]
    device: torch.device

    def state(self) -> dict[str, Tensor]:
        return {str(i): tensor for i, tensor in enumerate(self.tensors)}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        self.tensors[:] = [state[str(i)].to(self.device) for i in range(len(state))]


@dataclass
class Checkpoint:
    """The place of one training. Without `files` nothing is read or written."""

    name: str
    files: Files | None = None
    every: float = EVERY
    carried: list[Carried] = field(default_factory=list)
    last: float = field(default_factory=time.perf_counter)
    took: float = 0.0

    def due(self) -> bool:
        """Whether it is time to write."""
        if self.files is None:
            return False
        pause = max(self.every, RESTED * self.took) if self.every else 0.0
        return time.perf_counter() - self.last >= pause

    def save(self, step: int, tensors: Mapping[str, Tensor], meta: Any) -> None:
        if self.files is None:
            return
        begun = time.perf_counter()
        kept = {
            f"carried.{i}.{k}": v
            for i, part in enumerate(self.carried)
            for k, v in part.state().items()
        }
        arrays, halves = to_arrays(dict(tensors) | kept)
        self.files.write(self.name, step, arrays, {"state": meta, "halves": halves})
        self.last = time.perf_counter()
        self.took = self.last - begun

    def load(self) -> tuple[dict[str, Tensor], Any] | None:
        """The tensors, on the CPU, and the JSON value that were saved last."""
        found = self.files.read(self.name) if self.files is not None else None
        return (
            None if found is None else (to_tensors(found[0], found[1]["halves"]), found[1]["state"])
        )

    def restore_carried(self, tensors: Mapping[str, Tensor]) -> None:
        for i, part in enumerate(self.carried):
            part.restore(under(f"carried.{i}.", tensors))


@dataclass
class Checkpoints:
    """The checkpoints of all trainings of one method, one after the other: of an attack, or of a
    defense on one attacked model. A model takes them along (`T2IModel.checkpoints`), so that a
    method need not know of them. A training that was not the same before it was killed, by its
    place, its label and its settings, never goes on.

    `seconds` is what trainings that went on had taken before this process.
    """

    files: Files | None = None
    every: float = EVERY
    seconds: float = 0.0
    carried: list[Carried] = field(default_factory=list)
    begun: int = 0

    def carry(self, part: Carried) -> None:
        """Keep what the loss of the next training remembers between steps, too."""
        if self.files is not None:
            self.carried.append(part)

    def next(self, label: str) -> Checkpoint:
        """The place of the training that begins now."""
        self.begun += 1
        carried, self.carried = self.carried, []
        return Checkpoint(f"{self.begun}-{label}", self.files, self.every, carried)


@dataclass(frozen=True)
class OneFile:
    """One file as the place of one training, for trainings that are no part of a run."""

    path: Path

    def read(self, name: str) -> tuple[Arrays, Any] | None:
        if not self.path.exists():
            return None
        try:
            with safe_open(self.path, framework="numpy") as file:
                arrays = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118
                return arrays, json.loads(file.metadata()["meta"])
        except (SafetensorError, KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"{self.path} is no checkpoint of this version ({str(error).splitlines()[0]}):"
                " remove it, and the training begins anew"
            ) from None

    def write(self, name: str, step: int, arrays: Arrays, meta: Any) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        partial = self.path.with_suffix(".partial")
        save_file(dict(arrays), partial, {"meta": json.dumps(meta)})
        partial.replace(self.path)


def one_file(path: Path, every: float = EVERY) -> Checkpoint:
    return Checkpoint(path.stem, OneFile(path), every)


def under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose name begins with `prefix`, without it."""
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def to_arrays(tensors: Mapping[str, Tensor]) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """NumPy arrays, and how to make the same tensors of them. Those in bfloat16, which NumPy does
    not know, are given as bytes. The order in memory is kept: the fused Adam goes through a weight
    and its moments side by side, and a sum has other last bits in another order."""
    forms: dict[str, Any] = {}
    arrays = {}
    for name, tensor in tensors.items():
        form = {"stride": list(tensor.stride())} if _permuted(tensor) else {}
        whole = tensor.detach().cpu().contiguous()
        if tensor.dtype == torch.bfloat16:
            form["bfloat16"] = list(tensor.shape)
            whole = whole.flatten().view(torch.uint8)
        forms |= {name: form} if form else {}
        arrays[name] = whole.numpy()
    return arrays, forms


def _permuted(tensor: Tensor) -> bool:
    """Whether a tensor fills its memory in another order than that of its dimensions."""
    sizes = zip(tensor.shape, tensor.stride(), strict=True)
    filled = 1 + sum((size - 1) * stride for size, stride in sizes) == tensor.numel()
    return filled and tensor.stride() != torch.empty(tensor.shape, device="meta").stride()


def to_tensors(arrays: Arrays, forms: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors of `to_arrays`, on the CPU."""
    tensors = {}
    for name, array in arrays.items():
        form, tensor = forms.get(name, {}), torch.from_numpy(np.array(array))
        if "bfloat16" in form:
            tensor = tensor.view(torch.bfloat16).reshape(form["bfloat16"])
        if "stride" in form:
            plain = tensor
            tensor = torch.empty_strided(plain.shape, form["stride"], dtype=plain.dtype)
            tensor.copy_(plain)
        tensors[name] = tensor
    return tensors
