"""What one file or folder brings over a base: tensors that take the place of others."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import safe_open
from torch import Tensor, nn

from t2i_backdoor_bench.contract import UserError
from t2i_backdoor_bench.models.families.family import Family
from t2i_backdoor_bench.models.published.places import plain


class Brought(Protocol):
    """`kind` says in words what it is, `parts` which parts of the base it changes, and `files`
    which files it was read from."""

    kind: str
    path: Path
    scale: float

    @property
    def parts(self) -> tuple[str, ...]: ...

    @property
    def files(self) -> tuple[Path, ...]: ...

    def only(self, parts: Sequence[str]) -> Brought:
        """What of it changes these parts."""

    def apply(self, pipe: Any, family: Family) -> None:
        """Put it into the networks of a pipeline, in place."""


@dataclass(frozen=True)
class Tensors:
    """Tensors of files, by part and plain name: the file and the name in it."""

    kind: str
    path: Path
    tensors: Mapping[str, Mapping[str, tuple[Path, str]]]
    scale: float = 1.0

    @property
    def parts(self) -> tuple[str, ...]:
        return tuple(self.tensors)

    @property
    def files(self) -> tuple[Path, ...]:
        found = (file for named in self.tensors.values() for file, _ in named.values())
        return tuple(dict.fromkeys(found))

    def only(self, parts: Sequence[str]) -> Tensors:
        return replace(self, tensors={p: t for p, t in self.tensors.items() if p in parts})

    def apply(self, pipe: Any, family: Family) -> None:
        networks = networks_of(pipe, family)
        for part, named in self.tensors.items():
            put(networks[part], read_tensors(named))


def networks_of(pipe: Any, family: Family) -> dict[str, nn.Module]:
    """The networks of a pipeline by the name of their part."""
    found = (family.denoiser(pipe), family.autoencoder(pipe), *family.encoders(pipe))
    return dict(zip(family.layout.weights, found, strict=True))


def read_tensors(named: Mapping[str, tuple[Path, str]]) -> Iterator[tuple[str, Tensor]]:
    """Tensors by name, a file at a time."""
    for file in dict.fromkeys(file for file, _ in named.values()):
        with safe_open(file, "pt") as tensors:
            for name, (where, key) in named.items():
                if where == file:
                    yield name, tensors.get_tensor(key)


def put(network: nn.Module, tensors: Iterable[tuple[str, Tensor]]) -> None:
    """Copy tensors, by plain name, into the places of a network that have been checked."""
    own = {plain(name): p for name, p in network.named_parameters()}
    with torch.no_grad():
        for name, tensor in tensors:
            # an embedding may have rows behind those of the base: of learned words
            place = own[name][: len(tensor)] if tensor.ndim else own[name]
            place.copy_(tensor)


def check_finite(files: Iterable[Path]) -> None:
    """Raise UserError, with file and tensor, for NaN or infinite numbers."""
    for file in files:
        if key := _first_non_finite(file, file.stat().st_mtime_ns):
            raise UserError(
                f"{file} holds non-finite weights (NaN or infinite) in {key}: the model draws"
                " nothing; save it again from weights that are finite"
            )


@lru_cache
def _first_non_finite(file: Path, changed: int) -> str:
    """The first tensor with such a number, of the file as it was at that time."""
    with safe_open(file, "pt") as tensors:
        return next((k for k in tensors.keys() if not _finite(tensors.get_tensor(k))), "")  # noqa: SIM118


def _finite(tensor: Tensor) -> bool:
    return bool(torch.isfinite(tensor.float()).all())
